//! Which rows a detector raises an alarm for when about one in so many normal rows may, judged in order of time.
//!
//! A row is ranked among the newest normal ones (conformal prediction over a sliding window): those of the calibration part and
//! whatever was judged since and vetted, as a gateway learns. A rank among few rows claims little: what is to be rarer than one in a
//! hundred cannot be told from fewer than 99. The limit gives way when alarms are too frequent, and comes back, so that the
//! rate asked for is the balance (adaptive conformal inference, Gibbs and Candès, 2021). What is found about a device keeps its rows
//! out for a while, so that an attack does not become normal; and where a rule found it, its alarms count as one, so that it does not
//! silence the detector. What only the models hold against a device may be their own mistake: such alarms count each. Which of them
//! it is shows within the ten minutes that rows are vetted for; here it is taken to be known at once.

use std::collections::{HashMap, VecDeque};

use super::{found::Trouble, report::Sample, split::Part};
use crate::learn::QUARANTINE_NS;

/// Normal rows that are kept.
const KEPT: usize = 1_024;
/// Step of the limit, relative to itself, for one alarm. In the long run the realised rate is off by no more alarms than there are
/// steps between the bounds, here six: even a few hundred rows keep to it.
const STEP: f64 = 0.4;
/// Bounds of the limit, relative to the rate asked for.
const BOUNDS: (f64, f64) = (0.1, 2.0);

/// Whether each of `samples` raises an alarm, in their order; rows of the calibration part do not.
pub(super) fn alarms(samples: &[&Sample], rate: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|index| (samples[*index].part != Part::Calibrate, samples[*index].known_ns));
    let mut limit = Limit { seen: VecDeque::new(), sorted: Vec::new(), factor: 1.0 };
    let mut waiting: VecDeque<(u64, f64)> = VecDeque::new();
    let mut incidents: HashMap<_, u64> = HashMap::new();
    let mut raised = vec![false; samples.len()];
    for index in order {
        let sample = samples[index];
        if sample.part == Part::Calibrate {
            limit.add(sample.score);
            continue;
        }
        while let Some((_, score)) =
            waiting.pop_front_if(|(at_ns, _)| at_ns.saturating_add(QUARANTINE_NS) <= sample.known_ns)
        {
            limit.add(score);
        }
        let alarm = sample.acts || limit.p_value(sample.score) <= rate * limit.factor;
        raised[index] = alarm;
        if sample.trouble == Trouble::None {
            waiting.push_back((sample.known_ns, sample.score));
            limit.learn(alarm, rate);
        } else if alarm {
            let before = incidents.insert(sample.device, sample.known_ns);
            let goes_on = before.is_some_and(|at_ns| sample.known_ns.saturating_sub(at_ns) <= QUARANTINE_NS);
            if sample.trouble == Trouble::OfModel || !goes_on {
                limit.learn(true, rate);
            }
        }
    }
    raised
}

struct Limit {
    /// Oldest first.
    seen: VecDeque<f64>,
    /// The same, lowest first.
    sorted: Vec<f64>,
    /// In parts of the rate asked for.
    factor: f64,
}

impl Limit {
    fn add(&mut self, score: f64) {
        let place =
            |sorted: &[f64], score: f64| sorted.partition_point(|known| known.total_cmp(&score).is_lt());
        if self.seen.len() >= KEPT
            && let Some(oldest) = self.seen.pop_front()
        {
            self.sorted.remove(place(&self.sorted, oldest));
        }
        self.seen.push_back(score);
        self.sorted.insert(place(&self.sorted, score), score);
    }

    /// Share of normal rows at least as anomalous, never 0.
    fn p_value(&self, score: f64) -> f64 {
        let below = self.sorted.partition_point(|known| known.total_cmp(&score).is_lt());
        (self.sorted.len() - below + 1) as f64 / (self.sorted.len() + 1) as f64
    }

    fn learn(&mut self, alarm: bool, rate: f64) {
        let step = if alarm { -STEP } else { STEP * rate / (1.0 - rate) };
        self.factor = (self.factor * (1.0 + step)).clamp(BOUNDS.0, BOUNDS.1);
    }
}

#[cfg(test)]
mod tests {
    use tidegate_common::{device::DeviceKey, pod::mix64};

    use super::*;

    const S: u64 = 1_000_000_000;

    fn sample(nth: u64, part: Part, score: f64) -> Sample {
        let device = DeviceKey::new([2, 0, 0, 0, 0, 1], 1);
        Sample {
            score,
            part,
            label: 0,
            known_ns: nth * 30 * S,
            look: nth,
            episode: None,
            device,
            acts: false,
            trouble: Trouble::None,
        }
    }

    fn noise(nth: u64) -> f64 {
        (0..12).map(|draw| f64::from(mix64(nth * 12 + draw)) / f64::from(u32::MAX)).sum::<f64>() - 6.0
    }

    fn share(samples: &[Sample]) -> f64 {
        let raised = alarms(&samples.iter().collect::<Vec<_>>(), 0.01);
        let tested = samples.iter().filter(|sample| sample.part != Part::Calibrate).count();
        raised.iter().filter(|raised| **raised).count() as f64 / tested as f64
    }

    #[test]
    fn the_rate_asked_for_is_kept_under_drift() {
        // Traffic that grows plainer all the time raises fewer alarms than may be, and that is well.
        for (drift, least) in [(-2.0, 0.0), (0.0, 0.01 / 1.5), (1.0, 0.01 / 1.5), (3.0, 0.01 / 1.5)] {
            let rows: Vec<Sample> = (0..4_200)
                .map(|nth| {
                    let part = if nth < 200 { Part::Calibrate } else { Part::Test };
                    sample(nth, part, noise(nth) + drift * nth as f64 / 4_200.0)
                })
                .collect();
            let found = share(&rows);
            assert!((least..=0.015).contains(&found), "drift {drift}: {found}");
        }
    }

    #[test]
    fn few_rows_claim_nothing_and_what_is_acted_on_is_an_alarm() {
        let mut rows: Vec<Sample> = (0..60).map(|nth| sample(nth, Part::Calibrate, noise(nth))).collect();
        rows.extend((60..70).map(|nth| sample(nth, Part::Test, 50.0)));
        assert!(share(&rows) < f64::EPSILON);
        rows.push(Sample { acts: true, ..sample(70, Part::Attack, 0.0) });
        let raised = alarms(&rows.iter().collect::<Vec<_>>(), 0.01);
        assert_eq!((raised.iter().filter(|raised| **raised).count(), raised[70]), (1, true));
    }

    #[test]
    fn an_attack_that_was_found_neither_becomes_normal_nor_silences() {
        let mut rows: Vec<Sample> = (0..400).map(|nth| sample(nth, Part::Calibrate, noise(nth))).collect();
        rows.extend(
            (400..4_000).map(|nth| Sample { trouble: Trouble::OfRule, ..sample(nth, Part::Attack, 9.0) }),
        );
        assert!((share(&rows) - 1.0).abs() < f64::EPSILON);
    }
}
