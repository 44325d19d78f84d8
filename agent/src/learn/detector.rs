//! A model of one kind of vector with its calibration, and the ranges and rows that explanations compare with.
//!
//! Trained on the earlier two thirds of a period's samples and calibrated on the later third, so that p-values already allow for what
//! changes from hour to hour. Flows are judged by the forest that the kernel can run, windows by an extended one.

use tidegate_common::{
    feature::{FEATURES, FLOW_FEATURES, Feature, FeatureVector},
    forest::Tree,
};

use super::{
    attribution::{self, Shares},
    calibration::Calibration,
    compact::Compact,
    extended::Extended,
    finding::FeatureNote,
    forest::{Forest, Growth, GrowthError},
    grid::Rows,
    model::ModelKind,
    standard::Standard,
    window::{Doer, WINDOW_FEATURES, done_by, read},
};

/// Trees of a window model.
const WINDOW_TREES: usize = 50;
/// Deviations of window features are at least a quarter of a doubling.
const FINEST: f64 = 64.0;
/// Path lengths that a calibration keeps.
const KEPT: usize = 1_024;
/// Normal rows that an explanation compares with.
const REFERENCES: usize = 16;
/// Features an explanation names, and the share that each must have.
const NOTES: usize = 3;
const LEAST_SHARE: f64 = 0.05;

/// A model with its calibration.
#[derive(Clone, Debug)]
pub(super) struct Detector {
    model: Trees,
    calibration: Calibration,
    /// 1st and 99th percentile of each feature.
    ranges: [(u32, u32); FEATURES],
    /// Some rows that it was trained on.
    normal: Vec<FeatureVector>,
}

/// A device's flow model in the kernel's layout.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowForest {
    /// The trees, as many as `tidegate_common::forest::TREES`.
    pub trees: Vec<Tree>,
    /// Summed path lengths below this are far from everything the device was ever seen to do.
    pub far_below: u32,
}

#[derive(Clone, Debug)]
enum Trees {
    Flows(Compact),
    Windows(Standard, Extended),
}

/// What a detector says about one vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Judgement {
    /// Summed path length.
    pub(super) sum: u32,
    /// Anomaly score, 0–1.
    pub(super) score: f64,
    /// Share of normal vectors at least as anomalous, never 0.
    pub(super) p_value: f64,
}

impl Detector {
    /// Trains on the rows of all `periods`, each of them oldest first.
    pub(super) fn fit(periods: &[&[FeatureVector]], kind: ModelKind, seed: u64) -> Result<Self, GrowthError> {
        let (mut train, mut held) = (Vec::new(), Vec::new());
        for rows in periods {
            let (earlier, later) = rows.split_at(rows.len() - rows.len() / 3);
            train.extend_from_slice(earlier);
            held.extend_from_slice(later);
        }
        let growth = Growth { seed, ..Growth::default() };
        let model = match kind {
            ModelKind::Flow => {
                let mut table = Rows::new(FEATURES);
                for row in &train {
                    table.push(row);
                }
                Trees::Flows(Compact::of(&Forest::grow(&table, growth)?))
            }
            ModelKind::Window => {
                let mut table = Rows::new(FEATURES);
                for row in &train {
                    table.push(&row.map(f64::from));
                }
                let standard = Standard::fit(&table, FINEST);
                let growth = Growth { trees: WINDOW_TREES, ..growth };
                let forest = Extended::grow(&standard.place_all(&table), growth)?;
                Trees::Windows(standard, forest)
            }
        };
        let calibration = Calibration::new(&model.sums(&held), KEPT);
        let step = train.len().div_ceil(REFERENCES).max(1);
        let normal = train.iter().step_by(step).copied().collect();
        Ok(Self { model, calibration, ranges: ranges(&periods.concat()), normal })
    }

    pub(super) fn judge(&self, vector: &FeatureVector) -> Judgement {
        let sum = self.model.sum(vector);
        Judgement { sum, score: self.score(sum), p_value: self.calibration.p_value(sum) }
    }

    /// Anomaly score of a summed path length.
    pub(super) fn score(&self, sum: u32) -> f64 {
        self.model.score_of_sum(sum)
    }

    /// P-value up to which a vector is evidence when `rate` of normal traffic may be.
    pub(super) fn limit(&self, rate: f64) -> f64 {
        self.calibration.limit(rate)
    }

    /// The least p-value that the held-out traffic alone could tell.
    pub(super) fn rarest(&self) -> f64 {
        self.calibration.rarest()
    }

    /// Whether a vector is too far from normal ever to be taken for a drift of it.
    pub(super) fn is_far(&self, vector: &FeatureVector) -> bool {
        self.calibration.is_far(self.model.sum(vector))
    }

    /// Takes in a vetted vector's path length.
    pub(super) fn learn(&mut self, sum: u32, evidence: bool, rate: f64) {
        self.calibration.learn(sum, evidence, rate);
    }

    /// The model as the kernel runs it; there is none for windows.
    pub(super) fn for_kernel(&self) -> Option<FlowForest> {
        match &self.model {
            Trees::Flows(forest) => {
                Some(FlowForest { trees: forest.kernel_trees(), far_below: self.calibration.far_below() })
            }
            Trees::Windows(..) => None,
        }
    }

    /// What [`Self::for_kernel`] gives has changed when this has.
    pub(super) fn fingerprint(&self) -> Option<u64> {
        match &self.model {
            Trees::Flows(forest) => Some(forest.fingerprint()),
            Trees::Windows(..) => None,
        }
    }

    /// Whether a window's device itself does more than it normally does: one that does less harms nobody, and what others
    /// do to it, answers included, is no evidence against it.
    pub(super) fn is_excessive(&self, window: &FeatureVector) -> bool {
        let above: Vec<Doer> =
            (0..FEATURES).filter(|index| window[*index] > self.ranges[*index].1).map(done_by).collect();
        let is_called = above.contains(&Doer::Callers);
        above.iter().any(|doer| *doer == Doer::Device || *doer == Doer::DeviceOrAnswer && !is_called)
    }

    /// The features that made a vector anomalous, the most important first.
    pub(super) fn explain(&self, vector: &FeatureVector) -> Vec<FeatureNote> {
        let (moved, features): (Shares, &[Feature; FEATURES]) = match &self.model {
            Trees::Flows(forest) => (attribution::exact(forest, vector, &self.normal), &FLOW_FEATURES),
            Trees::Windows(..) => {
                let sums = |rows: &[FeatureVector]| self.model.sums(rows);
                (attribution::estimated(sums, vector, &self.normal), &WINDOW_FEATURES)
            }
        };
        let against = moved.map(|moved| (-moved).max(0.0));
        let whole = against.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        let mut notes: Vec<FeatureNote> = (0..FEATURES)
            .map(|index| {
                let (feature, (low, high)) = (&features[index], self.ranges[index]);
                FeatureNote {
                    name: feature.name,
                    value: read(feature, vector[index]),
                    normal_low: read(feature, low),
                    normal_high: read(feature, high),
                    share: against[index] / whole,
                }
            })
            .filter(|note| note.share >= LEAST_SHARE)
            .collect();
        notes.sort_by(|a, b| b.share.total_cmp(&a.share));
        notes.truncate(NOTES);
        notes
    }
}

impl Trees {
    fn sum(&self, vector: &FeatureVector) -> u32 {
        match self {
            Self::Flows(forest) => forest.sum(vector),
            Self::Windows(standard, forest) => {
                let mut row = Vec::with_capacity(FEATURES);
                standard.place(&vector.map(f64::from), &mut row);
                forest.sum(&row)
            }
        }
    }

    fn sums(&self, rows: &[FeatureVector]) -> Vec<u32> {
        match self {
            Self::Flows(forest) => rows.iter().map(|row| forest.sum(row)).collect(),
            Self::Windows(standard, forest) => {
                let mut table = Rows::new(FEATURES);
                for row in rows {
                    table.push(&row.map(f64::from));
                }
                forest.sums(&standard.place_all(&table))
            }
        }
    }

    fn score_of_sum(&self, sum: u32) -> f64 {
        match self {
            Self::Flows(forest) => forest.score_of_sum(sum),
            Self::Windows(_, forest) => forest.score_of_sum(sum),
        }
    }
}

fn ranges(rows: &[FeatureVector]) -> [(u32, u32); FEATURES] {
    std::array::from_fn(|index| {
        let mut values: Vec<u32> = rows.iter().map(|row| row[index]).collect();
        values.sort_unstable();
        let at =
            |share: usize| values.get(values.len().saturating_sub(1) * share / 100).copied().unwrap_or(0);
        (at(1), at(99))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one device's model takes: its trees, not the kernel's layout of them.
    #[test]
    fn a_devices_models_are_small() {
        let vector = |row: usize| -> FeatureVector {
            std::array::from_fn(|column| {
                let noise = tidegate_common::pod::mix64((row * 64 + column) as u64) % 2_000;
                2_000 + noise + if row.is_multiple_of(3) { 1_500 } else { 0 }
            })
        };
        let rows: Vec<FeatureVector> = (0..768).map(vector).collect();
        let bytes = |kind| match Detector::fit(&[&rows], kind, 1).unwrap().model {
            Trees::Flows(forest) => forest.bytes(),
            Trees::Windows(_, forest) => forest.trees().iter().map(|tree| size_of_val(&**tree)).sum(),
        };
        let (flows, windows) = (bytes(ModelKind::Flow), bytes(ModelKind::Window));
        assert!(flows + windows < 100_000, "{flows} and {windows} bytes");
    }
}
