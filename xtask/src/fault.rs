//! Faults on purpose: processes killed with SIGKILL again and again, disks that are full.
//!
//! The tests themselves stand beside what they test and run in small in every `cargo xtask test`; this task runs them in
//! earnest and writes what came of it.

use std::{fs, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;

use crate::{Output, shell};

/// Prefix of the line in which a test says what it did.
const SAID: &str = "FAULT ";

/// Arguments of `fault-test`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// What is tested
    #[arg(value_parser = ["outbox"], default_value = "outbox")]
    subject: String,
    /// How often the process is killed
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    cycles: u64,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Report {
    schema: u32,
    tests: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    r#where: &'static str,
    passed: bool,
    seconds: f64,
    note: String,
}

/// The tests of the outbox: what they are called, where they run, and their names in the agent.
const OUTBOX: [(&str, &str, &str); 4] = [
    ("outbox-kill-9", "host", "store::outbox_crash_tests::nothing_is_lost_or_reordered_by_kill_9"),
    (
        "outbox-database-full",
        "host",
        "store::outbox_tests::a_full_database_loses_nothing_it_took_and_goes_on_when_there_is_room",
    ),
    (
        "outbox-disk-full",
        "mount namespace",
        "store::outbox_tests::a_full_disk_loses_nothing_it_took_and_goes_on_when_there_is_room",
    ),
    ("outbox-model", "host", "store::outbox_tests::it_does_what_the_model_does"),
];

/// Runs the tests and prints what came of them.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    shell::step(&format!("faults: {}, {} cycles", arguments.subject, arguments.cycles));
    shell::run(shell::cargo().args(["test", "--package", "tidegate", "--lib", "--no-run"]))?;
    let mut tests = Vec::new();
    for (name, place, test) in OUTBOX {
        let row = one(name, place, test, arguments.cycles)?;
        println!("{:<24} {:<6} {:>7.1} s  {}", row.name, word(row.passed), row.seconds, row.note);
        tests.push(row);
    }
    let failed = tests.iter().filter(|row| !row.passed).count();
    if let Some(file) = &arguments.output.json {
        let text = serde_json::to_string_pretty(&Report { schema: 1, tests })?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    if failed > 0 {
        bail!("{failed} fault tests failed");
    }
    Ok(())
}

fn one(name: &'static str, place: &'static str, test: &str, cycles: u64) -> Result<Row> {
    let began = Instant::now();
    let output = shell::cargo()
        .args(["test", "--package", "tidegate", "--lib", "--", test, "--exact", "--nocapture"])
        .env("TIDEGATE_FAULT_CYCLES", cycles.to_string())
        .output()
        .context("cannot start the tests")?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(!said.contains("running 0 tests"), "there is no test {test}");
    let skipped = said.lines().find(|line| line.starts_with("SKIPPED "));
    let reported = said.lines().find_map(|line| line.strip_prefix(SAID));
    let failure = said.lines().find(|line| line.contains("panicked"));
    let note = skipped.or(reported).or(failure).unwrap_or("as in the tests").to_owned();
    let passed = output.status.success() && skipped.is_none();
    Ok(Row { name, r#where: place, passed, seconds: began.elapsed().as_secs_f64(), note })
}

const fn word(passed: bool) -> &'static str {
    if passed { "passed" } else { "FAILED" }
}
