//! What the lab found out, in the form of its JSON report. Judges nothing but the whole.

use serde::Serialize;

/// A scenario's outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Name.
    pub name: String,
    /// MITRE ATT&CK technique, as the lab calls it.
    pub technique: String,
    /// Whether an incident about the culprit appeared.
    pub detected: bool,
    /// Seconds until then.
    pub detect_s: Option<f64>,
    /// Seconds until the culprit was shut out.
    pub block_s: Option<f64>,
    /// Attack packets that came through afterwards.
    pub leaked_packets: u64,
    /// Enforcements on anyone else.
    pub false_blocks: u64,
    /// Whether every behaving device was served throughout.
    pub service_kept: bool,
}

/// What happened while all devices behaved.
#[derive(Clone, Debug, Serialize)]
pub struct Quiet {
    /// How long.
    pub minutes: f64,
    /// Enforcements on anyone.
    pub false_blocks: u64,
    /// Incidents about anyone.
    pub incidents: u64,
    /// Whether every device was served throughout.
    pub service_kept: bool,
    /// Which requests of devices failed, when and why.
    pub failures: Vec<String>,
}

/// One thing that the scenario of messages shows.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Name.
    pub step: &'static str,
    /// Whether everything went as it should.
    pub passed: bool,
    /// How long the gateway took, from the cause to the effect that the note names, in seconds.
    pub seconds: f64,
    /// What was seen.
    pub note: String,
}

/// What became of messages, and of reports about them.
#[derive(Clone, Debug, Serialize)]
pub struct Messages {
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// Reports that the gateway wrote and the cloud got, each counted once.
    pub delivered: u64,
    /// Reports that it wrote and the cloud did not get.
    pub lost: u64,
    /// Reports that came after one that was written later.
    pub reordered: u64,
    /// Reports that came again, which is allowed.
    pub repeated: u64,
    /// Reports that waited in the gateway when the cloud came back.
    pub waited: u64,
}

impl Messages {
    fn is_good(&self) -> bool {
        let arrived = self.delivered > 0 && self.lost == 0 && self.reordered == 0;
        arrived && !self.steps.is_empty() && self.steps.iter().all(|step| step.passed)
    }
}

/// The report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Number of the schema.
    pub schema: u32,
    /// One outcome a scenario.
    pub scenarios: Vec<Outcome>,
    /// The quiet run, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet: Option<Quiet>,
    /// Details of the scenario of messages, if it was played.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Messages>,
    /// From start to Tidegate's first answer, in seconds.
    pub ready_s: f64,
    /// Tidegate's resident memory at the end, in MiB.
    pub resident_mib: f64,
}

impl Report {
    /// Whether every attack was detected, shut out without a leak, nobody else was harmed, and every step passed.
    pub fn is_good(&self) -> bool {
        let good = |outcome: &Outcome| {
            outcome.detected
                && outcome.block_s.is_some()
                && outcome.leaked_packets == 0
                && outcome.false_blocks == 0
                && outcome.service_kept
        };
        let quiet = self.quiet.as_ref().is_none_or(|quiet| quiet.false_blocks == 0 && quiet.service_kept);
        let messages = self.messages.as_ref().is_none_or(Messages::is_good);
        self.scenarios.iter().all(good) && quiet && messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(passed: bool, delivered: u64, lost: u64, reordered: u64) -> Report {
        let step = Step { step: "step", passed, seconds: 0.1, note: String::new() };
        let messages = Messages { steps: vec![step], delivered, lost, reordered, repeated: 1, waited: 1 };
        Report {
            schema: 1,
            scenarios: Vec::new(),
            quiet: None,
            messages: Some(messages),
            ready_s: 1.0,
            resident_mib: 1.0,
        }
    }

    #[test]
    fn a_step_that_failed_and_a_report_that_was_lost_are_not_good() {
        assert!(played(true, 5, 0, 0).is_good());
        assert!(!played(false, 5, 0, 0).is_good());
        assert!(!played(true, 5, 1, 0).is_good());
        assert!(!played(true, 5, 0, 1).is_good());
        assert!(!played(true, 0, 0, 0).is_good(), "nothing was reported at all");
    }
}
