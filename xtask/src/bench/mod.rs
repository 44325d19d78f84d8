//! Benchmarks side by side with what people use today: one process, one run, interleaved repeats, medians, ratios.
//!
//! A suite measures and returns rows; this module picks suites, prints the table and writes the JSON report. Wall times of
//! a shared machine swing, so the load average is in the report and ratios of one run are what counts.

mod datapath;
mod detection;
mod figures;
mod forest;
mod kernel;
mod messages;
mod replay;
mod scoring;
mod storm;

use std::fs;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::{
    Output, build,
    setup::{self, Tier},
    shell,
};

/// Arguments of `bench`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// A suite's name, or `all`
    #[arg(default_value = "all")]
    suite: String,
    /// Interleaved repeats, at least 5 for figures that are published
    #[arg(long, default_value_t = 5, value_name = "N")]
    repeats: usize,
    #[command(flatten)]
    output: Output,
}

/// What a suite is given.
pub(crate) struct Context {
    /// How often each side is measured.
    pub(crate) repeats: usize,
    /// Small inputs, to see that everything runs.
    #[allow(dead_code, reason = "suites use it; a build without suites does not")]
    pub(crate) smoke: bool,
}

/// One comparison: medians of all repeats.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// Name of the measure, as in the reference of benchmarks.
    pub(crate) name: String,
    /// Unit of `ours` and `theirs`.
    pub(crate) unit: String,
    /// Our median.
    pub(crate) ours: f64,
    /// Whom we compare with.
    pub(crate) peer: String,
    /// The peer's median.
    pub(crate) theirs: f64,
    /// `ours / theirs`.
    pub(crate) ratio: f64,
    /// Repeats of each side.
    pub(crate) repeats: usize,
    /// Our (maximum - minimum) / median.
    pub(crate) spread: f64,
}

impl Row {
    /// The row of interleaved measurements of both sides.
    #[allow(dead_code, reason = "suites use it; a build without suites does not")]
    pub(crate) fn of(name: &str, unit: &str, ours: &[f64], peer: &str, theirs: &[f64]) -> Self {
        let (our_median, their_median) = (median(ours), median(theirs));
        let low = ours.iter().copied().fold(f64::INFINITY, f64::min);
        let high = ours.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            ours: our_median,
            peer: peer.to_owned(),
            theirs: their_median,
            ratio: our_median / their_median,
            repeats: ours.len(),
            spread: (high - low) / our_median,
        }
    }
}

/// A suite's measurement.
type Suite = fn(&Context) -> Result<Vec<Row>>;

/// Every suite by name.
const SUITES: &[(&str, Suite)] = &[
    ("datapath", datapath::rows),
    ("detection", detection::rows),
    ("messages", messages::rows),
    ("replay", replay::rows),
    ("scoring", scoring::rows),
];

#[derive(Serialize)]
struct Report {
    schema: u32,
    load_average: f64,
    results: Vec<Row>,
}

/// Runs the suites asked for.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.repeats == 0 {
        bail!("--repeats 0 measures nothing; give at least 1, and 5 for figures that are published");
    }
    measure(&arguments.suite, &Context { repeats: arguments.repeats, smoke: false }, &arguments.output)
}

/// Every suite with small inputs.
pub(crate) fn smoke() -> Result<()> {
    let json = shell::target_dir().join("bench-smoke.json");
    measure("all", &Context { repeats: 2, smoke: true }, &Output { json: Some(json) })
}

fn measure(wanted: &str, context: &Context, output: &Output) -> Result<()> {
    let chosen: Vec<_> = SUITES.iter().filter(|(name, _)| wanted == "all" || wanted == *name).collect();
    if chosen.is_empty() && wanted != "all" {
        let names: Vec<&str> = SUITES.iter().map(|(name, _)| *name).collect();
        bail!("there is no suite `{wanted}`; there are: all, {}", names.join(", "));
    }
    let toolchain = setup::run(Tier::Lab)?;
    build::bpf(&toolchain)?;
    build::agent(true)?;
    let load_average = load_average();
    if load_average > 1.0 {
        println!("  the machine is busy (load average {load_average}): trust ratios, not times");
    }
    let mut results = Vec::new();
    for (name, suite) in chosen {
        shell::step(&format!("{name}, {} repeats", context.repeats));
        let (_, rows) = shell::timed(name, || suite(context).with_context(|| format!("suite {name}")));
        results.extend(rows?);
    }
    print(&results);
    if let Some(file) = &output.json {
        let report = serde_json::to_string_pretty(&Report { schema: 1, load_average, results })?;
        fs::write(file, report + "\n").with_context(|| format!("cannot write {}", file.display()))?;
        println!("  figures in {}", file.display());
    }
    Ok(())
}

fn print(rows: &[Row]) {
    println!(
        "{:<32} {:>14} {:>14} {:>7} {:>7}  {:<22} unit",
        "name", "ours", "theirs", "ratio", "spread", "peer"
    );
    for row in rows {
        println!(
            "{:<32} {:>14.1} {:>14.1} {:>7.2} {:>6.0}%  {:<22} {}",
            row.name,
            row.ours,
            row.theirs,
            row.ratio,
            row.spread * 100.0,
            row.peer,
            row.unit
        );
    }
}

fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

/// The middle value, or the mean of the two in the middle; NaN of nothing.
#[allow(dead_code, reason = "suites use it; a build without suites does not")]
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_holds_medians_ratio_and_spread() {
        let row = Row::of("drop_blocked_ns", "ns", &[60.0, 50.0, 70.0], "xdp-filter", &[120.0, 100.0]);
        assert!((row.ours - 60.0).abs() < 1e-9);
        assert!((row.theirs - 110.0).abs() < 1e-9);
        assert!((row.ratio - 60.0 / 110.0).abs() < 1e-9);
        assert!((row.spread - 20.0 / 60.0).abs() < 1e-9);
        assert_eq!(row.repeats, 3);
    }
}
