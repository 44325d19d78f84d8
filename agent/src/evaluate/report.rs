//! Figures of one detector on one set, over all seeds.

use serde::Serialize;
use tidegate_common::device::DeviceKey;

use super::{
    alarms::alarms,
    found::Trouble,
    metrics::{self, Ranking, Scored, median},
};
use crate::evaluate::split::Part;

/// False-positive rate asked for.
const ASKED: f64 = 0.01;

/// One detector on one set: medians over the seeds, with the lowest and highest value where it says range.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SetResult {
    /// The set.
    pub name: String,
    /// `flow`, `window` or `combined`.
    pub detector: &'static str,
    /// Area under the ROC curve.
    pub auroc: Option<f64>,
    /// Average precision at the set's own prevalence.
    pub auprc: Option<f64>,
    /// Recall at 1 % false positives.
    pub recall_at_1pct: Option<f64>,
    /// Recall at 0.1 % false positives, where there are 1,000 negatives.
    pub recall_at_01pct: Option<f64>,
    /// Median seconds from an attack's first packet to the verdict (flow, window: to the first row that raises an alarm).
    pub detect_s_median: Option<f64>,
    /// Blocks of what is no attacker, a device and day (flow, window: rows that raise an alarm).
    pub false_blocks_per_device_day: Option<f64>,
    /// Seeds measured.
    pub seeds: u64,
    /// Lowest and highest [`Self::auroc`].
    pub auroc_range: Option<[f64; 2]>,
    /// Lowest and highest [`Self::recall_at_1pct`].
    pub recall_at_1pct_range: Option<[f64; 2]>,
    /// [`Self::auroc`] with rows that look alike to the model counted once.
    pub auroc_distinct: Option<f64>,
    /// [`Self::auroc`] of models trained on shuffled rows.
    pub auroc_shuffled: Option<f64>,
    /// Share of benign rows that raise an alarm when 1 % is asked for, the limit following vetted traffic.
    pub realised_fpr: Option<f64>,
    /// Share of attacks' rows that do.
    pub recall_at_threshold: Option<f64>,
    /// Attacks (by label, host and device, an hour's pause apart).
    pub episodes: u64,
    /// Share of them never answered by a verdict.
    pub never_detected: Option<f64>,
    /// Blocks of hosts that were being attacked.
    pub wrong_target_blocks: Option<f64>,
    /// Rows of attacks.
    pub positives: u64,
    /// Benign rows.
    pub negatives: u64,
    /// Device-days of benign traffic that was judged.
    pub device_days: f64,
    /// Rows left out because another said the same.
    pub duplicates: u64,
    /// Attack by attack, in the set's own words.
    pub attacks: Vec<AttackResult>,
}

/// One kind of attack.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AttackResult {
    /// In the set's own words.
    pub label: String,
    /// Its rows.
    pub rows: u64,
    /// Recall at 1 % false positives, median over the seeds.
    pub recall_at_1pct: Option<f64>,
    /// Attacks of this kind.
    pub episodes: u64,
    /// Share of them never answered by a verdict.
    pub never_detected: Option<f64>,
    /// Median seconds to the verdict, of those that were.
    pub detect_s_median: Option<f64>,
}

/// A row as a detector scored it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) score: f64,
    pub(super) part: Part,
    /// Attack label of a row that is part of an attack.
    pub(super) label: usize,
    /// When the score was known, nanoseconds since the epoch.
    pub(super) known_ns: u64,
    /// Rows with the same number look the same to the model.
    pub(super) look: u64,
    /// The episode it is part of.
    pub(super) episode: Option<usize>,
    pub(super) device: DeviceKey,
    /// Whether the gateway acts in it, whatever it scores.
    pub(super) acts: bool,
    /// What was found about its device around that time.
    pub(super) trouble: Trouble,
}

/// What one seed gave.
#[derive(Clone, Debug, Default)]
pub(super) struct SeedResult {
    pub(super) ranking: Ranking,
    pub(super) distinct: Option<f64>,
    pub(super) shuffled: Option<f64>,
    pub(super) realised_fpr: Option<f64>,
    pub(super) recall_at_threshold: Option<f64>,
    pub(super) label_recall: Vec<Option<f64>>,
    /// Seconds to detection by episode.
    pub(super) detect_s: Vec<Option<f64>>,
    pub(super) false_blocks: f64,
    pub(super) wrong_targets: Option<f64>,
}

/// Ranking of the judged rows.
pub(super) fn ranking(samples: &[Sample]) -> Ranking {
    metrics::ranking(&scored(samples.iter()))
}

fn scored<'a>(samples: impl Iterator<Item = &'a Sample>) -> Vec<Scored> {
    samples
        .filter(|sample| matches!(sample.part, Part::Test | Part::Attack))
        .map(|sample| Scored { score: sample.score, positive: sample.part == Part::Attack })
        .collect()
}

impl SeedResult {
    /// The figures that follow from scores alone.
    pub(super) fn of(samples: &[Sample], labels: usize, episodes: &[u64]) -> Self {
        let ranking = ranking(samples);
        let mut looks = std::collections::HashSet::new();
        let distinct =
            samples.iter().filter(|sample| looks.insert((sample.look, sample.part == Part::Attack)));
        let distinct = metrics::ranking(&scored(distinct)).auroc;
        let is_above = |limit: f64| move |sample: &&Sample| sample.score > limit;
        let test: Vec<f64> =
            samples.iter().filter(|sample| sample.part == Part::Test).map(|sample| sample.score).collect();
        // Benign traffic alone tells the rate; among it and with it, attacks are judged.
        let benign: Vec<&Sample> = samples.iter().filter(|sample| sample.part != Part::Attack).collect();
        let false_alarms = alarms(&benign, ASKED).into_iter().filter(|raised| *raised).count();
        let all: Vec<&Sample> = samples.iter().collect();
        let raised = alarms(&all, ASKED);
        let attacks = || all.iter().zip(&raised).filter(|(sample, _)| sample.part == Part::Attack);
        let share = |raised: usize, rows: usize| (rows > 0).then(|| raised as f64 / rows as f64);
        let best = metrics::threshold(&test, ASKED);
        let label_recall = (0..labels).map(|label| {
            let rows = || {
                let of_label = |sample: &&Sample| sample.part == Part::Attack && sample.label == label;
                samples.iter().filter(of_label)
            };
            share(rows().filter(is_above(best)).count(), rows().count()).filter(|_| !test.is_empty())
        });
        let mut detect_s = vec![None; episodes.len()];
        for (sample, _) in attacks().filter(|(_, raised)| **raised) {
            let Some(episode) = sample.episode else { continue };
            let took = sample.known_ns.saturating_sub(episodes[episode]) as f64 / 1e9;
            let slot: &mut Option<f64> = &mut detect_s[episode];
            *slot = Some(slot.map_or(took, |known| known.min(took)));
        }
        Self {
            ranking,
            distinct,
            shuffled: None,
            realised_fpr: share(false_alarms, test.len()),
            recall_at_threshold: share(attacks().filter(|(_, raised)| **raised).count(), attacks().count()),
            label_recall: label_recall.collect(),
            detect_s,
            false_blocks: false_alarms as f64,
            wrong_targets: None,
        }
    }
}

/// What is the same for every seed.
pub(super) struct Frame<'a> {
    pub(super) name: &'a str,
    pub(super) detector: &'static str,
    pub(super) labels: &'a [String],
    /// Label of each episode.
    pub(super) episodes: &'a [usize],
    pub(super) device_days: f64,
    pub(super) duplicates: u64,
}

/// Puts the seeds together; `samples` are of any one of them.
pub(super) fn gather(frame: &Frame<'_>, samples: &[Sample], seeds: &[SeedResult]) -> SetResult {
    let middle = |pick: &dyn Fn(&SeedResult) -> Option<f64>| median(seeds.iter().filter_map(pick));
    let range = |pick: &dyn Fn(&SeedResult) -> Option<f64>| {
        let values: Vec<f64> = seeds.iter().filter_map(pick).collect();
        let low = values.iter().copied().reduce(f64::min)?;
        Some([low, values.iter().copied().reduce(f64::max)?])
    };
    let times = |which: &dyn Fn(usize) -> bool| -> (u64, u64, Vec<f64>) {
        let (mut all, mut never, mut seconds) = (0, 0, Vec::new());
        for (index, _) in frame.episodes.iter().enumerate().filter(|(index, _)| which(*index)) {
            for seed in seeds {
                all += 1;
                match seed.detect_s.get(index).copied().flatten() {
                    Some(took) => seconds.push(took),
                    None => never += 1,
                }
            }
        }
        (all, never, seconds)
    };
    let share = |never: u64, all: u64| (all > 0).then(|| never as f64 / all as f64);
    let attacks = frame.labels.iter().enumerate().map(|(label, name)| {
        let (all, never, seconds) = times(&|index| frame.episodes[index] == label);
        AttackResult {
            label: name.clone(),
            rows: samples.iter().filter(|sample| sample.part == Part::Attack && sample.label == label).count()
                as u64,
            recall_at_1pct: middle(&|seed| seed.label_recall.get(label).copied().flatten()),
            episodes: frame.episodes.iter().filter(|of| **of == label).count() as u64,
            never_detected: share(never, all),
            detect_s_median: median(seconds),
        }
    });
    let (all, never, seconds) = times(&|_| true);
    let count = |part: Part| samples.iter().filter(|sample| sample.part == part).count() as u64;
    let false_blocks = middle(&|seed| Some(seed.false_blocks));
    SetResult {
        name: frame.name.to_owned(),
        detector: frame.detector,
        auroc: middle(&|seed| seed.ranking.auroc),
        auprc: middle(&|seed| seed.ranking.auprc),
        recall_at_1pct: middle(&|seed| seed.ranking.recall_at_1pct),
        recall_at_01pct: middle(&|seed| seed.ranking.recall_at_01pct),
        detect_s_median: median(seconds),
        false_blocks_per_device_day: false_blocks
            .filter(|_| frame.device_days > 0.0)
            .map(|blocks| blocks / frame.device_days),
        seeds: seeds.len() as u64,
        auroc_range: range(&|seed| seed.ranking.auroc),
        recall_at_1pct_range: range(&|seed| seed.ranking.recall_at_1pct),
        auroc_distinct: middle(&|seed| seed.distinct),
        auroc_shuffled: middle(&|seed| seed.shuffled),
        realised_fpr: middle(&|seed| seed.realised_fpr),
        recall_at_threshold: middle(&|seed| seed.recall_at_threshold),
        episodes: frame.episodes.len() as u64,
        never_detected: share(never, all),
        wrong_target_blocks: middle(&|seed| seed.wrong_targets),
        positives: count(Part::Attack),
        negatives: count(Part::Test),
        device_days: frame.device_days,
        duplicates: frame.duplicates,
        attacks: attacks.collect(),
    }
}
