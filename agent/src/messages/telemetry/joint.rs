//! The joint model of a topic's fields: an extended isolation forest over what messages say together.
//!
//! Fields are freed of what others say already ([`super::whiten`]). The forest is grown on a sample of normal messages that reaches back
//! over the whole learning period, judged by path lengths of such messages that were held out, and grown again as normal messages
//! replace old ones, so it follows slow change. Growing takes milliseconds: what it needs is handed out as a [`Seed`], and what comes back
//! replaces the model before. A message waits before it trains, and what waits is forgotten when something odd
//! follows. The forest alone finds the rim of what is normal as strange as what lies beside it; so a message is far only when both
//! agree. One message far from all others is no sign; several of the last few are.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use tidegate_common::pod::mix64;

use super::whiten::Whitening;
use crate::learn::{Calibration, Extended, Growth, Rows, Standard};

/// Fields that are looked at together.
pub(super) const COLUMNS: usize = 16;
/// Messages kept.
const ROWS: usize = 384;
/// Messages before a forest is grown.
const ENOUGH: usize = 128;
/// One in so many is held out.
const HELD_OUT: usize = 3;
/// Trees.
const TREES: usize = 32;
/// Messages each tree is grown from.
const SAMPLE: u32 = 128;
/// Normal messages between two forests.
const RENEWAL: u32 = 1_024;
/// Normal messages that have to follow one before it trains.
const QUARANTINE: usize = 16;
/// A message is far when a field is this many times as far from what the others say as in any message that was held out …
const FAR: f64 = 1.5;
/// … and the forest finds it at least as rare as this among them.
const RARE: f64 = 0.05;
/// Far messages among the last eight that are a sign.
const SEVERAL: u32 = 4;

/// What a model is grown from.
#[derive(Debug)]
pub(super) struct Seed {
    number: u64,
    columns: usize,
    rows: Vec<Vec<f32>>,
}

/// What was grown from the seed with this number; nothing if that was impossible.
#[derive(Debug)]
pub(super) struct Grown {
    number: u64,
    model: Option<Model>,
}

/// A forest and what it is judged by.
#[derive(Clone, Debug)]
struct Model {
    whitening: Whitening,
    grid: Standard,
    forest: Extended,
    /// The farthest that any field was from what the others say, in messages that were held out.
    reach: f64,
    calibration: Calibration,
}

/// What the fields say together.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Joint {
    /// Which fields, by their place in the topic.
    columns: Vec<u16>,
    rows: Vec<Vec<f32>>,
    /// Normal messages so far.
    seen: u64,
    /// Messages that one stands for: how slowly old ones are replaced.
    horizon: u64,
    fresh: u32,
    /// What all fields said while learning, by place in the topic; NaN where one said nothing.
    #[serde(skip)]
    early: Vec<Vec<f32>>,
    #[serde(skip)]
    waiting: VecDeque<Vec<f32>>,
    #[serde(skip)]
    model: Option<Model>,
    #[serde(skip)]
    history: u8,
    /// Whether the forest is to be grown.
    #[serde(skip)]
    is_due: bool,
    /// The seed that is being grown from.
    #[serde(skip)]
    growing: Option<u64>,
}

/// Why a message does not fit the others.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Strange {
    /// Anomaly score, 0–1.
    pub(super) score: f64,
    /// Share of normal messages as strange.
    pub(super) p_value: f64,
    /// The columns farthest from what the others say, by place in the topic, with the deviations.
    pub(super) farthest: Vec<(u16, f64)>,
}

impl Joint {
    /// Which fields it looks at; they are chosen once, when learning is over.
    pub(super) fn columns(&self) -> &[u16] {
        &self.columns
    }

    /// A message while learning.
    pub(super) fn learn(&mut self, fields: &[f64]) {
        self.seen += 1;
        let row = fields.iter().map(|value| narrow(*value)).collect();
        replace(&mut self.early, row, self.seen, u64::MAX);
    }

    /// What was learned of a field is void.
    pub(super) fn forget_early(&mut self) {
        self.early.clear();
        self.seen = 0;
    }

    /// Learning is over: chooses the fields. Fewer than two have nothing to say together.
    pub(super) fn choose(&mut self, mut columns: Vec<u16>) {
        columns.truncate(COLUMNS);
        let chosen = |row: &Vec<f32>| -> Option<Vec<f32>> {
            let values = columns.iter().map(|column| row.get(usize::from(*column)).copied());
            values.map(|value| value.filter(|value| value.is_finite())).collect()
        };
        self.rows = std::mem::take(&mut self.early).iter().filter_map(chosen).collect();
        self.columns = columns;
        self.horizon = self.seen.max(ROWS as u64);
        self.is_due = true;
    }

    /// Whether a message is far from the others, and several of the last were.
    pub(super) fn judge(&mut self, row: &[f64]) -> Option<Strange> {
        let model = self.model.as_ref()?;
        let rest = model.whitening.apply(row);
        self.history <<= 1;
        // The forest costs ten times as much, and is asked last.
        if reach(&rest) <= FAR * model.reach {
            return None;
        }
        let mut placed = Vec::with_capacity(COLUMNS);
        model.grid.place(&rest, &mut placed);
        let sum = model.forest.sum(&placed);
        let p_value = model.calibration.p_value(sum);
        self.history |= u8::from(p_value <= RARE);
        if self.history & 1 == 0 || self.history.count_ones() < SEVERAL {
            return None;
        }
        let mut farthest: Vec<(u16, f64)> = self.columns.iter().copied().zip(rest).collect();
        farthest.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        farthest.truncate(3);
        let score = model.forest.score_of_sum(sum);
        Some(Strange { score, p_value, farthest })
    }

    /// A normal message: it waits, then trains.
    pub(super) fn take(&mut self, row: &[f64]) {
        self.waiting.push_back(row.iter().map(|value| narrow(*value)).collect());
        if self.waiting.len() <= QUARANTINE {
            return;
        }
        let Some(row) = self.waiting.pop_front() else { return };
        self.seen += 1;
        self.fresh += 1;
        replace(&mut self.rows, row, self.seen, self.horizon);
        self.is_due |= if self.model.is_some() { self.fresh >= RENEWAL } else { self.rows.len() >= ENOUGH };
    }

    /// An odd message: what led up to it does not train.
    pub(super) fn drop_waiting(&mut self) {
        self.waiting.clear();
    }

    /// What was stored has no forest, which is grown as soon as possible.
    pub(super) fn revive(&mut self) {
        self.is_due = true;
    }

    #[cfg(test)]
    pub(super) const fn has_forest(&self) -> bool {
        self.model.is_some()
    }

    /// Whether the forest is to be grown, and none is growing.
    pub(super) const fn is_due(&self) -> bool {
        self.is_due && self.growing.is_none()
    }

    /// What to grow the forest from, under a `number` that no other of this topic has.
    pub(super) fn seed(&mut self, number: u64) -> Option<Seed> {
        if !self.is_due() {
            return None;
        }
        (self.is_due, self.fresh) = (false, 0);
        if self.columns.len() < 2 || self.rows.len() < ENOUGH {
            return None;
        }
        self.growing = Some(number);
        Some(Seed { number, columns: self.columns.len(), rows: self.rows.clone() })
    }

    /// Judges by what was grown from now on, unless it is from a seed of what has been forgotten since.
    pub(super) fn put(&mut self, grown: Grown) {
        if self.growing != Some(grown.number) {
            return;
        }
        self.growing = None;
        if let Some(model) = grown.model {
            self.model = Some(model);
        }
    }

    /// Whether it is as training leaves it, for a topic of `fields`.
    pub(super) fn is_sound(&self, fields: usize) -> bool {
        self.columns.len() <= COLUMNS
            && self.rows.len() <= ROWS
            && self.columns.iter().all(|column| usize::from(*column) < fields)
            && self
                .rows
                .iter()
                .all(|row| row.len() == self.columns.len() && row.iter().all(|value| value.is_finite()))
    }
}

impl Seed {
    /// Grows a forest, which takes a few milliseconds.
    pub(super) fn grow(self) -> Grown {
        Grown { number: self.number, model: self.model() }
    }

    fn model(&self) -> Option<Model> {
        let (mut kept, mut held_out) = (Rows::new(self.columns), Rows::new(self.columns));
        for (index, row) in self.rows.iter().enumerate() {
            let row: Vec<f64> = row.iter().map(|value| f64::from(*value)).collect();
            if index % HELD_OUT == 0 { held_out.push(&row) } else { kept.push(&row) }
        }
        let whitening = Whitening::fit(&kept);
        let (kept, held_out) = (whitening.apply_all(&kept), whitening.apply_all(&held_out));
        let reach = held_out.iter().map(reach).fold(0.0, f64::max);
        let grid = Standard::fit(&kept, 0.0);
        let growth = Growth { trees: TREES, sample: SAMPLE, seed: 1 };
        // Between two and sixteen columns and more rows than none: it can be grown.
        let forest = Extended::grow(&grid.place_all(&kept), growth).ok()?;
        let sums = forest.sums(&grid.place_all(&held_out));
        Some(Model { whitening, grid, forest, reach, calibration: Calibration::new(&sums, sums.len()) })
    }
}

/// The farthest of a row's columns.
fn reach(rest: &[f64]) -> f64 {
    rest.iter().map(|value| value.abs()).fold(0.0, f64::max)
}

/// Keeps `row`, the `seen`-th one, in the place of another once there are enough: a sample of the last `horizon` rows, more or
/// less, that needs no times.
fn replace(rows: &mut Vec<Vec<f32>>, row: Vec<f32>, seen: u64, horizon: u64) {
    if rows.len() < ROWS {
        return rows.push(row);
    }
    let place = u64::from(mix64(seen)) % seen.min(horizon);
    if let Some(old) = rows.get_mut(place as usize) {
        *old = row;
    }
}

/// Halves the memory; what is beyond all measure stays finite.
const fn narrow(value: f64) -> f32 {
    value.clamp(-1e30, 1e30) as f32
}

impl PartialEq for Joint {
    /// What is stored is compared: the rest follows from it.
    fn eq(&self, other: &Self) -> bool {
        (&self.columns, &self.rows, self.seen) == (&other.columns, &other.rows, other.seen)
    }
}
