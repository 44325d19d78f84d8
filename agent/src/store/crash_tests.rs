//! A committed row survives `kill -9` at any moment.
//!
//! The test runs its own binary again as a writer that reports every committed number on its standard output, kills it after a
//! different time in every round, and compares what was reported with what the database holds.

#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{io::Write, path::Path, time::Duration};

use jiff::Timestamp;

use super::{
    AuditEntry, AuditFilter, Durability, Store,
    testing::{database_of_child, run_and_kill},
};

const ROUNDS: u64 = 24;

#[test]
fn what_was_committed_survives_kill_9() {
    if let Some(path) = database_of_child() {
        write_until_killed(&path);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let mut committed = 0;
    for round in 0..ROUNDS {
        committed = committed.max(last_committed(&path, Duration::from_millis(3 + round * 7)));
        let store = Store::open(&path).unwrap();
        assert_eq!(store.moved_aside(), None, "round {round}");
        store.check().unwrap();
        let entries = store.audit_entries(&AuditFilter::default()).unwrap();
        let numbers: Vec<u64> = entries.iter().rev().map(|entry| entry.detail.parse().unwrap()).collect();
        let all: Vec<u64> = (1..=numbers.len() as u64).collect();
        assert_eq!(numbers, all, "rows are whole and in order");
        assert!(
            numbers.len() as u64 >= committed,
            "round {round}: {committed} reported, {} kept",
            numbers.len()
        );
        let paired: u64 = store.meta("last").unwrap().map_or(0, |last| last.parse().unwrap());
        assert_eq!(paired, numbers.len() as u64, "both halves of a batch or none");
    }
    assert!(committed > ROUNDS, "the writer was given time to write");
}

/// The last number that the writer reported before it was killed.
fn last_committed(path: &Path, after: Duration) -> u64 {
    let mut last = 0;
    run_and_kill("store::crash_tests::what_was_committed_survives_kill_9", path, after, |line| {
        let Some(number) = line.strip_prefix("committed ") else { return false };
        last = number.parse().unwrap();
        true
    });
    last
}

fn write_until_killed(path: &Path) -> ! {
    let store = Store::open(path).unwrap();
    let mut number = store.audit_entries(&AuditFilter::default()).unwrap().len() as u64;
    let mut out = std::io::stdout();
    loop {
        number += 1;
        let durability = if number.is_multiple_of(2) { Durability::Disk } else { Durability::Process };
        let entry = AuditEntry {
            at: Timestamp::now(),
            who: "writer".to_owned(),
            what: "x".repeat(number as usize * 37 % 6_000),
            target: String::new(),
            detail: number.to_string(),
            result: "ok".to_owned(),
        };
        store
            .batch(durability, |store| {
                store.audit(&entry)?;
                store.set_meta("last", &number.to_string())
            })
            .unwrap();
        writeln!(out, "committed {number}").unwrap();
        out.flush().unwrap();
    }
}
