//! What a device did lately, until it may be believed: nothing is learned from that was followed by an incident.
//!
//! Judged vectors wait for a while. If anything is found about the device meanwhile, by a rule or by the model, everything that
//! waits is dropped, and for the same while nothing new is taken. Memory is bounded: of a busy device, every k-th vector waits,
//! with k as large as needed.

use std::collections::VecDeque;

use super::{model::ModelKind, rules::SECOND_NS, samples::Row};

/// How long a vector waits, and how long a finding spoils what comes after it.
pub(crate) const QUARANTINE_NS: u64 = 600 * SECOND_NS;
/// Vectors that wait at most.
const MOST: usize = 256;

/// A judged vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Vetted {
    pub(super) at_ns: u64,
    pub(super) kind: ModelKind,
    pub(super) vector: Row,
    /// Summed path length.
    pub(super) sum: u32,
    /// Whether it counted as evidence.
    pub(super) evidence: bool,
}

/// The queue of one device.
#[derive(Debug)]
pub(super) struct Vetting {
    waiting: VecDeque<Vetted>,
    /// Every so manieth vector is taken.
    stride: u64,
    seen: u64,
    spoilt_until_ns: u64,
}

impl Default for Vetting {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), stride: 1, seen: 0, spoilt_until_ns: 0 }
    }
}

impl Vetting {
    /// Drops what waits; a quarantine that a finding began goes on.
    pub(super) fn drop_waiting(&mut self) {
        *self = Self { spoilt_until_ns: self.spoilt_until_ns, ..Self::default() };
    }

    /// A vector begins to wait.
    pub(super) fn add(&mut self, judged: Vetted) {
        self.seen += 1;
        if judged.at_ns < self.spoilt_until_ns || !self.seen.is_multiple_of(self.stride) {
            return;
        }
        if self.waiting.len() >= MOST {
            let mut keep = false;
            self.waiting.retain(|_| {
                keep = !keep;
                keep
            });
            self.stride *= 2;
        }
        self.waiting.push_back(judged);
    }

    /// Something was found about the device.
    pub(super) fn spoil(&mut self, now_ns: u64) {
        self.waiting.clear();
        self.spoilt_until_ns = now_ns.saturating_add(QUARANTINE_NS);
    }

    /// The next vector that has waited long enough.
    pub(super) fn release(&mut self, now_ns: u64) -> Option<Vetted> {
        let ripe = self.waiting.front()?.at_ns.saturating_add(QUARANTINE_NS) <= now_ns;
        if self.stride > 1 && self.waiting.len() < MOST / 4 {
            self.stride /= 2;
        }
        if ripe { self.waiting.pop_front() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Vetted {
        Vetted {
            at_ns: second * SECOND_NS,
            kind: ModelKind::Flow,
            vector: Row::default(),
            sum: second as u32,
            evidence: false,
        }
    }

    fn released(vetting: &mut Vetting, second: u64) -> usize {
        std::iter::from_fn(|| vetting.release(second * SECOND_NS)).count()
    }

    #[test]
    fn training_drops_what_waits_and_ends_no_quarantine() {
        let mut vetting = Vetting::default();
        vetting.add(at(10));
        vetting.spoil(20 * SECOND_NS);
        vetting.drop_waiting();
        (30..600).for_each(|second| vetting.add(at(second)));
        assert_eq!(released(&mut vetting, 5_000), 0);
        vetting.add(at(700));
        assert_eq!(released(&mut vetting, 5_000), 1);
    }

    #[test]
    fn what_was_followed_by_a_finding_is_forgotten() {
        let mut vetting = Vetting::default();
        (0..200).for_each(|second| vetting.add(at(second)));
        assert_eq!(released(&mut vetting, 599), 0);
        assert_eq!(released(&mut vetting, 650), 51);
        vetting.spoil(700 * SECOND_NS);
        (700..1_400).for_each(|second| vetting.add(at(second)));
        assert_eq!(released(&mut vetting, 1_899), 0, "what waited then, or came soon after, is gone");
        assert_eq!(released(&mut vetting, 1_901), 2);
    }

    #[test]
    fn a_busy_device_is_sampled_evenly() {
        let mut vetting = Vetting::default();
        for flow in 0..100_000_u64 {
            vetting.add(Vetted { at_ns: flow * SECOND_NS / 1_000, ..at(0) });
            assert!(vetting.waiting.len() <= MOST);
        }
        let times: Vec<u64> = vetting.waiting.iter().map(|judged| judged.at_ns / SECOND_NS).collect();
        let early = times.iter().filter(|second| **second < 50).count();
        assert!((times.len() * 2 / 5..=times.len() * 3 / 5).contains(&early), "{early} of {}", times.len());
    }
}
