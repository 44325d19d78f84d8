//! From findings to verdicts and their records: incidents, alerts, what the enforcer changed.

use std::{io, net::IpAddr};

use tidegate_common::verdict::Level;

use super::{
    gateway::{Gateway, now},
    ledger::Record,
};
use crate::{
    api::view::EventKind,
    config::values::GatewayMode,
    decide::{Decision, ResponseConfig},
    enforce::{Author, EnforceError, Enforcement, Notice, Now, Report, Target},
    identity::Mac,
    judge::{self, Bench, Judged},
    learn::{Finding, Subject},
    store::{Incident, eve},
};

impl Gateway {
    pub(super) fn judge_all(&mut self, findings: Vec<Finding>) {
        for finding in findings {
            self.judge(finding);
        }
    }

    /// Judges a finding, carries out what follows, and records why.
    pub(super) fn judge(&mut self, finding: Finding) {
        let response = self.config.response_config();
        // What came of it is on record.
        drop(self.judge_for(Author::Automatic, finding, &response));
    }

    /// The same on behalf of `author`, by the settings of `response`; the enforcement that came of it, or what kept it from coming.
    pub(super) fn judge_for(
        &mut self,
        author: Author,
        finding: Finding,
        response: &ResponseConfig,
    ) -> Result<Option<Enforcement>, EnforceError> {
        let now = now();
        let mut bench = Bench {
            mode: self.config.gateway.mode,
            response,
            learner: &self.learner,
            registry: &self.registry,
            enforcer: &mut self.enforcer,
            author,
            incidents: &mut self.incidents,
            ids: &mut self.ids,
        };
        let Judged { decision, incident, is_new, blocked, report, refused } = bench.judge(finding, now);
        // A flood of evidence is told at growing distances, and whenever what is done changes.
        let news = incident.evidence.is_power_of_two() || report.is_some();
        let installed = report
            .as_ref()
            .and_then(|report| report.changes.iter().find(|record| record.state.is_live()).cloned());
        if is_new {
            *self.tallies.incidents.entry(incident.technique.clone()).or_default() += 1;
        }
        if let Some(report) = report {
            self.commit(Ok(report), now);
        }
        if let Some(error) = &refused {
            self.tell(EventKind::Alarm, error.to_string(), Some(decision.target), Some(&incident.id));
        }
        self.log_alert(&decision, &incident, blocked, now);
        let evidence = Some(Box::new(decision.finding.clone()));
        let record = Record::Incident { incident: Box::new(incident.clone()), evidence, news };
        self.record([record], now);
        if is_new {
            let message = format!("{}: {}", incident.technique_name, decision.explanation);
            tracing::info!(incident = incident.id, technique = incident.technique, "{message}");
            self.tell(EventKind::Incident, message, Some(decision.target), Some(&incident.id));
        }
        refused.map_or(Ok(installed), Err)
    }

    fn log_alert(&mut self, decision: &Decision, incident: &Incident, blocked: bool, now: Now) {
        let source = match decision.finding.subject {
            Subject::Remote(address) => Some(address),
            Subject::Device(key) => self.registry.addresses(key).first().copied(),
        };
        let peer = judge::peer_name(&self.registry, &decision.finding, now.kernel_ns);
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
            peer,
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
        self.record(report.changes.iter().map(|record| Record::Enforcement(Box::new(record.clone()))), now);
        for record in &report.changes {
            let ended = record.ended_because.as_deref().unwrap_or(&record.explanation);
            let message = format!("{} {}: {ended}", record.target, record.state.name());
            tracing::info!(target = %record.target, state = record.state.name(), "verdict");
            if let Some(eve) = &mut self.eve {
                eve.write(&eve::tidegate("verdict", record, now.wall));
            }
            self.tell(EventKind::Verdict, message, Some(record.target), record.incident.as_deref());
            self.mend_after(record, now);
            self.tell_neighbours(record, now);
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

    /// Once a device is cut off wholly, its neighbours are told who has the addresses it claimed. Weaker levels leave it ARP.
    fn mend_after(&mut self, record: &Enforcement, now: Now) {
        let cut_off = record.level == Some(Level::Full) && self.config.gateway.mode != GatewayMode::Monitor;
        let Target::Device(mac) = record.target else { return };
        if !cut_off || record.installed_at != now.wall {
            return;
        }
        let Some(device) = self.registry.find(&mac.to_string()) else { return };
        let contested = self.registry.contested_by(device, now.kernel_ns);
        let bindings: Vec<(IpAddr, Option<Mac>)> =
            contested.into_iter().map(|(ip, owner)| (ip, owner.map(|owner| Mac(owner.mac)))).collect();
        match self.healer.mend(&bindings, &self.config.gateway.interfaces) {
            Ok(false) => {}
            Ok(true) => {
                let addresses: Vec<_> = bindings.iter().map(|(address, _)| address.to_string()).collect();
                let message = format!("neighbours of {mac} are told who has {}", addresses.join(", "));
                self.tell(EventKind::Device, message, Some(record.target), record.incident.as_deref());
            }
            Err(error) => self.mended(Err(error)),
        }
    }

    pub(super) fn mended(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.degraded(&format!("poisoned ARP caches cannot be mended: {error}"));
        }
    }

    pub(super) fn close_quiet_incidents(&mut self, now: Now) {
        for incident in judge::close_quiet(&mut self.incidents, now) {
            let record = Record::Incident { incident: Box::new(incident), evidence: None, news: true };
            self.record([record], now);
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
