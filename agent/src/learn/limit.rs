//! How rare something is among normal traffic that was seen lately, and from when on that is an alarm.
//!
//! A rank is only as good as what it is taken among: the newest normal values take the place of the oldest (conformal prediction
//! over a sliding window). The limit gives way when alarms are too frequent among them, and comes back, so that the rate asked for
//! is the balance (adaptive conformal inference, Gibbs and Candès, 2021). A rank among few values claims little: what is to be rarer
//! than one in a hundred cannot be told from fewer than 99. Which values are normal, and which alarms count, is told by whoever owns
//! a limit.

use std::collections::VecDeque;

/// Bounds of the limit, relative to the rate asked for.
const BOUNDS: (f64, f64) = (0.1, 2.0);

/// Normal values, of which the lower ones are the stranger, and the limit taken from them.
#[derive(Clone, Debug)]
pub(crate) struct Limit<T> {
    /// In the order in which they were seen, oldest first.
    seen: VecDeque<T>,
    most: usize,
    /// In parts of the rate asked for.
    factor: f64,
    step: f64,
}

impl<T: Copy + PartialOrd> Limit<T> {
    /// Begins with the newest `most` of `normal`, oldest first. One alarm takes the limit down by `step` of itself: the smaller, the
    /// more values it takes until the rate is kept, and the harder it is to silence.
    pub(crate) fn new(normal: &[T], most: usize, step: f64) -> Self {
        let newest = &normal[normal.len().saturating_sub(most)..];
        Self { seen: newest.iter().copied().collect(), most: most.max(1), factor: 1.0, step }
    }

    /// Share of normal values at least as strange, never 0.
    pub(crate) fn p_value(&self, value: T) -> f64 {
        // Counting a thousand numbers takes less than the walk through a forest, and keeping them sorted as well twice the memory.
        let at_least = self.seen.iter().filter(|normal| **normal <= value).count();
        (at_least + 1) as f64 / (self.seen.len() + 1) as f64
    }

    /// P-value up to which something is an alarm when `rate` of normal values may be.
    pub(crate) fn at(&self, rate: f64) -> f64 {
        rate * self.factor
    }

    /// How many values it has.
    pub(crate) fn count(&self) -> usize {
        self.seen.len()
    }

    /// Something was judged when `rate` of normal values may be an alarm: in balance when `rate` are.
    pub(crate) fn judged(&mut self, alarm: bool, rate: f64) {
        let step = if alarm { -self.step } else { self.step * rate / (1.0 - rate).max(0.5) };
        self.factor = (self.factor * (1.0 + step)).clamp(BOUNDS.0, BOUNDS.1);
    }

    /// Takes in a normal value.
    pub(crate) fn keep(&mut self, value: T) {
        if self.seen.len() >= self.most {
            self.seen.pop_front();
        }
        self.seen.push_back(value);
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

    /// Share of alarms among `count` normal values whose mean falls by `drift` deviations in all.
    fn realised(step: f64, rate: f64, drift: f64, follows: bool) -> f64 {
        let mut random = Pcg64Mcg::seed_from_u64(7);
        let held_out: Vec<f64> = (0..256).map(|_| noise(&mut random)).collect();
        let mut limit = Limit::new(&held_out, 1_024, step);
        let count = 20_000;
        let mut alarms = 0;
        for nth in 0..count {
            let value = noise(&mut random) - drift * f64::from(nth) / f64::from(count);
            let alarm = limit.p_value(value) <= limit.at(rate);
            alarms += i32::from(alarm);
            if follows {
                limit.keep(value);
                limit.judged(alarm, rate);
            }
        }
        f64::from(alarms) / f64::from(count)
    }

    #[test]
    fn the_rate_asked_for_is_kept_under_drift() {
        for (step, rate) in
            [(0.05, 0.003), (0.05, 0.01), (0.05, 0.03), (0.4, 0.003), (0.4, 0.01), (0.4, 0.03)]
        {
            for drift in [0.0, 1.0, -2.0] {
                let found = realised(step, rate, drift, true);
                let kept = rate / 1.5..=rate * 1.5;
                assert!(kept.contains(&found), "step {step}, asked {rate}, drift {drift}: {found}");
            }
        }
        let fixed = realised(0.05, 0.01, 2.0, false);
        assert!(fixed > 0.03, "without following, drift would give {fixed}");
    }

    #[test]
    fn few_values_claim_nothing() {
        let limit = Limit::new(&[1.0; 98], 1_024, 0.4);
        assert!(limit.p_value(0.0) > limit.at(0.01));
        let limit = Limit::new(&[1.0; 99], 1_024, 0.4);
        assert!(limit.p_value(0.0) <= limit.at(0.01));
    }

    proptest! {
        #[test]
        fn ranks_and_limits_stay_in_bounds(
            held_out in proptest::collection::vec(1..50_u32, 0..40),
            later in proptest::collection::vec((1..50_u32, any::<bool>()), 0..200),
            most in 0..30_usize,
            rate in 0.0..1.0_f64,
        ) {
            let mut limit = Limit::new(&held_out, most, 0.4);
            for (value, alarm) in later {
                limit.keep(value);
                limit.judged(alarm, rate);
                prop_assert!(limit.seen.len() <= most.max(1));
                prop_assert!((0.0..=1.0).contains(&limit.p_value(value)));
                prop_assert!((rate * BOUNDS.0 - 1e-12..=rate * BOUNDS.1 + 1e-12).contains(&limit.at(rate)));
            }
        }
    }
}
