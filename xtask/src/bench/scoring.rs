//! Suite `scoring`: training and scoring of isolation forests, beside scikit-learn and isotree, and the memory of many devices' models.
//!
//! 100 trees from 256 rows each and one thread everywhere, the same tables, only the work itself timed inside each process:
//! neither start-up nor reading files. One table is made from a seed; feature matrices of real flows are used as well when
//! they are there.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Context, Row};
use crate::shell;

/// Other people's forests: the argument of `scoring.py`, which is the package's name, and its version.
type Peer = (&'static str, &'static str);
pub(super) const SCIKIT_LEARN: Peer = ("scikit-learn", "1.9.1");
pub(super) const ISOTREE: Peer = ("isotree", "0.6.1.post10");
/// isotree imports it without asking for it.
const PANDAS: &str = "3.1.1";
const COLUMNS: usize = 14;
const TRAIN_ROWS: usize = 4_096;
const TEST_ROWS: usize = 20_000;
const SCORED: usize = 100_000;
const SMOKE_SCORED: usize = 5_000;
const DEVICES: usize = 1_000;
const SMOKE_DEVICES: usize = 100;
/// What the agent may have resident with [`DEVICES`] learned devices.
const BUDGET_MIB: f64 = 128.0;

/// What every side reports.
#[derive(Deserialize)]
struct Timed {
    train_ms: f64,
    rows_per_s: f64,
}

#[derive(Deserialize)]
struct Resident {
    mib: f64,
}

/// Measures the tables.
pub(crate) fn rows(context: &Context) -> Result<Vec<Row>> {
    let directory = shell::target_dir().join("bench");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let peers: &[Peer] = if context.smoke {
        shell::skipped("scoring beside isotree", "the smoke test leaves it out: pip compiles it for minutes");
        &[SCIKIT_LEARN]
    } else {
        &[SCIKIT_LEARN, ISOTREE]
    };
    let python = python_with(peers, &shell::target_dir().join("venv"))?;
    // Together with the agent, as it was built before: another choice of packages would build crates again with other features.
    shell::run(shell::cargo().args([
        "build",
        "--release",
        "--package",
        "tidegate",
        "--package",
        "tidegate-bench",
    ]))?;

    let (train, test) = (directory.join("forest-train.csv"), directory.join("forest-test.csv"));
    synthesise(&train, 1, TRAIN_ROWS)?;
    synthesise(&test, 2, TEST_ROWS)?;
    let mut rows = compare(context, (&python, peers), &[train, test], "synthetic")?;

    let matrices = shell::root().join("../shared/data/matrices");
    if matrices.is_dir() {
        rows.extend(compare(context, (&python, peers), &matrix_files(&matrices)?, "flow matrices")?);
    } else {
        shell::skipped("scoring of flow matrices", &format!("{} is absent", matrices.display()));
    }
    rows.push(devices(context)?);
    Ok(rows)
}

/// Memory of the detector with many learned devices beside what the whole agent may take for them.
fn devices(context: &Context) -> Result<Row> {
    let devices = if context.smoke { SMOKE_DEVICES } else { DEVICES };
    let program = shell::target_dir().join("release/devices_bench");
    let mut resident = Vec::new();
    for _ in 0..context.repeats {
        let printed = shell::output(shell::command(&program).arg(devices.to_string()))?;
        let report: Resident = serde_json::from_str(printed.trim()).context("the report on memory")?;
        resident.push(report.mib);
    }
    let budget = BUDGET_MIB * devices as f64 / DEVICES as f64;
    Ok(Row::of("devices_resident_mib", "MiB", &resident, &format!("budget of {devices} devices"), &[budget]))
}

fn compare(
    context: &Context,
    (python, peers): (&Path, &[Peer]),
    files: &[PathBuf],
    what: &str,
) -> Result<Vec<Row>> {
    let scored = if context.smoke { SMOKE_SCORED } else { SCORED }.to_string();
    let script = shell::root().join("xtask/src/bench/scoring.py");
    let time = |command: &mut Command| -> Result<Timed> {
        let printed = shell::output(command.arg(&scored).args(files))?;
        serde_json::from_str(printed.trim()).context("the report of a side")
    };
    let mut ours = Vec::new();
    let mut theirs: Vec<Vec<Timed>> = peers.iter().map(|_| Vec::new()).collect();
    for _ in 0..context.repeats {
        ours.push(time(&mut shell::command(shell::target_dir().join("release/forest_bench")))?);
        for ((name, _), timed) in peers.iter().zip(&mut theirs) {
            timed.push(time(shell::command(python).arg(&script).arg(name))?);
        }
    }
    let mut rows = Vec::new();
    for ((name, version), theirs) in peers.iter().zip(theirs) {
        let peer = format!("{name} {version}, {what}");
        let of = |side: &[Timed], pick: fn(&Timed) -> f64| side.iter().map(pick).collect::<Vec<f64>>();
        let rate: fn(&Timed) -> f64 = |timed| timed.rows_per_s;
        let train: fn(&Timed) -> f64 = |timed| timed.train_ms;
        rows.push(Row::of("score_rows_per_s", "rows/s", &of(&ours, rate), &peer, &of(&theirs, rate)));
        rows.push(Row::of("train_ms", "ms", &of(&ours, train), &peer, &of(&theirs, train)));
    }
    Ok(rows)
}

/// The training and test files of every matrix, one after the other.
fn matrix_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    names.retain(|name| name.join("train.csv").is_file() && name.join("test.csv").is_file());
    names.sort();
    Ok(names.iter().flat_map(|name| [name.join("train.csv"), name.join("test.csv")]).collect())
}

/// The Python of a virtual environment in `directory` that has the peers.
pub(super) fn python_with(peers: &[Peer], directory: &Path) -> Result<PathBuf> {
    let python = directory.join("bin/python");
    let has = |(name, version): &Peer| {
        let check =
            format!("from importlib.metadata import version; assert version('{name}') == '{version}'");
        let mut command = Command::new(&python);
        command.args(["-c", &check]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !peers.iter().all(has) {
        let names: Vec<&str> = peers.iter().map(|(name, _)| *name).collect();
        shell::step(&format!(
            "installing {} into {}, to compare with",
            names.join(" and "),
            directory.display()
        ));
        if !python.is_file() {
            shell::run(shell::command("python3").args(["-m", "venv"]).arg(directory))?;
        }
        let wanted = peers.iter().map(|(name, version)| format!("{name}=={version}"));
        let packages: Vec<String> = wanted.chain([format!("pandas=={PANDAS}")]).collect();
        shell::run(shell::command(&python).args(["-m", "pip", "install", "--quiet"]).args(&packages))?;
    }
    Ok(python)
}

/// Rows of two clusters with columns of very different spread, the same from a seed on every machine.
fn synthesise(path: &Path, seed: u64, rows: usize) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut output = BufWriter::new(file);
    let mut state = seed;
    let mut uniform = || {
        // SplitMix64 (Steele, Lea, Flood 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    };
    let header: Vec<String> = (0..COLUMNS).map(|column| format!("f{column}")).collect();
    writeln!(output, "{}", header.join(","))?;
    for _ in 0..rows {
        let cluster = if uniform() < 0.7 { 0.0 } else { 4.0 };
        let row: Vec<String> = (0..COLUMNS)
            .map(|column| {
                // The sum of four uniform numbers is near enough to a bell.
                let bell = uniform() + uniform() + uniform() + uniform() - 2.0;
                format!("{:.6}", (cluster + bell) * 10_f64.powi(column as i32 % 5))
            })
            .collect();
        writeln!(output, "{}", row.join(","))?;
    }
    Ok(output.flush()?)
}
