//! A committed row survives `kill -9` at any moment.
//!
//! The test runs its own binary again as a writer that reports every committed number on its standard output, kills it after a
//! different time in every round, and compares what was reported with what the database holds.

#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{AuditEntry, AuditFilter, Durability, Store};

const WRITER: &str = "TIDEGATE_TEST_STORE_WRITER";
const ROUNDS: u64 = 24;

#[test]
fn what_was_committed_survives_kill_9() {
    if let Ok(path) = env::var(WRITER) {
        write_until_killed(Path::new(&path));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let mut committed = 0;
    for round in 0..ROUNDS {
        committed = committed.max(run_and_kill(&path, Duration::from_millis(3 + round * 7)));
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

/// Runs the writer, kills it `after` its first report, and returns the last number it reported.
fn run_and_kill(path: &Path, after: Duration) -> u64 {
    let name = "store::crash_tests::what_was_committed_survives_kill_9";
    let mut writer = Command::new(env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(WRITER, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
    let mut last = 0;
    let mut killed_at = None;
    while let Some(Ok(line)) = lines.next() {
        let Some(number) = line.strip_prefix("committed ") else { continue };
        last = number.parse().unwrap();
        let kill_at = *killed_at.get_or_insert_with(|| Instant::now() + after);
        if Instant::now() >= kill_at {
            // `Child::kill` is SIGKILL. What the writer reported before it dies is still read below.
            writer.kill().unwrap();
        }
    }
    writer.wait().unwrap();
    assert!(last > 0, "the writer wrote nothing");
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
