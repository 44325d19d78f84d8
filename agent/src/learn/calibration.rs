//! From path lengths to p-values that keep their promise: a rank among normal traffic that was held out, and then lately seen.
//!
//! The limit follows only what `vetting` lets through, in small steps: otherwise somebody who moves a device's traffic a little
//! at a time would silence its models. And however long somebody tries: a path length far below the held-out ones is never learned and
//! always evidence.

use super::limit::Limit;

/// Step of the limit, relative to itself, for one piece of evidence in vetted traffic.
const STEP: f64 = 0.05;

/// How far below the rarest hundredth of the held-out path lengths drift may reach, in parts of that one's distance from their
/// median.
const FAR: f64 = 0.5;

/// Least margin in parts of the median.
const LEAST_MARGIN_PART: u32 = 16;

/// Held-out path lengths from which on the rarest hundredth is worth cutting flows by.
const ENOUGH_TO_CUT: usize = 64;

/// Path lengths of normal traffic and the limit taken from them.
#[derive(Clone, Debug)]
pub(crate) struct Calibration {
    limit: Limit<u32>,
    /// Shorter path lengths are far from all that was held out.
    far: u32,
    /// Path lengths that it began with.
    held_out: usize,
}

impl Calibration {
    /// Begins with path lengths of held-out traffic, oldest first, of which the newest `most` are kept.
    pub(crate) fn new(held_out: &[u32], most: usize) -> Self {
        let newest = &held_out[held_out.len().saturating_sub(most)..];
        let mut sorted = newest.to_vec();
        sorted.sort_unstable();
        let at =
            |share: usize| sorted.get(sorted.len().saturating_sub(1) * share / 100).copied().unwrap_or(0);
        let (rare, usual) = (at(1), at(50));
        // Where all traffic is alike, the rarest says nothing of how far is far.
        let margin = (((usual - rare) as f64 * FAR) as u32).max(usual / LEAST_MARGIN_PART);
        let far = rare.saturating_sub(margin);
        Self { limit: Limit::new(newest, most, STEP), far, held_out: newest.len() }
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
    pub(crate) fn p_value(&self, sum: u32) -> f64 {
        self.limit.p_value(sum)
    }

    /// The least p-value that the path lengths it began with can tell.
    pub(super) fn rarest(&self) -> f64 {
        1.0 / (self.held_out + 1) as f64
    }

    /// P-value up to which something is evidence when `rate` of normal traffic may be: at least the smallest that so few path
    /// lengths can tell.
    pub(super) fn limit(&self, rate: f64) -> f64 {
        self.limit.at(rate).max(1.0 / (self.limit.count() + 1) as f64)
    }

    /// Takes in a path length that was vetted, and whether it had been evidence at a rate asked for of `rate`.
    pub(super) fn learn(&mut self, sum: u32, evidence: bool, rate: f64) {
        if !self.is_far(sum) {
            self.limit.keep(sum);
            self.limit.judged(evidence, rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
