//! Notices that a stream of numbers has changed its mean (ADWIN, Bifet and Gavaldà, SDM 2007).
//!
//! The stream is kept as buckets of growing size, a few of each, so that memory grows with its logarithm. Wherever the stream can
//! be cut into an older and a newer part whose means differ by more than chance allows, it has changed, and the older part goes.

use std::collections::VecDeque;

/// Chance of a false alarm at a cut.
const DELTA: f64 = 1e-4;
/// Buckets of one size.
const ROW: usize = 5;
/// Numbers between two looks for a change.
const EVERY: u64 = 32;
/// Smallest part that a cut may leave.
const LEAST: f64 = 16.0;
/// Largest bucket, as a power of two.
const LARGEST: usize = 16;

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    sum: f64,
    /// Sum of squared deviations from the bucket's mean.
    spread: f64,
}

/// The stream so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Adwin {
    /// Buckets of 2^i numbers, newest first.
    rows: Vec<VecDeque<Bucket>>,
    seen: u64,
}

impl Adwin {
    /// Takes in a number between 0 and 1; whether the stream has changed.
    pub(super) fn add(&mut self, value: f64) -> bool {
        self.seen += 1;
        self.insert(0, Bucket { sum: value, spread: 0.0 });
        let mut changed = false;
        if self.seen.is_multiple_of(EVERY) {
            while self.has_changed() {
                changed = true;
                self.forget_oldest();
            }
        }
        changed
    }

    fn insert(&mut self, size: usize, bucket: Bucket) {
        if self.rows.len() == size {
            self.rows.push(VecDeque::new());
        }
        self.rows[size].push_front(bucket);
        if self.rows[size].len() <= ROW {
            return;
        }
        let (Some(older), Some(newer)) = (self.rows[size].pop_back(), self.rows[size].pop_back()) else {
            return;
        };
        if size < LARGEST {
            let half = (1_u64 << size) as f64;
            let apart = (older.sum - newer.sum) / half;
            let spread = older.spread + newer.spread + apart * apart * half / 2.0;
            self.insert(size + 1, Bucket { sum: older.sum + newer.sum, spread });
        } else {
            self.rows[size].push_back(newer);
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(row) = self.rows.last_mut() {
            row.pop_back();
        }
        while self.rows.last().is_some_and(VecDeque::is_empty) {
            self.rows.pop();
        }
    }

    fn buckets(&self) -> impl Iterator<Item = (f64, Bucket)> + '_ {
        let sized = |(size, row): (usize, &'_ VecDeque<Bucket>)| {
            let size = (1_u64 << size) as f64;
            row.iter().map(move |bucket| (size, *bucket)).collect::<Vec<_>>()
        };
        self.rows.iter().enumerate().flat_map(sized)
    }

    fn has_changed(&self) -> bool {
        let (count, sum) =
            self.buckets().fold((0.0, 0.0), |(n, s), (size, bucket)| (n + size, s + bucket.sum));
        let mean = sum / count;
        let variance = self
            .buckets()
            .map(|(size, bucket)| bucket.spread + size * (bucket.sum / size - mean).powi(2))
            .sum::<f64>()
            / count;
        let doubt = (2.0 * f64::ln(count) / DELTA).ln();
        let (mut newer, mut newer_sum) = (0.0, 0.0);
        for (size, bucket) in self.buckets() {
            newer += size;
            newer_sum += bucket.sum;
            let older = count - newer;
            if older < LEAST {
                return false;
            }
            if newer < LEAST {
                continue;
            }
            let apart = (newer_sum / newer - (sum - newer_sum) / older).abs();
            let m = 1.0 / (1.0 / newer + 1.0 / older);
            if apart > (2.0 / m * variance * doubt).sqrt() + 2.0 / (3.0 * m) * doubt {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(step: u64) -> f64 {
        f64::from(tidegate_common::pod::mix64(step.wrapping_mul(0x2545_f491_4f6c_dd1d)) >> 8)
            / f64::from(1 << 24)
    }

    #[test]
    fn a_steady_stream_is_left_alone() {
        let mut adwin = Adwin::default();
        let alarms = (0..200_000).filter(|step| adwin.add(0.4 + 0.2 * noise(*step))).count();
        assert!(alarms <= 2, "{alarms} alarms");
        let buckets: usize = adwin.rows.iter().map(VecDeque::len).sum();
        assert!(buckets <= ROW * (LARGEST + 1), "{buckets} buckets");
    }

    #[test]
    fn a_jump_and_a_slow_slope_are_noticed() {
        let mut adwin = Adwin::default();
        (0..2_000).for_each(|step| _ = adwin.add(0.4 + 0.2 * noise(step)));
        let noticed = (0..600).find(|step| adwin.add(0.5 + 0.2 * noise(2_000 + step)));
        assert!(noticed.is_some_and(|step| step < 300), "{noticed:?}");

        let mut adwin = Adwin::default();
        let slope = |step: u64| 0.4 + 0.2 * noise(step) + 0.1 * step as f64 / 10_000.0;
        assert!((0..10_000).any(|step| adwin.add(slope(step))));
    }
}
