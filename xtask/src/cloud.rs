//! The gateway against AWS, without AWS: provisioning, link, metrics and alarms against an emulator in a network namespace.
//!
//! The tests stand in `tests/tests/emulator.rs`; no other task runs them, because they need the emulator, which `setup` installs into
//! `target/venv-cloud`. Nothing leaves the machine once it is installed.

use std::{fs, path::Path, process::Command, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;

use crate::{
    Output, build,
    setup::{self, Tier},
    shell,
};

/// Prefix of the line in which a test says what it saw.
const SAID: &str = "CLOUD ";

/// Arguments of `cloud-test`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Only what the gateway itself does
    #[arg(long)]
    gateway: bool,
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
    name: String,
    r#where: &'static str,
    passed: bool,
    seconds: f64,
    note: String,
}

/// What CI runs.
pub(crate) fn smoke() -> Result<()> {
    run(&Arguments { gateway: true, output: Output { json: None } })
}

/// Runs the tests one after the other and prints what came of them.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let toolchain = setup::run(Tier::Lab)?;
    let emulator = setup::emulator()?;
    build::bpf(&toolchain)?;
    let binary = build::tested()?;
    shell::step("the gateway against the emulator");
    if !arguments.gateway {
        println!("  the cloud's own functions are not built yet: the gateway's tests are all there are");
    }
    let listed = shell::output(target().args(["--quiet", "--", "--list"]))?;
    let names: Vec<&str> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    ensure!(!names.is_empty(), "there are no tests against the emulator");
    let mut tests = Vec::new();
    for name in names {
        let row = one(name, &binary, &emulator)?;
        println!("{:<72} {:<6} {:>6.1} s  {}", row.name, word(row.passed), row.seconds, row.note);
        tests.push(row);
    }
    let failed = tests.iter().filter(|row| !row.passed).count();
    println!("{} passed, {failed} failed", tests.len() - failed);
    if let Some(file) = &arguments.output.json {
        let text = serde_json::to_string_pretty(&Report { schema: 1, tests })?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    if failed > 0 {
        bail!("{failed} tests against the emulator failed");
    }
    Ok(())
}

fn target() -> Command {
    let mut command = shell::cargo();
    command.arg("test").args(build::TESTED).args(["--test", "emulator"]);
    command
}

fn one(name: &str, binary: &Path, emulator: &Path) -> Result<Row> {
    let began = Instant::now();
    let output = target()
        .args(["--", name, "--exact", "--nocapture"])
        .env("TIDEGATE_BINARY", binary)
        .env("TIDEGATE_EMULATOR", emulator)
        .output()
        .context("cannot start the tests")?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let skipped = said.lines().find(|line| line.starts_with("SKIPPED "));
    let passed = output.status.success() && skipped.is_none();
    if !passed {
        println!("{said}");
    }
    let reported = said.lines().find_map(|line| line.strip_prefix(SAID));
    let failure = said.lines().find(|line| line.contains("panicked"));
    let note = skipped.or(failure).or(reported).unwrap_or_default().to_owned();
    let (name, seconds) = (name.to_owned(), began.elapsed().as_secs_f64());
    Ok(Row { name, r#where: "network namespace", passed, seconds, note })
}

const fn word(passed: bool) -> &'static str {
    if passed { "passed" } else { "FAILED" }
}
