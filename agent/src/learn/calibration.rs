//! From path lengths to p-values that keep their promise: a rank among normal traffic that was held out, and then lately seen.
//!
//! A rank is only as good as what it is taken among. Normal traffic drifts, so a device's newest vetted path lengths take the
//! place of the oldest (conformal prediction over a sliding window), and the limit itself gives way while evidence is more or
//! less frequent in vetted traffic than was asked for (adaptive conformal inference, Gibbs and Candès, 2021). Both only ever
//! see what `vetting` lets through. And however long somebody tries: a path length far below the held-out ones is never learned and
//! always evidence.

use std::collections::VecDeque;

/// Step of the limit, relative to itself, for one piece of evidence in vetted traffic.
const STEP: f64 = 0.05;
/// Bounds of the limit, relative to the rate asked for.
const BOUNDS: (f64, f64) = (0.1, 2.0);

/// How far below the rarest hundredth of the held-out path lengths drift may reach, in parts of that one's distance from their
/// median.
const FAR: f64 = 0.5;

/// Least margin in parts of the median.
const LEAST_MARGIN_PART: u32 = 16;

/// Held-out path lengths from which on the rarest hundredth is worth cutting flows by.
const ENOUGH_TO_CUT: usize = 64;

/// Path lengths of normal traffic and the limit taken from them.
#[derive(Clone, Debug)]
pub(super) struct Calibration {
    /// In the order in which they were seen, oldest first.
    seen: VecDeque<u32>,
    most: usize,
    /// Shorter path lengths are far from all that was held out.
    far: u32,
    /// Path lengths that it began with.
    held_out: usize,
    /// The limit in parts of the rate asked for.
    factor: f64,
}

impl Calibration {
    /// Begins with path lengths of held-out traffic, oldest first, of which the newest `most` are kept.
    pub(super) fn new(held_out: &[u32], most: usize) -> Self {
        let newest = &held_out[held_out.len().saturating_sub(most)..];
        let mut sorted = newest.to_vec();
        sorted.sort_unstable();
        let at =
            |share: usize| sorted.get(sorted.len().saturating_sub(1) * share / 100).copied().unwrap_or(0);
        let (rare, usual) = (at(1), at(50));
        // Where all traffic is alike, the rarest says nothing of how far is far.
        let margin = (((usual - rare) as f64 * FAR) as u32).max(usual / LEAST_MARGIN_PART);
        let far = rare.saturating_sub(margin);
        let held_out = newest.len();
        Self { seen: newest.iter().copied().collect(), most: most.max(1), far, held_out, factor: 1.0 }
    }

    /// Whether a path length is so far below what was held out that it is never taken for a drift.
    pub(super) fn is_far(&self, sum: u32) -> bool {
        sum < self.far
    }

    /// The path length below which [`Self::is_far`] holds; 0 when too little was held out to act on it.
    pub(super) const fn far_below(&self) -> u32 {
        if self.held_out < ENOUGH_TO_CUT { 0 } else { self.far }
    }

    /// Share of normal traffic at least as anomalous, never 0.
    pub(super) fn p_value(&self, sum: u32) -> f64 {
        // Counting a thousand numbers takes less than the walk through a forest, and keeping them sorted as well twice the memory.
        let at_least = self.seen.iter().filter(|normal| **normal <= sum).count();
        (at_least + 1) as f64 / (self.seen.len() + 1) as f64
    }

    /// The least p-value that the path lengths it began with can tell.
    pub(super) fn rarest(&self) -> f64 {
        1.0 / (self.held_out + 1) as f64
    }

    /// P-value up to which something is evidence when `rate` of normal traffic may be: at least the smallest that so few path
    /// lengths can tell.
    pub(super) fn limit(&self, rate: f64) -> f64 {
        (rate * self.factor).max(1.0 / (self.seen.len() + 1) as f64)
    }

    /// Takes in a path length that was vetted, and whether it had been evidence at a rate asked for of `rate`.
    pub(super) fn learn(&mut self, sum: u32, evidence: bool, rate: f64) {
        if self.is_far(sum) {
            return;
        }
        if self.seen.len() >= self.most {
            self.seen.pop_front();
        }
        self.seen.push_back(sum);
        // In balance when `rate` of the vetted traffic is evidence.
        let step = if evidence { -STEP } else { STEP * rate / (1.0 - rate).max(0.5) };
        self.factor = (self.factor * (1.0 + step)).clamp(BOUNDS.0, BOUNDS.1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;

    fn noise(random: &mut Pcg64Mcg) -> f64 {
        (0..12).map(|_| (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64).sum::<f64>() - 6.0
    }

    /// Evidence among `count` normal path lengths whose mean moves by `drift` deviations in all.
    fn realised(rate: f64, drift: f64, vetted: bool) -> f64 {
        let mut random = Pcg64Mcg::seed_from_u64(7);
        let mut held_out: Vec<u32> = Vec::new();
        (0..256).for_each(|_| held_out.push((100_000.0 + 5_000.0 * noise(&mut random)) as u32));
        let mut calibration = Calibration::new(&held_out, 1_024);
        let count = 20_000;
        let mut evidence = 0;
        for step in 0..count {
            let mean = 100_000.0 - 5_000.0 * drift * f64::from(step) / f64::from(count);
            let sum = (mean + 5_000.0 * noise(&mut random)) as u32;
            let is_evidence = calibration.p_value(sum) <= calibration.limit(rate);
            evidence += i32::from(is_evidence);
            if vetted {
                calibration.learn(sum, is_evidence, rate);
            }
        }
        f64::from(evidence) / f64::from(count)
    }

    #[test]
    fn the_rate_asked_for_is_kept_under_drift() {
        for rate in [0.003, 0.01, 0.03] {
            for drift in [0.0, 1.0, -2.0] {
                let found = realised(rate, drift, true);
                assert!((rate / 1.5..=rate * 1.5).contains(&found), "asked {rate}, drift {drift}: {found}");
            }
        }
        let fixed = realised(0.01, 2.0, false);
        assert!(fixed > 0.03, "without following, drift would give {fixed}");
    }

    #[test]
    fn little_or_uniform_traffic_makes_nothing_usual_far() {
        assert_eq!(Calibration::new(&[50_000, 60_000], 1_024).far_below(), 0);
        let alike = Calibration::new(&[100_000; 200], 1_024);
        assert!(alike.far_below() > 0 && !alike.is_far(95_000) && alike.is_far(90_000));
    }

    #[test]
    fn what_is_far_stays_evidence_however_often_it_comes() {
        let held_out: Vec<u32> = (0..300).map(|step| 90_000 + step * 50).collect();
        let mut calibration = Calibration::new(&held_out, 1_024);
        for _ in 0..100_000 {
            calibration.learn(80_000, true, 0.01);
        }
        assert!(calibration.is_far(80_000) && calibration.p_value(80_000) <= calibration.limit(0.01));
    }

    proptest! {
        #[test]
        fn ranks_and_limits_stay_in_bounds(
            held_out in proptest::collection::vec(1..50_u32, 0..40),
            later in proptest::collection::vec((1..50_u32, any::<bool>()), 0..200),
            most in 0..30_usize,
            rate in 0.0..1.0_f64,
        ) {
            let mut calibration = Calibration::new(&held_out, most);
            for (sum, evidence) in later {
                calibration.learn(sum, evidence, rate);
                prop_assert!(calibration.seen.len() <= most.max(1));
                prop_assert!((0.0..=1.0).contains(&calibration.p_value(sum)));
                let limit = calibration.limit(rate);
                prop_assert!(limit <= (rate * BOUNDS.1).max(1.0));
            }
        }
    }
}
