//! Any sequence of operations keeps the invariants.

#![allow(clippy::unwrap_used, reason = "fixed targets and times are valid")]

use std::{net::IpAddr, time::Duration};

use jiff::SignedDuration;
use proptest::prelude::*;
use tidegate_common::verdict::{Action, Level, present, role};

use super::{
    tests::{SECOND, at, automatic, enforcer, manual, target},
    *,
};

/// What the kernel does to a packet of `address` as far as never-block, addresses, prefixes and bulk lists go.
fn is_cut(table: &MemoryTable, address: IpAddr, now_ns: u64) -> bool {
    let present = table.config.present;
    let (exact_flag, feed_flag) =
        if address.is_ipv6() { (present::V6, present::FEED_V6) } else { (present::V4, present::FEED_V4) };
    let around = |allowed: bool| {
        let nets = table.verdicts.iter().filter_map(|(target, verdict)| match target {
            Target::Prefix(net) if net.contains(&address) && verdict.is(Action::NeverBlock) == allowed => {
                Some((net.prefix_len(), verdict))
            }
            _ => None,
        });
        let longest = nets.max_by_key(|(length, _)| *length).map(|(_, verdict)| verdict);
        longest.filter(|verdict| verdict.is_live(now_ns))
    };
    let exact = table.verdicts.get(&Target::from(address)).filter(|verdict| verdict.is_live(now_ns));
    if present & present::ALLOWED != 0 && around(true).is_some() {
        return false;
    }
    if let Some(verdict) = exact.filter(|_| present & exact_flag != 0) {
        return verdict.is(Action::Block);
    }
    if let Some(verdict) = around(false).filter(|_| present & present::PREFIXES != 0) {
        return verdict.is(Action::Block);
    }
    let fed = table.feeds.get(&address).is_some_and(|entry| entry.slots & 1 << table.config.feed_slot != 0);
    fed && present & feed_flag != 0
}

#[derive(Debug, Clone)]
enum Step {
    Automatic(Target, u64),
    Manual(Target),
    Release(Target),
    Allow(Target),
    Disallow(Target),
    System(Vec<u8>),
    Feed(Vec<Target>),
    Probe(bool),
    Reconcile,
    Restart,
    Wait(u64),
}

fn targets() -> impl Strategy<Value = Target> {
    prop_oneof![
        (1u8..16).prop_map(|last| target(&format!("192.0.2.{last}"))),
        (24u8..=31, 0u8..16).prop_map(|(bits, last)| target(&format!("192.0.2.{last}/{bits}"))),
        (1u8..4).prop_map(|last| target(&format!("2001:db8::{last}"))),
        (1u8..4).prop_map(|last| target(&format!("02:00:5e:10:00:{last:02x}"))),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (targets(), 1u64..200_000).prop_map(|(target, ttl)| Step::Automatic(target, ttl)),
        2 => targets().prop_map(Step::Manual),
        2 => targets().prop_map(Step::Release),
        2 => targets().prop_map(Step::Allow),
        1 => targets().prop_map(Step::Disallow),
        1 => prop::collection::vec(1u8..16, 0..3).prop_map(Step::System),
        1 => prop::collection::vec(targets(), 0..6).prop_map(Step::Feed),
        2 => any::<bool>().prop_map(Step::Probe),
        1 => Just(Step::Reconcile),
        1 => Just(Step::Restart),
        2 => (1u64..4_000).prop_map(Step::Wait),
    ]
}

fn take(enforcer: &mut Enforcer<MemoryTable>, step: Step, system: &mut Vec<(Target, u16)>, clock: &mut u64) {
    *clock += 1;
    let now = at(*clock);
    let order = |target: Target| Order { level: Some(Level::Full), ..automatic(&target.to_string()) };
    match step {
        Step::Automatic(target, ttl) => {
            let _ = enforcer.apply(Order { ttl: Some(Duration::from_secs(ttl)), ..order(target) }, now);
        }
        Step::Manual(target) => drop(enforcer.apply(manual(&target.to_string()), now)),
        Step::Release(target) => drop(enforcer.release(&target, "eve", now)),
        Step::Allow(target) => drop(enforcer.allow(target, role::OPERATOR, &[], "eve", "", now).unwrap()),
        Step::Disallow(target) => drop(enforcer.disallow(&target).unwrap()),
        Step::System(hosts) => {
            *system = hosts.iter().map(|last| (IpAddr::from([192, 0, 2, *last]).into(), role::NTP)).collect();
            drop(enforcer.set_system(system, now).unwrap());
        }
        Step::Feed(targets) => {
            let text = targets.iter().map(|target| format!("{target}\n")).collect::<Vec<_>>().concat();
            enforcer.load_feeds(&[FeedList::read("list", text.as_bytes()).unwrap()]).unwrap();
        }
        Step::Probe(dns) => {
            drop(enforcer.on_reachability(Reachability { dns, ..Reachability::ALL }, now).unwrap());
        }
        Step::Reconcile => {
            assert!(enforcer.reconcile(now).unwrap().notices.is_empty(), "nothing drifts by itself");
        }
        Step::Restart => {
            let (records, allowed) = (enforcer.live(), enforcer.allowed());
            let table = enforcer.table().clone();
            let config = table.config;
            let verdicts = table.verdicts.clone();
            *enforcer = Enforcer::new(table, Settings::default(), config);
            let report = enforcer.restore(records, allowed, system, now).unwrap();
            if report.is_empty() {
                assert_eq!(enforcer.table().verdicts, verdicts, "a restart alone changes nothing");
            }
        }
        Step::Wait(seconds) => {
            *clock += seconds;
            enforcer.sweep(at(*clock)).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_the_invariants_hold(sequence in prop::collection::vec(steps(), 1..60)) {
        let mut enforcer = enforcer();
        let (mut system, mut clock) = (Vec::new(), 0);
        for step in sequence {
            let shown = format!("{step:?}");
            take(&mut enforcer, step, &mut system, &mut clock);
            let now = at(clock);
            let table = enforcer.table();

            for last in 1..16 {
                let address = IpAddr::from([192, 0, 2, last]);
                let listed = !enforcer.protectors(&address.into()).is_empty();
                prop_assert!(!(listed && is_cut(table, address, now.kernel_ns)), "{} cut after {}", address, shown);
            }
            for entry in enforcer.allowed() {
                prop_assert!(table.verdicts[&entry.target].is(Action::NeverBlock), "{:?} after {}", entry, shown);
            }
            for record in enforcer.live() {
                let verdict = table.verdicts[&record.target];
                if record.author == Author::Automatic {
                    let left_ns = verdict.expires_ns.saturating_sub(now.kernel_ns);
                    prop_assert!(left_ns <= Settings::default().ttl_max_s * SECOND, "{:?}", record);
                    let length = record.expires_at.unwrap().duration_since(record.installed_at);
                    prop_assert!(length <= SignedDuration::from_secs(Settings::default().ttl_max_s as i64));
                }
            }
            let mut flags = 0;
            for (target, verdict) in &table.verdicts {
                flags |= match target {
                    Target::Address(IpAddr::V4(_)) => present::V4,
                    Target::Address(IpAddr::V6(_)) => present::V6,
                    Target::Prefix(_) if verdict.is(Action::NeverBlock) => present::ALLOWED,
                    Target::Prefix(_) => present::PREFIXES,
                    Target::Device(_) => present::DEVICE,
                };
                flags |= if target.spares_peers(verdict) { present::OPERATORS } else { 0 };
            }
            let [v4, v6] = table.fed(table.config.feed_slot);
            flags |= if v4 > 0 { present::FEED_V4 } else { 0 } | if v6 > 0 { present::FEED_V6 } else { 0 };
            prop_assert_eq!(table.config.present, flags, "presence after {}", shown);
            let (devices, addresses) = enforcer.blast_radius(now);
            prop_assert!(devices <= 5 && addresses <= 200);
        }
    }

    #[test]
    fn any_bytes_are_read_as_a_list_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let list = FeedList::read("noise", &bytes[..]).unwrap();
        prop_assert!(list.errors.len() <= list.faulty);
    }
}
