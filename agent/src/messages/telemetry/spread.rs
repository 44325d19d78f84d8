//! How much something varies: the mean and the most of its sizes, in learning and afterwards.
//!
//! While learning, what is far beyond the rest is set aside; unless it occurs again and again, it is forgotten, so one forged or
//! broken value does not widen what counts as normal. Afterwards the most grows by a share a day at most, whatever passes.

use serde::{Deserialize, Serialize};

/// Milliseconds of a day.
pub(super) const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// Sizes before anything is set aside.
const FEW: u32 = 32;
/// Parts of the mean from which on a size is set aside while learning.
const ODD: f64 = 20.0;
/// Times that something is set aside and still forgotten.
const RARE: u32 = 2;
/// How much the most may grow in a day, in parts of it.
const GROWTH: f64 = 0.5;
/// Weight of a size in the mean, once there are many.
const WEIGHT: f64 = 1.0 / 512.0;

/// Sizes so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Spread {
    pub(super) count: u32,
    pub(super) mean: f64,
    pub(super) most: f64,
    /// The most of what was set aside.
    odd: f64,
    /// How many runs of it there were.
    odd_runs: u32,
    is_in_run: bool,
    grown_ms: u64,
}

impl Spread {
    /// Takes in a size while learning; whether it is set aside.
    pub(super) fn learn(&mut self, size: f64) -> bool {
        let is_odd = self.count >= FEW && size > ODD * self.mean && size > 2.0 * self.most;
        let began = is_odd && !self.is_in_run;
        self.is_in_run = is_odd;
        if is_odd && self.odd_runs + u32::from(began) <= RARE {
            self.odd_runs += u32::from(began);
            self.odd = self.odd.max(size);
            return true;
        }
        if is_odd {
            // It comes again and again: it is how this one is.
            self.most = self.most.max(self.odd);
        }
        self.most = self.most.max(size);
        self.average(size);
        false
    }

    /// Takes in a size that was judged normal.
    pub(super) fn follow(&mut self, size: f64, now_ms: u64) {
        if size > self.most {
            let days = now_ms.saturating_sub(self.grown_ms).min(DAY_MS) as f64 / DAY_MS as f64;
            self.most += (size - self.most).min(GROWTH * days * self.most);
            self.grown_ms = now_ms;
        }
        self.average(size);
    }

    fn average(&mut self, size: f64) {
        self.count = self.count.saturating_add(1);
        self.mean += (size - self.mean) * WEIGHT.max(1.0 / f64::from(self.count));
    }

    /// Whether it is as [`Self::learn`] and [`Self::follow`] leave it.
    pub(super) fn is_sound(&self) -> bool {
        [self.mean, self.most, self.odd].iter().all(|size| size.is_finite() && *size >= 0.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp, reason = "what is kept is the very value")]
    use super::*;

    fn learned(sizes: impl IntoIterator<Item = f64>) -> Spread {
        let mut spread = Spread::default();
        sizes.into_iter().for_each(|size| _ = spread.learn(size));
        spread
    }

    #[test]
    fn one_far_value_while_learning_is_forgotten_and_a_habit_is_not() {
        let usual = (0..200).map(|step| 1.0 + f64::from(step % 3) / 10.0);
        let forged = learned(usual.clone().chain([900.0]).chain(usual.clone()));
        assert_eq!(forged.most, 1.2);
        let jumps = usual.clone().chain([900.0]);
        let habit = learned(jumps.clone().chain(jumps.clone()).chain(jumps));
        assert_eq!(habit.most, 900.0);
    }

    #[test]
    fn what_is_normal_grows_slowly_however_much_is_sent() {
        let mut spread = learned((0..100).map(|_| 1.0));
        spread.follow(1.0, DAY_MS);
        for step in 0..10_000 {
            spread.follow(3.0 * spread.most, DAY_MS + step);
        }
        assert!(spread.most <= 1.6, "{}", spread.most);
        for hour in 1..=24 {
            spread.follow(1.1, DAY_MS + hour * DAY_MS / 24);
        }
        assert!(spread.is_sound());
    }
}
