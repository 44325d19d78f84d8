//! One device's normal traffic as two forests, their calibration, and the ranges explanations are given in.
//!
//! Two thirds of the samples train, one third is held out; a p-value is the rank of a score among the held-out ones. The
//! split is drawn by the seed, so the same samples give the same baseline.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tidegate_common::feature::{FEATURES, FLOW_FEATURES, Feature, FeatureVector};

use super::{
    config::LearnConfig,
    finding::FeatureNote,
    forest::{Forest, Growth, GrowthError},
    grid::Rows,
    window::{WINDOW_FEATURES, read},
};

/// Trees of a window model: windows are few and judged once each, so a quarter of the memory must do.
const WINDOW_TREES: usize = 32;
/// Features an explanation names.
const NOTES: usize = 3;

/// Models of flows and of windows.
#[derive(Clone, Debug)]
pub(super) struct Baseline {
    pub(super) flows: Detector,
    /// Missing until enough windows were seen.
    pub(super) windows: Option<Detector>,
}

/// A forest with its calibration.
#[derive(Clone, Debug)]
pub(super) struct Detector {
    forest: Forest,
    /// Path lengths of the held-out samples, shortest (most anomalous) first.
    held_out: Vec<u32>,
    /// 1st and 99th percentile of each feature.
    ranges: [(u32, u32); FEATURES],
    features: &'static [Feature; FEATURES],
}

/// What a detector says about one vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Judgement {
    /// Anomaly score, 0–1.
    pub(super) score: f64,
    /// Share of held-out normal vectors at least as anomalous, never 0.
    pub(super) p_value: f64,
}

impl Baseline {
    pub(super) fn fit(
        flows: &Rows<u32>,
        windows: &Rows<u32>,
        min_windows: usize,
        seed: u64,
    ) -> Result<Self, GrowthError> {
        let growth = Growth { seed, ..Growth::default() };
        let windows = (windows.len() >= min_windows)
            .then(|| Detector::fit(windows, &WINDOW_FEATURES, Growth { trees: WINDOW_TREES, ..growth }))
            .transpose()?;
        Ok(Self { flows: Detector::fit(flows, &FLOW_FEATURES, growth)?, windows })
    }
}

impl Detector {
    fn fit(
        rows: &Rows<u32>,
        features: &'static [Feature; FEATURES],
        growth: Growth,
    ) -> Result<Self, GrowthError> {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        let mut random = Pcg64Mcg::seed_from_u64(growth.seed ^ 0x5eed);
        for place in (1..order.len()).rev() {
            order.swap(place, (random.next_u64() % (place as u64 + 1)) as usize);
        }
        let (held, train) = order.split_at(rows.len() / 3);
        let mut training = Rows::new(FEATURES);
        for row in train {
            training.push(rows.row(*row));
        }
        let ranges = ranges(rows);
        let forest = Forest::grow(&training, growth)?;
        let mut held_out: Vec<u32> = held.iter().map(|row| forest.sum(rows.row(*row))).collect();
        held_out.sort_unstable();
        Ok(Self { forest, held_out, ranges, features })
    }

    pub(super) fn judge(&self, vector: &FeatureVector) -> Judgement {
        let sum = self.forest.sum(vector);
        let at_least_as_anomalous = self.held_out.partition_point(|held| *held <= sum);
        Judgement {
            score: self.forest.score_of_sum(sum),
            p_value: (at_least_as_anomalous + 1) as f64 / (self.held_out.len() + 1) as f64,
        }
    }

    /// P-value up to which a vector is evidence: the one asked for, or the smallest that the held-out samples can tell.
    pub(super) fn limit(&self, config: &LearnConfig) -> f64 {
        config.evidence_p.max(1.0 / (self.held_out.len() + 1) as f64)
    }

    /// Whether any feature is above its normal range: a device that does less than usual harms nobody.
    pub(super) fn is_excessive(&self, vector: &FeatureVector) -> bool {
        vector.iter().zip(&self.ranges).any(|(value, (_, high))| value > high)
    }

    /// The features farthest out of their normal range.
    pub(super) fn explain(&self, vector: &FeatureVector) -> Vec<FeatureNote> {
        let mut outside: Vec<(u32, usize)> = (0..FEATURES)
            .map(|index| {
                let (low, high) = self.ranges[index];
                (low.saturating_sub(vector[index]).max(vector[index].saturating_sub(high)), index)
            })
            .filter(|(distance, _)| *distance > 0)
            .collect();
        outside.sort_unstable_by(|a, b| b.cmp(a));
        let note = |(_, index): &(u32, usize)| {
            let (feature, (low, high)) = (&self.features[*index], self.ranges[*index]);
            FeatureNote {
                name: feature.name,
                value: read(feature, vector[*index]),
                normal_low: read(feature, low),
                normal_high: read(feature, high),
            }
        };
        outside.iter().take(NOTES).map(note).collect()
    }
}

fn ranges(rows: &Rows<u32>) -> [(u32, u32); FEATURES] {
    std::array::from_fn(|index| {
        let mut values: Vec<u32> = rows.iter().map(|row| row[index]).collect();
        values.sort_unstable();
        let at =
            |share: usize| values.get(values.len().saturating_sub(1) * share / 100).copied().unwrap_or(0);
        (at(1), at(99))
    })
}
