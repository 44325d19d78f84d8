//! The enforcer against tables in memory.

#![allow(clippy::unwrap_used, reason = "fixed targets and times are valid")]

use std::time::Duration;

use jiff::Timestamp;
use tidegate_common::verdict::{Action, Config, Level, Mode, Reason, Verdict, present, role};

use super::*;

pub(super) const SECOND: u64 = 1_000_000_000;
const START: i64 = 1_700_000_000;

pub(super) fn at(seconds: u64) -> Now {
    Now {
        kernel_ns: (1_000 + seconds) * SECOND,
        wall: Timestamp::from_second(START + seconds as i64).unwrap(),
    }
}

pub(super) fn target(text: &str) -> Target {
    text.parse().unwrap()
}

pub(super) fn enforcer() -> Enforcer<MemoryTable> {
    let config = Config { mode: Mode::Enforce as u32, window_ns: 30 * SECOND, ..Config::default() };
    Enforcer::new(MemoryTable::default(), Settings::default(), config)
}

pub(super) fn automatic(text: &str) -> Order {
    let target = target(text);
    Order {
        author: Author::Automatic,
        reason: Reason::Rule,
        rule: Some("scan-vertical".to_owned()),
        technique: Some("T1046".to_owned()),
        level: matches!(target, Target::Device(_)).then_some(Level::CloudOnly),
        ..Order::by_operator("", target, action_for(&target), None, "scans")
    }
}

fn action_for(target: &Target) -> Action {
    if matches!(target, Target::Device(_)) { Action::Isolate } else { Action::Block }
}

pub(super) fn manual(text: &str) -> Order {
    let target = target(text);
    Order::by_operator("eve", target, Action::Block, None, "by hand")
}

fn refusal(result: Result<Report, EnforceError>) -> Refusal {
    match result {
        Err(EnforceError::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn a_block_is_installed_with_everything_the_kernel_needs() {
    let mut enforcer = enforcer();
    let report = enforcer.apply(automatic("192.0.2.7"), at(0)).unwrap();
    let record = &report.changes[0];
    assert_eq!((record.state, record.strikes, record.action), (State::Pending, 1, Action::Block));
    assert_eq!(record.expires_at, Some(at(900).wall));
    let verdict = enforcer.table().verdicts[&target("192.0.2.7")];
    assert_eq!(verdict.expires_ns, at(900).kernel_ns);
    assert_eq!((verdict.action, verdict.reason), (Action::Block as u8, Reason::Rule as u8));
    assert_eq!(verdict.rule, names::rule_id("scan-vertical"));
    assert_eq!(enforcer.table().config.present, present::V4);
    assert_eq!(enforcer.table().config.window_ns, 30 * SECOND, "other settings are kept");
}

#[test]
fn an_expired_entry_is_removed_with_its_hits_and_repeats_last_longer() {
    let mut enforcer = enforcer();
    let mut start = 0;
    for minutes in [15, 30, 60] {
        let record = enforcer.apply(automatic("192.0.2.7"), at(start)).unwrap().changes.remove(0);
        assert_eq!(record.expires_at, Some(at(start + minutes * 60).wall));
        enforcer.kernel.table_mut().verdicts.get_mut(&target("192.0.2.7")).unwrap().hits = 42;
        assert!(
            enforcer
                .sweep(at(start + minutes * 60 - 1))
                .unwrap()
                .changes
                .iter()
                .all(|r| r.state == State::Active)
        );
        start += minutes * 60;
        let ended = enforcer.sweep(at(start)).unwrap().changes.remove(0);
        assert_eq!((ended.state, ended.hits), (State::Expired, 42));
        assert!(enforcer.table().verdicts.is_empty());
        assert_eq!(enforcer.table().config.present, 0);
    }
    start += Settings::default().forget_s + 1;
    let record = enforcer.apply(automatic("192.0.2.7"), at(start)).unwrap().changes.remove(0);
    assert_eq!(record.strikes, 1, "forgotten");
}

#[test]
fn an_operators_word_goes_before_the_detectors() {
    let mut enforcer = enforcer();
    enforcer.apply(automatic("192.0.2.7"), at(0)).unwrap();
    let report = enforcer.apply(manual("192.0.2.7"), at(1)).unwrap();
    assert_eq!(report.changes[0].state, State::Replaced);
    assert_eq!(report.changes[1].expires_at, None);
    assert_eq!(refusal(enforcer.apply(automatic("192.0.2.7"), at(2))).label(), "in-force");

    enforcer.apply(automatic("192.0.2.8"), at(3)).unwrap();
    enforcer.release(&target("192.0.2.8"), "eve", at(4)).unwrap();
    let held = refusal(enforcer.apply(automatic("192.0.2.8"), at(5)));
    assert!(held.to_string().contains("operator released"), "{held}");
    let other = Order { technique: Some("T1110".to_owned()), ..automatic("192.0.2.8") };
    assert!(enforcer.apply(other, at(6)).is_ok(), "another technique is another matter");
    enforcer.release(&target("192.0.2.8"), "eve", at(7)).unwrap();
    assert!(enforcer.apply(automatic("192.0.2.8"), at(3_700)).is_ok(), "the cooldown is over");
    assert_eq!(refusal(enforcer.release(&target("203.0.113.1"), "eve", at(8))).label(), "not-found");
    assert_eq!(enforcer.tally().refused["on-hold"], 1);
}

#[test]
fn a_device_is_isolated_and_only_further_isolation_replaces_it() {
    let mut enforcer = enforcer();
    let device = "02:00:5e:10:00:01";
    enforcer.apply(automatic(device), at(0)).unwrap();
    assert_eq!(refusal(enforcer.apply(automatic(device), at(1))).label(), "in-force");
    let further = Order { level: Some(Level::Full), ..automatic(device) };
    let report = enforcer.apply(further, at(2)).unwrap();
    assert_eq!(report.changes[0].state, State::Replaced);
    assert_eq!(enforcer.table().verdicts[&target(device)].level, Level::Full as u8);
    assert_eq!(enforcer.table().config.present, present::DEVICE);

    let record = enforcer.apply(manual("02:00:5e:10:00:02"), at(3)).unwrap().changes.remove(0);
    assert_eq!((record.action, record.level), (Action::Isolate, Some(Level::Full)), "a block of a device");
}

#[test]
fn nonsense_is_refused() {
    let mut enforcer = enforcer();
    for text in
        ["0.0.0.0", "255.255.255.255", "224.0.0.251", "127.0.0.1", "::1", "0.0.0.0/0", "ff:ff:ff:ff:ff:ff"]
    {
        assert_eq!(refusal(enforcer.apply(manual(text), at(0))).label(), "invalid", "{text}");
    }
    let isolated = Order { action: Action::Isolate, level: Some(Level::Full), ..manual("192.0.2.1") };
    assert_eq!(refusal(enforcer.apply(isolated, at(0))).label(), "invalid");
    let nothing = Order { ttl: Some(Duration::ZERO), ..manual("192.0.2.1") };
    assert_eq!(refusal(enforcer.apply(nothing, at(0))).label(), "invalid");
    assert!(enforcer.table().verdicts.is_empty());
}

#[test]
fn the_hourly_cap_counts_automatic_verdicts_alone_and_devices_apart() {
    let mut enforcer = enforcer();
    enforcer.set_settings(Settings { addresses_per_hour: 2, devices_per_hour: 1, ..Settings::default() });
    enforcer.apply(manual("203.0.113.9"), at(0)).unwrap();
    enforcer.apply(automatic("192.0.2.1"), at(0)).unwrap();
    enforcer.apply(automatic("192.0.2.2"), at(10)).unwrap();
    assert_eq!(refusal(enforcer.apply(automatic("192.0.2.3"), at(20))).label(), "blast-radius");
    enforcer.apply(automatic("02:00:5e:10:00:01"), at(20)).unwrap();
    assert_eq!(refusal(enforcer.apply(automatic("02:00:5e:10:00:02"), at(21))).label(), "blast-radius");
    assert_eq!(enforcer.blast_radius(at(22)), (1, 2));
    assert!(enforcer.apply(automatic("192.0.2.3"), at(3_601)).is_ok());
    assert_eq!(enforcer.tally().refused["blast-radius"], 2);
}

#[test]
fn never_block_refuses_suppresses_and_spares() {
    let mut enforcer = enforcer();
    let roles = [(target("192.0.2.53"), role::DNS), (target("192.0.2.1"), role::GATEWAY)];
    enforcer.set_system(&roles, at(0)).unwrap();
    let told = refusal(enforcer.apply(automatic("192.0.2.53"), at(1))).to_string();
    assert!(told.contains("(dns)"), "{told}");
    assert_eq!(refusal(enforcer.apply(manual("192.0.2.0/24"), at(1))).label(), "never-block");
    let device = Order { aliases: vec![target("192.0.2.53")], ..automatic("02:00:5e:10:00:01") };
    assert_eq!(refusal(enforcer.apply(device, at(1))).label(), "never-block", "the resolver is a device");

    enforcer.apply(automatic("198.51.100.7"), at(2)).unwrap();
    enforcer.apply(manual("198.51.100.128/25"), at(2)).unwrap();
    let (entry, report) =
        enforcer.allow(target("198.51.100.0/24"), role::OPERATOR, &[], "eve", "office", at(3)).unwrap();
    assert_eq!(entry.roles, role::OPERATOR);
    assert!(report.changes.iter().all(|record| record.state == State::Suppressed));
    assert_eq!((report.changes.len(), report.notices.len()), (2, 2));
    assert_eq!(refusal(enforcer.apply(manual("198.51.100.9"), at(4))).label(), "never-block");

    enforcer.allow(target("203.0.113.5"), role::OPERATOR, &[], "eve", "exception", at(5)).unwrap();
    assert!(enforcer.apply(manual("203.0.113.0/24"), at(6)).is_ok(), "an operator's exception stays inside");
    assert_eq!(refusal(enforcer.apply(automatic("203.0.112.0/23"), at(6))).label(), "never-block");

    assert_eq!(enforcer.disallow(&target("192.0.2.53")).unwrap(), None, "the agent's own entries stay");
    assert!(enforcer.disallow(&target("198.51.100.0/24")).unwrap().is_some());
    assert!(enforcer.apply(manual("198.51.100.9"), at(7)).is_ok());
    enforcer.set_system::<Target>(&[], at(8)).unwrap();
    assert!(!enforcer.table().verdicts.contains_key(&target("192.0.2.53")));
}

#[test]
fn a_verdict_that_cuts_the_gateway_off_is_rolled_back_and_held() {
    let mut enforcer = enforcer();
    enforcer.on_reachability(Reachability::ALL, at(0)).unwrap();
    enforcer.apply(automatic("192.0.2.7"), at(1)).unwrap();
    enforcer.apply(automatic("192.0.2.8"), at(2)).unwrap();
    let lost = Reachability { cloud: false, ..Reachability::ALL };
    let report = enforcer.on_reachability(lost, at(4)).unwrap();
    assert_eq!(report.changes[0].state, State::RolledBack);
    assert_eq!(report.notices, [Notice::RolledBack { target: target("192.0.2.8"), lost: vec!["cloud"] }]);
    assert!(!enforcer.table().verdicts.contains_key(&target("192.0.2.8")));
    assert_eq!(refusal(enforcer.apply(automatic("192.0.2.8"), at(5))).label(), "on-hold");
    let report = enforcer.on_reachability(Reachability::ALL, at(12)).unwrap();
    assert_eq!((report.changes[0].state, report.changes[0].target), (State::Active, target("192.0.2.7")));
}

#[test]
fn differences_are_repaired_and_reported() {
    let mut enforcer = enforcer();
    for last in 1..=3 {
        enforcer.apply(manual(&format!("192.0.2.{last}")), at(0)).unwrap();
    }
    assert!(enforcer.reconcile(at(1)).unwrap().is_empty());
    let tables = enforcer.kernel.table_mut();
    tables.verdicts.get_mut(&target("192.0.2.3")).unwrap().hits = 9;
    tables.verdicts.remove(&target("192.0.2.1"));
    tables.verdicts.get_mut(&target("192.0.2.2")).unwrap().action = Action::Observe as u8;
    tables
        .verdicts
        .insert(target("203.0.113.1"), Verdict { expires_ns: u64::MAX, action: 3, ..Verdict::default() });
    tables.config.present = 0;
    let drift = |drift, text| Notice::Drift { drift, target: target(text) };
    assert_eq!(
        enforcer.reconcile(at(2)).unwrap().notices,
        [
            drift(Drift::Missing, "192.0.2.1"),
            drift(Drift::Different, "192.0.2.2"),
            drift(Drift::Unexpected, "203.0.113.1"),
        ]
    );
    assert!(enforcer.reconcile(at(3)).unwrap().is_empty());
    assert_eq!(enforcer.table().config.present, present::V4);
    assert_eq!(enforcer.table().verdicts[&target("192.0.2.3")].hits, 9, "what was right is not rewritten");
}

/// The agent starts again on `table`.
fn restarted(
    table: MemoryTable,
    records: Vec<Enforcement>,
    allowed: Vec<AllowEntry>,
    now: Now,
) -> (Enforcer<MemoryTable>, Report) {
    let config = table.config;
    let mut enforcer = Enforcer::new(table, Settings::default(), config);
    let report = enforcer.restore::<Target>(records, allowed, &[], now).unwrap();
    (enforcer, report)
}

#[test]
fn a_restart_changes_nothing_and_a_reboot_converts_the_clock() {
    let mut before = enforcer();
    before.apply(automatic("192.0.2.7"), at(0)).unwrap();
    before.apply(manual("192.0.2.0/25"), at(0)).unwrap();
    before.allow(target("198.51.100.1"), role::OPERATOR, &[], "eve", "", at(0)).unwrap();
    before.kernel.table_mut().verdicts.get_mut(&target("192.0.2.7")).unwrap().hits = 5;

    let (same, report) = restarted(before.table().clone(), before.live(), before.allowed(), at(300));
    assert_eq!(report, Report::default());
    assert_eq!(same.table().verdicts, before.table().verdicts, "hits included");

    let rebooted = Now { kernel_ns: 7 * SECOND, wall: at(300).wall };
    let (fresh, report) = restarted(MemoryTable::default(), before.live(), before.allowed(), rebooted);
    assert_eq!(report, Report::default());
    assert_eq!(fresh.table().verdicts[&target("192.0.2.7")].expires_ns, (7 + 600) * SECOND);
    assert_eq!(fresh.table().verdicts[&target("192.0.2.0/25")].expires_ns, u64::MAX);
    assert_eq!(fresh.table().config.present, present::V4 | present::PREFIXES | present::OPERATORS);

    let late = Now { kernel_ns: SECOND, wall: at(901).wall };
    let (_, report) = restarted(MemoryTable::default(), before.live(), before.allowed(), late);
    assert_eq!(report.changes[0].state, State::Expired);

    let set_back = Now { kernel_ns: SECOND, wall: Timestamp::UNIX_EPOCH };
    let (fresh, _) = restarted(MemoryTable::default(), before.live(), before.allowed(), set_back);
    assert_eq!(
        fresh.table().verdicts[&target("192.0.2.7")].expires_ns,
        901 * SECOND,
        "never longer than meant"
    );
}

#[test]
fn at_start_an_unrecorded_verdict_is_kept_and_an_unlisted_exemption_is_not() {
    let mut table = MemoryTable::default();
    let block = Verdict {
        expires_ns: at(60).kernel_ns,
        action: Action::Block as u8,
        reason: 2,
        ..Verdict::default()
    };
    let exempt =
        Verdict { expires_ns: u64::MAX, action: Action::NeverBlock as u8, roles: role::OPERATOR, ..block };
    table.verdicts.insert(target("192.0.2.7"), block);
    table.verdicts.insert(target("192.0.2.8"), exempt);
    let (enforcer, report) = restarted(table, Vec::new(), Vec::new(), at(0));
    assert_eq!(report.notices, [Notice::Drift { drift: Drift::Adopted, target: target("192.0.2.7") }]);
    assert_eq!(enforcer.live()[0].expires_at, Some(at(60).wall));
    assert_eq!(enforcer.table().verdicts.len(), 1);
}

#[test]
fn cooldown_strikes_and_cap_outlive_a_restart() {
    let mut before = enforcer();
    let mut ended = Vec::new();
    before.apply(automatic("192.0.2.7"), at(0)).unwrap();
    ended.extend(before.release(&target("192.0.2.7"), "eve", at(10)).unwrap().changes);
    before.apply(automatic("192.0.2.8"), at(0)).unwrap();
    ended.extend(before.sweep(at(900)).unwrap().changes);
    let (mut after, _) = restarted(before.table().clone(), ended, Vec::new(), at(1_000));
    assert_eq!(refusal(after.apply(automatic("192.0.2.7"), at(1_001))).label(), "on-hold");
    assert_eq!(after.apply(automatic("192.0.2.8"), at(1_001)).unwrap().changes[0].strikes, 2);
    assert_eq!(after.blast_radius(at(1_001)), (0, 3));
}

#[test]
fn a_full_table_changes_nothing() {
    let mut enforcer = enforcer();
    enforcer.kernel.table_mut().capacity = 1;
    enforcer.apply(manual("192.0.2.1"), at(0)).unwrap();
    assert!(matches!(enforcer.apply(manual("192.0.2.2"), at(0)), Err(EnforceError::Table(_))));
    assert_eq!(enforcer.live().len(), 1);
    assert!(enforcer.reconcile(at(1)).unwrap().is_empty());
}

#[test]
fn bulk_lists_swap_at_once_and_spare_never_block() {
    let mut enforcer = enforcer();
    enforcer.allow(target("198.51.100.7"), role::OPERATOR, &[], "eve", "", at(0)).unwrap();
    let text = b"# head\n192.0.2.1\n192.0.2.1 ; twice\n2001:db8::1\n\n203.0.113.0/24 # net\n0.0.0.0/0\nexample.org\n\
        198.51.100.7\n198.51.100.0/24\n02:00:5e:10:00:01\n";
    let list = FeedList::read("drop", &text[..]).unwrap();
    assert_eq!(list.errors.iter().map(|error| error.line).collect::<Vec<_>>(), [7, 8, 11]);
    let report = enforcer.load_feeds(&[list]).unwrap();
    assert_eq!((report.addresses, report.prefixes, report.spared_total), ([1, 1], 1, 2));
    let table = enforcer.table();
    assert_eq!((table.config.feed_slot, table.fed(1), table.fed(0)), (1, [1, 1], [0, 0]));
    let present = present::V4 | present::OPERATORS | present::FEED_V4 | present::FEED_V6 | present::PREFIXES;
    assert_eq!(table.config.present, present);
    assert_eq!(table.verdicts[&target("203.0.113.0/24")].reason, Reason::Feed as u8);
    assert!(enforcer.reconcile(at(1)).unwrap().is_empty());

    enforcer.apply(manual("203.0.113.0/24"), at(2)).unwrap();
    enforcer.release(&target("203.0.113.0/24"), "eve", at(3)).unwrap();
    assert_eq!(
        enforcer.table().verdicts[&target("203.0.113.0/24")].reason,
        Reason::Feed as u8,
        "the list's is back"
    );

    let (again, report) = restarted(enforcer.table().clone(), Vec::new(), enforcer.allowed(), at(4));
    assert_eq!(report, Report::default());
    assert_eq!(again.table().config, enforcer.table().config, "lists stay in force over a restart");

    let next = FeedList::read("drop", &b"192.0.2.9\n"[..]).unwrap();
    enforcer.load_feeds(&[next]).unwrap();
    let table = enforcer.table();
    assert_eq!((table.config.feed_slot, table.fed(0), table.fed(1)), (0, [1, 0], [0, 0]));
    assert_eq!(table.config.present, present::V4 | present::FEED_V4 | present::OPERATORS);
}

#[test]
fn a_list_that_does_not_fit_leaves_the_last_one_in_force() {
    let mut enforcer = enforcer();
    enforcer.load_feeds(&[FeedList::read("one", &b"192.0.2.1\n198.51.100.0/24\n"[..]).unwrap()]).unwrap();
    enforcer.kernel.table_mut().capacity = 2;
    for text in [&b"192.0.2.1\n192.0.2.2\n192.0.2.3\n"[..], b"10.1.0.0/16\n10.2.0.0/16\n"] {
        assert!(enforcer.load_feeds(&[FeedList::read("two", text).unwrap()]).is_err());
        let table = enforcer.table();
        assert_eq!((table.config.feed_slot, table.fed(1), table.fed(0)), (1, [1, 0], [0, 0]));
        assert_eq!(table.verdicts.keys().copied().collect::<Vec<_>>(), [target("198.51.100.0/24")]);
    }
}
