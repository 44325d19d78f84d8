#![allow(clippy::unwrap_used, reason = "a failed run is the test's failure")]

use std::net::IpAddr;

use proptest::prelude::*;
use tidegate_common::{
    flow::progress,
    parse::{proto, tcp_flag},
};

use super::*;
use crate::replay::flowlog::LoggedSide;

const START_S: u64 = 1_700_000_000;

fn tcp(at_ms: u64, from: [u8; 4], to: [u8; 4], port: u16, answered: bool) -> LoggedFlow {
    let first_ns = START_S * SECOND_NS + at_ms * 1_000_000;
    let side = |packets: u64, tcp_flags| LoggedSide {
        packets,
        bytes: packets * 60,
        tcp_flags,
        ..LoggedSide::default()
    };
    let all = tcp_flag::SYN | tcp_flag::ACK | tcp_flag::FIN;
    let done =
        progress::SYN | progress::SYN_ACK | progress::ESTABLISHED | progress::FIN_IN | progress::FIN_OUT;
    LoggedFlow {
        src: from.into(),
        dst: to.into(),
        src_port: 40_000 + (at_ms % 20_000) as u16,
        dst_port: port,
        proto: proto::TCP,
        vlans: [0, 0],
        first_ns,
        last_ns: first_ns + 50_000_000,
        icmp: (0, 0),
        out: side(if answered { 6 } else { 1 }, if answered { all } else { tcp_flag::SYN }),
        inward: if answered { side(5, all) } else { LoggedSide::default() },
        progress: if answered { done } else { progress::SYN },
        label: None,
    }
}

fn watch(learn: &[LoggedFlow], flows: &[LoggedFlow]) -> (Detected, Watch) {
    let mut watch = Watch::new(&Config::default(), Protected::default()).unwrap();
    if let Some(first) = learn.first() {
        watch.begin_learning();
        watch.begin_file(first.first_ns).unwrap();
        for flow in learn {
            watch.push(Box::new(flow.clone())).unwrap();
        }
        watch.finish_learning().unwrap();
    }
    watch.begin_file(flows[0].first_ns).unwrap();
    for flow in flows {
        watch.push(Box::new(flow.clone())).unwrap();
    }
    watch.finish().unwrap();
    let mut found = Detected::default();
    found.gather(&mut watch);
    (found, watch)
}

const DEVICE: [u8; 4] = [192, 168, 1, 9];
const CLOUD: [u8; 4] = [203, 0, 113, 5];

fn telemetry(from_s: u64, count: u64) -> Vec<LoggedFlow> {
    (0..count).map(|nth| tcp((from_s + nth * 7) * 1_000, DEVICE, CLOUD, 443, true)).collect()
}

#[test]
fn a_scan_in_a_log_is_found_and_its_source_blocked() {
    let scan: Vec<_> = (0..60).map(|nth| tcp(nth * 20, CLOUD, DEVICE, 1 + nth as u16, false)).collect();
    let (found, _) = watch(&[], &scan);
    let blocked: Vec<String> =
        found.blocks.iter().map(|block| block.enforcement.target.to_string()).collect();
    assert_eq!(blocked, ["203.0.113.5"]);
    let incident = found.incidents.values().next().unwrap();
    assert_eq!(incident.incident.technique, "T1595");
    assert!(incident.detect_s < 2.0, "{}", incident.detect_s);
}

#[test]
fn a_device_that_scans_is_isolated_and_named_by_its_address() {
    let mut flows = telemetry(0, 20);
    flows.extend(
        (0..40).map(|nth| tcp(200_000 + u64::from(nth) * 50, DEVICE, [198, 51, 100, nth], 23, false)),
    );
    let (found, _) = watch(&[], &flows);
    assert_eq!(found.blocks.len(), 1, "{found:?}");
    assert_eq!(found.blocks[0].addresses, [IpAddr::from(DEVICE)]);
}

#[test]
fn what_was_learned_makes_a_baseline_and_more_of_it_no_incident() {
    let (found, watch) = watch(&telemetry(0, 300), &telemetry(86_400, 300));
    assert_eq!(found.incidents.len(), 0, "{:?}", found.incidents);
    assert_eq!(watch.learner().status().filter(|device| device.model.is_some()).count(), 1);
    assert_eq!(watch.learning_findings(), 0);
}

#[test]
fn recordings_of_other_times_and_long_silences_take_no_longer() {
    let mut flows = telemetry(0, 3);
    flows.extend(telemetry(10_u64.pow(9), 3));
    let (found, watch) = watch(&telemetry(2 * 10_u64.pow(9), 10), &flows);
    assert_eq!(found.incidents.len(), 0);
    assert_eq!(watch.now().wall.as_second() / 10_u64.pow(9) as i64, 2);
}

#[test]
fn alerts_of_others_are_reported_and_block_nobody() {
    let mut gateway = Watch::new(&Config::default(), Protected::default()).unwrap();
    gateway.begin_file(START_S * SECOND_NS).unwrap();
    let alert = LoggedAlert {
        time_ns: START_S * SECOND_NS,
        src: CLOUD.into(),
        dst: DEVICE.into(),
        signature_id: 1,
        signature: "ET SCAN".to_owned(),
        severity: 1,
    };
    gateway.alert(&alert).unwrap();
    let mut found = Detected::default();
    found.gather(&mut gateway);
    assert_eq!((found.incidents.len(), found.blocks.len()), (1, 0));
}

/// Ethernet and IPv4 with the beginning of TCP, from the device when `out`.
fn frame(out: bool, ports: [u16; 2], flags: u8) -> Vec<u8> {
    let ends = |device: &[u8], router: &[u8]| if out { [router, device] } else { [device, router] }.concat();
    let mut frame = ends(&[2, 0, 0, 0, 0, 9], &[2, 0, 0, 0, 0, 1]);
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    let (from, to) = if out { (DEVICE, CLOUD) } else { (CLOUD, DEVICE) };
    frame.extend([from, to].concat());
    frame.extend(ports.map(u16::to_be_bytes).concat());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
    frame
}

#[test]
fn a_scan_in_a_capture_is_found_and_the_scanned_device_is_not_blamed() {
    let mut gateway = Watch::new(&Config::default(), Protected::default()).unwrap();
    gateway.begin_file(START_S * SECOND_NS).unwrap();
    for port in 1..60_u16 {
        let at_ns = START_S * SECOND_NS + u64::from(port) * 20_000_000;
        gateway.frame(at_ns, &frame(false, [50_000, port], tcp_flag::SYN)).unwrap();
        gateway
            .frame(at_ns + 1_000_000, &frame(true, [port, 50_000], tcp_flag::RST | tcp_flag::ACK))
            .unwrap();
    }
    gateway.finish().unwrap();
    let mut found = Detected::default();
    found.gather(&mut gateway);
    let blocked: Vec<String> =
        found.blocks.iter().map(|block| block.enforcement.target.to_string()).collect();
    assert_eq!(blocked, ["203.0.113.5"]);
    let status: Vec<_> = gateway.learner().status().collect();
    assert!(status.iter().all(|device| device.mac.0 == [2, 0, 0, 0, 0, 9]), "{status:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// Whatever a capture holds, watching it ends.
    #[test]
    fn any_frames_are_watched_to_the_end(frames in proptest::collection::vec((0_u64..20_000_000_000, proptest::collection::vec(any::<u8>(), 0..120), any::<bool>()), 1..40)) {
        let mut gateway = Watch::new(&Config::default(), Protected::default()).unwrap();
        gateway.begin_file(START_S * SECOND_NS).unwrap();
        for (after_ns, bytes, real) in frames {
            let mut whole = if real { frame(bytes.len() % 2 == 0, [1, 2], 2) } else { Vec::new() };
            whole.extend(bytes);
            gateway.frame(START_S * SECOND_NS + after_ns, &whole).unwrap();
        }
        gateway.finish().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// Whatever a log says, watching it ends, and in order of time.
    #[test]
    fn any_flows_are_watched_to_the_end(rows in proptest::collection::vec((any::<u64>(), any::<u64>(), 0_u64..1 << 40, 0_u64..1 << 40, 0_u8..8, any::<u16>(), any::<u8>()), 1..40)) {
        let mut gateway = Watch::new(&Config::default(), Protected::default()).unwrap();
        let mut before = 0;
        for (nth, (first_ns, duration_ns, out, inward, host, port, protocol)) in rows.into_iter().enumerate() {
            let mut flow = tcp(0, [192, 168, 1, host], [8, 8, 8, host], port, true);
            flow.first_ns = first_ns;
            flow.last_ns = first_ns.saturating_add(duration_ns % (90 * SECOND_NS));
            flow.proto = protocol;
            (flow.out.packets, flow.inward.packets) = (out, inward);
            if nth % 7 == 0 {
                gateway.begin_file(first_ns).unwrap();
            }
            gateway.push(Box::new(flow)).unwrap();
            prop_assert!(gateway.now().kernel_ns >= before);
            before = gateway.now().kernel_ns;
        }
        gateway.finish().unwrap();
    }
}
