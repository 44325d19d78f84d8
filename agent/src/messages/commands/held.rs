//! Commands that wait for an operator: bounded in number and bytes, and each of them for a time. Pure; knows which of them are on
//! record, so that they outlive a restart.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::habit::Fact;
use crate::messages::codec::Version;

/// Bytes that all of them may take.
const MOST_BYTES: usize = 1 << 20;

/// A command that was held back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// The topic it came on.
    pub topic: String,
    /// The device it is for.
    pub device: String,
    /// Who sent it.
    pub sender: String,
    /// Name and key of a signed command.
    pub signed: Option<(String, String)>,
    /// What is to be done.
    pub verb: String,
    /// With what, for people.
    pub params: Vec<(String, String)>,
    /// When it came.
    pub since: Timestamp,
    /// Until when it may be released.
    pub until: Timestamp,
    /// Chance of one as unusual among normal ones.
    pub p_value: f64,
    /// Why it is held, in plain words.
    pub why: String,
    /// When an operator released it in a run that ended before it was known to be delivered; none while nobody did. Stored by itself.
    #[serde(skip)]
    pub released: Option<Timestamp>,
    pub(super) fact: Fact,
    /// The PUBLISH as it came; stored by itself.
    #[serde(skip)]
    pub(crate) packet: Vec<u8>,
    /// Version it is written in.
    pub(crate) version: Version,
}

impl Held {
    /// With the PUBLISH that it came in.
    #[must_use]
    pub fn with_packet(self, packet: Vec<u8>) -> Self {
        Self { packet, ..self }
    }

    /// As it stands on record after an operator let it go at `released`.
    #[must_use]
    pub fn with_released(self, released: Option<Timestamp>) -> Self {
        Self { released, ..self }
    }
}

/// Everything that waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Shelf {
    held: BTreeMap<u64, Held>,
    bytes: usize,
    last: u64,
    /// Those on record, some of which may be gone by now.
    recorded: BTreeSet<u64>,
    /// Those on record as released that are not known to be delivered.
    sent: BTreeSet<u64>,
}

/// How what waits differs from what is on record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Commands that wait and are not on record.
    pub held: Vec<(u64, Held)>,
    /// Commands on record that wait no more.
    pub gone: Vec<u64>,
}

impl Shelf {
    /// Puts a command there and names it; `None` when there is no room.
    pub(super) fn put(&mut self, held: Held, most: usize) -> Option<u64> {
        let bytes = self.bytes + held.packet.len();
        if self.held.len() >= most || bytes > MOST_BYTES {
            return None;
        }
        // Names grow over restarts too.
        let id = u64::try_from(held.since.as_millisecond()).unwrap_or(0).max(self.last + 1);
        (self.bytes, self.last) = (bytes, id);
        self.held.insert(id, held);
        Some(id)
    }

    /// Takes a command away.
    pub(super) fn take(&mut self, id: u64) -> Option<Held> {
        let held = self.held.remove(&id)?;
        self.bytes -= held.packet.len();
        Some(held)
    }

    /// Takes a command away that is on record as released.
    pub(super) fn send(&mut self, id: u64) -> Option<Held> {
        let held = self.take(id)?;
        self.recorded.insert(id);
        self.sent.insert(id);
        Some(held)
    }

    /// The device's broker has it.
    pub(super) fn delivered(&mut self, id: u64) {
        self.sent.remove(&id);
    }

    /// Takes up what an earlier run recorded. What is too large to have been held stays on record as gone.
    pub(super) fn restore(&mut self, recorded: Vec<(u64, Held)>) {
        for (id, held) in recorded {
            self.recorded.insert(id);
            self.last = self.last.max(id);
            let bytes = self.bytes + held.packet.len();
            if bytes <= MOST_BYTES {
                self.bytes = bytes;
                self.held.insert(id, held);
            }
        }
    }

    /// What is to be recorded.
    pub(super) fn changes(&self) -> Changes {
        let unrecorded = self.held.iter().filter(|(id, _)| !self.recorded.contains(id));
        let gone = self.recorded.iter().filter(|id| !self.held.contains_key(id) && !self.sent.contains(id));
        Changes {
            held: unrecorded.map(|(id, held)| (*id, held.clone())).collect(),
            gone: gone.copied().collect(),
        }
    }

    /// `changes` are on record. One that was put back meanwhile is recorded anew.
    pub(super) fn recorded(&mut self, changes: &Changes) {
        self.recorded.extend(changes.held.iter().map(|(id, _)| *id));
        changes.gone.iter().for_each(|id| _ = self.recorded.remove(id));
    }

    /// Puts a command back under its name, to be recorded as it was before it was released.
    pub(super) fn put_back(&mut self, id: u64, held: Held) {
        self.sent.remove(&id);
        self.recorded.remove(&id);
        self.bytes += held.packet.len();
        self.held.insert(id, held);
    }

    /// Takes away what waited too long.
    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<(u64, Held)> {
        let over: Vec<u64> =
            self.held.iter().filter(|(_, held)| held.until <= now).map(|(id, _)| *id).collect();
        over.into_iter().filter_map(|id| Some((id, self.take(id)?))).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Held)> {
        self.held.iter().map(|(id, held)| (*id, held))
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}
