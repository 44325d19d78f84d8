//! Fuzz targets: built with coverage, then run one after the other within bounds of time and memory.
//!
//! The default tool chain builds them: what libFuzzer wants of a compiler are passes of LLVM. Inputs that a target begins with are
//! in `fuzz/seeds`, what it found on the way in `fuzz/corpus`, and what it fails with in `fuzz/artifacts`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{setup, shell};

/// What libFuzzer counts and compares by.
const COVERAGE: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
];
/// Memory a target may take, in MiB.
const MEMORY_MB: u32 = 2_048;
/// Time one input may take, in seconds.
const INPUT_SECONDS: u32 = 10;

/// Arguments of `fuzz`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Which targets, by the names of their files in fuzz/fuzz_targets; all if none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=604_800))]
    seconds: u32,
}

/// What a run of libFuzzer said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    executions: u64,
    memory_mb: u64,
    /// The input it failed with.
    reproducer: Option<String>,
}

/// Builds and runs the targets, each also after one before it failed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let known = targets()?;
    let unknown: Vec<&str> =
        arguments.targets.iter().map(String::as_str).filter(|name| !known.contains(*name)).collect();
    if !unknown.is_empty() {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        bail!("there is no target {}; there are: {}", unknown.join(", "), known.join(", "));
    }
    let chosen: BTreeSet<String> =
        if arguments.targets.is_empty() { known } else { arguments.targets.iter().cloned().collect() };
    setup::cxx()?;
    let programs = build(&chosen)?;
    shell::step(&format!("{} targets, {} s each", chosen.len(), arguments.seconds));
    let mut failed = Vec::new();
    for name in &chosen {
        if let Err(error) = target(name, &programs.join(name), arguments.seconds) {
            println!("  {error:#}");
            failed.push(name.as_str());
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn directory() -> PathBuf {
    shell::root().join("fuzz")
}

/// The names of all targets.
fn targets() -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Manifest {
        bin: Vec<Bin>,
    }
    #[derive(Deserialize)]
    struct Bin {
        name: String,
    }
    let path = directory().join("Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest: Manifest =
        toml::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(manifest.bin.into_iter().map(|bin| bin.name).collect())
}

/// Builds the targets; the directory that they are in.
fn build(names: &BTreeSet<String>) -> Result<PathBuf> {
    shell::step("building the fuzz targets: about a quarter of an hour on two cores for the first time");
    let version = shell::output(shell::command("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let target_dir = shell::target_dir().join("fuzz");
    let mut build = shell::cargo();
    build.args(["build", "--release", "--manifest-path", "fuzz/Cargo.toml"]);
    // With a target the flags are not for build scripts and macros.
    build.args(["--target", host]).arg("--target-dir").arg(&target_dir);
    build.args(names.iter().flat_map(|name| ["--bin", name.as_str()]));
    build.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\x1f"));
    shell::run(&mut build).context("the fuzz targets do not build")?;
    Ok(target_dir.join(host).join("release"))
}

/// Runs one target and prints what came of it; an error names the input it failed with.
fn target(name: &str, program: &Path, seconds: u32) -> Result<()> {
    let (corpus, artifacts) =
        (directory().join("corpus").join(name), directory().join("artifacts").join(name));
    for made in [&corpus, &artifacts] {
        fs::create_dir_all(made).with_context(|| format!("cannot create {}", made.display()))?;
    }
    let mut fuzzer = Command::new(program);
    fuzzer.arg(corpus);
    let seeds = directory().join("seeds").join(name);
    if seeds.is_dir() {
        fuzzer.arg(seeds);
    }
    fuzzer.arg(format!("-max_total_time={seconds}")).arg(format!("-rss_limit_mb={MEMORY_MB}"));
    fuzzer.arg(format!("-timeout={INPUT_SECONDS}")).arg("-print_final_stats=1");
    fuzzer.arg(format!("-artifact_prefix={}/", artifacts.display()));
    let began = Instant::now();
    let output = fuzzer.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    let took = began.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&output.stderr);
    let said = said(&text);
    let word = if output.status.success() { "passed" } else { "FAILED" };
    let per_second = said.executions as f64 / took;
    println!(
        "{name:<12} {word:<6} {took:>7.1} s {:>12} executions {per_second:>9.0} a second {:>5} MiB",
        said.executions, said.memory_mb
    );
    if output.status.success() {
        return Ok(());
    }
    // All but the progress.
    text.lines().filter(|line| !line.starts_with('#')).for_each(|line| println!("  {line}"));
    let reproducer = said.reproducer.with_context(|| format!("{name} ended with {}", output.status))?;
    bail!("{name} fails with {reproducer}; again with: {} {reproducer}", program.display())
}

fn said(text: &str) -> Said {
    let mut said = Said::default();
    for line in text.lines() {
        let number = |prefix: &str| line.strip_prefix(prefix)?.trim().parse().ok();
        if let Some(executions) = number("stat::number_of_executed_units:") {
            said.executions = executions;
        } else if let Some(memory_mb) = number("stat::peak_rss_mb:") {
            said.memory_mb = memory_mb;
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            said.reproducer = Some(path.trim().to_owned());
        }
    }
    said
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;

    fn names(directory: &Path) -> BTreeSet<String> {
        let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        directory.read_dir().unwrap().map(|entry| stem(entry.unwrap().path())).collect()
    }

    #[test]
    fn every_target_is_built_and_has_seeds() {
        let targets = targets().unwrap();
        assert_eq!(names(&directory().join("fuzz_targets")), targets);
        assert_eq!(names(&directory().join("seeds")), targets);
    }

    #[test]
    fn what_it_failed_with_is_found() {
        let text = "#2\tINITED cov: 3\nthread '<unnamed>' panicked at src/a.rs:1:2:\n\
                    artifact_prefix='/a/'; Test unit written to /a/crash-0123\nBase64: eA==\n\
                    stat::number_of_executed_units: 1234\nstat::peak_rss_mb:              56\n";
        let expected =
            Said { executions: 1_234, memory_mb: 56, reproducer: Some("/a/crash-0123".to_owned()) };
        assert_eq!(said(text), expected);
        assert_eq!(said("Done 7 runs in 1 second(s)\n"), Said::default());
    }
}
