//! What speaks for an attack in a device's window: the opinion on its flows, and what the gateway found.

use std::collections::HashMap;

use tidegate_common::device::DeviceKey;

use crate::{
    judge::Judged,
    learn::{Finding, QUARANTINE_NS, Subject, Technique},
    replay::detect::Watch,
};

/// More than the logarithms of all that may be rare about a window add up to.
const ACTED: f64 = 100.0;

/// Flows of one window as the flow model sees them.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlowEvidence {
    pub(super) flows: u64,
    pub(super) least_p: f64,
    pub(super) most_score: f64,
}

impl Default for FlowEvidence {
    fn default() -> Self {
        Self { flows: 0, least_p: 1.0, most_score: 0.0 }
    }
}

impl FlowEvidence {
    /// As a logarithm; the rarest of many flows is less rare (Bonferroni).
    pub(super) fn weight(&self) -> f64 {
        self.most_score - (self.least_p * self.flows as f64).min(1.0).log10()
    }
}

/// What the gateway found in a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    least_p: f64,
    acts: bool,
}

impl Default for Found {
    fn default() -> Self {
        Self { least_p: 1.0, acts: false }
    }
}

impl Found {
    /// Whether it acts.
    pub(super) const fn acts(&self) -> bool {
        self.acts
    }

    /// What it acts on comes before whatever it only thinks.
    pub(super) fn weight(&self) -> f64 {
        let thought = -self.least_p.max(1e-30).log10();
        if self.acts { ACTED + thought } else { thought }
    }
}

/// What the gateway found in each device's window.
pub(super) fn found(watch: &Watch, judged: &[Judged], window_ns: u64) -> HashMap<(DeviceKey, u64), Found> {
    let mut strongest: HashMap<(DeviceKey, u64), Found> = HashMap::new();
    for Judged { decision, .. } in judged {
        let finding = &decision.finding;
        let Some(device) = device_in(watch, finding) else { continue };
        // What was waited for in vain for some seconds is found in the window of what began it, too.
        let waited_ns = finding.at_ns.saturating_sub(finding.first_ns);
        let first_ns = if waited_ns < window_ns { finding.first_ns } else { finding.at_ns };
        for at_ns in [first_ns, finding.at_ns] {
            let found = strongest.entry((device, at_ns / window_ns)).or_default();
            found.least_p = found.least_p.min(finding.p_value);
            found.acts |= decision.acts();
        }
    }
    strongest
}

/// What was found about a device around some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Something, then or within the ten minutes before or after: what the device does then is not learned.
    pub(super) spoilt: bool,
    /// Something by a rule, then or within the ten minutes before.
    pub(super) explained: bool,
}

/// When something was found about each device, or about hosts that attack it, and whether by a rule.
#[derive(Debug)]
pub(super) struct Troubles(HashMap<DeviceKey, Vec<(u64, bool)>>);

impl Troubles {
    pub(super) fn of(watch: &Watch, judged: &[Judged]) -> Self {
        let mut times: HashMap<DeviceKey, Vec<(u64, bool)>> = HashMap::new();
        for finding in judged.iter().map(|judged| &judged.decision.finding) {
            if finding.technique != Technique::CHANGE
                && let Some(device) = device_in(watch, finding)
            {
                times.entry(device).or_default().push((finding.at_ns, finding.rule.is_some()));
            }
        }
        for times in times.values_mut() {
            times.sort_unstable();
        }
        Self(times)
    }

    pub(super) fn around(&self, device: DeviceKey, at_ns: u64) -> Trouble {
        let Some(times) = self.0.get(&device) else { return Trouble::default() };
        let first = times.partition_point(|(time, _)| time.saturating_add(QUARANTINE_NS) < at_ns);
        let near = times[first..].iter().take_while(|(time, _)| *time <= at_ns.saturating_add(QUARANTINE_NS));
        near.fold(Trouble::default(), |before, (time, by_rule)| Trouble {
            spoilt: true,
            explained: before.explained || *by_rule && *time <= at_ns,
        })
    }
}

/// The device that a finding is about, or that the host it is about attacks.
fn device_in(watch: &Watch, finding: &Finding) -> Option<DeviceKey> {
    match finding.subject {
        Subject::Device(device) => Some(device),
        Subject::Remote(_) => finding.victim.and_then(|victim| watch.registry().resolve(victim)),
    }
}
