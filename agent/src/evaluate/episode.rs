//! Attacks as episodes, and what the verdicts of a run did about them.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use tidegate_common::device::DeviceKey;

use super::split::{Part, Row};
use crate::{
    enforce::Target,
    identity::Mac,
    replay::detect::{Protected, device_of},
};

const SECOND_NS: u64 = 1_000_000_000;
/// The same attack by the same host after this long a pause is another episode.
const PAUSE_NS: u64 = 3_600 * SECOND_NS;
/// A verdict this long after the last malicious packet still answers the episode.
const AFTER_NS: u64 = 120 * SECOND_NS;
/// A block of an attacker this long after its last malicious packet is false.
const STALE_NS: u64 = 600 * SECOND_NS;

/// One attack by one host on, or by, one device.
#[derive(Clone, Debug)]
pub(super) struct Episode {
    pub(super) label: usize,
    pub(super) first_ns: u64,
    last_ns: u64,
    /// Whoever may rightly be shut out for it.
    targets: HashSet<Target>,
}

/// All attacks of a set.
#[derive(Clone, Debug, Default)]
pub(super) struct Episodes {
    pub(super) list: Vec<Episode>,
    /// The episode of each row of the set, in the rows' order.
    pub(super) of_rows: Vec<Option<usize>>,
    by_target: HashMap<Target, Vec<usize>>,
    victims: HashMap<Target, Vec<(u64, u64)>>,
}

/// A verdict of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict {
    pub(super) at_ns: u64,
    pub(super) target: Target,
    /// Whether it is a new entry of the tables, not one in force already.
    pub(super) is_new: bool,
}

/// What the verdicts did.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// Seconds to the first verdict of each episode, in their order.
    pub(super) detect_s: Vec<Option<f64>>,
    pub(super) wrong_targets: u64,
}

impl Episodes {
    pub(super) fn of(rows: &[Row], labels: &HashMap<String, usize>, protected: &Protected) -> Self {
        let mut open: HashMap<(DeviceKey, usize, IpAddr), usize> = HashMap::new();
        let mut all = Self::default();
        for row in rows {
            if row.part != Part::Attack {
                all.of_rows.push(None);
                continue;
            }
            let flow = &row.flow;
            let label = labels.get(label_of(row)).copied().unwrap_or(0);
            let name = (row.device, label, flow.src);
            let known = open
                .get(&name)
                .copied()
                .filter(|index| flow.first_ns.saturating_sub(all.list[*index].last_ns) <= PAUSE_NS);
            let index = known.unwrap_or_else(|| {
                all.list.push(Episode {
                    label,
                    first_ns: flow.first_ns,
                    last_ns: flow.last_ns,
                    targets: HashSet::new(),
                });
                all.list.len() - 1
            });
            open.insert(name, index);
            all.of_rows.push(Some(index));
            let episode = &mut all.list[index];
            episode.last_ns = episode.last_ns.max(flow.last_ns);
            let target =
                if row.by_device { Target::Device(Mac(row.device.mac)) } else { Target::Address(flow.src) };
            let answers = row.by_device && !protected.holds(flow.dst, &flow.inward);
            let other = if answers { Target::Address(flow.dst) } else { target };
            for target in [target, other] {
                if episode.targets.insert(target) {
                    all.by_target.entry(target).or_default().push(index);
                }
            }
            if protected.holds(flow.dst, &flow.inward) {
                let device = Target::Device(Mac(device_of(flow.dst, &flow.inward).mac));
                all.victims.entry(device).or_default().push((flow.first_ns, flow.last_ns));
            }
        }
        all
    }

    pub(super) fn judge(&self, verdicts: &[Verdict]) -> Outcome {
        let mut outcome = Outcome { detect_s: vec![None; self.list.len()], ..Outcome::default() };
        for verdict in verdicts {
            let answered = self.by_target.get(&verdict.target).into_iter().flatten();
            let mut right = false;
            for index in answered {
                let episode = &self.list[*index];
                if verdict.at_ns < episode.first_ns {
                    continue;
                }
                right |= verdict.at_ns <= episode.last_ns.saturating_add(STALE_NS);
                let slot = &mut outcome.detect_s[*index];
                if slot.is_none() && verdict.at_ns <= episode.last_ns.saturating_add(AFTER_NS) {
                    *slot = Some((verdict.at_ns - episode.first_ns) as f64 / SECOND_NS as f64);
                }
            }
            if right || !verdict.is_new {
                continue;
            }
            let under_attack =
                self.victims.get(&verdict.target).into_iter().flatten().any(|(first_ns, last_ns)| {
                    (*first_ns..=last_ns.saturating_add(STALE_NS)).contains(&verdict.at_ns)
                });
            outcome.wrong_targets += u64::from(under_attack);
        }
        outcome
    }
}

/// The attack in the set's own words.
pub(super) fn label_of(row: &Row) -> &str {
    match row.flow.label.as_ref().map(|label| label.detail.as_str()) {
        None | Some("") => "attack",
        Some(detail) => detail,
    }
}
