//! Records on their way into the database: each with its message to the cloud in one transaction, in the order they were made.
//!
//! A record that cannot be written waits here, bounded, and what comes after it waits behind it, so a disk that is full for a
//! while costs neither a record nor the order. Enforcement does not wait: it took place before.

use std::collections::VecDeque;

use jiff::Timestamp;
use tidegate_common::verdict::Mode;
use tidegate_wire::{Heartbeat, Report};

use super::gateway::{Gateway, kernel_mode};
use crate::{
    enforce::{Enforcement, Now},
    fleet::report,
    learn::Finding,
    store::{
        Durability, IdSource, Incident, MessageKind, NewMessage, OutboxLimits, OutboxTally, Store, StoreError,
    },
};

/// Records that wait at most while the database cannot be written.
const MOST_WAITING: usize = 2_000;

/// Something to be written.
#[derive(Debug)]
pub(super) enum Record {
    /// An incident as it stands, the evidence that changed it, and whether the cloud is told.
    Incident { incident: Box<Incident>, evidence: Option<Box<Finding>>, news: bool },
    /// An enforcement as it stands.
    Enforcement(Box<Enforcement>),
    /// A message that reports no record of the database.
    Message(Box<Report>),
}

/// What waits, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    waiting: VecDeque<(Record, Timestamp)>,
    /// Whether the last try failed: then only the clock tries again, not every record.
    failing: bool,
    /// Records that found no room here.
    pub(super) lost: u64,
}

impl Ledger {
    fn push(&mut self, record: Record, at: Timestamp) {
        if self.waiting.len() >= MOST_WAITING {
            // What an incident said last is in the next record of it; an enforcement of before is history.
            let is_lesser = |(record, _): &(Record, Timestamp)| !matches!(record, Record::Incident { .. });
            let victim = self.waiting.iter().position(is_lesser).unwrap_or(0);
            self.waiting.remove(victim);
            self.lost += 1;
        }
        self.waiting.push_back((record, at));
    }
}

impl Gateway {
    /// Writes `records`, after those that wait.
    pub(super) fn record(&mut self, records: impl IntoIterator<Item = Record>, now: Now) {
        for record in records {
            self.ledger.push(record, now.wall);
        }
        if !self.ledger.failing {
            self.write_ledger();
        }
    }

    /// Tries to write what waits, in order, until it is done or one cannot be written.
    pub(super) fn write_ledger(&mut self) {
        self.ledger.failing = false;
        let limits = self.config.cloud.enabled.then(|| self.config.outbox_limits());
        while let Some((record, at)) = self.ledger.waiting.front() {
            let written = self
                .store
                .batch(Durability::Process, |store| write(store, record, *at, limits, &mut self.ids));
            if let Err(error) = &written
                && matches!(error, StoreError::Sql { .. })
            {
                self.ledger.failing = true;
                return self.stored(written);
            }
            // A record that no database would take must not keep the others waiting.
            self.ledger.lost += u64::from(written.is_err());
            self.ledger.waiting.pop_front();
            self.stored(written);
        }
    }

    /// Tells the cloud that the gateway is there, unless the last word of that still waits.
    pub(super) fn beat(&mut self, now: Now) {
        if !self.config.cloud.enabled || now.since(self.last_beat) < self.config.cloud.heartbeat.0 {
            return;
        }
        self.last_beat = now.wall;
        self.watch_certificate(now.wall);
        let waits =
            |(kind, tally): &(MessageKind, OutboxTally)| *kind == MessageKind::Heartbeat && tally.waiting > 0;
        match self.store.outbox_tallies() {
            Ok(tallies) if tallies.iter().any(waits) => return,
            Ok(_) => {}
            Err(error) => return self.stored(Err(error)),
        }
        let counters = self
            .datapath
            .counters()
            .map(|counters| counters.named().map(|(name, value)| (name.to_owned(), value)).collect());
        let beat = Heartbeat {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: now.since(self.started.wall).as_secs(),
            enforcing: kernel_mode(self.config.gateway.mode) == Mode::Enforce,
            problems: self.problems.iter().map(|problem| report::clip(problem)).collect(),
            devices: self.registry.devices(now).len() as u64,
            blocks: self.enforcer.live().len() as u64,
            counters: counters.unwrap_or_default(),
        };
        self.record([Record::Message(Box::new(Report::Heartbeat(beat)))], now);
    }
}

fn write(
    store: &Store,
    record: &Record,
    at: Timestamp,
    limits: Option<OutboxLimits>,
    ids: &mut IdSource,
) -> Result<(), StoreError> {
    let (subject, message) = match record {
        Record::Incident { incident, evidence, news } => {
            store.save_incident(incident)?;
            if let Some(finding) = evidence {
                store.add_evidence(&incident.id, finding, at)?;
            }
            (incident.subject.clone(), news.then(|| report::incident(incident)))
        }
        Record::Enforcement(record) => {
            store.save_enforcement(record, at)?;
            (record.target.to_string(), Some(report::block(record)))
        }
        Record::Message(message) => {
            let device = if let Report::Telemetry(report) = &**message { &*report.device } else { "" };
            (device.to_owned(), Some((**message).clone()))
        }
    };
    if let (Some(limits), Some(report)) = (limits, message) {
        let id = ids.next(at);
        store.enqueue(&NewMessage { id: &id, device: &subject, at, report: &report }, limits)?;
    }
    Ok(())
}
