//! Commit-confirmed verdicts: what is new stays on trial until the gateway has proved that it can still reach what it needs.
//!
//! When something that answered before a verdict stops to answer after it, the newest verdicts on trial go first: one, then two,
//! then four at every further failed probe, so that one wrong verdict does not free every attacker of the last seconds. When
//! nothing on trial is left and the outage goes on, the verdicts were not its cause. The prober repeats a lost packet
//! before it calls something unreachable; here one report is believed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::target::Target;

/// A report older than this says nothing about the moment before a verdict.
const STALE_NS: u64 = 60_000_000_000;
/// Without any probe, a verdict is confirmed after this many windows.
const BLIND_WINDOWS: u64 = 3;

/// What the gateway itself can reach; what it does not use counts as reachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reachability {
    /// The resolver answers.
    pub dns: bool,
    /// The time server answers.
    pub ntp: bool,
    /// The cloud endpoint accepts a connection.
    pub cloud: bool,
}

impl Reachability {
    /// Everything answers.
    pub const ALL: Self = Self { dns: true, ntp: true, cloud: true };
    /// Nothing is known to answer.
    const NONE: Self = Self { dns: false, ntp: false, cloud: false };

    /// What answered in `self` and no longer does in `after`.
    pub fn lost(self, after: Self) -> Vec<&'static str> {
        [("dns", self.dns, after.dns), ("ntp", self.ntp, after.ntp), ("cloud", self.cloud, after.cloud)]
            .into_iter()
            .filter(|(_, before, after)| *before && !after)
            .map(|(name, ..)| name)
            .collect()
    }
}

#[derive(Debug)]
struct Trial {
    target: Target,
    since_ns: u64,
    before: Reachability,
}

#[derive(Debug)]
struct Outage {
    before: Reachability,
    /// How many verdicts the next failed probe takes back.
    batch: usize,
}

/// What follows from a probe.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ruling {
    pub(super) confirmed: Vec<Target>,
    pub(super) rolled_back: Vec<Target>,
    pub(super) lost: Vec<&'static str>,
    pub(super) not_ours: bool,
}

/// All verdicts on trial.
#[derive(Debug, Default)]
pub(super) struct Trials {
    /// Oldest first.
    pending: Vec<Trial>,
    last: Option<(u64, Reachability)>,
    outage: Option<Outage>,
}

impl Trials {
    /// Puts a new verdict on trial.
    pub(super) fn begin(&mut self, target: Target, now_ns: u64) {
        let fresh = self.last.filter(|(at_ns, _)| now_ns.saturating_sub(*at_ns) <= STALE_NS);
        self.begin_with(target, now_ns, fresh.map_or(Reachability::NONE, |(_, reachable)| reachable));
    }

    /// Puts a verdict on trial that was on trial when the agent stopped: everything is taken to have answered before it.
    pub(super) fn resume(&mut self, target: Target, now_ns: u64) {
        self.begin_with(target, now_ns, Reachability::ALL);
    }

    fn begin_with(&mut self, target: Target, since_ns: u64, before: Reachability) {
        self.end(&target);
        self.pending.push(Trial { target, since_ns, before });
    }

    /// Takes a verdict off trial, whatever became of it.
    pub(super) fn end(&mut self, target: &Target) {
        self.pending.retain(|trial| trial.target != *target);
    }

    /// A probe has come back.
    pub(super) fn report(&mut self, now_ns: u64, reachable: Reachability, window: Duration) -> Ruling {
        self.last = Some((now_ns, reachable));
        let mut ruling = Ruling::default();
        let suspects: Vec<usize> = (0..self.pending.len())
            .filter(|index| !self.pending[*index].before.lost(reachable).is_empty())
            .collect();
        if let Some(newest) = suspects.last() {
            let before = self.pending[*newest].before;
            let outage = self.outage.get_or_insert(Outage { before, batch: 1 });
            ruling.lost = before.lost(reachable);
            let batch = outage.batch;
            outage.batch *= 2;
            for index in suspects.into_iter().rev().take(batch) {
                ruling.rolled_back.push(self.pending.remove(index).target);
            }
            return ruling;
        }
        if let Some(outage) = self.outage.take() {
            ruling.lost = outage.before.lost(reachable);
            ruling.not_ours = !ruling.lost.is_empty();
        }
        let window_ns = window.as_nanos() as u64;
        ruling.confirmed = self.take(|trial| now_ns.saturating_sub(trial.since_ns) >= window_ns);
        ruling
    }

    /// Verdicts that no probe has judged for so long that they are taken as confirmed.
    pub(super) fn unjudged(&mut self, now_ns: u64, window: Duration) -> Vec<Target> {
        let blind_ns = (window.as_nanos() as u64).saturating_mul(BLIND_WINDOWS);
        self.take(|trial| now_ns.saturating_sub(trial.since_ns) >= blind_ns)
    }

    fn take(&mut self, done: impl Fn(&Trial) -> bool) -> Vec<Target> {
        let (taken, kept) = std::mem::take(&mut self.pending).into_iter().partition::<Vec<_>, _>(done);
        self.pending = kept;
        taken.into_iter().map(|trial| trial.target).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "fixed targets are valid")]

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const WINDOW: Duration = Duration::from_secs(10);
    const NO_DNS: Reachability = Reachability { dns: false, ..Reachability::ALL };

    fn target(last: u8) -> Target {
        format!("192.0.2.{last}").parse().unwrap()
    }

    fn on_trial(count: u8) -> Trials {
        let mut trials = Trials::default();
        trials.report(SECOND, Reachability::ALL, WINDOW);
        (1..=count).for_each(|last| trials.begin(target(last), 2 * SECOND));
        trials
    }

    #[test]
    fn the_newest_goes_first_and_the_rest_is_confirmed_once_all_answers_again() {
        let mut trials = on_trial(3);
        let ruling = trials.report(3 * SECOND, NO_DNS, WINDOW);
        assert_eq!((ruling.rolled_back, ruling.lost), (vec![target(3)], vec!["dns"]));
        assert_eq!(trials.report(4 * SECOND, Reachability::ALL, WINDOW), Ruling::default());
        assert_eq!(trials.report(12 * SECOND, Reachability::ALL, WINDOW).confirmed, [target(1), target(2)]);
    }

    #[test]
    fn an_outage_that_outlives_every_new_verdict_is_not_their_fault() {
        let mut trials = on_trial(3);
        assert_eq!(trials.report(3 * SECOND, NO_DNS, WINDOW).rolled_back, [target(3)]);
        assert_eq!(trials.report(4 * SECOND, NO_DNS, WINDOW).rolled_back, [target(2), target(1)]);
        assert!(trials.report(5 * SECOND, NO_DNS, WINDOW).not_ours);
        assert!(!trials.report(6 * SECOND, NO_DNS, WINDOW).not_ours, "said once");
        trials.begin(target(9), 7 * SECOND);
        assert_eq!(trials.report(8 * SECOND, NO_DNS, WINDOW), Ruling::default(), "was lost before");
    }

    #[test]
    fn without_probes_a_verdict_is_confirmed_late() {
        let mut trials = Trials::default();
        trials.begin(target(1), 0);
        assert!(trials.unjudged(29 * SECOND, WINDOW).is_empty());
        assert_eq!(trials.unjudged(30 * SECOND, WINDOW), [target(1)]);
    }
}
