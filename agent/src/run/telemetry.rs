//! The loop's side of telemetry: what does not fit becomes a finding, what was learned is stored.

use super::gateway::{Gateway, now};
use crate::{
    datapath,
    learn::{Finding, Subject},
    messages::telemetry::{Alarm, Stored, Topic},
    store::{Store, StoreError},
};

/// Chance of a rule's evidence in normal traffic, an estimate.
const RULE_P: f64 = 1e-6;

impl Gateway {
    /// What an odd message of a device means.
    pub(super) fn finding_of_telemetry(&self, alarm: &Alarm) -> Finding {
        let Alarm { device, topic, identity, source, sign, field, detail, count, .. } = alarm;
        let at_ns = datapath::now_ns();
        let what = field.as_ref().map(|field| format!("{field:?}: ")).unwrap_or_default();
        let fate = if alarm.is_refused { "refused" } else { "delivered" };
        let times = if *count == 1 { String::new() } else { format!(", {count} messages by now") };
        Finding {
            subject: self.registry.resolve(*source).map_or(Subject::Remote(*source), Subject::Device),
            victim: None,
            technique: sign.technique(),
            rule: Some(sign.rule()),
            score: alarm.confidence,
            p_value: alarm.p_value.unwrap_or(RULE_P),
            first_ns: at_ns,
            at_ns,
            detail: format!(
                "telemetry of {device:?} on {topic:?}, published by {identity:?} and {fate}, is unlike before ({}): {what}{detail}{times}",
                sign.name()
            ),
            notes: Vec::new(),
        }
    }

    /// Stores a model; what cannot be stored is learned again after the next start.
    pub(super) fn keep_telemetry(&mut self, stored: &Stored) {
        let most = self.config.telemetry.models;
        let saved = self.store.save_telemetry(&stored.device, &stored.topic, &stored.model, now().wall, most);
        self.stored(saved);
    }
}

/// What was learned before.
pub(super) fn recall(store: &Store) -> Result<Vec<Stored>, StoreError> {
    let stored = store.telemetry::<Topic>()?;
    Ok(stored.into_iter().map(|(device, topic, model)| Stored { device, topic, model }).collect())
}
