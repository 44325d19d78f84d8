//! Tests that a task runs one by one, each with settings of its own, and the report of what came of them.
//!
//! A test says in a line with the task's prefix what it saw; one that skips itself has not passed.

use std::{fs, process::Command, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;

use crate::Output;

#[derive(Serialize)]
struct Report {
    schema: u32,
    tests: Vec<Row>,
}

/// What came of a test.
#[derive(Serialize)]
struct Row {
    name: String,
    r#where: &'static str,
    passed: bool,
    seconds: f64,
    note: String,
}

/// Tests that ran, in order.
pub(crate) struct Singles {
    /// Beginning of the line in which a test says what it saw.
    prefix: &'static str,
    rows: Vec<Row>,
}

impl Singles {
    /// None yet; `prefix` begins the line in which a test says what it saw.
    pub(crate) const fn new(prefix: &'static str) -> Self {
        Self { prefix, rows: Vec::new() }
    }

    /// Runs the test `test` of `tests`, a `cargo test` with all its choices; it is shown as `name`, which ran in `place`.
    pub(crate) fn run(
        &mut self,
        name: &str,
        place: &'static str,
        test: &str,
        tests: &mut Command,
    ) -> Result<()> {
        let began = Instant::now();
        let output =
            tests.args(["--", test, "--exact", "--nocapture"]).output().context("cannot start the tests")?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let skipped = said.lines().find(|line| line.starts_with("SKIPPED "));
        let passed = output.status.success() && skipped.is_none();
        if !passed {
            println!("{said}");
        }
        ensure!(!passed || said.contains("running 1 test"), "there is no test {test}");
        let reported = said.lines().find_map(|line| line.strip_prefix(self.prefix));
        let failure = said.lines().find(|line| line.contains("panicked"));
        let note = skipped.or(failure).or(reported).unwrap_or_default().to_owned();
        let seconds = began.elapsed().as_secs_f64();
        let word = if passed { "passed" } else { "FAILED" };
        println!("{name:<72} {word:<6} {seconds:>7.1} s  {note}");
        self.rows.push(Row { name: name.to_owned(), r#where: place, passed, seconds, note });
        Ok(())
    }

    /// Counts, and writes the report if one is wanted; an error when a test failed.
    pub(crate) fn end(self, output: &Output) -> Result<()> {
        let failed = self.rows.iter().filter(|row| !row.passed).count();
        println!("{} passed, {failed} failed", self.rows.len() - failed);
        if let Some(file) = &output.json {
            let text = serde_json::to_string_pretty(&Report { schema: 1, tests: self.rows })?;
            fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
        }
        if failed > 0 {
            bail!("{failed} tests failed");
        }
        Ok(())
    }
}
