//! A bounded, even sample of the vectors that a device produced.

use std::collections::VecDeque;

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tidegate_common::feature::{FEATURES, FeatureVector};

/// A vector as it is kept: features are below 2^15.
pub type Row = [u16; FEATURES];

pub(super) fn wide(rows: &[Row]) -> Vec<FeatureVector> {
    rows.iter().map(|row| row.map(u32::from)).collect()
}

pub(super) fn narrow(vector: &FeatureVector) -> Row {
    vector.map(|value| u16::try_from(value).unwrap_or(u16::MAX))
}

/// Samples kept evenly from an endless stream (Vitter's algorithm R), in the order in which they came.
pub(super) struct Samples {
    rows: VecDeque<Row>,
    seen: u64,
    random: Pcg64Mcg,
}

impl Samples {
    pub(super) fn new(seed: u64) -> Self {
        Self { rows: VecDeque::new(), seen: 0, random: Pcg64Mcg::seed_from_u64(seed) }
    }

    pub(super) fn add(&mut self, row: Row, most: usize) {
        self.seen += 1;
        if self.rows.len() >= most.max(1) {
            let place = self.random.next_u64() % self.seen;
            if place >= self.rows.len() as u64 {
                return;
            }
            self.rows.remove(place as usize);
        }
        self.rows.push_back(row);
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Oldest first.
    pub(super) fn rows(&self) -> Vec<Row> {
        self.rows.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_stream_is_sampled_evenly_and_in_order() {
        let mut samples = Samples::new(1);
        (0..10_000).for_each(|step| samples.add([step; FEATURES], 200));
        let first: Vec<u16> = samples.rows().iter().map(|row| row[0]).collect();
        assert!(first.len() == 200 && first.is_sorted(), "{first:?}");
        let early = first.iter().filter(|step| **step < 5_000).count();
        assert!((70..=130).contains(&early), "{early} of the first half");
    }
}
