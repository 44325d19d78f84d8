//! Commands that wait for an operator: bounded in number and bytes, and each of them for a time. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::habit::Fact;
use crate::messages::codec::Version;

/// Bytes that all of them may take.
const MOST_BYTES: usize = 1 << 20;

/// A command that was held back.
#[derive(Clone, Debug, PartialEq)]
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
    pub(super) fact: Fact,
    /// The PUBLISH as it came.
    pub(crate) packet: Vec<u8>,
    /// Version it is written in.
    pub(crate) version: Version,
}

/// Everything that waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Shelf {
    held: BTreeMap<u64, Held>,
    bytes: usize,
    last: u64,
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

    /// Puts a command back under its name.
    pub(super) fn put_back(&mut self, id: u64, held: Held) {
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
