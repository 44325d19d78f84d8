//! A held command that is released and not known to be delivered is found again after `kill -9` at any moment, and is not sent by itself.
//!
//! The test runs its own binary again as a gateway that releases and delivers one command after another, kills it after a different
//! time in every round, and compares what it said on its standard output with what the database holds.

#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{io::Write, path::Path, time::Duration};

use jiff::{SignedDuration, Timestamp};
use nix::sys::signal::Signal;
use serde_json::json;

use super::{
    Durability, Store,
    testing::{database_of_child, run_and_kill},
};
use crate::messages::commands::{
    Changes, Desk, Fact, Held, Window,
    body::{Body, Value},
};

const ROUNDS: u64 = 16;
/// The command between whose release and delivery the gateway ends by its own hand, if it was not killed before: so at least the last
/// round is cut there, whatever the disk's pace.
const LAST: u64 = 40;
/// How long the last round is given to come so far.
const PATIENCE: Duration = Duration::from_mins(10);

/// What the gateway said before it was killed.
#[derive(Debug, Default)]
struct Said {
    released: u64,
    delivered: u64,
}

#[test]
fn what_was_released_and_not_delivered_is_told_after_kill_9() {
    if let Some(path) = database_of_child() {
        release_until_killed(&path);
    }
    let directory = tempfile::tempdir().unwrap();
    let mut interrupted = 0;
    for round in 0..ROUNDS {
        let path = directory.path().join(format!("{round}.db"));
        let after = if round + 1 == ROUNDS { PATIENCE } else { Duration::from_millis(3 + round * 5) };
        let said = run(&path, after);
        let desk = Desk::default();
        desk.restore(
            Window::default(),
            None,
            Vec::new(),
            Store::open(&path).unwrap().commands().unwrap().held,
        );
        let told: Vec<u64> =
            desk.tick(Timestamp::now()).interrupted.into_iter().map(|(number, _)| number).collect();
        for number in said.delivered + 1..=said.released {
            assert!(told.contains(&number), "round {round}: {number} is lost, {said:?}, {told:?}");
        }
        assert!(told.iter().all(|number| *number >= said.delivered), "round {round}: {said:?}, {told:?}");
        assert_eq!(desk.next_released(), None, "round {round}: nobody released it again");
        interrupted += told.len();
    }
    assert!(interrupted > 0, "no round was cut between release and delivery");
}

/// What the gateway said until it was killed.
fn run(path: &Path, after: Duration) -> Said {
    let name = "store::command_crash_tests::what_was_released_and_not_delivered_is_told_after_kill_9";
    let mut said = Said::default();
    run_and_kill(name, path, after, |line| {
        match line.split_once(' ') {
            Some(("released", number)) => said.released = number.parse().unwrap(),
            Some(("delivered", number)) => said.delivered = number.parse().unwrap(),
            _ => return false,
        }
        true
    });
    assert!(said.released > 0, "the gateway released nothing");
    said
}

fn release_until_killed(path: &Path) -> ! {
    let store = Store::open(path).unwrap();
    let save = |held, gone| {
        let changes = Changes { held, gone };
        store.batch(Durability::Disk, |store| store.save_commands_held(&changes)).unwrap();
    };
    let mut out = std::io::stdout();
    for number in 1.. {
        let held = held();
        save(vec![(number, held.clone())], Vec::new());
        save(vec![(number, held.with_released(Some(Timestamp::now())))], Vec::new());
        writeln!(out, "released {number}").unwrap();
        if number == LAST {
            nix::sys::signal::raise(Signal::SIGKILL).unwrap();
        }
        writeln!(out, "delivered {number}").unwrap();
        save(Vec::new(), vec![number]);
    }
    unreachable!("numbers do not end")
}

fn held() -> Held {
    let now = Timestamp::now();
    let body = Body::new("open".to_owned(), &Value::Nothing).unwrap();
    let held = json!({
        "topic": "cmd/door/open",
        "device": "door",
        "sender": "hub",
        "signed": null,
        "verb": "open",
        "params": [],
        "since": now,
        "until": now.saturating_add(SignedDuration::from_mins(15)).unwrap(),
        "p_value": 0.001,
        "why": "it is unlike before",
        "fact": Fact::of(&body, "hub", 1, now),
        "version": "V4",
    });
    serde_json::from_value::<Held>(held).unwrap().with_packet(vec![0x30, 0])
}
