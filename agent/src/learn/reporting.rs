//! What of all that is found is said: once, not again and again, and weak signs of different kinds together.
//!
//! A sign that alone proves nothing, such as a new device that keeps calling a host nobody else knows, is reported; two
//! independent ones about the same subject within minutes are as good as one strong rule (their doubts multiply). What the
//! fleet's default thinks of a device without a baseline is said once an hour.

use std::{collections::VecDeque, num::NonZeroUsize};

use lru::LruCache;

use super::{
    device::Phase,
    finding::{Finding, Nature, Subject},
    learner::Learner,
    rules::{SECOND_NS, forget},
    technique::Technique,
};

/// Something reported: subject, technique and rule, and whether it was sure by itself. A finding of the model has no rule.
pub(super) type Report = (Subject, &'static str, Option<&'static str>, bool);

/// How long after a rule the model is silent about the same device.
const RULE_EXPLAINS_NS: u64 = 120 * SECOND_NS;
/// How many times rarer than a rule's the repetitions of a model's finding are: often enough that what goes on stays one incident.
const MODEL_REPEATS: u64 = 5;
/// How often the fleet's default speaks of a device without a baseline.
const FLEET_REPEATS_NS: u64 = 3_600 * SECOND_NS;
/// P-value below which a finding of the model is another one than a weaker one before.
const STRONG_P: f64 = 1e-10;
/// Confidence from which on a rule needs no other sign.
const SUFFICIENT: f64 = 0.6;
const MAX_SUBJECTS: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
const MAX_SIGNS: usize = 8;
/// How long a sign counts.
const SIGN_AGE_NS: u64 = 600 * SECOND_NS;
/// Signs together are never surer than this.
const MOST_CONFIDENCE: f64 = 0.9;

/// Signs about each subject that are too weak to act on.
pub(super) struct Signs {
    signs: LruCache<Subject, VecDeque<Sign>>,
}

#[derive(Clone, Copy)]
struct Sign {
    rule: &'static str,
    score: f64,
    first_ns: u64,
    at_ns: u64,
}

impl Signs {
    pub(super) fn new() -> Self {
        Self { signs: LruCache::new(MAX_SUBJECTS) }
    }

    pub(super) fn forget(&mut self, about: &impl Fn(&Subject) -> bool) {
        forget(&mut self.signs, about);
    }

    /// Takes in a weak sign; what it says together with those before it, if there are any of another kind.
    fn add(&mut self, finding: &Finding) -> Option<Finding> {
        let rule = finding.rule?;
        let signs = self.signs.get_or_insert_mut(finding.subject, VecDeque::new);
        signs.retain(|sign| sign.rule != rule && finding.at_ns.saturating_sub(sign.at_ns) <= SIGN_AGE_NS);
        if signs.len() == MAX_SIGNS {
            signs.pop_front();
        }
        let Finding { score, first_ns, at_ns, .. } = *finding;
        signs.push_back(Sign { rule, score, first_ns, at_ns });
        if signs.len() < 2 {
            return None;
        }
        let doubt: f64 = signs.iter().map(|sign| 1.0 - sign.score).product();
        let score = (1.0 - doubt).min(MOST_CONFIDENCE);
        let rules: Vec<&str> = signs.iter().map(|sign| sign.rule).collect();
        Some(Finding {
            rule: Some("several_signs"),
            score,
            p_value: (1.0 - score).powi(4),
            first_ns: signs.iter().map(|sign| sign.first_ns).min().unwrap_or(first_ns),
            detail: format!(
                "{} signs within minutes ({}); last: {}",
                signs.len(),
                rules.join(", "),
                finding.detail
            ),
            ..finding.clone()
        })
    }
}

impl Learner {
    /// Whether a finding is neither reported already nor explained by what a rule said.
    pub(super) fn is_news(&self, finding: &Finding, now_ns: u64) -> bool {
        let mut repeat_ns = u64::from(self.rules.config().repeat_after_s) * SECOND_NS;
        if finding.rule.is_none() {
            repeat_ns = match finding.subject {
                Subject::Device(device) if self.phase(device) != Some(Phase::Ready) => FLEET_REPEATS_NS,
                _ if is_strong(finding) => repeat_ns,
                _ => repeat_ns.saturating_mul(MODEL_REPEATS),
            };
        }
        let within = |report: &Report, span_ns: u64| {
            self.reported.peek(report).is_some_and(|at| now_ns.saturating_sub(*at) < span_ns)
        };
        let explained =
            finding.rule.is_none() && within(&(finding.subject, "", None, true), RULE_EXPLAINS_NS);
        let sure = (finding.subject, finding.technique.id, finding.rule, true);
        !(explained || within(&name(finding), repeat_ns) || within(&sure, repeat_ns))
    }

    /// Drops what was reported already, and what a rule explains; adds up weak signs; lets a learning device start over.
    pub(super) fn report(&mut self, mut found: Vec<Finding>, now_ns: u64) -> Vec<Finding> {
        if found.is_empty() {
            return found;
        }
        for finding in &found {
            if let Subject::Device(device) = finding.subject
                && finding.technique != Technique::CHANGE
                && let Some(state) = self.devices.peek_mut(&device)
            {
                if !is_mild(finding) {
                    state.vetting.spoil(now_ns);
                }
                state.services.spoil();
            }
        }
        found.retain(|finding| self.says(finding, now_ns));
        let weak = found.iter().filter(|finding| finding.nature() == Nature::Threat && is_weak(finding));
        let mut together: Vec<Finding> = weak.filter_map(|finding| self.signs.add(finding)).collect();
        together.retain(|finding| self.says(finding, now_ns));
        found.extend(together);
        for finding in &found {
            if let (Subject::Device(device), Some(_)) = (finding.subject, finding.rule)
                && finding.nature() == Nature::Threat
                && (!is_weak(finding) || finding.technique == Technique::REPORTED)
                && let Some(state) = self.devices.peek_mut(&device)
                && state.phase == Phase::Learning
            {
                state.start_over(&self.config, now_ns);
            }
        }
        found
    }

    /// Whether a finding is said; then it is not said again soon.
    fn says(&mut self, finding: &Finding, now_ns: u64) -> bool {
        let news = self.is_news(finding, now_ns);
        if news {
            self.reported.put(name(finding), now_ns);
            if finding.rule.is_some() && finding.nature() == Nature::Threat && !is_weak(finding) {
                self.reported.put((finding.subject, "", None, true), now_ns);
            }
        }
        news
    }
}

/// What models alone find unusual may be a busier day, and is learned from. Of that, what is far from the learning period's traffic is
/// never taken in, with or without a finding.
fn is_mild(finding: &Finding) -> bool {
    finding.rule.is_none() && !is_strong(finding)
}

/// A rule's finding that needs another to be acted on.
fn is_weak(finding: &Finding) -> bool {
    finding.rule.is_some() && finding.score < SUFFICIENT
}

fn is_strong(finding: &Finding) -> bool {
    finding.p_value < STRONG_P
}

fn name(finding: &Finding) -> Report {
    let is_sure = if finding.rule.is_some() { !is_weak(finding) } else { is_strong(finding) };
    (finding.subject, finding.technique.id, finding.rule, is_sure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::testing::{S, Script, Sim, inside};

    /// Polls of a service inside, one every 2 s, as a new sensor or a patient password guesser sends them.
    fn polls(script: &mut Script, port: u16, to: u8) {
        for poll in 0..60u64 {
            let from = inside(66, 30_000 + poll as u16);
            script.tcp(poll * 2 * S, (from, inside(to, port)), (2, 120), (2, 200), S / 100, true);
        }
    }

    fn rules(script: &mut Script) -> Vec<(&'static str, f64)> {
        let found = Sim::new().play(script, 130 * S);
        found.iter().filter_map(|(_, finding)| Some((finding.rule?, finding.score))).collect()
    }

    #[test]
    fn one_sign_is_reported_and_two_are_enough() {
        let mut script = Script::default();
        polls(&mut script, 8_080, 10);
        let alone = rules(&mut script);
        assert!(
            alone.iter().all(|(rule, score)| *rule == "service_flood" && *score < SUFFICIENT),
            "{alone:?}"
        );
        assert!(!alone.is_empty());
        polls(&mut script, 8_080, 10);
        polls(&mut script, 9_090, 100);
        let both = rules(&mut script);
        let together = both.iter().find(|(rule, _)| *rule == "several_signs");
        assert!(together.is_some_and(|(_, score)| *score >= SUFFICIENT), "{both:?}");
    }

    #[test]
    fn the_fleets_default_speaks_once_an_hour() {
        let mut sim = Sim::new();
        let unusual = |at_ns| Finding {
            subject: Subject::Device(crate::learn::testing::device(66)),
            victim: None,
            technique: Technique::UNUSUAL,
            rule: None,
            score: 0.7,
            p_value: 1e-9,
            first_ns: at_ns,
            at_ns,
            detail: String::new(),
            notes: Vec::new(),
        };
        let said = (0..600)
            .filter(|minute| !sim.learner.report(vec![unusual(minute * 60 * S)], minute * 60 * S).is_empty());
        assert_eq!(said.count(), 10);
    }
}
