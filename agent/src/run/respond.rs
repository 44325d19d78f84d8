//! From findings to verdicts and their records: incidents, alerts, what the enforcer changed.

use std::time::Duration;

use tidegate_common::verdict::{Action, Level, Mode};

use super::gateway::{Gateway, now};
use crate::{
    api::view::EventKind,
    config::values::GatewayMode,
    decide::{self, Baseline, Context, Decision},
    enforce::{Author, EnforceError, Notice, Now, Order, Refusal, Report, Target},
    learn::{Finding, Phase, Subject},
    store::{Durability, Incident, eve},
};

/// An incident without new evidence for this long is over.
const INCIDENT_QUIET: Duration = Duration::from_mins(10);

impl Gateway {
    pub(super) fn judge_all(&mut self, findings: Vec<Finding>) {
        for finding in findings {
            self.judge(finding);
        }
    }

    pub(super) fn judge(&mut self, finding: Finding) {
        let now = now();
        let baseline = match finding.subject {
            Subject::Remote(_) => Baseline::None,
            Subject::Device(key) => match self.learner.phase(key) {
                Some(Phase::Ready) => Baseline::Ready,
                Some(Phase::Learning) => Baseline::Learning,
                None => Baseline::None,
            },
        };
        let armed = self.is_armed(&finding.subject, baseline);
        let mode = if armed && self.config.gateway.mode != GatewayMode::Monitor {
            Mode::Enforce
        } else {
            Mode::Monitor
        };
        let enforcer = &self.enforcer;
        let protected = |target: &Target| {
            enforcer
                .protectors(target)
                .first()
                .map(|entry| format!("never-block entry {} of {}", entry.target, entry.author))
        };
        let response = self.config.response_config();
        let decision =
            decide::decide(finding, &Context { mode, baseline, protected: &protected, response: &response });
        self.follow(&decision, armed, now);
    }

    /// In auto mode nothing is cut by itself before there is a baseline: the device's own, or for a host outside any.
    fn is_armed(&self, subject: &Subject, baseline: Baseline) -> bool {
        match (self.config.gateway.mode, subject) {
            (GatewayMode::Enforce | GatewayMode::Monitor, _) => true,
            (GatewayMode::Auto, Subject::Device(_)) => baseline == Baseline::Ready,
            (GatewayMode::Auto, Subject::Remote(_)) => {
                self.learner.status().any(|device| device.phase == Phase::Ready)
            }
        }
    }

    /// Carries out a decision and records why.
    fn follow(&mut self, decision: &Decision, armed: bool, now: Now) {
        let finding = &decision.finding;
        let name = format!("{} {}", finding.subject, finding.technique.id);
        let is_new = !self.incidents.contains_key(&name);
        let mut incident = match self.incidents.remove(&name) {
            Some(mut known) => {
                known.add(finding, now.wall);
                known
            }
            None => Incident::open(self.ids.next(now.wall), finding, now.wall),
        };
        if is_new {
            *self.tallies.incidents.entry(incident.technique.clone()).or_default() += 1;
        }
        incident.explanation.clone_from(&decision.explanation);
        incident.held_back.clone_from(&decision.held_back);
        incident.target = Some(decision.target);

        let mut blocked = false;
        incident.response = if decision.acts() {
            match self.enforcer.apply(self.order(decision, &incident.id, armed), now) {
                Ok(report) => {
                    blocked = armed && self.config.gateway.mode != GatewayMode::Monitor;
                    self.commit(Ok(report), now);
                    decision.explanation.clone()
                }
                Err(EnforceError::Refused(Refusal::InForce { .. })) => {
                    blocked = true;
                    incident.response.clone()
                }
                Err(error) => {
                    self.tell(EventKind::Alarm, error.to_string(), Some(decision.target), Some(&incident.id));
                    incident.held_back = Some(error.to_string());
                    format!("not enforced: {error}")
                }
            }
        } else {
            decision.explanation.clone()
        };
        self.log_alert(decision, &incident, blocked, now);
        let saved = self
            .store
            .save_incident(&incident)
            .and_then(|()| self.store.add_evidence(&incident.id, &decision.finding, now.wall));
        self.stored(saved);
        if is_new {
            let message = format!("{}: {}", incident.technique_name, decision.explanation);
            tracing::info!(incident = incident.id, technique = incident.technique, "{message}");
            self.tell(EventKind::Incident, message, Some(decision.target), Some(&incident.id));
        }
        self.incidents.insert(name, incident);
    }

    fn order(&self, decision: &Decision, incident: &str, armed: bool) -> Order {
        let (action, level) = match (armed, decision.level) {
            (true, level) => (decision.action, level),
            (false, Some(_)) => (decision.action, Some(Level::Observe)),
            (false, None) => (Action::Observe, None),
        };
        Order {
            target: decision.target,
            action,
            level,
            reason: decision.reason,
            author: Author::Automatic,
            ttl: Some(decision.ttl),
            rate_pps: None,
            rule: decision.finding.rule.map(str::to_owned),
            technique: Some(decision.finding.technique.id.to_owned()),
            incident: Some(incident.to_owned()),
            explanation: decision.explanation.clone(),
            aliases: self.aliases(&decision.target),
        }
    }

    fn log_alert(&mut self, decision: &Decision, incident: &Incident, blocked: bool, now: Now) {
        let source = match decision.finding.subject {
            Subject::Remote(address) => Some(address),
            Subject::Device(key) => self.registry.addresses(key).first().copied(),
        };
        let Some(eve) = &mut self.eve else { return };
        let severity = if decision.acts() { 1 } else { 3 };
        let tuple = eve::Tuple {
            src: source.map(|address| (address, 0)),
            dest: decision.finding.victim.map(|address| (address, 0)),
            proto: None,
        };
        let alert = eve::Alert {
            tuple,
            in_iface: None,
            blocked,
            rule: decision.finding.rule.unwrap_or("model"),
            signature: &decision.finding.detail,
            category: decision.finding.technique.name,
            severity,
            tidegate: serde_json::json!({
                "incident": incident.id,
                "technique": decision.finding.technique.id,
                "target": decision.target,
                "score": decision.finding.score,
                "p_value": decision.finding.p_value,
                "explanation": decision.explanation,
                "held_back": decision.held_back,
            }),
        };
        eve.write(&eve::alert(&alert, now.wall));
    }

    /// Stores what an operation of the enforcer changed and passes its notices on.
    pub(super) fn commit(&mut self, outcome: Result<Report, EnforceError>, now: Now) {
        let report = match outcome {
            Ok(report) => report,
            Err(error) => return self.degraded(&error.to_string()),
        };
        if report.is_empty() {
            return;
        }
        let saved = self.store.batch(Durability::Process, |store| {
            report.changes.iter().try_for_each(|record| store.save_enforcement(record, now.wall))
        });
        self.stored(saved);
        for record in &report.changes {
            let ended = record.ended_because.as_deref().unwrap_or(&record.explanation);
            let message = format!("{} {}: {ended}", record.target, record.state.name());
            tracing::info!(target = %record.target, state = record.state.name(), "verdict");
            if let Some(eve) = &mut self.eve {
                eve.write(&eve::tidegate("verdict", record, now.wall));
            }
            self.tell(EventKind::Verdict, message, Some(record.target), record.incident.as_deref());
        }
        for notice in &report.notices {
            let (message, target) = describe(notice);
            if matches!(notice, Notice::RolledBack { .. }) {
                self.tallies.rollbacks += 1;
            }
            tracing::warn!("{message}");
            self.tell(EventKind::Alarm, message, target, None);
        }
    }

    pub(super) fn close_quiet_incidents(&mut self, now: Now) {
        let quiet: Vec<String> = self
            .incidents
            .iter()
            .filter(|(_, incident)| now.since(incident.last_seen) > INCIDENT_QUIET)
            .map(|(name, _)| name.clone())
            .collect();
        for name in quiet {
            if let Some(mut incident) = self.incidents.remove(&name) {
                incident.open = false;
                let saved = self.store.save_incident(&incident);
                self.stored(saved);
            }
        }
    }
}

fn describe(notice: &Notice) -> (String, Option<Target>) {
    match notice {
        Notice::RolledBack { target, lost } => (
            format!(
                "{target} was released again: the gateway lost {} right after it was shut",
                lost.join(", ")
            ),
            Some(*target),
        ),
        Notice::OutageNotOurs { lost } => {
            (format!("the gateway cannot reach {}; no verdict is to blame", lost.join(", ")), None)
        }
        Notice::Suppressed { target, by } => {
            (format!("the verdict on {target} is void: {by} may never be blocked"), Some(*target))
        }
        Notice::Drift { drift, target } => {
            (format!("kernel and desired state differed on {target} ({drift:?}); repaired"), Some(*target))
        }
    }
}
