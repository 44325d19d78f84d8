//! How fast the detector may act: strikes that make repeats longer, holds that keep it away, and the hourly cap.
//!
//! All three are bounded: a flood of forged sources cannot make the agent remember without end.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::{
    record::{Author, Refusal},
    settings::Settings,
    target::Target,
};

/// Targets remembered for strikes and for holds, each.
const REMEMBERED: usize = 16_384;
const HOUR_NS: u64 = 3_600_000_000_000;

/// Why the detector must leave a target alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HoldCause {
    Released,
    RolledBack,
}

impl HoldCause {
    const fn words(self) -> &'static str {
        match self {
            Self::Released => "an operator released it",
            Self::RolledBack => "its last verdict coincided with a loss of the gateway's own reachability",
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Hold {
    until_ns: u64,
    cause: HoldCause,
}

#[derive(Debug, Clone, Copy)]
struct Strikes {
    count: u32,
    /// When the target is forgotten, kernel clock.
    until_ns: u64,
}

/// The detector's pace.
#[derive(Debug, Default)]
pub(super) struct Pace {
    strikes: HashMap<Target, Strikes>,
    /// By target and technique; no technique holds them all.
    holds: HashMap<(Target, Option<String>), Hold>,
    devices: VecDeque<u64>,
    addresses: VecDeque<u64>,
    /// Addresses that neighbours told: they take nothing from what the gateway finds itself.
    told: VecDeque<u64>,
}

impl Pace {
    /// Which strike the next verdict on `target` is, from 1.
    pub(super) fn next_strike(&self, target: &Target, now_ns: u64) -> u32 {
        let known = self.strikes.get(target).filter(|strikes| strikes.until_ns > now_ns);
        known.map_or(0, |strikes| strikes.count).saturating_add(1)
    }

    /// Remembers a verdict that ends at `expires_ns`.
    pub(super) fn strike(
        &mut self,
        target: Target,
        count: u32,
        expires_ns: u64,
        settings: &Settings,
        now_ns: u64,
    ) {
        if self.strikes.len() >= REMEMBERED {
            self.strikes.retain(|_, strikes| strikes.until_ns > now_ns);
        }
        if self.strikes.len() >= REMEMBERED
            && let Some(first) =
                self.strikes.iter().min_by_key(|(_, strikes)| strikes.until_ns).map(|(key, _)| *key)
        {
            self.strikes.remove(&first);
        }
        let until_ns = expires_ns.saturating_add(nanoseconds(settings.forget_s));
        self.strikes.insert(target, Strikes { count, until_ns });
    }

    /// Forgets what `target` did.
    pub(super) fn forgive(&mut self, target: &Target) {
        self.strikes.remove(target);
    }

    /// Keeps the detector away from `target` (for `technique`, or for all) for `length`.
    pub(super) fn hold(
        &mut self,
        target: Target,
        technique: Option<String>,
        cause: HoldCause,
        length: Duration,
        now_ns: u64,
    ) {
        if self.holds.len() >= REMEMBERED {
            self.holds.retain(|_, hold| hold.until_ns > now_ns);
        }
        if self.holds.len() < REMEMBERED && !length.is_zero() {
            let until_ns = now_ns.saturating_add(length.as_nanos() as u64);
            self.holds.insert((target, technique), Hold { until_ns, cause });
        }
    }

    /// Lifts every hold with `cause`.
    pub(super) fn lift(&mut self, cause: HoldCause) {
        self.holds.retain(|_, hold| hold.cause != cause);
    }

    /// Lifts every hold on `target`: an operator has decided anew.
    pub(super) fn lift_target(&mut self, target: &Target) {
        self.holds.retain(|(held, _), _| held != target);
    }

    pub(super) fn check_hold(
        &self,
        target: &Target,
        technique: Option<&str>,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        let all = self.holds.get(&(*target, None));
        let one = technique.and_then(|technique| self.holds.get(&(*target, Some(technique.to_owned()))));
        match [all, one]
            .into_iter()
            .flatten()
            .filter(|hold| hold.until_ns > now_ns)
            .max_by_key(|hold| hold.until_ns)
        {
            None => Ok(()),
            Some(hold) => Err(Refusal::OnHold {
                target: *target,
                remaining_s: (hold.until_ns - now_ns).div_ceil(1_000_000_000),
                cause: hold.cause.words(),
            }),
        }
    }

    /// Refuses when the hour's verdicts of this kind are used up.
    pub(super) fn check_cap(
        &mut self,
        target: &Target,
        author: &Author,
        settings: &Settings,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        let (kind, cap) = match target {
            Target::Device(_) => ("devices", settings.devices_per_hour),
            _ => ("addresses", settings.addresses_per_hour),
        };
        let past = self.past(target, author);
        while past.front().is_some_and(|then| now_ns.saturating_sub(*then) >= HOUR_NS) {
            past.pop_front();
        }
        if past.len() < cap as usize {
            Ok(())
        } else {
            Err(Refusal::BlastRadius { target: *target, kind, cap })
        }
    }

    /// Counts a verdict set at `at_ns`, which may be before the machine started, as 0.
    pub(super) fn count(&mut self, target: &Target, author: &Author, at_ns: u64) {
        self.past(target, author).push_back(at_ns);
    }

    fn past(&mut self, target: &Target, author: &Author) -> &mut VecDeque<u64> {
        match (target, author) {
            (Target::Device(_), _) => &mut self.devices,
            (_, Author::Neighbour(_)) => &mut self.told,
            _ => &mut self.addresses,
        }
    }

    /// Automatic verdicts on devices and on addresses within the last hour.
    pub(super) fn used(&self, now_ns: u64) -> (usize, usize) {
        let recent =
            |past: &VecDeque<u64>| past.iter().filter(|then| now_ns.saturating_sub(**then) < HOUR_NS).count();
        (recent(&self.devices), recent(&self.addresses))
    }
}

const fn nanoseconds(seconds: u64) -> u64 {
    seconds.saturating_mul(1_000_000_000)
}
