//! The store's records, and what happens to files that are no sound database.

#![allow(clippy::unwrap_used, reason = "a failed store operation is the test's failure")]

use std::{fs, os::unix::fs::PermissionsExt};

use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use serde_json::json;
use tidegate_common::verdict::Config;

use super::*;
use crate::{
    enforce::{Enforcer, MemoryTable, Now, Order, Settings, State, Target},
    identity::{Device, Mac},
    learn::{Finding, Subject},
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn target(text: &str) -> Target {
    text.parse().unwrap()
}

fn open() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("state/tidegate.db")).unwrap();
    (directory, store)
}

#[test]
fn the_file_is_private_and_opens_again() {
    let (directory, store) = open();
    store.set_meta("mode", "enforce").unwrap();
    store.set_meta("mode", "monitor").unwrap();
    drop(store);
    let path = directory.path().join("state/tidegate.db");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.meta("mode").unwrap().as_deref(), Some("monitor"));
    assert_eq!((store.meta("none").unwrap(), store.moved_aside()), (None, None));
    store.check().unwrap();
}

#[test]
fn a_broken_database_is_moved_aside_and_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    for (round, spoil) in ["noise", "middle", "schema", "newer"].into_iter().enumerate() {
        let store = Store::open(&path).unwrap();
        for number in 0..200 {
            store.set_meta(&format!("key {number}"), &"x".repeat(500)).unwrap();
        }
        drop(store);
        match spoil {
            "noise" => fs::write(&path, [0xa5; 8_192]).unwrap(),
            "middle" => {
                let mut bytes = fs::read(&path).unwrap();
                let length = bytes.len();
                bytes[length / 2..].fill(0x5a);
                fs::write(&path, bytes).unwrap();
            }
            "schema" => Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 0").unwrap(),
            _ => Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 999").unwrap(),
        }
        let store = Store::open(&path).unwrap();
        let moved = store.moved_aside().unwrap_or_else(|| panic!("{spoil} went unnoticed"));
        let kind = if spoil == "newer" { ".newer-" } else { ".corrupt-" };
        assert!(moved.to.display().to_string().contains(kind), "{moved:?}");
        assert!(moved.to.exists() && !moved.cause.is_empty());
        assert_eq!(store.meta("key 1").unwrap(), None);
        store.check().unwrap();
        assert!(fs::read_dir(directory.path()).unwrap().count() > round + 1, "every broken file is kept");
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_an_error_that_names_it() {
    let error = Store::open(std::path::Path::new("/proc/none/tidegate.db")).unwrap_err().to_string();
    assert!(error.contains("/proc/none/tidegate.db"), "{error}");
}

#[test]
fn a_failed_batch_leaves_nothing_behind() {
    let (_directory, store) = open();
    for durability in [Durability::Process, Durability::Disk] {
        let failed = store.batch(durability, |store| {
            store.set_meta("half", "done")?;
            store.add_evidence("no such incident", &finding(), at(0))
        });
        assert!(failed.is_err(), "evidence without an incident");
        assert_eq!(store.meta("half").unwrap(), None);
        store.batch(durability, |store| store.set_meta("whole", "done")).unwrap();
    }
    let synchronous: i64 =
        store.connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
    assert_eq!(synchronous, 1, "back to normal");
}

#[test]
fn enforcements_keep_their_history_and_come_back_to_the_enforcer() {
    let (_directory, store) = open();
    let mut enforcer = Enforcer::new(MemoryTable::default(), Settings::default(), Config::default());
    let now = |seconds: i64| Now { kernel_ns: (10 + seconds) as u64 * 1_000_000_000, wall: at(seconds) };
    let save = |report: crate::enforce::Report, seconds| {
        store.batch(Durability::Disk, |store| {
            report.changes.iter().try_for_each(|record| store.save_enforcement(record, at(seconds)))
        })
    };
    let block =
        |text| Order::by_operator("eve", target(text), tidegate_common::verdict::Action::Block, None, "why");
    save(enforcer.apply(block("192.0.2.1"), now(0)).unwrap(), 0).unwrap();
    save(enforcer.apply(block("192.0.2.2"), now(1)).unwrap(), 1).unwrap();
    let id = enforcer.get(&target("192.0.2.1")).unwrap().id.clone();
    save(enforcer.release(&target("192.0.2.1"), "eve", now(2)).unwrap(), 2).unwrap();
    let (entry, _) = enforcer.allow(target("192.0.2.3"), 0x20, &[], "eve", "note", now(3)).unwrap();
    store.save_allow(&entry).unwrap();

    let live = store.enforcements(&EnforcementFilter { live: Some(true), ..Default::default() }).unwrap();
    assert_eq!(live, enforcer.live());
    let all = store.enforcements(&EnforcementFilter::default()).unwrap();
    assert_eq!(all.iter().map(|record| record.state).collect::<Vec<_>>(), [State::Active, State::Released]);
    let one = EnforcementFilter { target: Some(target("192.0.2.1")), limit: Some(1), ..Default::default() };
    assert_eq!(store.enforcements(&one).unwrap()[0].id, id);
    let steps = store.enforcement_steps(&id).unwrap();
    assert_eq!(steps.iter().map(|step| step.state.as_str()).collect::<Vec<_>>(), ["active", "released"]);
    assert_eq!(store.enforcements_to_restore(at(3)).unwrap().len(), 1);
    assert_eq!(store.enforcements_to_restore(at(2)).unwrap().len(), 2);
    assert_eq!(store.enforcement(&id).unwrap().unwrap().ended_because.as_deref(), Some("released by eve"));

    let mut again = Enforcer::new(MemoryTable::default(), Settings::default(), Config::default());
    let records = store.enforcements_to_restore(at(0)).unwrap();
    again.restore::<Target>(records, store.allowed().unwrap(), &[], now(5)).unwrap();
    assert_eq!(
        again.table().verdicts.keys().collect::<Vec<_>>(),
        enforcer.table().verdicts.keys().collect::<Vec<_>>()
    );
    assert!(store.delete_allow(&entry.target).unwrap());
    assert!(!store.delete_allow(&entry.target).unwrap());
    assert_eq!(store.prune(at(100)).unwrap(), 1, "what is in force stays");
}

fn finding() -> Finding {
    Finding {
        subject: Subject::Remote("198.51.100.7".parse().unwrap()),
        victim: None,
        technique: crate::learn::Technique { id: "T1046", name: "Network Service Discovery" },
        rule: Some("scan-vertical"),
        score: 0.5,
        p_value: 0.01,
        first_ns: 1,
        at_ns: 2,
        detail: "40 ports in 3 s".to_owned(),
        notes: Vec::new(),
    }
}

#[test]
fn incidents_collect_evidence() {
    let (_directory, store) = open();
    let mut incident = Incident::open("01".to_owned(), &finding(), at(0));
    store.save_incident(&incident).unwrap();
    for second in 1..=150 {
        let again = Finding { score: 0.9, detail: format!("{second}"), ..finding() };
        incident.add(&again, at(second));
        store.add_evidence("01", &again, at(second)).unwrap();
    }
    incident.open = false;
    store.save_incident(&incident).unwrap();
    store.save_incident(&Incident::open("02".to_owned(), &finding(), at(10))).unwrap();

    let read = store.incident("01").unwrap().unwrap();
    assert_eq!((read.evidence, read.score, read.p_value), (151, 0.9, 0.01));
    assert_eq!(read, incident);
    let evidence = store.evidence("01", 1_000).unwrap();
    assert_eq!(
        (evidence.len(), evidence[0].at, &evidence[0].finding["detail"]),
        (100, at(150), &json!("150"))
    );
    let ids = |filter: IncidentFilter| -> Vec<String> {
        store.incidents(&filter).unwrap().into_iter().map(|incident| incident.id).collect()
    };
    assert_eq!(ids(IncidentFilter::default()), ["01", "02"]);
    assert_eq!(ids(IncidentFilter { open: Some(true), ..Default::default() }), ["02"]);
    assert_eq!(ids(IncidentFilter { since: Some(at(11)), ..Default::default() }), ["01"]);
    assert_eq!(
        ids(IncidentFilter {
            limit: Some(1),
            subject: Some("198.51.100.7".to_owned()),
            ..Default::default()
        }),
        ["01"]
    );
    assert_eq!(ids(IncidentFilter { technique: Some("T1110".to_owned()), ..Default::default() }), [""; 0]);
    let (rule, other) = (finding().rule, Some("another"));
    assert_eq!(ids(IncidentFilter { without_rule: rule, ..Default::default() }), [""; 0]);
    assert_eq!(ids(IncidentFilter { without_rule: other, ..Default::default() }), ["01", "02"]);
    let tally = |filter| store.tally(rule.unwrap(), &filter).unwrap();
    let all = Tally { incidents: 2, subjects: 1, evidence: 152, last_seen: Some(at(150)) };
    assert_eq!(tally(IncidentFilter::default()), all);
    let open = Tally { incidents: 1, subjects: 1, evidence: 1, last_seen: Some(at(10)) };
    assert_eq!(tally(IncidentFilter { open: Some(true), ..Default::default() }), open);
    let none = Tally { incidents: 0, subjects: 0, evidence: 0, last_seen: None };
    assert_eq!(tally(IncidentFilter { since: Some(at(500)), ..Default::default() }), none);
    assert_eq!(store.prune(at(1_000)).unwrap(), 1);
    assert!(store.evidence("01", 10).unwrap().is_empty(), "evidence goes with its incident");
}

#[test]
fn the_audit_is_read_newest_first() {
    let (_directory, store) = open();
    for (second, who) in [(0, "eve"), (1, "bob"), (2, "eve")] {
        let entry = AuditEntry {
            at: at(second),
            who: who.to_owned(),
            what: "block".to_owned(),
            target: "192.0.2.1".to_owned(),
            detail: String::new(),
            result: "ok".to_owned(),
        };
        store.batch(Durability::Disk, |store| store.audit(&entry)).unwrap();
    }
    let by_eve = AuditFilter { who: Some("eve".to_owned()), ..AuditFilter::default() };
    let times: Vec<_> = store.audit_entries(&by_eve).unwrap().into_iter().map(|entry| entry.at).collect();
    assert_eq!(times, [at(2), at(0)]);
    let recent = AuditFilter { since: Some(at(1)), limit: Some(1), ..AuditFilter::default() };
    assert_eq!(store.audit_entries(&recent).unwrap().len(), 1);
}

#[test]
fn baselines_are_numbered_kept_and_rolled_back() {
    let (_directory, store) = open();
    assert_eq!(store.baseline("fleet").unwrap(), None);
    for number in 1..=7 {
        assert_eq!(store.save_baseline("cam", at(number), &[number as u8]).unwrap(), number as u32);
    }
    store.save_baseline("fleet", at(0), b"f").unwrap();
    assert_eq!(store.earlier_baselines("cam").unwrap(), 4);
    assert_eq!(store.rollback_baseline("cam").unwrap().unwrap().document, [6]);
    assert_eq!(store.baseline("cam").unwrap().unwrap().version, 6);
    assert_eq!(store.save_baseline("cam", at(9), &[9]).unwrap(), 8, "a number is never used twice");
    assert_eq!(store.rollback_baseline("cam").unwrap().unwrap().version, 6);
    assert_eq!(store.baselines().unwrap().iter().map(|found| found.version).collect::<Vec<_>>(), [6, 1]);
    assert_eq!(store.rollback_baseline("fleet").unwrap(), None, "nothing to go back to");
    assert!(store.baseline("fleet").unwrap().is_some());
    assert_eq!(store.delete_baselines("cam").unwrap(), 5);
}

#[test]
fn devices_come_back_as_they_were() {
    let (_directory, store) = open();
    let device = |last: u8, seen| Device {
        mac: Mac([2, 0, 0, 0, 0, last]),
        ifindex: 3,
        addresses: vec!["192.0.2.1".parse().unwrap()],
        name: Some("camera".to_owned()),
        name_source: None,
        says: Vec::new(),
        vendor: None,
        randomised: true,
        conflicts: Vec::new(),
        first_seen: at(0),
        last_seen: at(seen),
    };
    store.save_device("lan0", &device(1, 1)).unwrap();
    store.save_device("lan0", &device(2, 2)).unwrap();
    store.save_device("lan0", &device(1, 3)).unwrap();
    let found = store.devices(10).unwrap();
    assert_eq!(found[0], StoredDevice { interface: "lan0".to_owned(), device: device(1, 3) });
    assert_eq!((found.len(), store.devices(1).unwrap().len()), (2, 1));
    let later = at(2) + SignedDuration::from_secs(1);
    assert_eq!(store.prune(later).unwrap(), 1);
}
