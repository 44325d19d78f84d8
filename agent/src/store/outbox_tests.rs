//! The outbox against a model of it, and on disks that are full.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed store operation is the test's failure")]

use std::{collections::BTreeMap, fs, path::Path, thread};

use jiff::Timestamp;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use proptest::prelude::*;
use tidegate_wire::{Action, BlockReport, Heartbeat, IncidentReport, Report};

use super::{Durability, MessageKind, NewMessage, OutboxLimits, OutboxTally, Queued, Store};

pub(super) const AMPLE: OutboxLimits = OutboxLimits { rows: 100_000, bytes: 1 << 30 };

pub(super) fn report(kind: MessageKind, text: String) -> Report {
    match kind {
        MessageKind::Telemetry => Report::Telemetry(tidegate_wire::TelemetryReport {
            device: String::new(),
            topic: text,
            from: String::new(),
            to: String::new(),
            fields: Vec::new(),
            measurements: Vec::new(),
            summaries: Vec::new(),
            left_out: 0,
        }),
        MessageKind::Heartbeat => Report::Heartbeat(Heartbeat {
            version: text,
            uptime_s: 1,
            enforcing: true,
            problems: Vec::new(),
            devices: 0,
            blocks: 0,
            counters: BTreeMap::new(),
        }),
        MessageKind::Block => Report::Block(BlockReport {
            target: text,
            action: Action::Block,
            level: None,
            incident: None,
            author: String::new(),
            in_force: true,
            expires: None,
            hits: 0,
        }),
        MessageKind::Policy => Report::Policy(tidegate_wire::PolicyReport {
            outcome: tidegate_wire::PolicyOutcome::Applied,
            version: Some(1),
            in_force: Some(1),
            reason: None,
            detail: text,
        }),
        MessageKind::Incident => Report::Incident(IncidentReport {
            incident: String::new(),
            technique: "T1046".to_owned(),
            subject: String::new(),
            victim: None,
            rule: None,
            score: 1.0,
            first_seen: String::new(),
            last_seen: String::new(),
            evidence: 1,
            open: true,
            explanation: text,
        }),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add { kind: MessageKind, device: u8, length: usize },
    Acknowledge { first: usize, count: usize },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop::sample::select(MessageKind::ALL.to_vec());
    let step = prop_oneof![
        8 => (kind, 0u8..4, 0usize..900)
            .prop_map(|(kind, device, length)| Step::Add { kind, device, length }),
        3 => (0usize..6, 0usize..6).prop_map(|(first, count)| Step::Acknowledge { first, count }),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..60)
}

/// What the outbox is meant to be: a list, cut by the policy in its documentation.
#[derive(Debug, Default)]
struct Model {
    waiting: Vec<Queued>,
    tallies: BTreeMap<MessageKind, OutboxTally>,
    last: u64,
}

impl Model {
    fn size(message: &Queued) -> u64 {
        (message.id.len() + message.device.len() + message.body.len()) as u64
    }

    fn add(&mut self, mut message: Queued, limits: OutboxLimits) -> bool {
        let fits = |kept: &[&Queued]| {
            let bytes: u64 = kept.iter().map(|kept| Self::size(kept)).sum();
            (kept.len() as u64) < limits.rows && bytes + Self::size(&message) <= limits.bytes
        };
        // Who stays longest stands last: kinds by worth, then age.
        let mut order: Vec<&Queued> = self.waiting.iter().collect();
        order.sort_by_key(|waiting| (waiting.kind, waiting.sequence));
        let least = order.iter().filter(|waiting| waiting.kind <= message.kind).count();
        let gone = (0..=least).find(|gone| fits(&order[*gone..]));
        let victims: Vec<u64> = order.iter().take(gone.unwrap_or(0)).map(|victim| victim.sequence).collect();
        for victim in self.waiting.extract_if(.., |waiting| victims.contains(&waiting.sequence)) {
            let tally = self.tallies.entry(victim.kind).or_default();
            tally.dropped += 1;
            tally.waiting -= 1;
            tally.bytes -= Self::size(&victim);
        }
        let tally = self.tallies.entry(message.kind).or_default();
        if gone.is_none() {
            tally.dropped += 1;
            return false;
        }
        tally.added += 1;
        tally.waiting += 1;
        tally.bytes += Self::size(&message);
        self.last += 1;
        message.sequence = self.last;
        self.waiting.push(message);
        true
    }

    fn acknowledge(&mut self, sequences: &[u64]) {
        for gone in self.waiting.extract_if(.., |waiting| sequences.contains(&waiting.sequence)) {
            let tally = self.tallies.get_mut(&gone.kind).unwrap();
            tally.acknowledged += 1;
            tally.waiting -= 1;
            tally.bytes -= Self::size(&gone);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn it_does_what_the_model_does(steps in steps(), rows in 0u64..12, bytes in 200u64..6_000) {
        let limits = OutboxLimits { rows, bytes };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tidegate.db");
        let mut store = Store::open(&path).unwrap();
        let mut model = Model::default();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Add { kind, device, length } => {
                    let report = report(kind, "x".repeat(length));
                    let (id, device) = (format!("id-{number}"), format!("02:00:00:00:00:0{device}"));
                    let at = Timestamp::from_second(number as i64).unwrap();
                    let new = NewMessage { id: &id, device: &device, at, report: &report };
                    let kept = store.batch(Durability::Process, |store| store.enqueue(&new, limits)).unwrap();
                    let body = serde_json::to_string(&report).unwrap();
                    let queued = Queued { sequence: 0, id, device, kind, at, body };
                    prop_assert_eq!(kept, model.add(queued, limits));
                }
                Step::Acknowledge { first, count } => {
                    let sequences: Vec<u64> =
                        model.waiting.iter().skip(first).take(count).map(|message| message.sequence).collect();
                    prop_assert_eq!(store.acknowledge(&sequences).unwrap(), sequences.len());
                    prop_assert_eq!(store.acknowledge(&sequences).unwrap(), 0, "once is enough");
                    model.acknowledge(&sequences);
                }
                Step::Reopen => {
                    drop(store);
                    store = Store::open(&path).unwrap();
                }
            }
            prop_assert_eq!(store.outbox_after(0, u32::MAX).unwrap(), model.waiting.clone());
            let tallies: Vec<_> = model.tallies.iter().map(|(kind, tally)| (*kind, *tally)).collect();
            prop_assert_eq!(store.outbox_tallies().unwrap(), tallies);
        }
    }
}

fn add(store: &Store, number: u64) -> Result<bool, super::StoreError> {
    let report = report(MessageKind::Incident, "x".repeat(1_000));
    let id = format!("id-{number}");
    let new = NewMessage { id: &id, device: "02:00:00:00:00:01", at: Timestamp::UNIX_EPOCH, report: &report };
    store.batch(Durability::Process, |store| {
        store.set_meta(&format!("row {number}"), &"y".repeat(500))?;
        store.enqueue(&new, AMPLE)
    })
}

/// Adds until an error comes; how many were added. The error must be the full disk's, and leave neither half behind.
fn fill(store: &Store) -> u64 {
    for number in 1..100_000 {
        let Err(error) = add(store, number) else { continue };
        assert!(error.is_full(), "{error}");
        assert_eq!(store.meta(&format!("row {number}")).unwrap(), None, "neither the row it reports");
        let waiting = store.outbox_after(0, u32::MAX).unwrap();
        assert_eq!(waiting.len() as u64, number - 1, "nor the message");
        return number - 1;
    }
    panic!("the disk never became full");
}

#[test]
fn a_full_database_loses_nothing_it_took_and_goes_on_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let store = Store::open(&path).unwrap();
    store.connection.pragma_update(None, "max_page_count", 80).unwrap();
    let taken = fill(&store);
    assert!(taken > 20, "{taken}");
    // Delivery makes room even now.
    let sequences: Vec<u64> =
        store.outbox_after(0, 10).unwrap().iter().map(|queued| queued.sequence).collect();
    assert_eq!(store.acknowledge(&sequences).unwrap(), 10);
    assert!(add(&store, taken + 1).unwrap());
    store.check().unwrap();
    let numbers: Vec<u64> =
        store.outbox_after(0, u32::MAX).unwrap().iter().map(|queued| queued.sequence).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b) && numbers[0] == 11, "{numbers:?}");
}

#[test]
fn a_full_disk_loses_nothing_it_took_and_goes_on_when_there_is_room() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED store::outbox_tests::a_full_disk: mounting a small disk needs root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_owned();
    // A thread of its own has a mount namespace of its own, which ends with it.
    thread::spawn(move || on_a_small_disk(&place)).join().unwrap();
}

fn on_a_small_disk(place: &Path) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    mount(Some("tg-small"), place, Some("tmpfs"), MsFlags::empty(), Some("size=2m")).unwrap();
    let ballast = place.join("ballast");
    // What was taken is in the log beside the database: room to bring it in is needed before anything else.
    fs::write(&ballast, vec![0; 800_000]).unwrap();
    let store = Store::open(&place.join("tidegate.db")).unwrap();
    let taken = fill(&store);
    assert!(taken > 20, "{taken}");
    assert!(add(&store, taken + 1).unwrap_err().is_full(), "still");
    fs::remove_file(ballast).unwrap();
    assert!(add(&store, taken + 1).unwrap());
    drop(store);
    let store = Store::open(&place.join("tidegate.db")).unwrap();
    assert_eq!(store.moved_aside(), None);
    store.check().unwrap();
    assert_eq!(store.outbox_after(0, u32::MAX).unwrap().len() as u64, taken + 1);
}
