//! Suite `detection`: how well forests rank, beside other people's on the same rows; and the whole detector on labelled flows.
//!
//! Forests of 100 trees from 256 rows everywhere, on the feature matrices; measures are medians over the seeds, which only
//! the peers without one (the crate) are spared. The whole detector is `tidegate evaluate`; its peer is what was asked of it.
//! A full run also writes the tables and plots of the documentation; a smoke test takes one matrix and one log and writes none.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Context, Row, figures, median, scoring};
use crate::shell;

const SEEDS: u64 = 10;
const SMOKE_SEEDS: u64 = 1;
/// What the whole detector is to reach.
const WANTED_RECALL: f64 = 0.9;
const KINDS: [&str; 2] = ["flow", "window"];

/// A measurement of one method on one set with one seed.
#[derive(Deserialize)]
struct Measured {
    set: String,
    method: String,
    auroc: f64,
    auprc: f64,
    recall_at_1pct: f64,
}

/// The values of one method on one set, seed by seed.
#[derive(Clone, Debug, Default)]
pub(super) struct Values {
    pub(super) auroc: Vec<f64>,
    pub(super) auprc: Vec<f64>,
    pub(super) recall: Vec<f64>,
}

/// By set, then by method.
pub(super) type Ranked = BTreeMap<String, BTreeMap<String, Values>>;

/// What `tidegate evaluate` prints, as far as it is shown.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Evaluated {
    pub(super) sets: Vec<SetFigures>,
}

/// One detector on one set.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct SetFigures {
    pub(super) name: String,
    pub(super) detector: String,
    pub(super) auroc: Option<f64>,
    pub(super) auprc: Option<f64>,
    pub(super) recall_at_1pct: Option<f64>,
    pub(super) recall_at_1pct_range: Option<[f64; 2]>,
    pub(super) realised_fpr: Option<f64>,
    pub(super) detect_s_median: Option<f64>,
    pub(super) never_detected: Option<f64>,
    pub(super) false_blocks_per_device_day: Option<f64>,
}

/// Measures matrices and labelled flows.
pub(crate) fn rows(context: &Context) -> Result<Vec<Row>> {
    let seeds = if context.smoke { SMOKE_SEEDS } else { SEEDS };
    let data = shell::root().join("../shared/data");
    let matrices = data.join("matrices");
    if !matrices.is_dir() {
        shell::skipped("detection", &format!("{} is absent", matrices.display()));
        return Ok(Vec::new());
    }
    let (mut sets, mut logs) = (directories(&matrices)?, labelled_logs(&data.join("flows"))?);
    if context.smoke {
        sets.truncate(1);
        logs.truncate(1);
    }
    let ranked = rank(&matrices, &sets, seeds)?;
    let evaluated = evaluate(&logs, seeds)?;
    if !context.smoke {
        figures::write(&shell::root().join("docs"), &ranked, &evaluated.sets, seeds)?;
    }
    let mut rows = Vec::new();
    for (set, methods) in &ranked {
        for kind in KINDS {
            let Some(ours) = methods.get(&ours(kind)) else { continue };
            for (peer, theirs) in methods.iter().filter(|(name, _)| !name.starts_with("tidegate")) {
                let peer = format!("{}, {set}", versioned(peer));
                rows.push(Row::of(&format!("{kind}_auroc"), "AUROC", &ours.auroc, &peer, &theirs.auroc));
                rows.push(Row::of(
                    &format!("{kind}_recall_at_1pct"),
                    "share",
                    &ours.recall,
                    &peer,
                    &theirs.recall,
                ));
            }
        }
    }
    for set in &evaluated.sets {
        let Some(recall) = set.recall_at_1pct else { continue };
        let name = format!("{}_recall_at_1pct", set.detector);
        let peer = format!("wanted, {}", set.name);
        rows.push(Row::of(&format!("set_{name}"), "share", &[recall], &peer, &[WANTED_RECALL]));
    }
    Ok(rows)
}

fn ours(kind: &str) -> String {
    format!("tidegate {kind}")
}

fn versioned(peer: &str) -> String {
    match peer {
        "scikit-learn" => format!("{peer} {}", scoring::SCIKIT_LEARN.1),
        _ if peer.starts_with("isotree") => {
            peer.replacen("isotree", &format!("isotree {}", scoring::ISOTREE.1), 1)
        }
        _ => peer.to_owned(),
    }
}

/// Every method on every one of `sets`, which are directories in `matrices`.
fn rank(matrices: &Path, sets: &[PathBuf], seeds: u64) -> Result<Ranked> {
    let python =
        scoring::python_with(&[scoring::SCIKIT_LEARN, scoring::ISOTREE], &shell::target_dir().join("venv"))?;
    let scores = shell::target_dir().join("bench/detection");
    if scores.is_dir() {
        fs::remove_dir_all(&scores).with_context(|| format!("cannot remove {}", scores.display()))?;
    }
    shell::run(shell::cargo().args([
        "build",
        "--release",
        "--package",
        "xtask",
        "--example",
        "extended_isolation_forest",
    ]))?;
    for set in sets {
        let name = set.file_name().unwrap_or_default();
        let place = scores.join(name);
        fs::create_dir_all(&place).with_context(|| format!("cannot create {}", place.display()))?;
        for seed in 1..=seeds {
            score(set, &place, seed)?;
        }
    }
    let script = shell::root().join("xtask/src/bench/detection.py");
    let mut command = shell::command(&python);
    let printed = shell::output(command.arg(&script).arg(matrices).arg(&scores).arg(seeds.to_string()))?;
    let mut ranked = Ranked::new();
    for line in printed.lines() {
        let Measured { set, method, auroc, auprc, recall_at_1pct } =
            serde_json::from_str(line).with_context(|| format!("the report `{line}`"))?;
        let values = ranked.entry(set).or_default().entry(method).or_default();
        values.auroc.push(auroc);
        values.auprc.push(auprc);
        values.recall.push(recall_at_1pct);
    }
    Ok(ranked)
}

/// Our scores of a matrix, and those of the crate.
fn score(set: &Path, place: &Path, seed: u64) -> Result<()> {
    let (train, test) = (set.join("train.csv"), set.join("test.csv"));
    let tidegate = shell::target_dir().join("release/tidegate");
    let into = |method: &str| -> Result<File> {
        let path = place.join(format!("{method}.{seed}.txt"));
        File::create(&path).with_context(|| format!("cannot create {}", path.display()))
    };
    for kind in KINDS {
        let model = place.join(format!("{kind}.model"));
        let mut command = shell::command(&tidegate);
        command
            .args(["model", "train", "--kind", kind, "--seed", &seed.to_string(), "--features"])
            .arg(&train);
        shell::run(command.arg("--output").arg(&model))?;
        let mut command = shell::command(&tidegate);
        command.args(["model", "score", "--model"]).arg(&model).arg("--features").arg(&test);
        shell::run(command.stdout(into(&ours(kind))?))?;
    }
    let crate_scores = shell::target_dir().join("release/examples/extended_isolation_forest");
    let mut command = shell::command(&crate_scores);
    shell::run(command.arg(&train).arg(&test).stdout(into("extended-isolation-forest")?))
}

/// Labelled flow logs, the shortest first.
fn labelled_logs(flows: &Path) -> Result<Vec<PathBuf>> {
    let mut logs: Vec<PathBuf> = fs::read_dir(flows)
        .with_context(|| format!("cannot read {}", flows.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "labeled"));
    logs.sort_by_key(|path| (path.metadata().map_or(0, |meta| meta.len()), path.clone()));
    Ok(logs)
}

/// The whole detector on these flow logs.
fn evaluate(logs: &[PathBuf], seeds: u64) -> Result<Evaluated> {
    let mut command = shell::command(shell::target_dir().join("release/tidegate"));
    command.args(["evaluate", "--seeds", &seeds.to_string(), "--flows"]).args(logs);
    serde_json::from_str(&shell::output(&mut command)?).context("the report of tidegate evaluate")
}

fn directories(within: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(within)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    found.retain(|path| path.join("train.csv").is_file());
    found.sort();
    Ok(found)
}

/// Median, lowest and highest.
pub(super) fn spread(values: &[f64]) -> [f64; 3] {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    [median(values), low, high]
}
