//! Alerts of Suricata, as its event log tells them while the gateway runs.

use super::{
    gateway::{Gateway, now},
    tail::Tail,
};
use crate::{
    config::Config,
    judge,
    replay::flowlog::{LoggedAlert, eve_alert},
};

/// Alerts taken in a second; a signature that matches every packet must not keep the loop from its work.
const ALERTS_PER_SECOND: usize = 256;

/// What the alerts' log told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AlertTallies {
    /// Alerts taken.
    pub(super) taken: u64,
    /// Lines that could not be read.
    pub(super) malformed: u64,
    /// Alerts beyond what a second takes.
    pub(super) held: u64,
}

/// The log, if one is configured.
#[derive(Debug, Default)]
pub(super) struct Alerts {
    tail: Option<Tail>,
    pub(super) tallies: AlertTallies,
}

impl Alerts {
    pub(super) fn new(config: &Config) -> Self {
        let mut alerts = Self::default();
        alerts.reconfigure(config);
        alerts
    }

    /// Follows the configured log, the one before from where it is when it stays the same.
    pub(super) fn reconfigure(&mut self, config: &Config) {
        let wanted = config.eve_alerts_path();
        if self.tail.as_ref().map(Tail::path) != wanted.as_deref() {
            self.tail = wanted.map(|path| Tail::new(&path));
        }
    }

    /// Lines that could not be read, whatever the reason.
    pub(super) fn unreadable(&self) -> u64 {
        self.tallies.malformed + self.tail.as_ref().map_or(0, |tail| tail.tally.unreadable)
    }

    /// Bytes skipped because too many waited.
    pub(super) fn skipped_bytes(&self) -> u64 {
        self.tail.as_ref().map_or(0, |tail| tail.tally.skipped_bytes)
    }

    /// What is new, and why it could not be read.
    fn poll(&mut self) -> (Vec<LoggedAlert>, Option<String>) {
        let Some(tail) = &mut self.tail else { return (Vec::new(), None) };
        let tallies = &mut self.tallies;
        let mut found = Vec::new();
        let polled = tail.poll(|line| match eve_alert(line) {
            Ok(Some(_)) if found.len() >= ALERTS_PER_SECOND => tallies.held += 1,
            Ok(Some(alert)) => found.push(alert),
            Ok(None) => {}
            Err(_) => tallies.malformed += 1,
        });
        tallies.taken += found.len() as u64;
        let trouble = polled
            .err()
            .map(|error| format!("cannot follow the alerts in {}: {error}", tail.path().display()));
        (found, trouble)
    }
}

impl Gateway {
    /// Once a second: what Suricata wrote since.
    pub(super) fn take_alerts(&mut self) {
        let (alerts, trouble) = self.alerts.poll();
        if let Some(trouble) = trouble {
            self.degraded(&trouble);
        }
        for alert in alerts {
            // An event log may be behind; what it tells is news now.
            let alert = judge::reported(&self.registry, &alert);
            let findings = self.learner.observe_alert(alert, now().kernel_ns);
            self.judge_all(findings);
        }
    }
}
