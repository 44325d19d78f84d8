//! The programs on single frames: what is counted, what is dropped, what the tables hold afterwards.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed run is the test's failure; a skip is said aloud"
)]

use std::net::IpAddr;

use tidegate_common::{
    device::{DEVICE_AGE_NS, DEVICE_WAYS, DeviceKey, device_sets},
    verdict::{Action, Config, Mode, Verdict, role},
};

use super::*;
use crate::enforce::{Target, VerdictTable};

/// Ethernet, IPv4, UDP from 10.0.0.1:1000 to 10.0.0.2:2000, 4 bytes of payload.
fn frame() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend([0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0x03, 0xe8, 0x07, 0xd0, 0, 12, 0, 0, 1, 2, 3, 4]);
    frame
}

fn is_skipped(test: &str) -> bool {
    let skipped = !nix::unistd::geteuid().is_root() || !super::super::object_is_embedded();
    if skipped {
        println!("SKIPPED {test}: needs root and the kernel programs");
    }
    skipped
}

#[test]
fn a_packet_is_counted_and_a_blocked_one_dropped() {
    if is_skipped("a_packet_is_counted_and_a_blocked_one_dropped") {
        return;
    }
    let mut bed = TestBed::new(1_024).unwrap();
    bed.set_clock(5_000_000_000).unwrap();
    assert!(bed.ingress(&frame()).unwrap());
    assert!(bed.egress(&frame()).unwrap());
    let counters = bed.datapath.counters().unwrap();
    assert_eq!((counters.seen, counters.in_flow, counters.flows), (2, 1, 1), "{counters:?}");
    assert_eq!(counters.repeated, 1, "the way in counts, the way out is the same packet");

    let target: Target = "10.0.0.2".parse().unwrap();
    let block = Verdict { action: Action::Block as u8, expires_ns: 9_000_000_000, ..Verdict::default() };
    bed.verdicts.put(&target, &block).unwrap();
    assert!(bed.ingress(&frame()).unwrap(), "monitor mode passes");
    let enforce = Config { mode: Mode::Enforce as u32, ..Config::default() };
    bed.verdicts.configure(&enforce).unwrap();
    assert!(!bed.ingress(&frame()).unwrap());
    assert!(!bed.egress(&frame()).unwrap());
    bed.set_clock(9_000_000_000).unwrap();
    assert!(bed.ingress(&frame()).unwrap(), "an expired entry is absent");
    let counters = bed.datapath.counters().unwrap();
    assert_eq!((counters.dropped_address, counters.would_drop, counters.unaccounted()), (2, 1, 0));
    let entries = bed.verdicts.entries().unwrap();
    assert_eq!(
        entries.iter().map(|(target, verdict)| (*target, verdict.hits)).collect::<Vec<_>>(),
        [(target, 3)]
    );
}

#[test]
fn an_operators_entry_at_the_other_end_spares_a_blocked_source() {
    if is_skipped("an_operators_entry_at_the_other_end_spares_a_blocked_source") {
        return;
    }
    let mut bed = TestBed::new(1_024).unwrap();
    let enforce = Config { mode: Mode::Enforce as u32, ..Config::default() };
    bed.verdicts.configure(&enforce).unwrap();
    let block = Verdict { action: Action::Block as u8, expires_ns: u64::MAX, ..Verdict::default() };
    bed.verdicts.put(&"10.0.0.1".parse().unwrap(), &block).unwrap();
    assert!(!bed.ingress(&frame()).unwrap());
    let operators = Verdict {
        action: Action::NeverBlock as u8,
        roles: role::OPERATOR,
        expires_ns: u64::MAX,
        ..Verdict::default()
    };
    bed.verdicts.put(&"10.0.0.2".parse().unwrap(), &operators).unwrap();
    assert!(bed.ingress(&frame()).unwrap());
    bed.verdicts.remove(&"10.0.0.2".parse().unwrap()).unwrap();
    assert!(!bed.ingress(&frame()).unwrap());
}

#[test]
fn the_longest_test_frame_is_what_the_kernel_says() {
    if is_skipped("the_longest_test_frame_is_what_the_kernel_says") {
        return;
    }
    let bed = TestBed::new(64).unwrap();
    let mut long = frame();
    long.resize(MAX_TEST_FRAME, 0);
    assert!(bed.ingress(&long).is_ok());
    long.push(0);
    assert!(bed.ingress(&long).is_err());
    assert!(bed.ingress(&frame()[..MIN_TEST_FRAME]).is_ok());
    assert!(bed.ingress(&frame()[..MIN_TEST_FRAME - 1]).is_err());
}

#[test]
fn of_many_exact_entries_each_is_found_and_nothing_else() {
    if is_skipped("of_many_exact_entries_each_is_found_and_nothing_else") {
        return;
    }
    let mut bed = TestBed::new(4_096).unwrap();
    let enforce = Config { mode: Mode::Enforce as u32, ..Config::default() };
    bed.verdicts.configure(&enforce).unwrap();
    let address = |number: u32| [198, 18, (number >> 8) as u8, number as u8];
    let from = |number: u32| {
        let mut frame = frame();
        frame[26..30].copy_from_slice(&address(number));
        frame
    };
    let block = Verdict { action: Action::Block as u8, expires_ns: u64::MAX, ..Verdict::default() };
    for number in (0..2_000).step_by(2) {
        bed.verdicts.put(&IpAddr::from(address(number)).into(), &block).unwrap();
    }
    for number in 0..2_000 {
        assert_eq!(bed.ingress(&from(number)).unwrap(), number % 2 == 1, "{number}");
    }
    bed.verdicts.remove(&IpAddr::from(address(0)).into()).unwrap();
    assert!(bed.ingress(&from(0)).unwrap());
}

#[test]
fn a_device_is_counted_until_its_set_is_full_and_then_takes_the_place_of_a_silent_one() {
    if is_skipped("a_device_is_counted_until_its_set_is_full_and_then_takes_the_place_of_a_silent_one") {
        return;
    }
    let mut bed = TestBed::new(4_096).unwrap();
    let sets = device_sets(tidegate_common::maps::DEVICE_CAPACITY);
    bed.ingress(&frame()).unwrap();
    let ifindex = bed.datapath.devices().unwrap().into_keys().next().unwrap().ifindex;
    let mac = |number: u32| {
        let [_, a, b, c] = number.to_be_bytes();
        [2, 0, 1, a, b, c]
    };
    let set = |number| DeviceKey::new(mac(number), ifindex).set(sets);
    let neighbours: Vec<u32> =
        (0..).filter(|number| set(*number) == set(0)).take(DEVICE_WAYS as usize + 1).collect();
    let send = |bed: &mut TestBed, number: u32, now_ns: u64| {
        let mut frame = frame();
        frame[6..12].copy_from_slice(&mac(number));
        bed.set_clock(now_ns).unwrap();
        bed.ingress(&frame).unwrap();
    };
    for (position, number) in (1..).zip(&neighbours) {
        send(&mut bed, *number, position);
    }
    let key = |position: usize| DeviceKey::new(mac(neighbours[position]), ifindex);
    let devices = bed.datapath.devices().unwrap();
    let (first, last) = (key(0), key(DEVICE_WAYS as usize));
    assert!(devices.contains_key(&first) && !devices.contains_key(&last));
    assert_eq!(bed.datapath.counters().unwrap().device_table_full, 1);

    send(&mut bed, neighbours[DEVICE_WAYS as usize], DEVICE_AGE_NS + 1);
    let devices = bed.datapath.devices().unwrap();
    assert!(!devices.contains_key(&first) && devices.contains_key(&key(1)));
    let taken = devices[&last];
    assert_eq!((taken.packets_out, taken.windows[0].packets_out + taken.windows[1].packets_out), (1, 1));
}
