//! The last values of a field.

use serde::{Deserialize, Serialize};

/// Values that a slope is taken from, on either side.
const HALF: usize = 8;
/// Values that the level is the median of.
const LEVEL: usize = 5;

/// At most sixteen values, the newest last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Recent {
    values: Vec<f64>,
}

impl Recent {
    pub(super) fn push(&mut self, value: f64) {
        if self.values.len() == 2 * HALF {
            self.values.remove(0);
        }
        self.values.push(value);
    }

    /// The values are of another time.
    pub(super) fn clear(&mut self) {
        self.values.clear();
    }

    /// Where the values are now: the median of the last few, which one odd value does not move.
    pub(super) fn level(&self) -> Option<f64> {
        let newest = &self.values[self.values.len().saturating_sub(LEVEL)..];
        let mut sorted = [0.0; LEVEL];
        let sorted = &mut sorted[..newest.len()];
        sorted.copy_from_slice(newest);
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.get(newest.len() / 2).copied()
    }

    /// How far the mean of the newer half is from that of the older, once there are enough values.
    pub(super) fn slope(&self) -> Option<f64> {
        let (older, newer) = self.values.split_at_checked(HALF).filter(|(_, newer)| newer.len() == HALF)?;
        Some(newer.iter().zip(older).map(|(newer, older)| (newer - older) / HALF as f64).sum())
    }

    /// The slope there would be with `value` as the newest.
    pub(super) fn slope_with(&self, value: f64) -> Option<f64> {
        let slope = self.slope()?;
        let (first, middle) = (self.values[0], self.values[HALF]);
        Some(slope + (value - 2.0 * middle + first) / HALF as f64)
    }

    pub(super) fn is_sound(&self) -> bool {
        self.values.len() <= 2 * HALF && self.values.iter().all(|value| value.is_finite())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a missing slope is the test's failure")]
    use super::*;

    #[test]
    fn one_odd_value_moves_no_level() {
        let mut recent = Recent::default();
        assert_eq!((recent.level(), recent.slope()), (None, None));
        for value in [1.0, 2.0, 99.0, 2.0, 1.0] {
            recent.push(value);
        }
        assert_eq!(recent.level(), Some(2.0));
    }

    #[test]
    fn a_slope_is_known_before_its_newest_value_is_taken_in() {
        let mut recent = Recent::default();
        for value in 0..30 {
            let (value, next) = (f64::from(value * value), recent.slope_with(f64::from(value * value)));
            let was_full = recent.slope().is_some();
            recent.push(value);
            if was_full {
                assert!((recent.slope().unwrap() - next.unwrap()).abs() < 1e-9);
            }
        }
    }
}
