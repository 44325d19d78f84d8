//! What the detector found: who is to blame, for what, on which evidence. Judging it is `decide`'s.

use std::{fmt, net::IpAddr};

use serde::{Serialize, Serializer};
use tidegate_common::device::DeviceKey;

use super::technique::Technique;
use crate::identity::Mac;

/// Who is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A host that is not behind a guarded port. The unspecified address stands for many forged sources at once.
    Remote(IpAddr),
    /// A device on the protected side.
    Device(DeviceKey),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(addr) if addr.is_unspecified() => f.write_str("many sources"),
            Self::Remote(addr) => write!(f, "{addr}"),
            Self::Device(device) => write!(f, "{}", Mac(device.mac)),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One feature of the evidence beside what is normal for the device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FeatureNote {
    /// Feature.
    pub name: &'static str,
    /// Value found, in the feature's unit.
    pub value: f64,
    /// 1st percentile of the device's normal values.
    pub normal_low: f64,
    /// 99th percentile of the device's normal values.
    pub normal_high: f64,
    /// Its share in what makes the whole anomalous, 0–1.
    pub share: f64,
}

impl FeatureNote {
    /// Whether the value by itself is unlike the normal ones.
    pub fn is_outside(&self) -> bool {
        self.value < self.normal_low || self.value > self.normal_high
    }
}

impl fmt::Display for FeatureNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, normal_low, normal_high, .. } = *self;
        // Three digits tell a share of 0.97 from one of 0.95, and are enough for a count of bytes.
        let digits = match value.abs().max(normal_high.abs()) {
            size if size < 10.0 => 2,
            size if size < 100.0 => 1,
            _ => 0,
        };
        write!(f, "{name} {value:.digits$}, normally {normal_low:.digits$} to {normal_high:.digits$}")
    }
}

/// Confidence of a rule below which what it found is an anomaly.
const THREAT_CONFIDENCE: f64 = 0.5;

/// What an operator should make of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nature {
    /// Something changed, as devices do when they are updated or used in a new way: reported, never acted upon.
    Anomaly,
    /// Something an attacker does.
    Threat,
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Who is to blame.
    pub subject: Subject,
    /// Whom it was done to, when it is one address.
    pub victim: Option<IpAddr>,
    /// What it is.
    pub technique: Technique,
    /// Rule that fired; `None` for the model.
    pub rule: Option<&'static str>,
    /// Strength, 0–1: confidence of a rule, anomaly score of the model.
    pub score: f64,
    /// Chance of evidence as strong as this in normal traffic; an estimate for rules, calibrated for the model.
    pub p_value: f64,
    /// First evidence, kernel clock.
    pub first_ns: u64,
    /// When it was found, kernel clock.
    pub at_ns: u64,
    /// One plain sentence with numbers.
    pub detail: String,
    /// The features that made it anomalous, the most important first (model findings).
    pub notes: Vec<FeatureNote>,
}

impl Finding {
    /// Whether it is a threat, or a change that is only reported.
    pub fn nature(&self) -> Nature {
        let weak = self.rule.is_some() && self.score < THREAT_CONFIDENCE;
        if weak || self.technique == Technique::CHANGE { Nature::Anomaly } else { Nature::Threat }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_has_digits_enough_to_tell_a_value_from_the_normal_ones() {
        for (value, normal_low, normal_high, is_outside, expected) in [
            (0.97, 0.21, 0.95, true, "x 0.97, normally 0.21 to 0.95"),
            (6.0, 0.0, 60.4, false, "x 6.0, normally 0.0 to 60.4"),
            (21_247.4, 0.0, 28_479.0, false, "x 21247, normally 0 to 28479"),
            (1.0, 2.0, 3.0, true, "x 1.00, normally 2.00 to 3.00"),
        ] {
            let note = FeatureNote { name: "x", value, normal_low, normal_high, share: 0.5 };
            assert_eq!((note.is_outside(), note.to_string().as_str()), (is_outside, expected));
        }
    }
}
