//! The values that a field was seen to have; follows a season, and no faster.

use serde::{Deserialize, Serialize};

use super::spread::DAY_MS;

/// How far an end may move in a day, in parts of the span.
const GROWTH: f64 = 0.25;

/// From the least to the most; nothing before the first value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Range {
    pub(super) low: f64,
    pub(super) high: f64,
    is_empty: bool,
    grown_ms: u64,
}

impl Default for Range {
    fn default() -> Self {
        Self { low: 0.0, high: 0.0, is_empty: true, grown_ms: 0 }
    }
}

impl Range {
    /// Takes in a value while learning.
    pub(super) const fn learn(&mut self, value: f64) {
        if self.is_empty {
            (self.low, self.high, self.is_empty) = (value, value, false);
        } else {
            self.low = self.low.min(value);
            self.high = self.high.max(value);
        }
    }

    /// From end to end.
    pub(super) const fn span(&self) -> f64 {
        self.high - self.low
    }

    /// Whether `value` lies in it or no farther outside than `margin`.
    pub(super) fn holds(&self, value: f64, margin: f64) -> bool {
        value >= self.low - margin && value <= self.high + margin
    }

    /// Takes in a value that was judged normal.
    pub(super) fn follow(&mut self, value: f64, now_ms: u64) {
        if self.holds(value, 0.0) {
            return;
        }
        let days = now_ms.saturating_sub(self.grown_ms).min(DAY_MS) as f64 / DAY_MS as f64;
        let reach = GROWTH * days * self.span();
        self.low = self.low.min(value.max(self.low - reach));
        self.high = self.high.max(value.min(self.high + reach));
        self.grown_ms = now_ms;
    }

    pub(super) fn is_sound(&self) -> bool {
        self.low.is_finite() && self.high.is_finite() && self.low <= self.high
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp, reason = "a bound that was not moved is the very same")]
    use super::*;

    #[test]
    fn a_season_is_followed_and_an_attacker_is_not() {
        let mut range = Range::default();
        for value in [10.0, 20.0] {
            range.learn(value);
        }
        range.follow(15.0, 0);
        for step in 0..1_000 {
            range.follow(1_000.0, DAY_MS + step);
        }
        assert!(range.high < 22.6, "{}", range.high);
        range.follow(24.0, 2 * DAY_MS + 1_000);
        assert!((23.9..=24.0).contains(&range.high), "{}", range.high);
        assert_eq!(range.low, 10.0);
    }
}
