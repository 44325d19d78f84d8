//! Flow keys and records, conversation by conversation.

use proptest::prelude::*;
use tidegate_common::{
    flow::{FIRST_SIZE_IN, FlowKey, FlowRecord, Milestone, ObservationPoint, Sender, progress},
    parse::{Fragment, Network, Packet, proto, tcp_flag},
    pod::Addr,
};

const FIN: u8 = tcp_flag::FIN;
const SYN: u8 = tcp_flag::SYN;
const RST: u8 = tcp_flag::RST;
const ACK: u8 = tcp_flag::ACK;
const CLIENT: [u8; 4] = [192, 168, 1, 20];
const SERVER: [u8; 4] = [198, 51, 100, 7];
const POINT: ObservationPoint = ObservationPoint::ingress(3);

/// A TCP packet from the client (`out`) or the server.
fn tcp(out: bool, flags: u8, ip_len: u32) -> Packet {
    let (client, server) = ((Addr::v4(CLIENT), 50_000), (Addr::v4(SERVER), 443));
    let ((src, src_port), (dst, dst_port)) = if out { (client, server) } else { (server, client) };
    Packet {
        src,
        dst,
        src_port,
        dst_port,
        src_mac: [2, 0, 0, 0, 0, u8::from(out)],
        ip_len,
        payload_len: ip_len.saturating_sub(40),
        segments: 1,
        proto: proto::TCP,
        tcp_flags: flags,
        ttl: if out { 64 } else { 50 },
        window: if out { 1_000 } else { 2_000 },
        network: Network::V4,
        ..Packet::default()
    }
}

/// The record of `packets`, each with its time, and what the last one did.
fn converse(packets: &[(u64, Packet)]) -> (FlowKey, FlowRecord, Option<Milestone>) {
    let (key, first) = FlowKey::of(&packets[0].1);
    let mut record = FlowRecord::default();
    record.begin(&packets[0].1, first, packets[0].0);
    let mut milestone = None;
    for (time_ns, packet) in packets {
        let (same, sender) = FlowKey::of(packet);
        assert_eq!(same, key);
        milestone = record.observe(packet, sender, POINT, *time_ns);
    }
    (key, record, milestone)
}

#[test]
fn the_first_sender_is_the_initiator() {
    for out in [true, false] {
        let (key, record, _) = converse(&[(1, tcp(out, ACK, 40)), (2, tcp(!out, ACK, 40))]);
        let (src, _, _, _) = key.seen_from(record.initiator());
        assert_eq!(src, Addr::v4(if out { CLIENT } else { SERVER }));
        assert_eq!((record.out.packets, record.inward.packets), (1, 1));
    }
}

#[test]
fn a_capture_that_starts_with_the_answer_still_knows_who_called() {
    let (key, record, _) = converse(&[(1, tcp(false, SYN | ACK, 44)), (2, tcp(true, ACK, 40))]);
    assert_eq!(key.seen_from(record.initiator()), (Addr::v4(CLIENT), 50_000, Addr::v4(SERVER), 443));
    assert_eq!((record.out.packets, record.inward.packets), (1, 1));
    assert_eq!(record.progress, progress::SYN_ACK | progress::ESTABLISHED);
}

#[test]
fn a_connection_goes_through_its_states() {
    let steps = [
        (true, SYN, progress::SYN, false, false),
        (false, SYN | ACK, progress::SYN_ACK, true, false),
        (true, ACK, progress::ESTABLISHED, false, false),
        (true, FIN | ACK, progress::FIN_OUT, false, false),
        (false, FIN | ACK, progress::FIN_IN, false, true),
        (true, ACK, 0, false, false),
    ];
    let mut packets = Vec::new();
    let mut reached = 0;
    for (time_ns, (out, flags, new, answered, closed)) in steps.into_iter().enumerate() {
        packets.push((time_ns as u64, tcp(out, flags, 40)));
        reached |= new;
        let (_, record, milestone) = converse(&packets);
        assert_eq!(record.progress, reached, "step {time_ns}");
        assert_eq!(milestone, Some(Milestone { answered, closed, ..Milestone::default() }), "step {time_ns}");
    }
}

#[test]
fn a_reset_closes_once() {
    let reset = tcp(false, RST | ACK, 40);
    let (_, record, first) = converse(&[(0, tcp(true, SYN, 40)), (1, reset)]);
    assert!(record.is_closed());
    assert_eq!(first, Some(Milestone { closed: true, reset: true, ..Milestone::default() }));
    let (_, _, again) = converse(&[(0, tcp(true, SYN, 40)), (1, reset), (2, reset)]);
    assert_eq!(again, Some(Milestone { reset: true, ..Milestone::default() }));
}

#[test]
fn counters_of_both_directions() {
    let (_, record, _) = converse(&[
        (1_000, tcp(true, SYN, 60)),
        (3_000, tcp(false, SYN | ACK, 60)),
        (4_072, tcp(true, ACK, 52)),
        (9_192, tcp(true, ACK | 0x08, 1_500)),
    ]);
    let out = record.out;
    assert_eq!((out.packets, out.bytes, out.payload_bytes), (3, 1_612, 20 + 12 + 1_460));
    assert_eq!((out.size_min, out.size_max), (52, 1_500));
    assert_eq!(out.size_sum_sq, 60 * 60 + 52 * 52 + 1_500 * 1_500);
    assert_eq!(
        (out.iat_min_ns, out.iat_max_ns, out.iat_sum_ns(), out.iat_mean_ns()),
        (3_072, 5_120, 8_192, 4_096)
    );
    assert_eq!(out.iat_sum_sq, 3 * 3 + 5 * 5);
    assert_eq!((out.ttl, out.window, out.src_mac), (64, 1_000, [2, 0, 0, 0, 0, 1]));
    assert_eq!(out.flag_counts(), [0, 1, 0, 1, 2, 0, 0, 0]);
    assert_eq!((out.tcp_flags, record.inward.tcp_flags), (SYN | ACK | 0x08, SYN | ACK));
    assert_eq!((record.first_ns(), record.last_ns()), (1_000, 9_192));
    assert_eq!(record.first_sizes[..5], [60, FIRST_SIZE_IN + 60, 52, 1_500, 0]);
}

#[test]
fn packets_out_of_order_never_turn_time_round() {
    let (_, record, _) =
        converse(&[(500, tcp(true, ACK, 40)), (100, tcp(true, ACK, 40)), (300, tcp(false, ACK, 40))]);
    assert_eq!((record.first_ns(), record.last_ns()), (100, 500));
    assert_eq!((record.out.iat_min_ns, record.out.iat_max_ns), (0, 0));
}

#[test]
fn checkpoints_are_powers_of_eight() {
    let mut packets = Vec::new();
    let mut at = Vec::new();
    for count in 1..=600_u64 {
        packets.push((count, tcp(true, ACK, 40)));
    }
    let (_, sender) = FlowKey::of(&packets[0].1);
    let mut record = FlowRecord::default();
    record.begin(&packets[0].1, sender, 0);
    for (count, packet) in &packets {
        if record.observe(packet, sender, POINT, *count).is_some_and(|milestone| milestone.checkpoint) {
            at.push(*count);
        }
    }
    assert_eq!(at, [8, 64, 512]);
}

#[test]
fn a_frame_seen_again_on_its_way_out_is_counted_once() {
    let packet = tcp(true, ACK, 40);
    let (_, sender) = FlowKey::of(&packet);
    let (inward, outward) = (ObservationPoint::ingress(3), ObservationPoint::egress(4));
    let mut record = FlowRecord::default();
    record.begin(&packet, sender, 0);
    assert!(record.observe(&packet, sender, inward, 0).is_some());
    assert_eq!(record.observe(&packet, sender, outward, 1), None);
    assert_eq!(record.packets(), 1);
}

#[test]
fn segments_of_a_super_packet_count_as_packets() {
    let packet = Packet { segments: 3, ..tcp(true, ACK, 3 * 1_500) };
    let (_, record, _) = converse(&[(0, packet)]);
    assert_eq!((record.out.packets, record.out.bytes, record.out.size_max), (3, 4_500, 1_500));
    assert_eq!(record.out.size_sum_sq, 3 * 1_500 * 1_500);
}

#[test]
fn a_super_packet_that_passes_a_checkpoint_reaches_it() {
    for (before, segments, reached) in [
        (5, 2, false),
        (5, 3, true),
        (5, 20, true),
        (7, 60, true),
        (8, 40, false),
        (60, 500, true),
        (70, 400, false),
    ] {
        let single = tcp(true, ACK, 1_500);
        let mut packets: Vec<(u64, Packet)> = (0..before).map(|time| (time, single)).collect();
        packets.push((before, Packet { segments, ..tcp(true, ACK, segments * 1_500) }));
        let (_, _, milestone) = converse(&packets);
        assert_eq!(milestone.map(|milestone| milestone.checkpoint), Some(reached), "{before} and {segments}");
    }
}

#[test]
fn fragments_are_counted() {
    let later = Packet { fragment: Fragment::Later, ..tcp(true, 0, 40) };
    let (_, record, _) = converse(&[(0, later), (1, later), (2, tcp(true, 0, 40))]);
    assert_eq!(record.fragments, 2);
}

fn addresses() -> impl Strategy<Value = Addr> {
    prop_oneof![any::<[u8; 4]>().prop_map(Addr::v4), any::<[u8; 16]>().prop_map(Addr::v6)]
}

proptest! {
    #[test]
    fn both_directions_have_one_key_and_opposite_senders(
        src in addresses(), dst in addresses(), src_port: u16, dst_port: u16, vlan in 0_u16..4_096, proto: u8,
    ) {
        let there = Packet { src, dst, src_port, dst_port, vlan, proto, ..Packet::default() };
        let back = Packet { src: dst, dst: src, src_port: dst_port, dst_port: src_port, ..there };
        let ((key, sender), (same, other)) = (FlowKey::of(&there), FlowKey::of(&back));
        prop_assert_eq!(key, same);
        prop_assert_eq!(key.seen_from(sender), (src, src_port, dst, dst_port));
        prop_assert_eq!(key.seen_from(other), (dst, dst_port, src, src_port));
        prop_assert!(sender != other || (src, src_port) == (dst, dst_port));
        prop_assert!(sender == Sender::A || sender == Sender::B);
    }

    #[test]
    fn nothing_is_counted_twice_or_forgotten(
        packets in prop::collection::vec((any::<bool>(), any::<u8>(), 0_u32..70_000, any::<u64>()), 1..200),
    ) {
        let stream: Vec<_> =
            packets.iter().map(|(out, flags, size, time_ns)| (*time_ns, tcp(*out, *flags, *size))).collect();
        let (_, record, _) = converse(&stream);
        prop_assert_eq!(record.packets(), packets.len() as u64);
        prop_assert_eq!(record.out.bytes + record.inward.bytes, packets.iter().map(|packet| u64::from(packet.2)).sum::<u64>());
        prop_assert_eq!(
            record.out.tcp_flags | record.inward.tcp_flags,
            packets.iter().fold(0, |flags, packet| flags | packet.1)
        );
        prop_assert_eq!(record.first_ns(), packets.iter().map(|packet| packet.3).min().unwrap_or(0));
        prop_assert_eq!(record.last_ns(), packets.iter().map(|packet| packet.3).max().unwrap_or(0));
    }
}

#[test]
fn who_takes_an_address_over_goes_on_with_its_conversations() {
    const SUCCESSOR: [u8; 6] = [2, 0, 0, 0, 0, 9];
    let taken_over = |out| Packet { src_mac: SUCCESSOR, ..tcp(out, ACK, 40) };
    let before = [(1, tcp(true, ACK, 40)), (2, tcp(false, ACK, 40))];
    let (_, server_moved, _) = converse(&[before[0], before[1], (3, taken_over(false))]);
    assert_eq!((server_moved.out.src_mac, server_moved.inward.src_mac), ([2, 0, 0, 0, 0, 1], SUCCESSOR));
    let (_, client_moved, _) = converse(&[before[0], before[1], (3, taken_over(true))]);
    assert_eq!(client_moved.initiating_device().map(|device| device.mac), Some(SUCCESSOR));
}
