//! Profiles: what compiles to what, and that kernel and host judge every packet alike.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed step is the test's failure; a skip is said aloud"
)]

use std::net::IpAddr;

use proptest::{collection::vec, prelude::*, sample::select, strategy::ValueTree as _};
use tidegate_common::{
    parse::{parse, proto},
    profile::{may, permits},
    verdict::{Config, Mode, role},
};

use super::{
    tests::{SECOND, at, automatic, manual},
    *,
};
use crate::{
    datapath::{TestBed, object_is_embedded},
    identity::Mac,
};

const DEVICE: Mac = Mac([2, 0, 0, 0, 0, 1]);

fn author() -> Author {
    Author::Operator("eve".to_owned())
}

fn rule(remote: &str, protocol: u8, remote_port: u16, local_port: u16, may: u32) -> ProfileRule {
    ProfileRule { remote: remote.parse().unwrap(), protocol, remote_port, local_port, may }
}

fn enforcer() -> Enforcer<MemoryTable> {
    let config = Config { mode: Mode::Enforce as u32, window_ns: 30 * SECOND, ..Config::default() };
    Enforcer::new(MemoryTable::default(), Settings::default(), config)
}

#[test]
fn a_profile_outlives_an_isolation_and_its_own_change() {
    let mut enforcer = enforcer();
    let device = Target::Device(DEVICE);
    let profile = Profile { rules: vec![rule("198.51.100.1/32", proto::TCP, 443, 0, may::SEND)] };
    enforcer.set_profile(DEVICE, &profile, &[], &author()).unwrap();
    assert_eq!(enforcer.table().verdicts[&device].profile, 1);
    assert_eq!(enforcer.config().present, tidegate_common::verdict::present::DEVICE);
    enforcer.apply(automatic(&DEVICE.to_string()), at(0)).unwrap();
    assert_eq!(enforcer.table().verdicts[&device].profile, 1, "beside an isolation");
    enforcer.sweep(at(90_000)).unwrap();
    assert!(enforcer.get(&device).is_none(), "the isolation is over");
    assert_eq!(enforcer.table().verdicts[&device].profile, 1);

    enforcer.kernel.table_mut().verdicts.get_mut(&device).unwrap().hits = 5;
    let wider = Profile { rules: vec![rule("198.51.100.0/24", proto::TCP, 443, 0, may::SEND)] };
    enforcer.set_profile(DEVICE, &wider, &[], &author()).unwrap();
    let table = enforcer.table();
    assert_eq!((table.verdicts[&device].profile, table.verdicts[&device].hits), (2, 5));
    assert!(table.profiles.nets.keys().all(|key| key.profile == 2), "nothing of the first is left");
    assert_eq!(enforcer.reconcile(at(90_001)).unwrap().notices, []);
    assert!(enforcer.clear_profile(DEVICE).unwrap());
    assert!(enforcer.table().verdicts.is_empty() && enforcer.table().profiles.is_empty());
    assert!(!enforcer.clear_profile(DEVICE).unwrap());
}

#[test]
fn never_block_wins_over_a_profile() {
    let mut enforcer = enforcer();
    let profile = Profile::default();
    enforcer.allow(Target::Device(DEVICE), role::OPERATOR, &[], "eve", "", at(0)).unwrap();
    assert!(enforcer.set_profile(DEVICE, &profile, &[], &author()).is_err());
    enforcer.disallow(&Target::Device(DEVICE)).unwrap();
    enforcer.set_profile(DEVICE, &profile, &[], &author()).unwrap();
    enforcer.allow(Target::Device(DEVICE), role::OPERATOR, &[], "eve", "", at(1)).unwrap();
    assert_eq!(enforcer.table().verdicts[&Target::Device(DEVICE)].profile, 0);
}

#[test]
fn a_difference_in_the_kernel_is_repaired_and_reported() {
    let mut enforcer = enforcer();
    enforcer.apply(manual("203.0.113.9"), at(0)).unwrap();
    let profile = Profile { rules: vec![rule("198.51.100.0/24", 0, 0, 0, may::SEND)] };
    enforcer.set_profile(DEVICE, &profile, &[], &author()).unwrap();
    enforcer.kernel.table_mut().profiles.rules.clear();
    let notices = enforcer.reconcile(at(1)).unwrap().notices;
    assert_eq!(notices, [Notice::Drift { drift: Drift::Different, target: Target::Device(DEVICE) }]);
    assert_eq!(enforcer.reconcile(at(2)).unwrap().notices, []);
}

#[test]
fn a_profile_of_an_earlier_run_is_replaced_without_a_gap_in_numbers() {
    let mut first = enforcer();
    let profile = Profile { rules: vec![rule("198.51.100.0/24", 0, 0, 0, may::SEND)] };
    first.set_profile(DEVICE, &profile, &[], &author()).unwrap();
    let mut second =
        Enforcer::new(first.table().clone(), Settings::default(), Config { present: 0x10, ..first.config() });
    second.resume_profile(DEVICE, &profile).unwrap();
    assert_eq!(second.table().verdicts[&Target::Device(DEVICE)].profile, 1, "still the one before");
    second.restore::<Target>(Vec::new(), Vec::new(), &[], at(5)).unwrap();
    assert_eq!(second.table().verdicts[&Target::Device(DEVICE)].profile, 2);
    second.reconcile(at(6)).unwrap();
    assert!(second.table().profiles.nets.keys().all(|key| key.profile == 2));
}

#[derive(Clone, Debug)]
struct Seen {
    ingress: bool,
    remote: [u8; 4],
    proto: u8,
    remote_port: u16,
    local_port: u16,
    flags: u8,
    fragment: bool,
}

/// Ethernet, IPv4 and sixteen bytes of TCP or UDP between the device at 10.0.0.2 and a remote host.
fn frame(seen: &Seen) -> Vec<u8> {
    let gateway = [2, 0, 0, 0, 0, 9];
    let (from, to) = if seen.ingress { (DEVICE.0, gateway) } else { (gateway, DEVICE.0) };
    let local = ([10, 0, 0, 2], seen.local_port);
    let remote = (seen.remote, seen.remote_port);
    let (src, dst) = if seen.ingress { (local, remote) } else { (remote, local) };
    let mut frame = [to, from].concat();
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0]);
    frame.extend(if seen.fragment { [0, 8] } else { [0, 0] });
    frame.extend([64, seen.proto, 0, 0]);
    frame.extend(src.0);
    frame.extend(dst.0);
    frame.extend(src.1.to_be_bytes());
    frame.extend(dst.1.to_be_bytes());
    frame.extend([0, 20, 0, 0, 0, 0, 0, 0, 0x50, seen.flags, 4, 0, 0, 0, 0, 0]);
    frame
}

fn packets() -> impl Strategy<Value = Seen> {
    let remote = select(vec![[198, 51, 100, 1], [198, 51, 100, 9], [198, 51, 7, 7], [10, 0, 0, 9]]);
    let ports = || select(vec![0_u16, 53, 80, 443, 40_000]);
    let flags = select(vec![0x02_u8, 0x12, 0x10, 0]);
    let proto = select(vec![proto::TCP, proto::UDP, proto::ICMP, 47, 2]);
    (any::<bool>(), remote, proto, ports(), ports(), flags, any::<bool>()).prop_map(
        |(ingress, remote, proto, remote_port, local_port, flags, fragment)| Seen {
            ingress,
            remote,
            proto,
            remote_port,
            local_port,
            flags,
            fragment,
        },
    )
}

fn rules() -> impl Strategy<Value = ProfileRule> {
    let remote = select(vec!["198.51.100.1/32", "198.51.100.0/24", "198.51.0.0/16", "0.0.0.0/0", "::/0"]);
    let ports = || select(vec![0_u16, 53, 80, 443]);
    (remote, select(vec![0_u8, proto::TCP, proto::UDP]), ports(), ports(), 1_u32..16)
        .prop_map(|(remote, proto, theirs, own, may)| rule(remote, proto, theirs, own, may))
}

/// A profile as its rules read, without networks, numbers and tables.
fn reads(profile: &Profile, seen: &Seen) -> bool {
    let begins = seen.proto == proto::TCP && seen.flags & 0x12 == 0x02 && !seen.fragment;
    let needed = match (seen.ingress, begins) {
        (true, false) => may::SEND,
        (true, true) => may::SEND | may::CONNECT,
        (false, false) => may::RECEIVE,
        (false, true) => may::RECEIVE | may::ACCEPT,
    };
    let has_ports = matches!(seen.proto, proto::TCP | proto::UDP);
    let (theirs, own) = if has_ports { (seen.remote_port, seen.local_port) } else { (0, 0) };
    let about = |rule: &&ProfileRule| rule.remote.contains(&IpAddr::from(seen.remote));
    // The rules that name the same ports and protocol add up.
    let mut groups: std::collections::BTreeMap<(u8, u16, u16), u32> = std::collections::BTreeMap::new();
    for rule in profile.rules.iter().filter(about) {
        *groups.entry((rule.protocol, rule.remote_port, rule.local_port)).or_default() |= rule.may;
    }
    if seen.fragment {
        let all = groups.iter().filter(|((protocol, ..), _)| *protocol == seen.proto && *protocol != 0);
        let any = all.fold(0, |bits, (_, may)| bits | may);
        return any & needed == needed || groups.get(&(0, 0, 0)).is_some_and(|may| may & needed == needed);
    }
    groups.iter().any(|((protocol, remote_port, local_port), may)| {
        (*protocol == seen.proto || (*protocol, *remote_port, *local_port) == (0, 0, 0))
            && (*remote_port == 0 || *remote_port == theirs)
            && (*local_port == 0 || *local_port == own)
            && may & needed == needed
    })
}

proptest! {
    #[test]
    fn a_compiled_profile_means_what_its_rules_say(rules in vec(rules(), 0..8), seen in packets()) {
        let profile = Profile { rules };
        let entries = profile.compile(3).unwrap();
        let packet = parse(&frame(&seen)[..], 0);
        let expected = seen.proto == 2 || reads(&profile, &seen);
        prop_assert_eq!(permits(3, &packet, seen.ingress, &entries), expected);
    }
}

#[test]
fn kernel_and_host_judge_every_packet_alike() {
    const NAME: &str = "kernel_and_host_judge_every_packet_alike";
    if !nix::unistd::geteuid().is_root() || !object_is_embedded() {
        println!("SKIPPED {NAME}: needs root and the kernel programs");
        return;
    }
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let config = Config { mode: Mode::Enforce as u32, window_ns: 30 * SECOND, ..Config::default() };
    let mut bed = TestBed::new(64).unwrap();
    bed.set_clock(at(1).kernel_ns).unwrap();
    let TestBed { verdicts, .. } = &mut bed;
    verdicts.configure(&config).unwrap();
    let (mut dropped, mut passed) = (0_u64, 0_u64);
    for round in 1..=60_u32 {
        let mut make = || vec(rules(), 0..8).new_tree(&mut runner).unwrap().current();
        let profile = Profile { rules: make() };
        let entries = profile.compile(round).unwrap();
        let verdict = tidegate_common::verdict::Verdict { profile: round, ..Default::default() };
        let tables = &mut bed.verdicts;
        tables.profile_add(&entries).unwrap();
        tables.put(&Target::Device(DEVICE), &verdict).unwrap();
        for _ in 0..60 {
            let seen = packets().new_tree(&mut runner).unwrap().current();
            let frame = frame(&seen);
            let passes = if seen.ingress { bed.ingress(&frame) } else { bed.egress(&frame) }.unwrap();
            let expected = permits(round, &parse(&frame[..], 0), seen.ingress, &entries);
            assert_eq!(passes, expected, "{seen:?} under {profile:?}");
            dropped += u64::from(!passes);
            passed += u64::from(passes);
        }
        bed.verdicts.profile_delete(&entries).unwrap();
    }
    let counters = bed.datapath.counters().unwrap();
    assert_eq!((counters.dropped_profile, counters.unaccounted()), (dropped, 0));
    assert!(dropped > 300 && passed > 300, "{dropped} dropped, {passed} passed");
    assert!(bed.verdicts.profiles().unwrap().is_empty());

    bed.verdicts.configure(&Config { mode: Mode::Monitor as u32, ..config }).unwrap();
    let seen = Seen {
        ingress: true,
        remote: [198, 51, 100, 1],
        proto: proto::UDP,
        remote_port: 9,
        local_port: 9,
        flags: 0,
        fragment: false,
    };
    assert!(bed.ingress(&frame(&seen)).unwrap(), "monitor mode lets everything pass");
    assert_eq!(bed.datapath.counters().unwrap().would_drop, 1);
}
