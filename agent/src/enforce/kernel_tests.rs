//! The enforcer on the kernel's own tables: packets are dropped when it says so, and the kernel holds what it believes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed step is the test's failure; a skip is said aloud"
)]

use std::net::IpAddr;

use tidegate_common::verdict::{Config, Mode, Verdict, role};

use super::{
    tests::{SECOND, at, automatic, manual, target},
    *,
};
use crate::datapath::{TestBed, VerdictTables, object_is_embedded};

/// Ethernet, IPv4, UDP from `source` to 10.9.9.9, sent by 02:00:00:00:00:01.
fn frame(source: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0];
    frame.extend(source);
    frame.extend([10, 9, 9, 9, 0x03, 0xe8, 0x07, 0xd0, 0, 12, 0, 0, 1, 2, 3, 4]);
    frame
}

#[test]
fn the_kernel_does_what_the_enforcer_believes() {
    const NAME: &str = "the_kernel_does_what_the_enforcer_believes";
    if !nix::unistd::geteuid().is_root() || !object_is_embedded() {
        println!("SKIPPED {NAME}: needs root and the kernel programs");
        return;
    }
    let TestBed { verdicts: table, .. } = TestBed::new(64).unwrap();
    let config = Config { mode: Mode::Enforce as u32, window_ns: 30 * SECOND, ..Config::default() };
    let mut enforcer = Enforcer::new(table, Settings::default(), config);
    let now = at(0);
    enforcer.restore(Vec::new(), Vec::new(), &[(target("192.0.2.1"), role::GATEWAY)], now).unwrap();
    for text in ["198.51.100.7", "2001:db8::7", "02:00:5e:10:00:01"] {
        enforcer.apply(automatic(text), now).unwrap();
    }
    for text in ["203.0.113.0/24", "2001:db8:7::/48"] {
        enforcer.apply(manual(text), now).unwrap();
    }
    let list = FeedList::read("list", &b"198.18.0.1\n2001:db8::9\n198.18.4.0/24\n"[..]).unwrap();
    enforcer.load_feeds(&[list]).unwrap();
    let agree = |enforcer: &mut Enforcer<VerdictTables>, step: &str| {
        assert_eq!(enforcer.reconcile(now).unwrap().notices, [], "{step}");
        let written: Config = enforcer.config();
        assert_eq!(enforcer.table().config().unwrap(), written, "{step}");
    };
    agree(&mut enforcer, "installed");
    for text in ["203.0.113.0/24", "198.51.100.7", "02:00:5e:10:00:01", "198.18.4.0/24"] {
        enforcer.allow(target(text), role::OPERATOR, &[], "eve", "", now).unwrap();
        agree(&mut enforcer, text);
    }
    for text in ["203.0.113.0/24", "198.51.100.7", "02:00:5e:10:00:01"] {
        enforcer.disallow(&target(text)).unwrap();
        agree(&mut enforcer, text);
    }
    enforcer.flush("eve", |_| true, now).unwrap();
    enforcer.load_feeds(&[]).unwrap();
    agree(&mut enforcer, "flushed");
    assert_eq!(enforcer.table().entries().unwrap().len(), 2, "the gateway and one exception");
}

#[test]
fn a_verdict_takes_effect_and_its_hits_come_back() {
    const NAME: &str = "a_verdict_takes_effect_and_its_hits_come_back";
    if !nix::unistd::geteuid().is_root() || !object_is_embedded() {
        println!("SKIPPED {NAME}: needs root and the kernel programs");
        return;
    }
    let mut bed = TestBed::new(64).unwrap();
    bed.set_clock(at(1).kernel_ns).unwrap();
    let config = Config { mode: Mode::Enforce as u32, window_ns: 30 * SECOND, ..Config::default() };
    let mut enforcer = Enforcer::new(Bed(bed), Settings::default(), config);
    enforcer.set_config(config).unwrap();
    let passes = |enforcer: &Enforcer<Bed>| enforcer.table().0.ingress(&frame([198, 51, 100, 7])).unwrap();
    assert!(passes(&enforcer));
    enforcer.apply(automatic("198.51.100.7"), at(0)).unwrap();
    assert!(!passes(&enforcer));
    enforcer.sweep(at(2)).unwrap();
    let record = enforcer.get(&target("198.51.100.7")).unwrap();
    assert_eq!((record.hits, record.last_hit_at), (1, Some(at(1).wall)));
    let ended = enforcer.sweep(at(900)).unwrap().changes.remove(0);
    assert_eq!((ended.state, ended.hits), (State::Expired, 1));
    assert!(passes(&enforcer));
}

/// The tables together with the programs that read them.
struct Bed(TestBed);

impl VerdictTable for Bed {
    fn put(&mut self, target: &Target, verdict: &Verdict) -> Result<(), TableError> {
        self.0.verdicts.put(target, verdict)
    }

    fn remove(&mut self, target: &Target) -> Result<(), TableError> {
        self.0.verdicts.remove(target)
    }

    fn entries(&self) -> Result<Vec<(Target, Verdict)>, TableError> {
        self.0.verdicts.entries()
    }

    fn profiles(&self) -> Result<ProfileEntries, TableError> {
        self.0.verdicts.profiles()
    }

    fn profile_add(&mut self, entries: &ProfileEntries) -> Result<(), TableError> {
        self.0.verdicts.profile_add(entries)
    }

    fn profile_delete(&mut self, entries: &ProfileEntries) -> Result<(), TableError> {
        self.0.verdicts.profile_delete(entries)
    }

    fn configure(&mut self, config: &Config) -> Result<(), TableError> {
        self.0.verdicts.configure(config)
    }

    fn feed_mark(&mut self, addresses: &[IpAddr], slot: u32, list: u32) -> Result<(), TableError> {
        self.0.verdicts.feed_mark(addresses, slot, list)
    }

    fn feed_clear(&mut self, slot: u32) -> Result<(), TableError> {
        self.0.verdicts.feed_clear(slot)
    }
}
