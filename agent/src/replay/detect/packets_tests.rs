//! The kernel and replay sample the same frames, byte for byte.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed run is the test's failure; a skip is said aloud"
)]

use std::net::Ipv4Addr;

use simple_dns::TYPE;
use tidegate_common::verdict::Config;

use super::*;
use crate::{
    datapath::{Event, TestBed, object_is_embedded},
    enforce::VerdictTable,
    identity::testing::{End, answer, client_hello, question, server_hello, tcp, udp},
};

const CAMERA: End = ([2, 0, 0, 0, 0, 7], Ipv4Addr::new(10, 0, 0, 7), 40_000);
const GATEWAY: End = ([2, 0, 0, 0, 0, 1], Ipv4Addr::new(10, 0, 0, 1), 53);
const CLOUD: End = ([2, 0, 0, 0, 0, 1], Ipv4Addr::new(198, 51, 100, 9), 443);
const TIMES: Times =
    Times { now_ns: 5_000_000_000, window_ns: 30_000_000_000, active_timeout_ns: 30_000_000_000 };

/// Frames and whether they leave.
fn traffic() -> Vec<(Vec<u8>, bool)> {
    let port = |end: End, port| (end.0, end.1, port);
    let hello = client_hello("camera.vendor.example", 100);
    let long = client_hello("long.vendor.example", 1_700);
    let (first, rest) = long.split_at(1_400);
    let (other, more) = (port(CAMERA, 40_001), port(CAMERA, 40_002));
    vec![
        (udp(CAMERA, GATEWAY, &question(1, "vendor.example", TYPE::A)), false),
        (udp(GATEWAY, CAMERA, &answer(1, "vendor.example", &[CLOUD.1], 60)), true),
        (udp(CAMERA, port(CLOUD, 123), &[0; 48]), false),
        (tcp(CAMERA, CLOUD, 1, &[]), false),
        (tcp(CAMERA, CLOUD, 1, &hello), false),
        (tcp(CLOUD, CAMERA, 1, &server_hello()), true),
        (tcp(CAMERA, CLOUD, 9, &hello), false),
        (tcp(other, CLOUD, 1, first), false),
        (tcp(other, CLOUD, 1_401, rest), false),
        (tcp(other, CLOUD, 3_000, rest), false),
        (tcp(CLOUD, other, 1, &server_hello()), true),
        (tcp(more, CLOUD, 1, b"GET / HTTP/1.1\r\n\r\n"), false),
        (tcp(more, CLOUD, 19, b"more of the same"), false),
        (tcp(CLOUD, more, 1, &server_hello()), true),
        (tcp(port(CAMERA, 40_003), CLOUD, 1, &[22, 3, 1]), false),
        (udp(CAMERA, GATEWAY, &[0; 900]), false),
    ]
}

#[test]
fn names_are_sampled_alike_by_the_kernel_and_by_replay() {
    if !nix::unistd::geteuid().is_root() || !object_is_embedded() {
        println!(
            "SKIPPED names_are_sampled_alike_by_the_kernel_and_by_replay: needs root and the kernel programs"
        );
        return;
    }
    let mut bed = TestBed::new(1_024).unwrap();
    let limits = Config { sample_limit: 100, dns_limit: 100, hello_limit: 100, ..Config::default() };
    bed.verdicts.configure(&limits).unwrap();
    bed.set_clock(TIMES.now_ns).unwrap();
    let mut events = bed.datapath.take_events().unwrap();
    let (mut meter, mut devices, mut protected) = (Meter::default(), HashMap::new(), Protected::default());
    let mut seen = Vec::new();
    for (number, (frame, leaves)) in traffic().iter().enumerate() {
        if *leaves {
            bed.egress(frame).unwrap()
        } else {
            bed.ingress(frame).unwrap()
        };
        let of_replay = meter.frame(frame, TIMES, &mut protected, &mut devices);
        let of_replay: Vec<SampleEvent> = of_replay
            .into_iter()
            .filter_map(|measured| match measured {
                Measured::Sample(sample) => Some(*sample),
                Measured::Flow(..) => None,
            })
            .collect();
        let mut of_kernel = Vec::new();
        while let Some(event) = events.take() {
            if let Event::Sample(mut sample) = event.unwrap() {
                // The length on the ring is the kernel's own affair.
                sample.header = of_replay.first().map_or(sample.header, |replayed| replayed.header);
                of_kernel.push(*sample);
            }
        }
        assert!(of_kernel == of_replay, "frame {number}: {} and {}", of_kernel.len(), of_replay.len());
        seen.extend(of_replay.iter().map(|sample| (number, sample.cause)));
    }
    let (dns, hello) = (SampleCause::Dns as u8, SampleCause::Hello as u8);
    let expected = [
        (0, dns),
        (1, dns),
        (4, hello),
        (5, hello),
        (7, hello),
        (8, hello),
        (10, hello),
        (13, hello),
        (15, dns),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn each_kind_of_sample_has_its_own_limit_and_what_is_held_is_counted() {
    if !nix::unistd::geteuid().is_root() || !object_is_embedded() {
        println!(
            "SKIPPED each_kind_of_sample_has_its_own_limit_and_what_is_held_is_counted: needs root and the kernel programs"
        );
        return;
    }
    let mut bed = TestBed::new(1_024).unwrap();
    bed.set_clock(TIMES.now_ns).unwrap();
    let ask = udp(CAMERA, GATEWAY, &question(1, "vendor.example", TYPE::A));
    bed.ingress(&ask).unwrap();
    let counters = bed.datapath.counters().unwrap();
    assert_eq!((counters.names_held, counters.samples_held), (0, 0), "nobody wants them");
    let limits = Config { dns_limit: 3, hello_limit: 1, ..Config::default() };
    bed.verdicts.configure(&limits).unwrap();
    for _ in 0..10 {
        bed.ingress(&ask).unwrap();
    }
    bed.ingress(&tcp(CAMERA, CLOUD, 1, &client_hello("vendor.example", 10))).unwrap();
    let counters = bed.datapath.counters().unwrap();
    assert_eq!((counters.names_held, counters.samples_held, counters.events_lost), (7, 0, 0));
    // Both flows' first packets and a checkpoint, three questions, one hello.
    assert_eq!(counters.events, 2 + 1 + 3 + 1);
}

#[test]
fn the_rest_of_a_hello_is_forgotten_with_its_flow() {
    let (mut meter, mut devices, mut protected) = (Meter::default(), HashMap::new(), Protected::default());
    let long = client_hello("long.vendor.example", 1_700);
    meter.frame(&tcp(CAMERA, CLOUD, 1, &long[..1_400]), TIMES, &mut protected, &mut devices);
    assert_eq!(meter.hellos.len(), 1);
    let limits = IdleLimits { open_ns: 1, closed_ns: 1 };
    assert_eq!(meter.sweep(TIMES.now_ns + 2, limits).len(), 1);
    assert!(meter.hellos.is_empty());
}
