//! Runs every test and counts: passed, failed, skipped.
//!
//! A test that cannot run here says so itself with a line `SKIPPED name: reason`, which this task looks for in the
//! output of passing tests too; there are no ignored tests.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};

use crate::{
    build,
    setup::{self, Tier},
    shell,
};

const NEXTEST_SUMMARY: &str = "Summary [";

/// What the test runners said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: BTreeSet<String>,
}

/// Sets up, builds and tests; only tests whose name contains `filter`, if one is given.
pub(crate) fn run(filter: Option<&str>) -> Result<()> {
    let toolchain = setup::run(Tier::Lab)?;
    build::bpf(&toolchain)?;
    let binary = build::tested()?;
    shell::step("tests");
    let mut tally = Tally::default();
    let mut tests = shell::cargo();
    let nextest = shell::which("cargo-nextest").is_some();
    if nextest {
        tests.args(["nextest", "run", "--no-fail-fast", "--success-output=immediate", "--color=never"]);
    } else {
        tests.args(["test", "--no-fail-fast", "--lib", "--bins", "--tests"]);
    }
    tests.args(build::TESTED).args(filter);
    if !nextest {
        tests.args(["--", "--nocapture"]);
    }
    tests.env("TIDEGATE_BINARY", &binary);
    let mut ok = follow(&mut tests, &mut tally)?;
    if filter.is_none() {
        shell::step("documentation tests");
        ok &= follow(shell::cargo().args(["test", "--doc", "--quiet"]).args(build::TESTED), &mut tally)?;
    }
    for skipped in &tally.skipped {
        println!("{skipped}");
    }
    let (failed, skipped) = (tally.failed, tally.skipped.len() as u64);
    // To the runners a test that skips itself has passed.
    let passed = tally.passed.saturating_sub(skipped);
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if !ok || failed > 0 {
        bail!("tests failed");
    }
    Ok(())
}

/// Runs `command`, shows its lines without the chatter of tests that passed, and counts.
fn follow(command: &mut Command, tally: &mut Tally) -> Result<bool> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start the test runner")?;
    let stdout = child.stdout.take().context("no output of the test runner")?;
    let stderr = child.stderr.take().context("no output of the test runner")?;
    let errors = thread::spawn(move || read(stderr));
    let mut lines = read(stdout);
    let ok = child.wait().context("the test runner vanished")?.success();
    lines.extend(errors.join().unwrap_or_default());
    count(&lines, tally);
    Ok(ok)
}

fn read(stream: impl Read) -> Vec<String> {
    let mut lines = Vec::new();
    let mut in_passed = false;
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if show(&line, &mut in_passed) {
            println!("{line}");
        }
        lines.push(line);
    }
    lines
}

/// Whether a line is worth the reader's time; `in_passed` remembers whether it belongs to a test that passed.
fn show(line: &str, in_passed: &mut bool) -> bool {
    let word = line.split_whitespace().next().unwrap_or_default();
    match word {
        "PASS" => *in_passed = true,
        "FAIL" | "SIGKILL" | "SIGSEGV" | "SIGABRT" | "SLOW" | "TIMEOUT" | "TERMINATING" | "Summary"
        | "error:" | "LEAK" => {
            *in_passed = false;
        }
        _ if *in_passed => return false,
        _ => {}
    }
    !line.trim().is_empty()
}

/// Adds what nextest's or cargo test's own summaries say. nextest shows what the tests printed, and each of them is a
/// libtest program with a summary of its own.
fn count(lines: &[String], tally: &mut Tally) {
    let nextest = lines.iter().any(|line| line.trim().starts_with(NEXTEST_SUMMARY));
    let summary = if nextest { NEXTEST_SUMMARY } else { "test result:" };
    for line in lines {
        let line = line.trim();
        if line.starts_with("SKIPPED ") {
            tally.skipped.insert(line.to_owned());
        } else if line.starts_with(summary) {
            tally.passed += number_before(line, "passed");
            tally.failed += number_before(line, "failed") + number_before(line, "timed out");
        }
    }
}

fn number_before(line: &str, word: &str) -> u64 {
    let Some((before, _)) = line.split_once(&format!(" {word}")) else { return 0 };
    before.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_runners_are_counted() {
        let mut tally = Tally::default();
        for runner in [
            &[
                "    SKIPPED lab::blocks: not root",
                "    SKIPPED lab::blocks: not root",
                "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out",
                "     Summary [   3.2s] 12 tests run: 10 passed (1 slow), 1 failed, 1 timed out, 2 skipped",
            ][..],
            &["test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"],
        ] {
            let lines: Vec<String> = runner.iter().map(|line| (*line).to_owned()).collect();
            count(&lines, &mut tally);
        }
        assert_eq!((tally.passed, tally.failed, tally.skipped.len()), (14, 2, 1));
    }

    #[test]
    fn output_of_passing_tests_is_hidden_and_of_failing_ones_shown() {
        let mut in_passed = false;
        let shown: Vec<bool> = ["PASS [0.1s] a", "noise", "FAIL [0.1s] b", "cause", "PASS [0.1s] c", "noise"]
            .iter()
            .map(|line| show(line, &mut in_passed))
            .collect();
        assert_eq!(shown, [true, false, true, true, true, false]);
    }
}
