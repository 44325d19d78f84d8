//! Device windows from logged flows: what the kernel counts packet by packet, counted flow part by flow part.

use std::collections::HashMap;

use tidegate_common::{
    device::{DeviceKey, DeviceRecord, DeviceWindow},
    flow::{FlowKey, FlowRecord, FlowSide, progress},
    parse::{proto, tcp_flag},
    pod::mix64,
};

/// Ethernet header: windows count whole frames, flows count IP lengths.
const FRAME_HEADER: u64 = 14;

/// A flow's part that is in the windows already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    out: (u64, u64),
    inward: (u64, u64),
    begun: bool,
    answered: bool,
    reset: bool,
}

/// The devices at the ends of a flow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ends {
    pub(super) initiator: Option<DeviceKey>,
    pub(super) responder: Option<DeviceKey>,
}

/// Adds what is new in `record` to the windows of its devices.
pub(super) fn count(
    devices: &mut HashMap<DeviceKey, DeviceRecord>,
    ends: Ends,
    key: &FlowKey,
    record: &FlowRecord,
    counted: &mut Counted,
    now_ns: u64,
    window_ns: u64,
) {
    let new = |side: &FlowSide, before: (u64, u64)| {
        (side.packets.saturating_sub(before.0), side.bytes.saturating_sub(before.1))
    };
    let (out, inward) = (new(&record.out, counted.out), new(&record.inward, counted.inward));
    let (_, _, remote, remote_port) = key.seen_from(record.initiator());
    let begins = !std::mem::replace(&mut counted.begun, true);
    let answered = record.progress & progress::SYN_ACK != 0;
    let answers = answered && !std::mem::replace(&mut counted.answered, answered);
    let is_reset = record.progress & progress::RESET != 0;
    let resets = is_reset && !std::mem::replace(&mut counted.reset, is_reset);
    let reset_by = |side: &FlowSide| u32::from(resets && side.tcp_flags & tcp_flag::RST != 0);
    if let Some(device) = ends.initiator {
        let window = window_of(devices, device, out, inward, now_ns, window_ns);
        window.resets_out += reset_by(&record.out);
        window.resets_in += reset_by(&record.inward);
        window.syn_answered += u32::from(answers);
        if begins {
            window.flows_out += 1;
            window.remote_addrs.add(remote.mix());
            window.remote_ports.add(mix64(u64::from(remote_port)));
            let syn = key.proto == proto::TCP && record.progress & progress::SYN != 0;
            window.syn_out += u32::from(syn);
        }
    }
    if let Some(device) = ends.responder {
        let window = window_of(devices, device, inward, out, now_ns, window_ns);
        window.resets_out += reset_by(&record.inward);
        window.resets_in += reset_by(&record.out);
        window.flows_in += u32::from(begins);
    }
    counted.out = (record.out.packets, record.out.bytes);
    counted.inward = (record.inward.packets, record.inward.bytes);
}

/// The device's window of this moment, with packets and bytes `(sent, received)` added.
fn window_of(
    devices: &mut HashMap<DeviceKey, DeviceRecord>,
    device: DeviceKey,
    sent: (u64, u64),
    received: (u64, u64),
    now_ns: u64,
    window_ns: u64,
) -> &mut DeviceWindow {
    let record = devices.entry(device).or_default();
    let frames = |(packets, bytes): (u64, u64)| (packets, bytes.saturating_add(packets * FRAME_HEADER));
    let ((packets_out, bytes_out), (packets_in, bytes_in)) = (frames(sent), frames(received));
    record.packets_out += packets_out;
    record.bytes_out = record.bytes_out.saturating_add(bytes_out);
    record.packets_in += packets_in;
    record.bytes_in = record.bytes_in.saturating_add(bytes_in);
    record.last_ns = now_ns;
    let window = record.window(now_ns, window_ns);
    window.packets_out += packets_out;
    window.bytes_out = window.bytes_out.saturating_add(bytes_out);
    window.packets_in += packets_in;
    window.bytes_in = window.bytes_in.saturating_add(bytes_in);
    window
}
