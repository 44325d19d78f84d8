//! Counts a frame: in its flow and its device, or by the reason it is in no flow.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_log_ebpf::info;
use tidegate_common::{
    counter::Counters,
    device::{DeviceKey, DeviceWindow},
    event::{FlowCause, SampleCause},
    flow::{FlowKey, FlowRecord, Milestone, Sender},
    parse::Unparsed,
    sample,
    verdict::{Binding, Claim, Mode},
};

use crate::{
    devices, emit, enforce,
    gate::{HookFrame, Passage},
    hello,
    maps::{self, Workspace},
    score::{self, Judged},
};

/// Counts the frame; whether it may go on, which only the flow's own score can prevent here.
#[inline(always)]
pub(crate) fn account<F: HookFrame>(
    passage: &Passage<'_>,
    frame: &F,
    counters: &mut Counters,
    workspace: &mut Workspace,
) -> bool {
    let packet = passage.packet;
    let packets = u64::from(packet.segments);
    if let Some(reason) = packet.unparsed {
        if let Some(counter) = counters.unparsed.get_mut(reason as usize) {
            *counter += packets;
        }
        if let Some(window) = device(passage, counters) {
            if reason as u8 == Unparsed::Arp as u8 {
                arp(passage, frame, counters, workspace, window);
            } else {
                window.unparsed += 1;
            }
        }
        return true;
    }

    let (key, sender) = FlowKey::of(packet);
    let mut begins = false;
    let mut found = maps::FLOWS.get_ptr_mut(&key);
    if found.is_none() && may_begin(passage, counters, workspace) {
        begins = begin(passage, &key, sender, counters, workspace);
        found = maps::FLOWS.get_ptr_mut(&key);
        counters.flow_table_full += u64::from(found.is_none());
    }
    let Some(record) = found else {
        fold(passage, counters);
        sample(passage, frame, counters, workspace);
        return true;
    };
    // SAFETY: the entry stays readable until the program ends; counters that must be exact are updated atomically.
    let record = unsafe { &mut *record };
    if record.cut_until_ns > passage.now_ns && !enforce::spares(passage, record) {
        if passage.config.mode == Mode::Enforce as u32 {
            counters.dropped_model += packets;
            return false;
        }
        if passage.config.mode == Mode::Monitor as u32 && !passage.would_drop {
            counters.would_drop += packets;
        }
    }
    let flow = Flow { key: &key, sender, record: &mut *record, begins };
    let passes = observe(passage, flow, counters, &mut workspace.judged);
    sample(passage, frame, counters, workspace);
    hello::sample(passage, frame, hello::Seen { key: &key, record, sender }, counters, workspace);
    passes
}

/// A flow in the table, and what the present packet is to it.
struct Flow<'a> {
    key: &'a FlowKey,
    sender: Sender,
    record: &'a mut FlowRecord,
    begins: bool,
}

/// Counts the frame in the aggregate of the device behind this port, and lends its current window.
#[inline(always)]
fn device(passage: &Passage<'_>, counters: &mut Counters) -> Option<&'static mut DeviceWindow> {
    let Passage { packet, config, point, frame_len, now_ns, .. } = *passage;
    let key = DeviceKey::of(packet, point)?;
    match devices::record(key, now_ns) {
        Some(record) => Some(record.count(packet, frame_len, point, now_ns, config.window_ns)),
        None => {
            counters.device_table_full += 1;
            None
        }
    }
}

/// Whether the flood guard lets one more flow begin.
#[inline(always)]
fn may_begin(passage: &Passage<'_>, counters: &mut Counters, workspace: &mut Workspace) -> bool {
    let limit = passage.config.new_flow_limit;
    if limit == 0 || workspace.new_flows.take(limit, passage.now_ns) {
        return true;
    }
    counters.flood_guarded += 1;
    if workspace.new_flows.just_exceeded(limit) {
        info!(passage, "flood guard: more than {} new flows in a second on one cpu", limit);
    }
    false
}

/// Puts an empty record for a new flow into the table; whether it did. Another CPU may be first.
#[inline(always)]
fn begin(
    passage: &Passage<'_>,
    key: &FlowKey,
    sender: Sender,
    counters: &mut Counters,
    workspace: &mut Workspace,
) -> bool {
    workspace.record = FlowRecord::default();
    workspace.record.begin(passage.packet, sender, passage.now_ns);
    let added = maps::FLOWS.insert(key, &workspace.record, u64::from(BPF_NOEXIST)).is_ok();
    counters.flows += u64::from(added);
    added
}

/// Counts the frame in its flow and judges the flow when that is due; whether the frame may go on.
#[inline(always)]
fn observe(passage: &Passage<'_>, flow: Flow<'_>, counters: &mut Counters, judged: &mut Judged) -> bool {
    let Flow { key, sender, record, begins } = flow;
    let packets = u64::from(passage.packet.segments);
    let device = device(passage, counters);
    let Some(milestone) = record.observe(passage.packet, sender, passage.point, passage.now_ns) else {
        counters.repeated += packets;
        return true;
    };
    counters.in_flow += packets;
    counters.fragments += u64::from(passage.packet.fragment as u8 != 0);
    if let Some(window) = device {
        if begins {
            window.begun(passage.packet, passage.point, key, sender, record);
        }
        if milestone.reset {
            window.reset(passage.point);
        }
    }
    if milestone.answered {
        credit_answer(passage, record);
    }
    let cut = milestone.checkpoint && score::cuts(passage, key, record, judged, counters);
    let cause = if cut {
        Some(FlowCause::Cut)
    } else if begins {
        Some(FlowCause::Start)
    } else {
        cause(passage, record, milestone)
    };
    if let Some(cause) = cause {
        record.reported_ns = passage.now_ns;
        emit::flow(key, record, cause, passage.now_ns, counters);
    }
    !cut || passage.config.mode != Mode::Enforce as u32
}

#[inline(always)]
fn cause(passage: &Passage<'_>, record: &FlowRecord, milestone: Milestone) -> Option<FlowCause> {
    let timeout_ns = passage.config.active_timeout_ns;
    if milestone.closed {
        Some(FlowCause::Closed)
    } else if milestone.checkpoint {
        Some(FlowCause::Checkpoint)
    } else if timeout_ns != 0 && passage.now_ns.saturating_sub(record.reported_ns) > timeout_ns {
        Some(FlowCause::ActiveTimeout)
    } else {
        None
    }
}

/// The device that sent the SYN learns that it was answered.
#[inline(always)]
fn credit_answer(passage: &Passage<'_>, record: &FlowRecord) {
    if let Some(device) = record.initiating_device() {
        let (mac, ifindex) = device.words();
        devices::device_answered(mac, ifindex, passage.now_ns);
    }
}

/// A packet whose flow found no room stays visible in its device's window.
#[inline(always)]
fn fold(passage: &Passage<'_>, counters: &mut Counters) {
    counters.folded += u64::from(passage.packet.segments);
    if let Some(window) = device(passage, counters) {
        window.folded(passage.packet, passage.point);
    }
}

/// ARP of a device: what it asks, what it claims, and whether somebody else claims the same.
#[inline(always)]
fn arp<F: HookFrame>(
    passage: &Passage<'_>,
    frame: &F,
    counters: &mut Counters,
    workspace: &mut Workspace,
    window: &mut DeviceWindow,
) {
    const REQUEST: u16 = 1;
    let Passage { packet, point, now_ns, .. } = *passage;
    let claimed = packet.src.v4_key();
    if claimed == 0 {
        return;
    }
    if point.is_ingress() {
        window.arp(packet);
    }
    if let Some(known) = maps::BINDINGS.get_ptr_mut(claimed) {
        // SAFETY: as in `account`.
        match unsafe { &mut *known }.claim(packet.src_mac, now_ns) {
            Claim::Renewed => {
                // Who tells the same again and again is only noticed when all of it is seen.
                if point.is_ingress() && packet.arp_op != REQUEST {
                    emit::sample(passage, frame, SampleCause::Arp, counters, workspace);
                }
                return;
            }
            Claim::Contested => {
                if point.is_ingress() {
                    window.arp_conflicts += 1;
                    emit::sample(passage, frame, SampleCause::Arp, counters, workspace);
                }
                return;
            }
            Claim::Vacant => {}
        }
    }
    let binding = Binding::new(packet.src_mac, now_ns);
    if maps::BINDINGS.insert(claimed, &binding, u64::from(BPF_ANY)).is_ok() {
        emit::sample(passage, frame, SampleCause::Arp, counters, workspace);
    }
}

/// Datagrams that tell who a device is or whom it looks for go to the agent with their first bytes.
#[inline(always)]
fn sample<F: HookFrame>(
    passage: &Passage<'_>,
    frame: &F,
    counters: &mut Counters,
    workspace: &mut Workspace,
) {
    if let Some(cause) = sample::cause_of(passage.packet, passage.point) {
        emit::sample(passage, frame, cause, counters, workspace);
    }
}
