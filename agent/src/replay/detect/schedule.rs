//! Logged flows as the events a kernel would have sent about them: begin, checkpoints, active timeouts, end, sweep.
//!
//! Logs are ordered by the ends of flows or by nothing. Up to [`REORDER`] flows wait for earlier ones; what comes later than
//! that happens at the clock's present time. Packets are taken to have come evenly.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use jiff::Timestamp;
use tidegate_common::{
    device::{DeviceKey, DeviceRecord},
    event::FlowCause,
    flow::{FlowKey, FlowRecord},
};

use super::{
    protected::{Protected, device_of},
    window::{self, Counted, Ends},
};
use crate::{
    config::Config,
    datapath::IdleLimits,
    enforce::Now,
    identity::{Device, Mac, Registry},
    replay::{
        engine::POINT,
        flowlog::{LoggedFlow, LoggedSide},
    },
};

/// Flows that wait for others that began before them.
const REORDER: usize = 1 << 16;
/// The kernel reports flows at 8, 64, 512 … packets.
const CHECKPOINT_STEP: u64 = 8;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Begin,
    Report,
    Sweep,
}

/// A report of a flow; without a cause it is the sweep's.
pub(super) struct Report {
    pub(super) key: FlowKey,
    pub(super) record: FlowRecord,
    pub(super) cause: Option<FlowCause>,
}

struct Open {
    flow: Box<LoggedFlow>,
    key: FlowKey,
    /// The clock's time of its first packet minus the log's.
    first_ns: u64,
    ends: Ends,
    counted: Counted,
    checkpoint: u64,
    begun: bool,
}

pub(super) struct Schedule {
    due: BinaryHeap<Reverse<(u64, u64, Due)>>,
    open: HashMap<u64, Open>,
    by_key: HashMap<FlowKey, u64>,
    next_id: u64,
    waiting: usize,
    active_timeout_ns: u64,
    limits: IdleLimits,
}

impl Schedule {
    pub(super) fn new(active_timeout_ns: u64, limits: IdleLimits) -> Self {
        Self {
            due: BinaryHeap::new(),
            open: HashMap::new(),
            by_key: HashMap::new(),
            next_id: 0,
            waiting: 0,
            active_timeout_ns: active_timeout_ns.max(1),
            limits,
        }
    }

    /// A flow that began at `first_ns` of the clock.
    pub(super) fn push(&mut self, mut flow: Box<LoggedFlow>, first_ns: u64) {
        let duration_ns = flow.duration_ns();
        flow.first_ns = first_ns;
        flow.last_ns = first_ns.saturating_add(duration_ns);
        let id = self.next_id;
        self.next_id += 1;
        let open = Open {
            key: flow.key(),
            flow,
            first_ns,
            ends: Ends::default(),
            counted: Counted::default(),
            checkpoint: CHECKPOINT_STEP,
            begun: false,
        };
        self.open.insert(id, open);
        self.due.push(Reverse((first_ns, id, Due::Begin)));
        self.waiting += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) const fn is_crowded(&self) -> bool {
        self.waiting > REORDER
    }

    pub(super) fn next_ns(&self) -> Option<u64> {
        self.due.peek().map(|Reverse((at_ns, ..))| *at_ns)
    }

    /// Does what is due at `now_ns`.
    pub(super) fn step(
        &mut self,
        now_ns: u64,
        protected: &Protected,
        registry: &mut Registry,
        devices: &mut HashMap<DeviceKey, DeviceRecord>,
        config: &Config,
    ) -> Vec<Report> {
        let Some(Reverse((_, id, due))) = self.due.pop() else { return Vec::new() };
        let window_ns = config.learning.window.as_ns();
        let mut reports = Vec::new();
        match due {
            Due::Begin => {
                self.waiting -= 1;
                let Some(open) = self.open.get_mut(&id) else { return reports };
                if now_ns > open.first_ns {
                    // It came too late: it happens now.
                    let duration_ns = open.flow.duration_ns();
                    open.first_ns = now_ns;
                    open.flow.first_ns = now_ns;
                    open.flow.last_ns = now_ns.saturating_add(duration_ns);
                }
                open.ends = open.devices(protected, registry, now_ns);
                open.begun = true;
                let key = open.key;
                if let Some(before) = self.by_key.insert(key, id) {
                    reports.extend(self.sweep(before));
                }
                reports.extend(self.report(id, true, now_ns, devices, window_ns));
            }
            Due::Report => reports.extend(self.report(id, false, now_ns, devices, window_ns)),
            Due::Sweep => {
                if let Some(open) = self.open.get(&id)
                    && self.by_key.get(&open.key) == Some(&id)
                {
                    self.by_key.remove(&open.key);
                }
                reports.extend(self.sweep(id));
            }
        }
        reports
    }

    /// Counts in the windows what open flows carried until now.
    pub(super) fn settle(
        &mut self,
        now_ns: u64,
        devices: &mut HashMap<DeviceKey, DeviceRecord>,
        window_ns: u64,
    ) {
        // A moment before the boundary, so that it falls into the window that ends.
        let before_ns = now_ns - now_ns % window_ns - 1;
        for open in self.open.values_mut().filter(|open| open.begun && open.flow.last_ns > before_ns) {
            let record = open.record(open.flow_packets(before_ns), before_ns);
            window::count(devices, open.ends, &open.key, &record, &mut open.counted, before_ns, window_ns);
        }
    }

    /// The report that is due of a flow, and when the next one will be.
    fn report(
        &mut self,
        id: u64,
        is_begin: bool,
        now_ns: u64,
        devices: &mut HashMap<DeviceKey, DeviceRecord>,
        window_ns: u64,
    ) -> Option<Report> {
        let open = self.open.get_mut(&id)?;
        let total = open.flow.packets();
        let ended = !is_begin && now_ns >= open.flow.last_ns;
        let packets = if is_begin {
            1.min(total)
        } else if ended {
            total
        } else {
            open.flow_packets(now_ns).max(if open.checkpoint_ns() <= now_ns { open.checkpoint } else { 0 })
        };
        let record = open.record(packets, now_ns);
        window::count(devices, open.ends, &open.key, &record, &mut open.counted, now_ns, window_ns);
        while open.checkpoint <= packets {
            open.checkpoint = open.checkpoint.saturating_mul(CHECKPOINT_STEP);
        }
        let cause = if is_begin {
            FlowCause::Start
        } else if ended && record.is_closed() {
            FlowCause::Closed
        } else {
            FlowCause::Checkpoint
        };
        let (at_ns, due) = if ended {
            let limit_ns = if record.is_closed() { self.limits.closed_ns } else { self.limits.open_ns };
            (now_ns.saturating_add(limit_ns), Due::Sweep)
        } else {
            let timeout_ns = now_ns.saturating_add(self.active_timeout_ns);
            (open.flow.last_ns.min(timeout_ns).min(open.checkpoint_ns()).max(now_ns), Due::Report)
        };
        self.due.push(Reverse((at_ns, id, due)));
        let key = open.key;
        Some(Report { key, record, cause: Some(cause) })
    }

    /// A flow leaves the table.
    fn sweep(&mut self, id: u64) -> Option<Report> {
        let open = self.open.remove(&id)?;
        let record = open.record(open.flow.packets(), open.flow.last_ns);
        Some(Report { key: open.key, record, cause: None })
    }
}

impl Open {
    /// Packets by `at_ns`.
    fn flow_packets(&self, at_ns: u64) -> u64 {
        let (total, duration_ns) = (self.flow.packets(), self.flow.duration_ns());
        let past_ns = at_ns.saturating_sub(self.first_ns);
        if past_ns >= duration_ns {
            return total;
        }
        let after_first =
            u128::from(total.saturating_sub(1)) * u128::from(past_ns) / u128::from(duration_ns.max(1));
        (after_first as u64 + 1).min(total)
    }

    /// When the next checkpoint is reached; never, if there are too few packets.
    fn checkpoint_ns(&self) -> u64 {
        let total = self.flow.packets();
        if self.checkpoint > total {
            return u64::MAX;
        }
        let after = u128::from(self.flow.duration_ns()) * u128::from(self.checkpoint - 1)
            / u128::from((total - 1).max(1));
        self.first_ns.saturating_add(after as u64)
    }

    /// The record after `packets`, its ends marked as the kernel marks them.
    fn record(&self, packets: u64, now_ns: u64) -> FlowRecord {
        let mut record = self.flow.record_after(packets, now_ns);
        for (side, device) in
            [(&mut record.out, self.ends.initiator), (&mut record.inward, self.ends.responder)]
        {
            if let Some(device) = device {
                side.src_mac = device.mac;
                side.point = POINT;
            }
        }
        record
    }

    /// The devices at its ends, made known if they were not. Who was only asked and never answered is not there.
    fn devices(&self, protected: &Protected, registry: &mut Registry, now_ns: u64) -> Ends {
        let flow = &self.flow;
        let mut end = |address, side: &LoggedSide| {
            if !protected.holds(address, side) {
                return None;
            }
            if let Some(known) = registry.resolve(address) {
                return Some(known);
            }
            if side.packets == 0 {
                return None;
            }
            let key = device_of(address, side);
            let device = Device {
                mac: Mac(key.mac),
                ifindex: key.ifindex,
                addresses: vec![address],
                name: None,
                name_source: None,
                says: Vec::new(),
                vendor: None,
                randomised: false,
                conflicts: Vec::new(),
                first_seen: Timestamp::UNIX_EPOCH,
                last_seen: Timestamp::UNIX_EPOCH,
            };
            registry.restore(
                POINT.ifindex(),
                &device,
                Now { kernel_ns: now_ns, wall: Timestamp::UNIX_EPOCH },
            );
            Some(key)
        };
        Ends { initiator: end(flow.src, &flow.out), responder: end(flow.dst, &flow.inward) }
    }
}
