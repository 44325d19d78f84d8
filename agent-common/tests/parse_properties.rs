//! The parser on bytes nobody chose: it always answers, and what it reads does not depend on bytes it has no business with.

use proptest::prelude::*;
use tidegate_common::{
    flow::FlowKey,
    parse::{Fragment, Packet, Unparsed, parse, proto},
    pod::Addr,
};

/// A plausible start of a frame, so that random bytes get past Ethernet.
fn beginnings() -> impl Strategy<Value = Vec<u8>> {
    let ether_types = prop::sample::select(vec![
        vec![8, 0],
        vec![8, 6],
        vec![0x86, 0xdd],
        vec![0x81, 0, 0, 5, 8, 0],
        vec![0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x86, 0xdd],
        vec![0x81, 0, 0, 5, 0x81, 0, 0, 6, 0x81, 0],
    ]);
    let first_byte = prop::sample::select(vec![0x45_u8, 0x46, 0x4f, 0x60, 0x00, 0x44]);
    (any::<[u8; 12]>(), ether_types, first_byte)
        .prop_map(|(macs, ether_type, first)| [macs.as_slice(), &ether_type, &[first]].concat())
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200), vlan in 0_u16..4_096) {
        let packet = parse(bytes.as_slice(), vlan);
        prop_assert_eq!(packet.segments, 1);
        prop_assert_eq!(packet.unparsed == Some(Unparsed::FrameTooShort), bytes.len() < 14);
        let _ = FlowKey::of(&packet);
    }

    #[test]
    fn plausible_frames_are_answered(start in beginnings(), rest in prop::collection::vec(any::<u8>(), 0..160)) {
        let frame = [start, rest].concat();
        let packet = parse(frame.as_slice(), 0);
        if packet.unparsed.is_none() {
            prop_assert!(packet.ip_len >= packet.payload_len);
            let ported = matches!(packet.proto, proto::TCP | proto::UDP) && packet.fragment != Fragment::Later;
            prop_assert!(ported || (packet.src_port, packet.dst_port) == (0, 0));
        }
    }

    #[test]
    fn bytes_after_a_parsed_packet_change_nothing(
        start in beginnings(), rest in prop::collection::vec(any::<u8>(), 0..160), tail in prop::collection::vec(any::<u8>(), 1..60),
    ) {
        let frame = [start, rest].concat();
        let packet = parse(frame.as_slice(), 0);
        let length_is_given = packet.ip_len as usize != frame.len() - 14;
        if packet.unparsed.is_none() && length_is_given {
            let longer = [frame, tail].concat();
            prop_assert_eq!(parse(longer.as_slice(), 0), packet);
        }
    }

    #[test]
    fn fields_of_udp_over_ipv4_come_back(
        src: [u8; 4], dst: [u8; 4], src_port: u16, dst_port: u16, vlan in 1_u16..4_096, ttl: u8,
        payload in prop::collection::vec(any::<u8>(), 0..100), options in 0_usize..=10,
    ) {
        let ip_len = (20 + 4 * options + 8 + payload.len()) as u16;
        let mut frame = vec![0; 12];
        frame.extend([0x81, 0]);
        frame.extend(vlan.to_be_bytes());
        frame.extend([8, 0, 0x45 + options as u8, 0]);
        frame.extend(ip_len.to_be_bytes());
        frame.extend([0, 0, 0, 0, ttl, proto::UDP, 0, 0]);
        frame.extend(src);
        frame.extend(dst);
        frame.resize(frame.len() + 4 * options, 1);
        frame.extend(src_port.to_be_bytes());
        frame.extend(dst_port.to_be_bytes());
        frame.extend((8 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(&payload);
        let packet = parse(frame.as_slice(), 0);
        let expected = Packet {
            src: Addr::v4(src),
            dst: Addr::v4(dst),
            ip_len: u32::from(ip_len),
            payload_len: payload.len() as u32,
            segments: 1,
            src_port,
            dst_port,
            vlan,
            proto: proto::UDP,
            ttl,
            payload_at: (frame.len() - payload.len()) as u16,
            network: tidegate_common::parse::Network::V4,
            ..Packet::default()
        };
        prop_assert_eq!(packet, expected);
    }
}
