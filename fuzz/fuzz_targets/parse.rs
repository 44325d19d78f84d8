//! The packet parser and what its answer is used for: keys and records.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_common::{
    flow::{FlowKey, FlowRecord, ObservationPoint},
    parse::parse,
};

fuzz_target!(|input: (u16, u64, &[u8])| {
    let (vlan, time_ns, frame) = input;
    let packet = parse(frame, vlan & 0x0fff);
    let (key, sender) = FlowKey::of(&packet);
    let mut record = FlowRecord::default();
    record.begin(&packet, sender, time_ns);
    let counted = record.observe(&packet, sender, ObservationPoint::ingress(1), time_ns);
    assert!(counted.is_some() && record.packets() == 1);
    let (src, src_port, dst, dst_port) = key.seen_from(sender);
    assert_eq!((src, src_port, dst, dst_port), (packet.src, packet.src_port, packet.dst, packet.dst_port));
});
