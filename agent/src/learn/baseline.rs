//! One device's normal traffic as two models: of its flows and of its windows.

use super::detector::Detector;

/// Models of flows and of windows.
#[derive(Clone, Debug)]
pub(super) struct Baseline {
    pub(super) flows: Detector,
    /// Missing until enough windows were seen.
    pub(super) windows: Option<Detector>,
}
