//! What the models think of a flow or window, without anything being kept: for evaluation.

use serde::Serialize;
use tidegate_common::{
    device::{DeviceKey, DeviceWindow},
    feature::FeatureVector,
};

use super::{detector::Detector, learner::Learner, window::window_features};

/// A model's opinion.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Opinion {
    /// Anomaly score, 0–1, higher = more anomalous.
    pub score: f64,
    /// Share of normal traffic at least as anomalous, never below what the learning period's own held-out traffic can tell: the
    /// same vector must not be rarer later only because more was seen meanwhile.
    pub p_value: f64,
}

impl Learner {
    /// The opinion on a flow of a device with a baseline of its own.
    pub fn opinion_of_flow(&self, device: DeviceKey, vector: &FeatureVector) -> Option<Opinion> {
        let baseline = self.devices.peek(&device)?.baseline.as_ref()?;
        Some(opinion(&baseline.flows, vector))
    }

    /// The opinion on a window of a device with a baseline of its own that has a model of windows.
    pub fn opinion_of_window(&self, device: DeviceKey, window: &DeviceWindow) -> Option<Opinion> {
        let baseline = self.devices.peek(&device)?.baseline.as_ref()?;
        Some(opinion(baseline.windows.as_ref()?, &window_features(window)))
    }
}

fn opinion(detector: &Detector, vector: &FeatureVector) -> Opinion {
    let judged = detector.judge(vector);
    Opinion { score: judged.score, p_value: judged.p_value.max(detector.rarest()) }
}
