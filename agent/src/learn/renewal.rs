//! Follows a device whose traffic changes: models are renewed from vetted traffic once it has drifted.
//!
//! The samples of the learning period are never replaced: whatever is adopted later stands beside them and is bounded. And it is
//! only what the learning period's own model does not find far from normal is adopted. So somebody who moves a device's traffic a
//! little every day gets only as far as that model lets them, however often it was renewed in between; beyond, the drift is
//! reported and an operator has to let the device be learned again.

use tidegate_common::feature::FeatureVector;

use super::{
    baseline::Baseline,
    config::LearnConfig,
    detector::Detector,
    drift::Adwin,
    forest::GrowthError,
    model::ModelKind,
    samples::{Row, Samples, wide},
    vetting::Vetted,
};

/// Share of vetted flows that may be far from what the learning period's model knows.
const MOST_FAR: f64 = 0.05;

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Outcome {
    /// The models are to be trained with the new samples.
    Adopted,
    /// So large a share of the new flows is far from what the learning period's model knows that they stay out.
    TooFar(f64),
}

/// Vetted traffic beside that of the learning period.
pub(super) struct Renewal {
    /// Vetted flows and windows that the models were trained on.
    pub(super) flows: Vec<Row>,
    pub(super) windows: Vec<Row>,
    fresh_flows: Samples,
    fresh_windows: Samples,
    watch: Adwin,
    has_drifted: bool,
    seed: u64,
}

impl Renewal {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            flows: Vec::new(),
            windows: Vec::new(),
            fresh_flows: Samples::new(seed),
            fresh_windows: Samples::new(seed),
            watch: Adwin::default(),
            has_drifted: false,
            seed,
        }
    }

    /// Trains on the learning period's samples and the adopted ones.
    pub(super) fn fit(
        &self,
        config: &LearnConfig,
        flows: &[FeatureVector],
        windows: &[FeatureVector],
    ) -> Result<Baseline, GrowthError> {
        let enough = windows.len() >= (config.min_windows as usize).max(1);
        let windows = enough
            .then(|| Detector::fit(&[windows, &wide(&self.windows)], ModelKind::Window, config.seed))
            .transpose()?;
        Ok(Baseline {
            flows: Detector::fit(&[flows, &wide(&self.flows)], ModelKind::Flow, config.seed)?,
            windows,
        })
    }

    /// Takes in what was vetted, and its anomaly score.
    pub(super) fn add(&mut self, vetted: &Vetted, score: f64, most: usize) {
        match vetted.kind {
            ModelKind::Flow => {
                self.fresh_flows.add(vetted.vector, most);
                self.has_drifted |= self.watch.add(score);
            }
            ModelKind::Window => self.fresh_windows.add(vetted.vector, most),
        }
    }

    /// Whether the traffic has changed and there is enough of the new.
    pub(super) fn is_due(&self, config: &LearnConfig) -> bool {
        self.has_drifted && self.fresh_flows.len() >= config.min_flows as usize
    }

    /// Adopts the new samples if models of the learning period alone allow it. Either way, watching begins anew.
    pub(super) fn adopt(
        &mut self,
        config: &LearnConfig,
        flows: &[FeatureVector],
        windows: &[FeatureVector],
    ) -> Result<Outcome, GrowthError> {
        let first = Self::new(self.seed).fit(config, flows, windows)?;
        let (mut flows, mut windows) = (self.fresh_flows.rows(), self.fresh_windows.rows());
        let adopted = (std::mem::take(&mut self.flows), std::mem::take(&mut self.windows));
        *self = Self::new(self.seed);
        (self.flows, self.windows) = adopted;
        let all = flows.len().max(1);
        flows.retain(|row| !first.flows.is_far(&row.map(u32::from)));
        windows.retain(|row| first.windows.as_ref().is_some_and(|first| !first.is_far(&row.map(u32::from))));
        let share = 1.0 - flows.len() as f64 / all as f64;
        if share > MOST_FAR {
            return Ok(Outcome::TooFar(share));
        }
        (self.flows, self.windows) = (flows, windows);
        Ok(Outcome::Adopted)
    }
}

#[cfg(test)]
#[path = "renewal_tests.rs"]
mod tests;
