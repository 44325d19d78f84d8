//! Counts a frame: in its flow and its device, or by the reason it is in no flow.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_log_ebpf::info;
use tidegate_common::{
    counter::Counters,
    device::{DeviceKey, DeviceRecord, DeviceWindow},
    event::{FlowCause, SampleCause},
    flow::{FlowKey, FlowRecord, Milestone, Sender},
    parse::{Network, Unparsed, proto, tcp_flag},
    pod::{Addr, mix64},
    verdict::Binding,
};

use crate::{
    emit,
    gate::{HookFrame, Passage},
    maps::{self, Workspace},
};

/// A binding that its owner has not renewed for this long may be taken over without a conflict.
const BINDING_AGE_NS: u64 = 120_000_000_000;

#[inline(always)]
pub(crate) fn account<F: HookFrame>(
    passage: &Passage<'_>,
    frame: &F,
    counters: &mut Counters,
    workspace: &mut Workspace,
) {
    let packet = passage.packet;
    let packets = u64::from(packet.segments);
    let device = device(passage, counters, workspace);
    if let Some(reason) = packet.unparsed {
        if let Some(counter) = counters.unparsed.get_mut(reason as usize) {
            *counter += packets;
        }
        if let Some(window) = device {
            if reason as u8 == Unparsed::Arp as u8 {
                arp(passage, frame, counters, workspace, window);
            } else {
                window.unparsed += 1;
            }
        }
        return;
    }

    let (key, sender) = FlowKey::of(packet);
    let Some(record) = maps::FLOWS.get_ptr_mut(&key) else {
        begin(passage, &key, sender, counters, workspace, device);
        sample(passage, frame, counters, workspace);
        return;
    };
    // SAFETY: the entry stays readable until the program ends; counters that must be exact are updated atomically.
    let record = unsafe { &mut *record };
    observe(passage, &key, sender, record, counters, device);
    sample(passage, frame, counters, workspace);
}

/// Counts the frame in the aggregate of the device behind this port, and lends its current window.
#[inline(always)]
fn device<'a>(
    passage: &Passage<'_>,
    counters: &mut Counters,
    workspace: &mut Workspace,
) -> Option<&'a mut DeviceWindow> {
    let packet = passage.packet;
    let outward = passage.point.is_ingress();
    let mac = if outward { packet.src_mac } else { packet.dst_mac };
    // Group addresses are nobody's; a frame without a source has no sender.
    if mac[0] & 1 != 0 || packet.unparsed.is_some_and(|reason| reason as u8 == Unparsed::FrameTooShort as u8)
    {
        return None;
    }
    let key = DeviceKey::new(mac, passage.point.ifindex());
    let record = match maps::DEVICES.get_ptr_mut(&key) {
        Some(record) => record,
        None => {
            workspace.device = DeviceRecord::default();
            if maps::DEVICES.insert(&key, &workspace.device, u64::from(BPF_ANY)).is_err() {
                counters.device_table_full += 1;
                return None;
            }
            maps::DEVICES.get_ptr_mut(&key)?
        }
    };
    // SAFETY: the record belongs to this CPU.
    let record = unsafe { &mut *record };
    let (packets, bytes) = (u64::from(packet.segments), u64::from(passage.frame_len));
    record.last_ns = passage.now_ns;
    let window = if outward {
        record.packets_out += packets;
        record.bytes_out += bytes;
        let window = record.window(passage.now_ns, passage.config.window_ns);
        window.packets_out += packets;
        window.bytes_out += bytes;
        window
    } else {
        record.packets_in += packets;
        record.bytes_in += bytes;
        let window = record.window(passage.now_ns, passage.config.window_ns);
        window.packets_in += packets;
        window.bytes_in += bytes;
        window
    };
    Some(window)
}

#[inline(always)]
fn begin(
    passage: &Passage<'_>,
    key: &FlowKey,
    sender: Sender,
    counters: &mut Counters,
    workspace: &mut Workspace,
    device: Option<&mut DeviceWindow>,
) {
    let limit = passage.config.new_flow_limit;
    if limit != 0 && !workspace.new_flows.take(limit, passage.now_ns) {
        counters.flood_guarded += 1;
        if workspace.new_flows.just_exceeded(limit) {
            info!(passage, "flood guard: more than {} new flows in a second on one cpu", limit);
        }
        fold(passage, counters, device);
        return;
    }
    workspace.record = FlowRecord::default();
    workspace.record.begin(passage.packet, sender, passage.now_ns);
    workspace.record.observe(passage.packet, sender, passage.point, passage.now_ns);
    if maps::FLOWS.insert(key, &workspace.record, u64::from(BPF_NOEXIST)).is_err() {
        // Another CPU may have begun the same flow just now; otherwise the table is full.
        match maps::FLOWS.get_ptr_mut(key) {
            // SAFETY: as in `account`.
            Some(record) => observe(passage, key, sender, unsafe { &mut *record }, counters, device),
            None => {
                counters.flow_table_full += 1;
                fold(passage, counters, device);
            }
        }
        return;
    }
    counters.flows += 1;
    counters.in_flow += u64::from(passage.packet.segments);
    counters.fragments += u64::from(passage.packet.fragment as u8 != 0);
    if let Some(window) = device {
        count_new_flow(passage, key, sender, &workspace.record, window);
    }
    emit::flow(key, &workspace.record, FlowCause::Start, passage.now_ns, counters);
}

/// A new flow in the window of the device that this frame belongs to.
#[inline(always)]
fn count_new_flow(
    passage: &Passage<'_>,
    key: &FlowKey,
    sender: Sender,
    record: &FlowRecord,
    window: &mut DeviceWindow,
) {
    let by_sender = record.initiator() as u8 == sender as u8;
    if by_sender != passage.point.is_ingress() {
        window.flows_in += 1;
        return;
    }
    window.flows_out += 1;
    let (remote, port): (Addr, u16) =
        if record.initiator_is_b == 0 { (key.b, key.b_port) } else { (key.a, key.a_port) };
    window.remote_addrs.add(remote.mix());
    window.remote_ports.add(mix64(u64::from(port)));
    const SYN_ACK: u8 = tcp_flag::SYN | tcp_flag::ACK;
    if passage.packet.proto == proto::TCP && passage.packet.tcp_flags & SYN_ACK == tcp_flag::SYN {
        window.syn_out += 1;
    }
}

#[inline(always)]
fn observe(
    passage: &Passage<'_>,
    key: &FlowKey,
    sender: Sender,
    record: &mut FlowRecord,
    counters: &mut Counters,
    device: Option<&mut DeviceWindow>,
) {
    let packets = u64::from(passage.packet.segments);
    let Some(milestone) = record.observe(passage.packet, sender, passage.point, passage.now_ns) else {
        counters.repeated += packets;
        return;
    };
    counters.in_flow += packets;
    counters.fragments += u64::from(passage.packet.fragment as u8 != 0);
    if milestone.reset {
        if let Some(window) = device {
            if passage.point.is_ingress() {
                window.resets_out += 1;
            } else {
                window.resets_in += 1;
            }
        }
    }
    if milestone.answered {
        credit_answer(passage, record);
    }
    if let Some(cause) = cause(passage, record, milestone) {
        record.reported_ns = passage.now_ns;
        emit::flow(key, record, cause, passage.now_ns, counters);
    }
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
    if !record.out.point.is_ingress() {
        return;
    }
    let key = DeviceKey::new(record.out.src_mac, record.out.point.ifindex());
    if let Some(device) = maps::DEVICES.get_ptr_mut(&key) {
        // SAFETY: the record belongs to this CPU.
        let device = unsafe { &mut *device };
        device.window(passage.now_ns, passage.config.window_ns).syn_answered += 1;
    }
}

/// A packet whose flow found no room stays visible in its device's window.
#[inline(always)]
fn fold(passage: &Passage<'_>, counters: &mut Counters, device: Option<&mut DeviceWindow>) {
    counters.folded += u64::from(passage.packet.segments);
    if let Some(window) = device {
        window.folded += 1;
        window.folded_bytes += u64::from(passage.packet.ip_len);
        if passage.point.is_ingress() {
            window.remote_addrs.add(passage.packet.dst.mix());
            window.remote_ports.add(mix64(u64::from(passage.packet.dst_port)));
        }
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
    let packet = passage.packet;
    let inward = !passage.point.is_ingress();
    let claimed = packet.src.v4_key();
    if claimed == 0 {
        return;
    }
    if !inward {
        let target = packet.dst.v4_key();
        if claimed == target {
            window.arp_gratuitous += 1;
        } else if packet.arp_op == REQUEST {
            window.arp_requests += 1;
            window.arp_targets.add(packet.dst.mix());
        } else {
            window.arp_replies += 1;
        }
    }
    let known = maps::BINDINGS.get_ptr_mut(claimed);
    if let Some(known) = known {
        // SAFETY: as in `account`.
        let known = unsafe { &mut *known };
        if known.mac == packet.src_mac {
            known.last_ns = passage.now_ns;
            return;
        }
        if passage.now_ns.saturating_sub(known.last_ns) < BINDING_AGE_NS {
            if !inward {
                window.arp_conflicts += 1;
                emit::sample(passage, frame, SampleCause::Arp, counters, workspace);
            }
            return;
        }
    }
    let binding = Binding { mac: packet.src_mac, reserved: [0; 2], last_ns: passage.now_ns };
    if maps::BINDINGS.insert(claimed, &binding, u64::from(BPF_ANY)).is_ok() {
        emit::sample(passage, frame, SampleCause::Arp, counters, workspace);
    }
}

/// Frames that tell who a device is go to the agent with their first bytes.
#[inline(always)]
fn sample<F: HookFrame>(
    passage: &Passage<'_>,
    frame: &F,
    counters: &mut Counters,
    workspace: &mut Workspace,
) {
    let packet = passage.packet;
    let cause = match packet.proto {
        proto::UDP => match (packet.src_port, packet.dst_port) {
            (67 | 68, 67 | 68) | (546 | 547, 546 | 547) => SampleCause::Dhcp,
            (5353, 5353) if passage.point.is_ingress() => SampleCause::Mdns,
            _ => return,
        },
        proto::ICMPV6 if passage.point.is_ingress() && matches!(packet.icmp_type, 135 | 136) => {
            SampleCause::Nd
        }
        _ => return,
    };
    if packet.network as u8 != Network::None as u8 {
        emit::sample(passage, frame, cause, counters, workspace);
    }
}
