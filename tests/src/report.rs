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
    /// From start to Tidegate's first answer, in seconds.
    pub ready_s: f64,
    /// Tidegate's resident memory at the end, in MiB.
    pub resident_mib: f64,
}

impl Report {
    /// Whether every attack was detected, shut out without a leak, and nobody else was harmed.
    pub fn is_good(&self) -> bool {
        let good = |outcome: &Outcome| {
            outcome.detected
                && outcome.block_s.is_some()
                && outcome.leaked_packets == 0
                && outcome.false_blocks == 0
                && outcome.service_kept
        };
        let quiet = self.quiet.as_ref().is_none_or(|quiet| quiet.false_blocks == 0 && quiet.service_kept);
        self.scenarios.iter().all(good) && quiet
    }
}
