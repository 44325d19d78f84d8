//! What others than the rules and models say, another detector or knowledge about kinds of devices: evidence that is told and
//! remembered, and too little to act on by itself.

use std::net::IpAddr;

use tidegate_common::device::DeviceKey;

use super::{
    finding::{Finding, Subject},
    learner::Learner,
    technique::Technique,
};

/// An alert of another detector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Who sent what it is about.
    pub subject: Subject,
    /// To whom.
    pub victim: IpAddr,
    /// 1 (grave) to 255; 0 for unknown.
    pub severity: u8,
    /// What it says, in one plain sentence.
    pub detail: String,
}

/// Rule and confidence of a severity. None reaches the default of `response.min_confidence`; the gravest is a threat all the
/// same, so a device that is being learned starts over.
const fn weight(severity: u8) -> (&'static str, f64) {
    match severity {
        1 => ("suricata-1", 0.55),
        2 => ("suricata-2", 0.4),
        _ => ("suricata-3", 0.2),
    }
}

impl Learner {
    /// Another detector's alert. Nothing is learned from what a device does around it, and repeats are told once in a while.
    pub fn observe_alert(&mut self, alert: Alert, now_ns: u64) -> Vec<Finding> {
        let (rule, score) = weight(alert.severity);
        let finding = Finding {
            subject: alert.subject,
            victim: Some(alert.victim),
            technique: Technique::REPORTED,
            rule: Some(rule),
            score,
            p_value: 1.0 - score,
            first_ns: now_ns,
            at_ns: now_ns,
            detail: alert.detail,
            notes: Vec::new(),
        };
        self.report(vec![finding], now_ns)
    }

    /// A device with a baseline does something that devices of its kind do not: a change, however sure the kind is.
    pub fn observe_unlike_kind(
        &mut self,
        device: DeviceKey,
        peer: IpAddr,
        detail: String,
        now_ns: u64,
    ) -> Vec<Finding> {
        const CONFIDENCE: f64 = 0.3;
        let finding = Finding {
            subject: Subject::Device(device),
            victim: Some(peer),
            technique: Technique::UNLIKE_KIND,
            rule: Some("kind"),
            score: CONFIDENCE,
            p_value: 1.0 - CONFIDENCE,
            first_ns: now_ns,
            at_ns: now_ns,
            detail,
            notes: Vec::new(),
        };
        self.report(vec![finding], now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::{LearnConfig, Nature, RuleConfig};

    #[test]
    fn an_alert_is_told_once_and_its_severity_is_its_nature() {
        let mut learner = Learner::new(LearnConfig::default(), RuleConfig::default()).unwrap();
        let alert = |severity| Alert {
            subject: Subject::Remote([198, 51, 100, 7].into()),
            victim: [10, 0, 0, 2].into(),
            severity,
            detail: "a signature matched".to_owned(),
        };
        let natures: Vec<Option<Nature>> = [1, 1, 2, 3, 0]
            .into_iter()
            .map(|severity| learner.observe_alert(alert(severity), 1_000).first().map(Finding::nature))
            .collect();
        assert_eq!(natures, [Some(Nature::Threat), None, Some(Nature::Anomaly), Some(Nature::Anomaly), None]);
        assert_eq!(learner.observe_alert(alert(1), u64::MAX).len(), 1, "after a while it is told again");
    }
}
