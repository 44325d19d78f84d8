//! What commands a device is normally given, learned from those it was given: how unusual another one is, and why.
//!
//! Two looks at a command. What was never seen — a verb, a sender, a parameter, a word, a number far outside — is as likely as such
//! first times were before (Good and Turing: those seen once, among all). Everything together is ranked by a forest among
//! commands held out. Either is evidence by itself. Pure: a history in, an opinion out; names are kept as digests.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::body::{Body, Term};
use crate::learn::{FeatureNote, Growth, Ranked, Rows};

/// Parameters of a command that are looked at.
const PARAMETERS: usize = 8;
/// Trees of a device's forest.
const TREES: usize = 40;
/// Numbers further than so many deviations from the mean are all alike.
const FURTHEST: f64 = 100.0;
/// Commands before one that are counted.
const MOST_IN_MINUTE: usize = 64;
/// How long a history must be before hours mean something.
const DAYS: SignedDuration = SignedDuration::from_hours(72);
/// What is told of an unusual command at most.
const NOTES: usize = 3;

/// Names of the features, in order.
const FEATURES: [&str; 10] = [
    "verb rarity (bits)",
    "rarity after the verb before (bits)",
    "sender rarity (bits)",
    "time since the last (doublings of a s)",
    "hour rarity (bits)",
    "number (deviations)",
    "word rarity (bits)",
    "parameters",
    "size (doublings of a byte)",
    "commands in a minute",
];
const WIDTH: usize = FEATURES.len();
/// Those of which less than ever is nothing to be surprised at: rarities, and how many there were.
const LESS_IS_USUAL: [usize; 6] = [0, 1, 2, 4, 6, 9];
/// That of which more than ever is none: who is told nothing for long was switched off, or nobody was at home.
const MORE_IS_USUAL: usize = 3;

/// A command as it is remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    at: Timestamp,
    sender: u64,
    verb: u64,
    size: u32,
    params: Vec<(u64, Kept)>,
    /// An operator said that it is normal.
    #[serde(default)]
    is_vouched: bool,
}

/// A parameter as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Kept {
    Word(u64),
    Number(f64),
}

impl Fact {
    /// What is remembered of a command.
    pub fn of(body: &Body, sender: &str, size: usize, at: Timestamp) -> Self {
        let keep = |term: &Term| match term {
            Term::Number(number) => Kept::Number(*number),
            Term::Word(word) => Kept::Word(digest(word)),
        };
        Self {
            at,
            sender: digest(sender),
            verb: digest(&body.verb),
            size: u32::try_from(size).unwrap_or(u32::MAX),
            params: body
                .params
                .iter()
                .take(PARAMETERS)
                .map(|(name, term)| (digest(name), keep(term)))
                .collect(),
            is_vouched: false,
        }
    }

    /// The same, said by an operator to be normal.
    pub(super) fn vouched(self) -> Self {
        Self { is_vouched: true, ..self }
    }

    /// Whether an operator said of this that the other is normal: the same sender, verb and parameters.
    pub(super) fn vouches_for(&self, other: &Self) -> bool {
        self.is_vouched && (self.sender, self.verb, &self.params) == (other.sender, other.verb, &other.params)
    }

    /// When it was given.
    pub const fn at(&self) -> Timestamp {
        self.at
    }
}

/// The first eight bytes of the SHA-256: the same in every run, and nobody can make another text with it.
fn digest(text: &str) -> u64 {
    Sha256::digest(text).iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn bits(count: f64, all: f64) -> f64 {
    -(count.max(0.5) / all.max(1.0)).min(1.0).log2()
}

/// How often things were seen.
#[derive(Clone, Debug, Default)]
struct Tally<K> {
    seen: HashMap<K, u32>,
    all: u32,
}

impl<K: std::hash::Hash + Eq> Tally<K> {
    fn add(&mut self, key: K) {
        *self.seen.entry(key).or_default() += 1;
        self.all += 1;
    }

    /// Bits of surprise, with `new` more of it: one that was counted and one that was not are measured alike.
    fn rarity(&self, key: &K, new: u32) -> f64 {
        let count = self.seen.get(key).copied().unwrap_or(0) + new;
        bits(f64::from(count), f64::from(self.all))
    }

    /// Chance of something never seen, when this is: those seen once, among all.
    fn novelty(&self, key: &K) -> Option<f64> {
        let once = self.seen.values().filter(|count| **count == 1).count();
        (!self.seen.contains_key(key)).then(|| (once + 1) as f64 / (f64::from(self.all) + 1.0))
    }
}

#[derive(Clone, Debug, Default)]
struct Numbers {
    count: u32,
    sum: f64,
    squares: f64,
    low: f64,
    high: f64,
}

impl Numbers {
    fn add(&mut self, number: f64) {
        (self.low, self.high) =
            if self.count == 0 { (number, number) } else { (self.low.min(number), self.high.max(number)) };
        self.count += 1;
        self.sum += number;
        self.squares += number * number;
    }

    fn deviations(&self, number: f64) -> f64 {
        let count = f64::from(self.count.max(1));
        let mean = self.sum / count;
        let deviation = (self.squares / count - mean * mean).max(0.0).sqrt();
        let least = (mean.abs() * 1e-9).max(f64::MIN_POSITIVE);
        let away = (number - mean).abs() / deviation.max(least);
        // Squares of huge numbers are infinite.
        if away.is_finite() { away.min(FURTHEST) } else { FURTHEST }
    }

    /// Chance of a number further outside than all that were seen are apart.
    fn novelty(&self, number: f64) -> Option<f64> {
        let apart = self.high - self.low;
        let is_far = number < self.low - apart || number > self.high + apart;
        is_far.then(|| 2.0 / (f64::from(self.count) + 1.0))
    }
}

/// What was counted.
#[derive(Clone, Debug, Default)]
struct Tables {
    verbs: Tally<u64>,
    pairs: Tally<(u64, u64)>,
    senders: Tally<u64>,
    hours: [u32; 24],
    /// The first and the last time.
    span: Option<(Timestamp, Timestamp)>,
    /// Parameters of each verb.
    names: HashMap<u64, Tally<u64>>,
    /// Values of each verb's parameters.
    words: HashMap<(u64, u64), Tally<u64>>,
    numbers: HashMap<(u64, u64), Numbers>,
}

impl Tables {
    fn add(&mut self, fact: &Fact, previous: Option<&Fact>) {
        self.verbs.add(fact.verb);
        self.pairs.add((previous.map_or(0, |previous| previous.verb), fact.verb));
        self.senders.add(fact.sender);
        self.hours[hour(fact.at)] += 1;
        let (first, last) = self.span.unwrap_or((fact.at, fact.at));
        self.span = Some((first.min(fact.at), last.max(fact.at)));
        for (name, kept) in &fact.params {
            self.names.entry(fact.verb).or_default().add(*name);
            match kept {
                Kept::Word(word) => self.words.entry((fact.verb, *name)).or_default().add(*word),
                Kept::Number(number) => self.numbers.entry((fact.verb, *name)).or_default().add(*number),
            }
        }
    }

    /// Hours count with half of their neighbours; none is rare before some days were seen.
    fn hour_rarity(&self, at: Timestamp, new: u32) -> f64 {
        if self.span.is_none_or(|(first, last)| last.duration_since(first) < DAYS) {
            return 0.0;
        }
        let hour = hour(at);
        let beside = self.hours[(hour + 23) % 24] + self.hours[(hour + 1) % 24];
        let near = f64::from(self.hours[hour] + new) + f64::from(beside) / 2.0;
        bits(near, 2.0 * f64::from(self.verbs.all))
    }

    /// The features of a command that is counted, or `new`.
    fn features(&self, fact: &Fact, before: Before<'_>, new: u32) -> [f64; WIDTH] {
        let (mut number, mut word) = (0.0_f64, 0.0_f64);
        for (name, kept) in &fact.params {
            let key = (fact.verb, *name);
            match kept {
                Kept::Number(value) => {
                    let away = self.numbers.get(&key).map_or(FURTHEST, |known| known.deviations(*value));
                    number = number.max(away);
                }
                Kept::Word(value) => {
                    let empty = Tally::default();
                    word = word.max(self.words.get(&key).unwrap_or(&empty).rarity(value, new));
                }
            }
        }
        // In whole seconds: what is shorter depends on how busy the network and this machine are.
        let gap_s = before.last.map_or(0, |last| fact.at.duration_since(last.at).as_secs().max(0));
        [
            self.verbs.rarity(&fact.verb, new),
            self.pairs.rarity(&(before.last.map_or(0, |last| last.verb), fact.verb), new),
            self.senders.rarity(&fact.sender, new),
            (1.0 + gap_s as f64).log2(),
            self.hour_rarity(fact.at, new),
            number,
            word,
            fact.params.len() as f64,
            (1.0 + f64::from(fact.size)).log2(),
            before.in_minute as f64,
        ]
    }

    /// What was never seen, in plain words, with its chance, and whether it is a parameter's.
    fn novelties(&self, fact: &Fact, body: &Body, sender: &str) -> Vec<(f64, bool, String)> {
        let mut found = Vec::new();
        if let Some(chance) = self.verbs.novelty(&fact.verb) {
            found.push((chance, false, format!("it was never told to {:?}", body.verb)));
        }
        if let Some(chance) = self.senders.novelty(&fact.sender) {
            found.push((chance, false, format!("{sender:?} never sent it a command")));
        }
        let Some(names) = self.names.get(&fact.verb) else { return found };
        for ((name, kept), (shown, term)) in fact.params.iter().zip(&body.params) {
            let key = (fact.verb, *name);
            if let Some(chance) = names.novelty(name) {
                found.push((chance, true, format!("{:?} never had a parameter {shown:?}", body.verb)));
                continue;
            }
            let chance = match kept {
                Kept::Word(word) => self.words.get(&key).and_then(|known| known.novelty(word)),
                Kept::Number(number) => self.numbers.get(&key).and_then(|known| known.novelty(*number)),
            };
            if let Some(chance) = chance {
                found.push((chance, true, format!("{shown} was never anything like {term}")));
            }
        }
        found
    }
}

fn hour(at: Timestamp) -> usize {
    (at.as_second().rem_euclid(86_400) / 3_600) as usize
}

/// What one device is normally given.
#[derive(Clone, Debug)]
pub struct Habit {
    tables: Tables,
    forest: Ranked,
    /// Percentiles 1, 50 and 99 of every feature.
    ranges: [(f64, f64, f64); WIDTH],
    /// The least and the most of every feature.
    bounds: [(f64, f64); WIDTH],
}

/// What is thought of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Opinion {
    /// Share of normal commands at least as unusual, never 0.
    pub p_value: f64,
    /// Whether it is unusual when `rate` of normal commands may be.
    pub is_unusual: bool,
    /// Whether a parameter makes it so.
    pub by_parameter: bool,
    /// What was never seen, in plain words.
    pub novelties: Vec<String>,
    /// The features that moved the forest most.
    pub notes: Vec<FeatureNote>,
}

/// What came before a command.
#[derive(Clone, Copy, Debug)]
struct Before<'a> {
    last: Option<&'a Fact>,
    in_minute: usize,
}

impl<'a> Before<'a> {
    fn of(history: impl DoubleEndedIterator<Item = &'a Fact>, at: Timestamp) -> Self {
        let mut newest = history.rev().take(MOST_IN_MINUTE).peekable();
        let last = newest.peek().copied();
        let is_recent = |fact: &&Fact| at.duration_since(fact.at).as_secs() < 60;
        Self { last, in_minute: newest.take_while(is_recent).count() }
    }
}

impl Habit {
    /// Learns from commands in the order in which they were given; `None` when there are none.
    pub fn learn(history: &[Fact]) -> Option<Self> {
        let mut tables = Tables::default();
        let mut previous = None;
        for fact in history {
            tables.add(fact, previous);
            previous = Some(fact);
        }
        let rows: Vec<[f64; WIDTH]> = (0..history.len())
            .map(|place| {
                let fact = &history[place];
                tables.features(fact, Before::of(history[..place].iter(), fact.at), 0)
            })
            .collect();
        // Held out is every third, so that rows of every hour and day are on both sides.
        let (mut kept, mut held) = (Rows::new(WIDTH), Rows::new(WIDTH));
        for (place, row) in rows.iter().enumerate() {
            if place % 3 == 2 { &mut held } else { &mut kept }.push(row);
        }
        let growth = Growth { trees: TREES, seed: history.len() as u64, ..Growth::default() };
        let forest = Ranked::fit(&kept, &held, growth).ok()?;
        let columns: [Vec<f64>; WIDTH] = std::array::from_fn(|column| {
            let mut values: Vec<f64> = rows.iter().map(|row| row[column]).collect();
            values.sort_by(f64::total_cmp);
            values
        });
        let at = |values: &[f64], share: usize| values[(values.len() - 1) * share / 100];
        let ranges = columns.each_ref().map(|values| (at(values, 1), at(values, 50), at(values, 99)));
        let bounds = columns.each_ref().map(|values| (at(values, 0), at(values, 100)));
        Some(Self { tables, forest, ranges, bounds })
    }

    /// What is thought of a command that comes after `history`.
    pub fn judge<'a>(
        &self,
        (fact, body, sender): (&Fact, &Body, &str),
        history: impl DoubleEndedIterator<Item = &'a Fact>,
        rate: f64,
    ) -> Opinion {
        let mut row = self.tables.features(fact, Before::of(history, fact.at), 1);
        for column in LESS_IS_USUAL {
            row[column] = row[column].max(self.bounds[column].0);
        }
        row[MORE_IS_USUAL] = row[MORE_IS_USUAL].min(self.bounds[MORE_IS_USUAL].1);
        let rank = self.forest.rank(&row);
        let novelties = self.tables.novelties(fact, body, sender);
        let least = novelties.iter().map(|(chance, ..)| *chance).fold(1.0, f64::min);
        let p_value = rank.p_value.min(least);
        let is_unusual = p_value <= rate || rank.is_far;
        if !is_unusual {
            return Opinion {
                p_value,
                is_unusual,
                by_parameter: false,
                novelties: Vec::new(),
                notes: Vec::new(),
            };
        }
        let notes = self.notes(&row);
        let by_parameter = if novelties.is_empty() {
            notes.first().is_some_and(|note| note.name == FEATURES[5] || note.name == FEATURES[6])
        } else {
            novelties.iter().all(|(_, by_parameter, _)| *by_parameter)
        };
        let novelties = novelties.into_iter().take(NOTES).map(|(.., words)| words).collect();
        Opinion { p_value, is_unusual, by_parameter, novelties, notes }
    }

    fn notes(&self, row: &[f64; WIDTH]) -> Vec<FeatureNote> {
        let shares = self.forest.shares(row, &self.ranges.map(|(_, usual, _)| usual));
        let mut notes: Vec<FeatureNote> = (0..WIDTH)
            .filter(|column| shares[*column] >= 0.05)
            .map(|column| FeatureNote {
                name: FEATURES[column],
                value: row[column],
                normal_low: self.ranges[column].0,
                normal_high: self.ranges[column].2,
                share: shares[column],
            })
            .collect();
        notes.sort_by(|a, b| b.share.total_cmp(&a.share));
        notes.truncate(NOTES);
        notes
    }
}

#[cfg(test)]
#[path = "habit_tests.rs"]
mod tests;
