//! Which rows a detector raises an alarm for when about one in so many normal rows may: each device's rows in order of time.
//!
//! A device's limit begins with its rows of the calibration part. What was judged since is kept ten minutes later if nothing was found
//! about the device meanwhile, as a gateway's vetting does. Alarms that a rule explains, because it found something about the
//! device within the ten minutes before, count as one, or a long attack would silence the detector. What only the models
//! hold against a device may be their own mistake: such alarms count each, at once. Nothing here knows what comes.

use std::collections::{HashMap, VecDeque};

use tidegate_common::device::DeviceKey;

use super::{report::Sample, split::Part};
use crate::learn::{Limit, QUARANTINE_NS};

/// Normal rows of a device that are kept.
const KEPT: usize = 1_024;
/// Step of the limit, relative to itself, for one alarm. In the long run the realised rate is off by no more alarms than there are
/// steps between the bounds, here six: even a few hundred rows keep to it.
const STEP: f64 = 0.4;

/// Whether each of `samples` raises an alarm, in their order; rows of the calibration part do not.
pub(super) fn alarms(samples: &[&Sample], rate: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|index| (samples[*index].part != Part::Calibrate, samples[*index].known_ns));
    let mut devices: HashMap<DeviceKey, Rows> = HashMap::new();
    let mut raised = vec![false; samples.len()];
    for index in order {
        let sample = samples[index];
        let rows = devices.entry(sample.device).or_default();
        if sample.part == Part::Calibrate {
            rows.limit.keep(-sample.score);
        } else {
            raised[index] = rows.judge(sample, rate);
        }
    }
    raised
}

/// Rows of one device; the higher a score, the stranger.
struct Rows {
    limit: Limit<f64>,
    /// Scores that wait to be kept, and since when.
    waiting: VecDeque<(u64, f64)>,
    /// When the last alarm was raised that a rule explains.
    explained_ns: Option<u64>,
}

impl Default for Rows {
    fn default() -> Self {
        Self { limit: Limit::new(&[], KEPT, STEP), waiting: VecDeque::new(), explained_ns: None }
    }
}

impl Rows {
    fn judge(&mut self, sample: &Sample, rate: f64) -> bool {
        let Sample { known_ns, score, acts, trouble, .. } = *sample;
        let is_ripe = |(at_ns, _): &mut (u64, f64)| at_ns.saturating_add(QUARANTINE_NS) <= known_ns;
        while let Some((_, score)) = self.waiting.pop_front_if(is_ripe) {
            self.limit.keep(-score);
        }
        let alarm = acts || self.limit.p_value(-score) <= self.limit.at(rate);
        if !trouble.explained {
            self.limit.judged(alarm, rate);
        } else if alarm {
            let before = self.explained_ns.replace(known_ns);
            if before.is_none_or(|before| known_ns.saturating_sub(before) > QUARANTINE_NS) {
                self.limit.judged(true, rate);
            }
        }
        if !trouble.spoilt {
            self.waiting.push_back((known_ns, score));
        }
        alarm
    }
}

#[cfg(test)]
mod tests {
    use tidegate_common::pod::mix64;

    use super::*;
    use crate::evaluate::found::Trouble;

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
            trouble: Trouble::default(),
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
    fn a_few_hours_keep_the_rate_asked_for_under_drift() {
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
    fn an_attack_that_a_rule_found_neither_becomes_normal_nor_silences() {
        let mut rows: Vec<Sample> = (0..400).map(|nth| sample(nth, Part::Calibrate, noise(nth))).collect();
        let trouble = Trouble { spoilt: true, explained: true };
        rows.extend((400..4_000).map(|nth| Sample { trouble, ..sample(nth, Part::Attack, 9.0) }));
        assert!((share(&rows) - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn each_device_has_a_limit_of_its_own() {
        let calm = |nth| sample(nth, Part::Calibrate, noise(nth));
        let wild = |nth| Sample { device: DeviceKey::new([2, 0, 0, 0, 0, 2], 1), score: 40.0, ..calm(nth) };
        let mut rows: Vec<Sample> = (0..400).flat_map(|nth| [calm(nth), wild(nth)]).collect();
        rows.push(Sample { part: Part::Test, ..wild(400) });
        rows.push(Sample { part: Part::Test, score: 20.0, ..calm(400) });
        let raised = alarms(&rows.iter().collect::<Vec<_>>(), 0.01);
        assert_eq!(raised[800..], [false, true]);
    }
}
