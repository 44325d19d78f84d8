//! Recorded frames as the events the kernel programs would have sent about them: the same parser, records and windows from
//! `tidegate_common`, in the same order, with the tables in memory.
//!
//! A capture does not say which side of the gateway a frame was seen on: a frame from a protected address enters, any other
//! leaves towards its receiver. Flow tables have no limit but the capture's own flows; silent ones are swept as live.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use tidegate_common::{
    device::{DeviceKey, DeviceRecord, DeviceWindow},
    event::{EVENT_VERSION, EventHeader, EventKind, FlowCause, SAMPLE_BYTES, SampleCause, SampleEvent},
    flow::{FlowKey, FlowRecord, Milestone, ObservationPoint},
    parse::{Network, Packet, Unparsed, parse},
    pod::Addr,
    sample::{self, HELLO_PREFIX, HELLO_REST, Hello, Place},
    verdict::{Binding, Claim},
};

use super::protected::Protected;
use crate::{
    datapath::IdleLimits,
    learn::address,
    replay::{engine::POINT, flowlog::LoggedSide},
};

const LEAVING: ObservationPoint = ObservationPoint::egress(POINT.ifindex());

/// What the programs report.
pub(super) enum Measured {
    Flow(FlowKey, Box<FlowRecord>, FlowCause),
    Sample(Box<SampleEvent>),
}

#[derive(Default)]
pub(super) struct Meter {
    flows: HashMap<FlowKey, FlowRecord, RandomState>,
    bindings: HashMap<u32, Binding>,
    /// Bytes still to come of ClientHellos that take several segments.
    hellos: HashMap<FlowKey, u32, RandomState>,
}

/// Lengths that the account depends on.
#[derive(Clone, Copy)]
#[allow(clippy::struct_field_names, reason = "the suffix is the unit")]
pub(super) struct Times {
    pub(super) now_ns: u64,
    pub(super) window_ns: u64,
    pub(super) active_timeout_ns: u64,
}

/// A frame and where it was seen.
struct Passage<'a> {
    packet: &'a Packet,
    frame: &'a [u8],
    point: ObservationPoint,
    /// Neither end is protected: it is nobody's.
    foreign: bool,
    times: Times,
}

impl Meter {
    /// Accounts one frame.
    pub(super) fn frame(
        &mut self,
        frame: &[u8],
        times: Times,
        protected: &mut Protected,
        devices: &mut HashMap<DeviceKey, DeviceRecord>,
    ) -> Vec<Measured> {
        let packet = parse(frame, 0);
        protected.see(&packet);
        let (point, foreign) = seen_at(&packet, protected);
        let passage = Passage { packet: &packet, frame, point, foreign, times };
        let mut measured = Vec::new();
        if let Some(reason) = packet.unparsed {
            if let Some(window) = passage.window(devices) {
                if reason == Unparsed::Arp {
                    measured.extend(self.arp(&passage, window));
                } else {
                    window.unparsed += 1;
                }
            }
            return measured;
        }
        measured.extend(self.flow(&passage, devices));
        measured.extend(passage.sample(protected));
        measured.extend(self.hello(&passage));
        measured
    }

    /// Takes out the flows that were silent for too long.
    pub(super) fn sweep(&mut self, now_ns: u64, limits: IdleLimits) -> Vec<(FlowKey, FlowRecord)> {
        let is_idle = |record: &FlowRecord| {
            let limit_ns = if record.is_closed() { limits.closed_ns } else { limits.open_ns };
            now_ns.saturating_sub(record.last_ns()) > limit_ns
        };
        let mut swept: Vec<_> = self.flows.extract_if(|_, record| is_idle(record)).collect();
        for (key, _) in &swept {
            self.hellos.remove(key);
        }
        // The table's order is nobody's business.
        swept.sort_unstable_by_key(|(key, record)| (record.last_ns(), *key));
        swept
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    fn flow(
        &mut self,
        passage: &Passage<'_>,
        devices: &mut HashMap<DeviceKey, DeviceRecord>,
    ) -> Option<Measured> {
        let Passage { packet, point, times: Times { now_ns, window_ns, active_timeout_ns }, .. } = *passage;
        let (key, sender) = FlowKey::of(packet);
        let mut begins = false;
        let record = self.flows.entry(key).or_insert_with(|| {
            begins = true;
            let mut record = FlowRecord::default();
            record.begin(packet, sender, now_ns);
            record
        });
        let milestone = record.observe(packet, sender, point, now_ns)?;
        if let Some(window) = passage.window(devices) {
            if begins {
                window.begun(packet, point, &key, sender, record);
            }
            if milestone.reset {
                window.reset(point);
            }
        }
        if milestone.answered
            && let Some(device) = record.initiating_device().and_then(|device| devices.get_mut(&device))
        {
            device.window(now_ns, window_ns).syn_answered += 1;
        }
        let timed_out = now_ns.saturating_sub(record.reported_ns) > active_timeout_ns;
        let cause = cause(begins, milestone, timed_out)?;
        record.reported_ns = now_ns;
        Some(Measured::Flow(key, Box::new(*record), cause))
    }

    /// TLS hellos, as the kernel tells them.
    fn hello(&mut self, passage: &Passage<'_>) -> Option<Measured> {
        let packet = passage.packet;
        let (key, sender) = FlowKey::of(packet);
        let is_hello = match sample::place_of(packet, self.flows.get(&key)?, sender, passage.point)? {
            Place::Rest => {
                let rest = self.hellos.get_mut(&key)?;
                let awaited = *rest > 0;
                *rest = rest.saturating_sub(packet.payload_len);
                awaited
            }
            place => {
                let at = usize::from(packet.payload_at);
                let prefix = passage.frame.get(at..at + HELLO_PREFIX)?.try_into().ok()?;
                match (sample::hello_of(prefix, packet.payload_len)?, place) {
                    (Hello::Client { rest }, Place::FirstOut) => {
                        if rest > 0 && rest <= HELLO_REST {
                            self.hellos.insert(key, rest);
                        }
                        true
                    }
                    (Hello::Server, Place::FirstIn) => true,
                    _ => false,
                }
            }
        };
        is_hello.then(|| passage.report(SampleCause::Hello, passage.point))
    }

    fn arp(&mut self, passage: &Passage<'_>, window: &mut DeviceWindow) -> Option<Measured> {
        const REQUEST: u16 = 1;
        let (packet, now_ns) = (passage.packet, passage.times.now_ns);
        let claimed = packet.src.v4_key();
        if claimed == 0 {
            return None;
        }
        window.arp(packet);
        if let Some(known) = self.bindings.get_mut(&claimed) {
            match known.claim(packet.src_mac, now_ns) {
                Claim::Renewed if packet.arp_op == REQUEST => return None,
                Claim::Renewed => return Some(passage.report(SampleCause::Arp, passage.point)),
                Claim::Contested => {
                    window.arp_conflicts += 1;
                    return Some(passage.report(SampleCause::Arp, passage.point));
                }
                Claim::Vacant => {}
            }
        }
        self.bindings.insert(claimed, Binding::new(packet.src_mac, now_ns));
        Some(passage.report(SampleCause::Arp, passage.point))
    }
}

const fn cause(begins: bool, milestone: Milestone, timed_out: bool) -> Option<FlowCause> {
    if begins {
        Some(FlowCause::Start)
    } else if milestone.closed {
        Some(FlowCause::Closed)
    } else if milestone.checkpoint {
        Some(FlowCause::Checkpoint)
    } else if timed_out {
        Some(FlowCause::ActiveTimeout)
    } else {
        None
    }
}

/// Where the frame is taken to be seen, and whether it is nobody's.
fn seen_at(packet: &Packet, protected: &Protected) -> (ObservationPoint, bool) {
    if packet.network == Network::None || packet.unparsed.is_some() {
        return (POINT, false);
    }
    let holds = |addr: Addr| protected.holds(address(addr), &LoggedSide::default());
    let source = address(packet.src);
    // Who has no address yet asks for one: only devices do.
    if holds(packet.src) || source.is_unspecified() { (POINT, false) } else { (LEAVING, !holds(packet.dst)) }
}

impl Passage<'_> {
    /// The window of the device behind the port, the frame counted in it.
    fn window<'a>(&self, devices: &'a mut HashMap<DeviceKey, DeviceRecord>) -> Option<&'a mut DeviceWindow> {
        if self.foreign {
            return None;
        }
        let key = DeviceKey::of(self.packet, self.point)?;
        let record = devices.entry(key).or_insert_with(|| DeviceRecord { key, ..DeviceRecord::default() });
        let Times { now_ns, window_ns, .. } = self.times;
        Some(record.count(self.packet, self.frame.len() as u32, self.point, now_ns, window_ns))
    }

    /// Datagrams that tell who a device is or whom it looks for.
    fn sample(&self, protected: &Protected) -> Option<Measured> {
        // The gateway's own answers leave it, although its address is one of the protected side's.
        let answers =
            self.packet.src_port == 53 && protected.holds(address(self.packet.dst), &LoggedSide::default());
        let point = if answers { LEAVING } else { self.point };
        Some(self.report(sample::cause_of(self.packet, point)?, point))
    }

    fn report(&self, cause: SampleCause, point: ObservationPoint) -> Measured {
        let captured = self.frame.len().min(cause.most_bytes());
        let mut data = [0; SAMPLE_BYTES];
        data[..captured].copy_from_slice(&self.frame[..captured]);
        let header = EventHeader {
            kind: EventKind::Sample as u16,
            version: EVENT_VERSION,
            length: size_of::<SampleEvent>() as u32,
            time_ns: self.times.now_ns,
        };
        Measured::Sample(Box::new(SampleEvent {
            header,
            point,
            wire_len: self.frame.len() as u32,
            captured: captured as u16,
            cause: cause as u8,
            reserved: [0; 5],
            data,
        }))
    }
}

#[cfg(test)]
#[path = "packets_tests.rs"]
mod tests;
