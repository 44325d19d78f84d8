//! Which of the last few things of a device were evidence: windows one by one, flows also by the burst that they came in.
//!
//! The flows of one burst depend on each other, however many they are: a page that is loaded opens twenty connections that are all
//! unlike the normal traffic, or none. So a burst proves no more than one flow could, and only what goes on from burst to burst adds up. One
//! connection that lasts for hours proves no more either, however often it is looked at.

use std::collections::VecDeque;

use super::rules::SECOND_NS;

/// How long evidence counts.
const EVIDENCE_AGE_NS: u64 = 3_600 * SECOND_NS;
/// Flows that end within so long are one burst.
const BURST_NS: u64 = 10 * SECOND_NS;

/// Things that are judged one by one.
#[derive(Default)]
pub(super) struct Recent {
    evidence: VecDeque<(u64, bool)>,
}

impl Recent {
    pub(super) fn push(&mut self, evidence: bool, now_ns: u64, most: usize) {
        self.evidence.push_back((now_ns, evidence));
        let is_stale = |at_ns: u64| now_ns.saturating_sub(at_ns) > EVIDENCE_AGE_NS;
        while self.evidence.len() > most.max(1) || self.evidence.front().is_some_and(|(at, _)| is_stale(*at))
        {
            self.evidence.pop_front();
        }
    }

    /// How many were evidence, of how many.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.evidence.iter().filter(|(_, evidence)| *evidence).count(), self.evidence.len())
    }
}

/// Flows one by one and by burst, oldest first.
#[derive(Default)]
pub(super) struct Flows {
    judged: VecDeque<Judged>,
    bursts: VecDeque<Burst>,
}

/// A flow that was judged. One that goes on is judged again and again, and is no more evidence for it.
struct Judged {
    id: u64,
    at_ns: u64,
    evidence: bool,
}

#[derive(Default)]
struct Burst {
    begin_ns: u64,
    flows: u32,
    evidence: u32,
}

/// How many were evidence, of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) flows: (usize, usize),
    pub(super) bursts: (usize, usize),
}

/// Flows that are remembered to have been judged, or as many as are counted: those that go on at the same time are fewer.
const LEAST_JUDGED: usize = 64;

impl Flows {
    /// Takes in a flow, known by `id`; `most` of them, and bursts of them, are counted.
    pub(super) fn push(&mut self, id: u64, evidence: bool, now_ns: u64, most: usize) {
        if let Some(place) = self.judged.iter().position(|judged| judged.id == id) {
            if self.judged[place].evidence || !evidence {
                return;
            }
            self.judged.remove(place);
        }
        self.judged.push_back(Judged { id, at_ns: now_ns, evidence });
        let is_stale = |at_ns: u64| now_ns.saturating_sub(at_ns) > EVIDENCE_AGE_NS;
        while self.judged.len() > most.max(LEAST_JUDGED)
            || self.judged.front().is_some_and(|judged| is_stale(judged.at_ns))
        {
            self.judged.pop_front();
        }
        let goes_on =
            self.bursts.back().is_some_and(|burst| now_ns.saturating_sub(burst.begin_ns) < BURST_NS);
        if !goes_on {
            self.bursts.push_back(Burst { begin_ns: now_ns, ..Burst::default() });
        }
        if let Some(burst) = self.bursts.back_mut() {
            burst.flows = burst.flows.saturating_add(1);
            burst.evidence = burst.evidence.saturating_add(u32::from(evidence));
        }
        while self.bursts.len() > most.max(1)
            || self.bursts.front().is_some_and(|burst| is_stale(burst.begin_ns))
        {
            self.bursts.pop_front();
        }
    }

    /// Of the newest `most`; a burst is evidence with more of it than one flow in `1 / chance` would make by chance.
    pub(super) fn count(&self, most: usize, chance: f64) -> Count {
        let is_evidence = |burst: &&Burst| {
            burst.evidence > 0
                && binomial_tail(burst.evidence as usize, burst.flows as usize, chance) <= chance * ROUNDING
        };
        let newest = self.judged.iter().rev().take(most);
        Count {
            flows: (newest.filter(|judged| judged.evidence).count(), self.judged.len().min(most)),
            bursts: (self.bursts.iter().filter(is_evidence).count(), self.bursts.len()),
        }
    }
}

/// One flow that is evidence is as likely as `chance` says, up to rounding.
const ROUNDING: f64 = 1.0 + 1e-9;
/// Of a long burst as many flows as these tell all there is to tell.
const MOST_TRIES: usize = 100;

/// Chance of at least `k` hits in `n` independent tries of chance `p`.
pub(super) fn binomial_tail(k: usize, n: usize, p: f64) -> f64 {
    let (k, n) = if n > MOST_TRIES { (k * MOST_TRIES / n, MOST_TRIES) } else { (k, n) };
    let mut term = (1.0 - p).powi(n as i32);
    let (mut below, mut above) = (0.0, 0.0);
    for hits in 0..=n {
        if hits < k {
            below += term;
        } else {
            above += term;
        }
        term *= (n - hits) as f64 / (hits + 1) as f64 * p / (1.0 - p);
    }
    // The direct sum keeps small tails exact; the other keeps rounding from carrying large ones above 1.
    if above > 0.5 { (1.0_f64 - below).clamp(0.0, 1.0) } else { above }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_binomials() {
        assert!((binomial_tail(1, 1, 0.03) - 0.03).abs() < 1e-12);
        assert!((binomial_tail(1, 2, 0.5) - 0.75).abs() < 1e-12);
        assert!((binomial_tail(8, 20, 0.03) / 5.9e-8 - 1.0).abs() < 0.1, "{}", binomial_tail(8, 20, 0.03));
        assert!((binomial_tail(0, 9, 0.1) - 1.0).abs() < 1e-12);
        assert!(binomial_tail(300_000, 1_000_000, 0.03) < 1e-20);
    }

    fn bursts(flows: &Flows) -> (usize, usize) {
        flows.count(20, 0.03).bursts
    }

    #[test]
    fn a_burst_says_no_more_than_one_flow() {
        let mut flows = Flows::default();
        (0..500).for_each(|nth| flows.push(nth, true, nth * SECOND_NS / 100, 20));
        assert_eq!(flows.count(20, 0.03), Count { flows: (20, 20), bursts: (1, 1) });
        flows.push(500, true, 60 * SECOND_NS, 20);
        assert_eq!(bursts(&flows), (2, 2));
        // One in ten is what may be by chance.
        (0..10).for_each(|nth| flows.push(600 + nth, nth == 0, 120 * SECOND_NS, 20));
        assert_eq!(bursts(&flows), (2, 3));
        (0..40).for_each(|nth| flows.push(700 + nth, false, (200 + nth * 20) * SECOND_NS, 20));
        assert_eq!(bursts(&flows), (0, 20));
        flows.push(800, false, 10_000 * SECOND_NS, 20);
        let count = Count { flows: (0, 1), bursts: (0, 1) };
        assert_eq!(flows.count(20, 0.03), count, "what is older than an hour counts no more");
    }

    #[test]
    fn a_flow_that_goes_on_counts_once_and_anew_when_it_becomes_strange() {
        let mut flows = Flows::default();
        for nth in 0..20 {
            flows.push(7, nth >= 10, nth * 30 * SECOND_NS, 20);
        }
        assert_eq!(flows.count(20, 0.03), Count { flows: (1, 1), bursts: (1, 2) });
    }
}
