//! The devices that commands are for: what they were given, bounded in number and memory.

use std::collections::{HashMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

use super::habit::{Fact, Habit};

/// Commands remembered of one device.
const HISTORY: usize = 256;
/// Commands of the last minute that are counted for one device.
pub(super) const MOST_IN_MINUTE: usize = 1_000;
const MINUTE: SignedDuration = SignedDuration::from_secs(60);

/// What is known of one device.
#[derive(Debug, Default)]
pub(super) struct Device {
    pub(super) history: VecDeque<Fact>,
    pub(super) habit: Option<Habit>,
    /// Commands since the habit was learned.
    fresh: usize,
    /// An operator released a command, which is to be learned at once.
    is_taught: bool,
    is_changed: bool,
    /// Commands of the last minute with the rule that allowed them.
    given: VecDeque<(Timestamp, Option<usize>)>,
    used: Option<Timestamp>,
}

impl Device {
    /// Commands by a rule within the last minute.
    pub(super) fn given(&self, rule: usize, now: Timestamp) -> u32 {
        let is_recent =
            |(at, by): &&(Timestamp, Option<usize>)| *by == Some(rule) && now.duration_since(*at) < MINUTE;
        self.given.iter().filter(is_recent).count() as u32
    }

    /// A command went on to the device.
    pub(super) fn pass(&mut self, fact: Fact, rule: Option<usize>) {
        let now = fact.at();
        while self.given.len() >= MOST_IN_MINUTE
            || self.given.front().is_some_and(|(at, _)| now.duration_since(*at) >= MINUTE)
        {
            self.given.pop_front();
        }
        self.given.push_back((now, rule));
        self.learn(fact);
    }

    /// An operator says that a command is normal.
    pub(super) fn teach(&mut self, fact: Fact) {
        self.learn(fact.vouched());
        self.is_taught = self.habit.is_some();
    }

    fn learn(&mut self, fact: Fact) {
        if self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        self.used = Some(fact.at());
        self.history.push_back(fact);
        self.fresh += 1;
        self.is_changed = true;
    }

    /// Rules have changed: what was counted by their places means nothing now.
    pub(super) fn forget_rules(&mut self) {
        self.given.clear();
    }

    fn is_due(&self, learn_after: usize) -> bool {
        let after = learn_after.min(HISTORY);
        self.is_taught || (self.history.len() >= after && (self.habit.is_none() || self.fresh >= after))
    }

    fn is_dispensable(&self, now: Timestamp) -> bool {
        self.habit.is_none() && self.used.is_none_or(|used| now.duration_since(used) >= MINUTE)
    }
}

/// All devices.
#[derive(Debug, Default)]
pub(super) struct Devices {
    known: HashMap<String, Device>,
}

impl Devices {
    /// A device, known or new; `None` when there is no room. Only devices without a habit, silent for a minute, make room: who
    /// invents names must not make the gateway forget.
    pub(super) fn get(&mut self, name: &str, most: usize, now: Timestamp) -> Option<&mut Device> {
        if !self.known.contains_key(name) {
            if self.known.len() >= most {
                let oldest = self
                    .known
                    .iter()
                    .filter(|(_, device)| device.is_dispensable(now))
                    .min_by_key(|(_, device)| device.used)
                    .map(|(name, _)| name.clone())?;
                self.known.remove(&oldest);
            }
            self.known.insert(name.to_owned(), Device::default());
        }
        self.known.get_mut(name)
    }

    /// A device that is known.
    pub(super) fn known(&mut self, name: &str) -> Option<&mut Device> {
        self.known.get_mut(name)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&String, &mut Device)> {
        self.known.iter_mut()
    }

    /// Devices and those whose habit is known.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.known.len(), self.known.values().filter(|device| device.habit.is_some()).count())
    }

    /// Takes up what an earlier run remembered.
    pub(super) fn restore(&mut self, name: String, history: Vec<Fact>) {
        let habit = None;
        let used = history.last().map(Fact::at);
        let device = Device { history: history.into(), habit, used, ..Device::default() };
        self.known.insert(name, device);
    }

    /// Histories that a habit is to be learned from, at most `most` of them.
    pub(super) fn take_due(&mut self, learn_after: usize, most: usize) -> Vec<(String, Vec<Fact>)> {
        let due = self.known.iter_mut().filter(|(_, device)| device.is_due(learn_after));
        due.take(most)
            .map(|(name, device)| {
                (device.fresh, device.is_taught) = (0, false);
                (name.clone(), device.history.iter().cloned().collect())
            })
            .collect()
    }

    /// Histories that have changed since the last call.
    pub(super) fn take_changed(&mut self) -> Vec<(String, Vec<Fact>)> {
        let changed = self.known.iter_mut().filter(|(_, device)| device.is_changed);
        changed
            .map(|(name, device)| {
                device.is_changed = false;
                (name.clone(), device.history.iter().cloned().collect())
            })
            .collect()
    }
}
