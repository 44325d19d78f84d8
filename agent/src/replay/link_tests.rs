#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use proptest::prelude::*;

use super::*;
use crate::replay::{Replay, engine::HostEngine};

const UDP: [u8; 28] =
    [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 192, 0, 2, 7, 0x14, 0xe9, 0, 53, 0, 8, 0, 0];

fn captured(link: u16, frame: &[u8]) -> Captured<'_> {
    Captured { time_ns: 1, link, frame }
}

fn ethernet(link: u16, frame: &[u8]) -> Result<Vec<u8>, Unparsed> {
    Framer::default().ethernet(captured(link, frame)).map(<[u8]>::to_vec)
}

fn sll(device: u16, protocol: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = [0_u16, device, 6, 0x02aa, 0xbbcc, 0xddee, 0, protocol].map(u16::to_be_bytes).concat();
    packet.extend(payload);
    packet
}

fn sll2(device: u16, protocol: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet =
        [protocol, 0, 0, 3, device, 0x0006, 0x02aa, 0xbbcc, 0xddee, 0].map(u16::to_be_bytes).concat();
    packet.extend(payload);
    packet
}

fn after(header: [u8; 4], payload: &[u8]) -> Vec<u8> {
    [&header, payload].concat()
}

#[test]
fn the_same_packet_is_the_same_frame_whatever_was_before_it() {
    let expected = [&[2, 0, 192, 0, 2, 7, 2, 0, 10, 0, 0, 1, 8, 0][..], &UDP].concat();
    let forms: [(u16, Vec<u8>); 8] = [
        (12, UDP.to_vec()),
        (101, UDP.to_vec()),
        (228, UDP.to_vec()),
        (0, after([2, 0, 0, 0], &UDP)),
        (0, after([0, 0, 0, 2], &UDP)),
        (108, after([0, 0, 0, 2], &UDP)),
        (113, sll(1, 0x0800, &UDP)),
        (276, sll2(1, 0x0800, &UDP)),
    ];
    for (link, packet) in forms {
        assert_eq!(ethernet(link, &packet).as_ref(), Ok(&expected), "link type {link}");
    }
}

#[test]
fn tagged_and_ipv6_packets_get_their_hosts_addresses() {
    let tagged = ethernet(113, &sll(1, 0x8100, &[&[0, 7, 8, 0][..], &UDP].concat())).unwrap();
    assert_eq!(parse(tagged.as_slice(), 0).vlan, 7);
    assert_eq!(tagged[6..12], [2, 0, 10, 0, 0, 1]);

    let mut v6 = [0_u8; 48];
    (v6[0], v6[5], v6[6], v6[7]) = (0x60, 8, 17, 64);
    (v6[8..10]).copy_from_slice(&[0xfd, 1]);
    (v6[24..26]).copy_from_slice(&[0xfd, 2]);
    let framed = ethernet(229, &v6).unwrap();
    assert_eq!(framed[12..14], [0x86, 0xdd]);
    assert_eq!(framed[6..12], made_up("fd01::".parse().unwrap()));
    assert_eq!(framed[..6], made_up("fd02::".parse().unwrap()));
}

#[test]
fn what_stands_in_no_frame_is_told_by_its_reason() {
    let arp = [
        &[0, 1, 8, 0, 6, 4, 0, 1, 2, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 10, 0, 0, 1][..],
        &[0, 0, 0, 0, 0, 0, 10, 0, 0, 2],
    ]
    .concat();
    for (link, packet, reason) in [
        (105, UDP.to_vec(), Unparsed::UnsupportedLink),
        (113, sll(824, 0x0800, &UDP), Unparsed::UnsupportedLink),
        (113, sll(1, 0x0800, &UDP)[..15].to_vec(), Unparsed::FrameTooShort),
        (276, sll2(1, 0x0800, &UDP)[..19].to_vec(), Unparsed::FrameTooShort),
        (276, sll2(1, 0x0004, &UDP), Unparsed::Llc),
        (113, sll(1, 0x0806, &arp), Unparsed::Arp),
        (101, vec![], Unparsed::FrameTooShort),
        (101, UDP[..19].to_vec(), Unparsed::TruncatedIp),
        (101, vec![0x15; 40], Unparsed::Ethertype),
        (0, vec![2, 0, 0], Unparsed::FrameTooShort),
    ] {
        assert_eq!(ethernet(link, &packet), Err(reason), "link type {link}");
    }
}

proptest! {
    #[test]
    fn every_packet_is_counted_once_whatever_its_link_layer(
        packets in prop::collection::vec((
            prop::sample::select(vec![0_u16, 1, 12, 14, 101, 105, 108, 113, 228, 229, 276]),
            prop::collection::vec(any::<u8>(), 0..80),
        ), 0..40),
    ) {
        let mut replay = Replay::new(HostEngine::default());
        for (link, packet) in &packets {
            replay.push(captured(*link, packet)).unwrap();
        }
        let report = replay.finish().unwrap();
        prop_assert!(report.balances());
        prop_assert_eq!(report.summary.packets, packets.len() as u64);
    }
}
