//! A bounded memory of what one source tried: each value once, with its time and outcome.

use super::Outcome;

/// Values tried, as many as fit.
#[derive(Debug)]
pub(super) struct Tries<T> {
    tries: Vec<Try<T>>,
}

#[derive(Clone, Copy, Debug)]
struct Try<T> {
    value: T,
    at_ns: u64,
    outcome: Outcome,
}

/// How the tries of a stretch of time came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Different values.
    pub(super) tried: u32,
    /// Answered.
    pub(super) answered: u32,
    /// Refused, or unanswered for longer than the grace.
    pub(super) failed: u32,
    /// First try counted.
    pub(super) first_ns: u64,
}

impl Tally {
    /// Whether the share that was answered is above `share`.
    pub(super) fn mostly_answered(&self, share: f64) -> bool {
        f64::from(self.answered) > share * f64::from(self.tried)
    }
}

impl<T: Copy + PartialEq> Tries<T> {
    pub(super) const fn new() -> Self {
        Self { tries: Vec::new() }
    }

    /// Notes a try. One that was made before counts anew only after `window_ns`. When there is no room, tries older than
    /// `stale_ns` give way; younger ones stay, because their outcome is still awaited.
    pub(super) fn note(&mut self, value: T, now_ns: u64, window_ns: u64, stale_ns: u64, capacity: usize) {
        let new = Try { value, at_ns: now_ns, outcome: Outcome::Open };
        if let Some(old) = self.tries.iter_mut().find(|old| old.value == value) {
            if now_ns.saturating_sub(old.at_ns) > window_ns {
                *old = new;
            }
        } else if self.tries.len() < capacity {
            self.tries.push(new);
        } else if let Some(oldest) = self.tries.iter_mut().min_by_key(|old| old.at_ns)
            && now_ns.saturating_sub(oldest.at_ns) > stale_ns
        {
            *oldest = new;
        }
    }

    /// Notes how a try came out; the best outcome stands.
    pub(super) fn settle(&mut self, value: T, outcome: Outcome) {
        if let Some(found) = self.tries.iter_mut().find(|found| found.value == value)
            && found.outcome != Outcome::Answered
        {
            found.outcome = outcome;
        }
    }

    /// The tries from `from_ns` on.
    pub(super) fn since(&self, from_ns: u64, now_ns: u64, grace_ns: u64) -> Tally {
        let mut tally = Tally { first_ns: now_ns, ..Tally::default() };
        for found in self.tries.iter().filter(|found| found.at_ns >= from_ns) {
            tally.tried += 1;
            tally.first_ns = tally.first_ns.min(found.at_ns);
            match found.outcome {
                Outcome::Answered => tally.answered += 1,
                Outcome::Refused => tally.failed += 1,
                Outcome::Open => tally.failed += u32::from(now_ns.saturating_sub(found.at_ns) >= grace_ns),
            }
        }
        tally
    }

    /// What failed, what was answered and the first try of both; a try's weight halves every `half_life_ns`.
    pub(super) fn weigh(&self, now_ns: u64, half_life_ns: u64, grace_ns: u64) -> (f64, f64, u64) {
        let (mut failed, mut answered, mut first_ns) = (0.0, 0.0, now_ns);
        for found in &self.tries {
            let age_ns = now_ns.saturating_sub(found.at_ns);
            let weight = (-(age_ns as f64) / half_life_ns.max(1) as f64).exp2();
            first_ns = first_ns.min(found.at_ns);
            match found.outcome {
                Outcome::Answered => answered += weight,
                Outcome::Refused => failed += weight,
                Outcome::Open if age_ns >= grace_ns => failed += weight,
                Outcome::Open => {}
            }
        }
        (failed, answered, first_ns)
    }

    /// Number of values kept.
    pub(super) const fn len(&self) -> usize {
        self.tries.len()
    }

    /// The latest try.
    pub(super) fn last_ns(&self) -> u64 {
        self.tries.iter().map(|found| found.at_ns).max().unwrap_or(0)
    }
}
