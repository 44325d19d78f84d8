//! What CI runs, in one command and under a bound: lint, tests, the gateway against an emulated cloud, a short lab, a benchmark smoke test.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::{bench, cloud, lab, lint, shell, test};

/// A cold machine with two cores must be through by then.
const BOUND: Duration = Duration::from_hours(1);

/// Runs every stage, also after one failed, and says how long each took.
pub(crate) fn run() -> Result<()> {
    type Stage = fn() -> Result<()>;
    let stages: [(&str, Stage); 5] = [
        ("lint", lint::run),
        ("test", || test::run(None)),
        ("cloud", cloud::smoke),
        ("lab", lab::smoke),
        ("bench", bench::smoke),
    ];
    let mut report = Vec::new();
    let mut total = Duration::ZERO;
    for (name, stage) in stages {
        let (took, result) = shell::timed(name, stage);
        if let Err(error) = &result {
            println!("  {name}: {error:#}");
        }
        total += took;
        report.push((name, took, result.is_ok()));
    }
    println!();
    for (name, took, ok) in &report {
        println!("{name:<6} {:>7.1} s  {}", took.as_secs_f64(), if *ok { "ok" } else { "FAILED" });
    }
    println!("total  {:>7.1} s", total.as_secs_f64());
    if report.iter().any(|(_, _, ok)| !ok) {
        bail!("at least one stage failed");
    }
    if total > BOUND {
        bail!("everything passed, but in more than {} minutes", BOUND.as_secs() / 60);
    }
    Ok(())
}
