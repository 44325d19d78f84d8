#![allow(clippy::unwrap_used, reason = "a failed run is the test's failure")]

use proptest::prelude::*;

use super::{capture::Captured, engine::HostEngine, *};

/// Ethernet, IPv4 from 10.0.0.`from` to 10.0.0.`to`, with a transport header.
fn ipv4(from: u8, to: u8, proto: u8, transport: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0, 0x45, 0];
    frame.extend((20 + transport.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, proto, 0, 0, 10, 0, 0, from, 10, 0, 0, to]);
    frame.extend(transport);
    frame
}

fn tcp(from: u8, to: u8, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut header = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    header.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
    ipv4(from, to, 6, &header)
}

fn capture(frames: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 65_535, 1].map(u32::to_le_bytes).concat();
    for (nanos, frame) in frames {
        let length = frame.len() as u32;
        bytes.extend([7, *nanos, length, length].map(u32::to_le_bytes).concat());
        bytes.extend(frame);
    }
    bytes
}

fn report(captures: &[&[u8]]) -> Report {
    let mut replay = Replay::new(HostEngine::default());
    for capture in captures {
        replay.stream(*capture).unwrap();
    }
    replay.finish().unwrap()
}

fn printed(report: &Report) -> String {
    let mut output = Vec::new();
    report.write(true, &mut output).unwrap();
    String::from_utf8(output).unwrap()
}

#[test]
fn records_and_summary_are_printed_as_the_contract_says() {
    let bytes = capture(&[
        (1, tcp(2, 1, (443, 5_000), 0x12)),
        (2, tcp(1, 2, (5_000, 443), 0x10)),
        (3, ipv4(1, 3, 1, &[8, 0, 0, 0, 0, 1, 0, 1])),
        (4, vec![0; 60]),
    ]);
    insta::assert_snapshot!(printed(&report(&[&bytes])), @r#"
    {"src_ip":"10.0.0.1","dst_ip":"10.0.0.2","src_port":5000,"dst_port":443,"proto":6,"vlan":0,"packets_out":1,"bytes_out":40,"packets_in":1,"bytes_in":40,"first_ns":7000000001,"last_ns":7000000002,"tcp_flags_out":16,"tcp_flags_in":18}
    {"src_ip":"10.0.0.1","dst_ip":"10.0.0.3","src_port":0,"dst_port":0,"proto":1,"vlan":0,"packets_out":1,"bytes_out":28,"packets_in":0,"bytes_in":0,"first_ns":7000000003,"last_ns":7000000003,"tcp_flags_out":0,"tcp_flags_in":0}
    {"summary":{"packets":4,"in_flows":3,"unparsed":{"llc":1},"folded":0,"lost":0}}
    "#);
}

#[test]
fn several_captures_are_one_stream() {
    let (one, two) = (tcp(1, 2, (5_000, 443), 2), tcp(2, 1, (443, 5_000), 0x12));
    let together = report(&[&capture(&[(1, one.clone()), (2, two.clone())])]);
    let apart = report(&[&capture(&[(1, one)]), &capture(&[(2, two)])]);
    assert_eq!(printed(&together), printed(&apart));
    assert_eq!(together.flows.len(), 1);
}

#[test]
fn flows_are_ordered_by_their_first_packet_then_their_key() {
    let bytes = capture(&[(5, tcp(9, 2, (1, 2), 2)), (1, tcp(8, 2, (1, 2), 2)), (5, tcp(3, 2, (1, 2), 2))]);
    let report = report(&[&bytes]);
    let sources: Vec<String> = report
        .flows
        .iter()
        .map(|(key, record)| report::FlowLine::new(key, record).src_ip.to_string())
        .collect();
    assert_eq!(sources, ["10.0.0.8", "10.0.0.3", "10.0.0.9"]);
}

#[test]
fn a_full_table_folds_new_flows_and_keeps_counting_old_ones() {
    let frames: Vec<_> = (0..30_u16).map(|packet| (1, tcp(1, 2, (packet % 10, 80), 2))).collect();
    let mut replay = Replay::new(HostEngine::with_capacity(4));
    replay.stream(capture(&frames).as_slice()).unwrap();
    let summary = replay.finish().unwrap().summary;
    assert_eq!((summary.packets, summary.in_flows, summary.folded, summary.lost), (30, 12, 18, 0));
}

#[test]
fn what_no_engine_takes_is_counted_before_it() {
    let mut replay = Replay::new(HostEngine::default());
    for (link, length) in [(105, 60), (1, 13), (1, 14), (1, MAX_TEST_FRAME), (1, MAX_TEST_FRAME + 1)] {
        replay.push(Captured { time_ns: 0, link, frame: &vec![0; length] }).unwrap();
    }
    let summary = replay.finish().unwrap().summary;
    let expected = [("frame_too_long", 1), ("frame_too_short", 1), ("llc", 2), ("unsupported_link", 1)];
    assert_eq!(summary.unparsed.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_refused_file_is_named_with_cause_and_hint() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("notes.txt");
    std::fs::write(&text, "not a capture").unwrap();
    for (path, cause) in [
        (text.clone(), "neither a log of Zeek"),
        (directory.path().join("absent.pcap"), "cannot open"),
        (directory.path().to_owned(), "cannot open"),
    ] {
        let Err(refused) = input::open_all(std::slice::from_ref(&path)) else {
            panic!("{} was taken", path.display())
        };
        let message = refused.to_string();
        assert!(message.contains(cause) && message.contains("hint"), "{message}");
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

/// Frames that look like traffic, some of it broken.
fn frames() -> impl Strategy<Value = Vec<(u32, Vec<u8>)>> {
    let bodies = prop_oneof![
        (1_u8..5, 1_u8..5, 0_u16..4, any::<u8>()).prop_map(|(from, to, port, flags)| tcp(
            from,
            to,
            (port, 80),
            flags
        )),
        (1_u8..5, 1_u8..5, any::<u8>(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(from, to, proto, body)| ipv4(from, to, proto, &body)),
        prop::collection::vec(any::<u8>(), 0..80),
    ];
    prop::collection::vec((any::<u32>(), bodies), 0..40)
}

proptest! {
    #[test]
    fn the_account_is_exact_whatever_a_mutated_capture_holds(
        frames in frames(),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        capacity in 0_usize..12,
    ) {
        let mut bytes = capture(&frames);
        for (at, value) in mutations {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let mut replay = Replay::new(HostEngine::with_capacity(capacity));
        if replay.stream(bytes.as_slice()).is_ok() {
            let report = replay.finish().unwrap();
            prop_assert!(report.balances());
            prop_assert_eq!(report.summary.lost, 0);
            prop_assert!(report.flows.len() <= capacity);
            for (_, record) in &report.flows {
                prop_assert!(record.first_ns() <= record.last_ns());
            }
            prop_assert_eq!(printed(&report).lines().count(), report.flows.len() + 1);
        }
    }
}
