//! One set through the detectors, seed by seed.

use std::{
    collections::{BTreeSet, HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tidegate_common::{device::DeviceKey, feature::flow_features};

use super::{
    Plan,
    episode::{Episodes, Verdict, label_of},
    found::{FlowEvidence, Trouble, Troubles, found},
    report::{Frame, Sample, SeedResult, SetResult, gather, ranking},
    split::{Part, Row, Split, split},
};
use crate::{
    config::{Config, period::Period},
    judge::Judged,
    replay::{
        detect::{EndedWindow, Learned, Protected, Watch, WatchError, device_of},
        flowlog::LoggedFlow,
    },
};

/// Windows that one flow may mark: a day of the shortest.
const MOST_WINDOWS: u64 = 17_280;
const DAY_NS: f64 = 86_400e9;

/// What the labels say about a device's window.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    attack: Option<(usize, Option<usize>)>,
    test: bool,
}

/// What a gateway watched and came to.
struct Watched {
    watch: Watch,
    judged: Vec<Judged>,
    windows: Vec<EndedWindow>,
}

/// A set, ready to be run.
struct Set<'a> {
    config: Config,
    protected: &'a Protected,
    split: Split,
    labels: Vec<String>,
    /// Rows of each label.
    rows_of: Vec<usize>,
    episodes: Episodes,
}

/// Evaluates the detectors on `flows`.
pub fn evaluate(
    name: &str,
    flows: Vec<LoggedFlow>,
    config: &Config,
    plan: &Plan,
    protected: &Protected,
) -> Result<Vec<SetResult>, WatchError> {
    let mut config = config.clone();
    config.learning.window = Period::seconds(plan.window.as_secs().max(1));
    // An attack that goes on is evidence in every window, not once a minute.
    config.detection.repeat_after_s = 1;
    let split = split(flows, protected);
    let attacks = || split.rows.iter().filter(|row| row.part == Part::Attack);
    let labels: Vec<String> =
        attacks().map(label_of).collect::<BTreeSet<_>>().into_iter().map(str::to_owned).collect();
    let numbers: HashMap<String, usize> =
        labels.iter().enumerate().map(|(number, label)| (label.clone(), number)).collect();
    let episodes = Episodes::of(&split.rows, &numbers, protected);
    let mut rows_of = vec![0; labels.len()];
    for row in split.rows.iter().filter(|row| row.part == Part::Attack) {
        rows_of[numbers.get(label_of(row)).copied().unwrap_or(0)] += 1;
    }
    let set = Set { config, protected, split, labels, rows_of, episodes };

    let mut results: [Vec<SeedResult>; 3] = Default::default();
    let mut samples: [Vec<Sample>; 3] = Default::default();
    for seed in plan.seed..plan.seed.saturating_add(plan.seeds.max(1)) {
        let scored = set.run(seed)?;
        for ((results, samples), (these, result)) in results.iter_mut().zip(&mut samples).zip(scored) {
            results.push(result);
            *samples = these;
        }
    }
    let of_episodes: Vec<usize> = set.episodes.list.iter().map(|episode| episode.label).collect();
    let detectors = ["flow", "window", "combined"].into_iter().zip(&samples).zip(&results);
    Ok(detectors
        .map(|((detector, samples), results)| {
            let frame = Frame {
                name,
                detector,
                labels: &set.labels,
                episodes: &of_episodes,
                device_days: set.device_days(detector == "combined"),
                duplicates: set.split.duplicates,
            };
            gather(&frame, samples, results)
        })
        .collect())
}

fn feed(watch: &mut Watch, rows: &[Row], which: impl Fn(Part) -> bool) -> Result<(), WatchError> {
    let mut rows = rows.iter().filter(|row| which(row.part)).peekable();
    if let Some(first) = rows.peek() {
        watch.begin_file(first.flow.first_ns)?;
    }
    rows.try_for_each(|row| watch.push(Box::new(row.flow.clone())))
}

impl Set<'_> {
    /// Scores and figures of the three detectors.
    fn run(&self, seed: u64) -> Result<[(Vec<Sample>, SeedResult); 3], WatchError> {
        let learned = self.learn(seed)?;
        let watch = self.gateway(seed, &learned)?;
        let mut flows = self.flow_samples(&watch);
        let shuffled = ranking(&self.flow_samples(&self.gateway(seed, &shuffle(&learned, seed))?)).auroc;

        // Benign traffic alone gives the negatives and false blocks, the same with every attack in it the positives.
        let benign = self.watched(watch, |part| matches!(part, Part::Calibrate | Part::Test))?;
        let attacked = self.watched(self.gateway(seed, &learned)?, |part| {
            matches!(part, Part::Calibrate | Part::Test | Part::Attack)
        })?;
        let troubles = [&benign, &attacked].map(|watched| Troubles::of(&watched.watch, &watched.judged));
        let (mut windows, mut combined) = self.window_samples(&benign, false, &troubles[0]);
        let (attacked_windows, attacked_combined) = self.window_samples(&attacked, true, &troubles[1]);
        for flow in &mut flows {
            let at_ns = benign.watch.clock_of(flow.known_ns);
            flow.trouble = troubles[usize::from(flow.part == Part::Attack)].around(flow.device, at_ns);
        }
        windows.extend(attacked_windows);
        combined.extend(attacked_combined);
        let outcome = self.episodes.judge(&verdicts(&attacked.watch, &attacked.judged));
        let false_blocks =
            verdicts(&benign.watch, &benign.judged).iter().filter(|verdict| verdict.is_new).count();

        let begins: Vec<u64> = self.episodes.list.iter().map(|episode| episode.first_ns).collect();
        let result = |samples: &[Sample]| SeedResult::of(samples, self.labels.len(), &begins);
        let of_flows = SeedResult { shuffled, ..result(&flows) };
        let of_windows = result(&windows);
        let of_all = SeedResult {
            detect_s: outcome.detect_s,
            false_blocks: false_blocks as f64,
            wrong_targets: Some(outcome.wrong_targets as f64),
            ..result(&combined)
        };
        Ok([(flows, of_flows), (windows, of_windows), (combined, of_all)])
    }

    fn seeded(&self, seed: u64) -> Result<Watch, WatchError> {
        let mut config = self.config.clone();
        config.learning.seed = seed;
        Watch::new(&config, self.protected.clone())
    }

    fn learn(&self, seed: u64) -> Result<Learned, WatchError> {
        let mut watch = self.seeded(seed)?;
        watch.begin_learning();
        feed(&mut watch, &self.split.rows, |part| part == Part::Train)?;
        watch.finish_learning()?;
        Ok(watch.learned())
    }

    fn gateway(&self, seed: u64, learned: &Learned) -> Result<Watch, WatchError> {
        let mut watch = self.seeded(seed)?;
        watch.take_over(learned)?;
        Ok(watch)
    }

    fn flow_samples(&self, watch: &Watch) -> Vec<Sample> {
        let rows = self.split.rows.iter().zip(&self.episodes.of_rows);
        let judged = rows.filter(|(row, _)| !matches!(row.part, Part::Train | Part::Unknown));
        judged
            .filter_map(|(row, episode)| {
                let vector = flow_features(&row.flow.key(), &row.flow.record());
                let opinion = watch.learner().opinion_of_flow(row.device, &vector)?;
                Some(Sample {
                    score: opinion.score,
                    part: row.part,
                    label: self.label(row),
                    known_ns: row.flow.last_ns,
                    look: look(&vector),
                    episode: *episode,
                    device: row.device,
                    acts: false,
                    trouble: Trouble::default(),
                })
            })
            .collect()
    }

    /// Lets a gateway watch the parts that `which` names.
    fn watched(&self, mut watch: Watch, which: impl Fn(Part) -> bool) -> Result<Watched, WatchError> {
        watch.keep_windows();
        feed(&mut watch, &self.split.rows, which)?;
        watch.finish()?;
        Ok(Watched { judged: watch.take_judged(), windows: watch.take_windows(), watch })
    }

    /// Windows as the model alone scores them, and with everything the gateway found in them: those of attacks, or all others.
    fn window_samples(
        &self,
        watched: &Watched,
        attacks: bool,
        troubles: &Troubles,
    ) -> (Vec<Sample>, Vec<Sample>) {
        let Watched { watch, judged, windows } = watched;
        let window_ns = self.config.learning.window.as_ns();
        let marks = self.marks(watch, window_ns, attacks);
        let evidence = found(watch, judged, window_ns);
        let flows = self.flow_evidence(watch, window_ns, attacks);
        let (mut of_model, mut of_all) = (Vec::new(), Vec::new());
        for ended in windows {
            let name = (ended.device, ended.window.epoch);
            let Some(mark) = marks.get(&name) else { continue };
            let (part, label, episode) = match *mark {
                Mark { attack: Some((label, episode)), .. } => (Part::Attack, label, episode),
                Mark { test: true, .. } => (Part::Test, 0, None),
                Mark { .. } => (Part::Calibrate, 0, None),
            };
            let ends_ns = (ended.window.epoch + 1).saturating_mul(window_ns);
            let known_ns = u64::try_from(watch.wall_of(ends_ns).as_nanosecond()).unwrap_or(0);
            let mut window = ended.window;
            window.epoch = 0;
            let look = look(&bytemuck::bytes_of(&window));
            let trouble = troubles.around(ended.device, ends_ns);
            let sample = |score, acts| Sample {
                score,
                part,
                label,
                known_ns,
                look,
                episode,
                device: ended.device,
                acts,
                trouble,
            };
            if let Some(opinion) = ended.opinion {
                of_model.push(sample(opinion.score, false));
            }
            // Independent evidence adds up as logarithms do; the score itself orders what is equally rare.
            let model = ended.opinion.map_or(0.0, |opinion| opinion.score - opinion.p_value.log10());
            let found = evidence.get(&name).copied().unwrap_or_default();
            let flows = flows.get(&name).map_or(0.0, FlowEvidence::weight);
            of_all.push(sample(model + flows + found.weight(), found.acts()));
        }
        (of_model, of_all)
    }

    /// What the flow model thought of the flows that ended in each window.
    fn flow_evidence(
        &self,
        watch: &Watch,
        window_ns: u64,
        attacks: bool,
    ) -> HashMap<(DeviceKey, u64), FlowEvidence> {
        let mut evidence: HashMap<(DeviceKey, u64), FlowEvidence> = HashMap::new();
        let watched = |part| matches!(part, Part::Calibrate | Part::Test) || attacks && part == Part::Attack;
        for row in self.split.rows.iter().filter(|row| watched(row.part)) {
            let vector = flow_features(&row.flow.key(), &row.flow.record());
            let Some(opinion) = watch.learner().opinion_of_flow(row.device, &vector) else { continue };
            let epoch = watch.clock_of(row.flow.last_ns) / window_ns;
            let known = evidence.entry((row.device, epoch)).or_default();
            known.flows += 1;
            known.least_p = known.least_p.min(opinion.p_value);
            known.most_score = known.most_score.max(opinion.score);
        }
        evidence
    }

    /// What the labels say about windows: those with packets of attacks, or those of benign traffic alone.
    fn marks(&self, watch: &Watch, window_ns: u64, attacks: bool) -> HashMap<(DeviceKey, u64), Mark> {
        let mut marks: HashMap<(DeviceKey, u64), Mark> = HashMap::new();
        for (row, episode) in self.split.rows.iter().zip(&self.episodes.of_rows) {
            let wanted = match row.part {
                Part::Attack => attacks,
                Part::Test | Part::Calibrate => !attacks,
                Part::Train | Part::Unknown => false,
            };
            if !wanted {
                continue;
            }
            let flow = &row.flow;
            let first = watch.clock_of(flow.first_ns) / window_ns;
            let last = (watch.clock_of(flow.last_ns) / window_ns).min(first + MOST_WINDOWS);
            // A flow with fewer packets than windows was silent in most of them.
            let stride = ((last - first + 1) / flow.packets().max(1)).max(1);
            let other = (row.by_device && self.protected.holds(flow.dst, &flow.inward))
                .then(|| device_of(flow.dst, &flow.inward));
            for device in std::iter::once(row.device).chain(other) {
                for epoch in (first..=last).step_by(stride as usize) {
                    let mark = marks.entry((device, epoch)).or_default();
                    mark.test |= row.part == Part::Test;
                    if row.part == Part::Attack {
                        // Of several attacks the rarest names the window, or it would have none.
                        let label = self.label(row);
                        let rarer = |(known, _): &(usize, _)| self.rows_of[label] < self.rows_of[*known];
                        if mark.attack.as_ref().is_none_or(rarer) {
                            mark.attack = Some((label, *episode));
                        }
                    }
                }
            }
        }
        marks
    }

    fn label(&self, row: &Row) -> usize {
        let label = label_of(row);
        self.labels.iter().position(|known| known == label).unwrap_or(0)
    }

    /// Days of benign traffic that is judged, all devices together; with the calibration part for the whole gateway.
    fn device_days(&self, with_calibration: bool) -> f64 {
        let mut spans: HashMap<DeviceKey, (u64, u64)> = HashMap::new();
        for row in &self.split.rows {
            if row.part == Part::Test || with_calibration && row.part == Part::Calibrate {
                let span = spans.entry(row.device).or_insert((row.flow.first_ns, row.flow.last_ns));
                span.1 = span.1.max(row.flow.last_ns);
            }
        }
        spans.values().map(|(first_ns, last_ns)| (last_ns - first_ns) as f64 / DAY_NS).sum()
    }
}

fn verdicts(watch: &Watch, judged: &[Judged]) -> Vec<Verdict> {
    let acting = judged.iter().filter(|judged| judged.decision.acts());
    acting
        .map(|judged| {
            let wall = watch.wall_of(judged.decision.finding.at_ns);
            Verdict {
                at_ns: u64::try_from(wall.as_nanosecond()).unwrap_or(0),
                target: judged.decision.target,
                is_new: judged.report.is_some(),
            }
        })
        .collect()
}

/// The same baselines, their samples in another order.
fn shuffle(learned: &Learned, seed: u64) -> Learned {
    fn mix<T>(vectors: &mut [T], random: &mut Pcg64Mcg) {
        for place in (1..vectors.len()).rev() {
            vectors.swap(place, (random.next_u64() % (place as u64 + 1)) as usize);
        }
    }
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let mut shuffled = learned.clone();
    for baseline in &mut shuffled.baselines {
        mix(&mut baseline.flows, &mut random);
        mix(&mut baseline.windows, &mut random);
    }
    shuffled
}

fn look(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
