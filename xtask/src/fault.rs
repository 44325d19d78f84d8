//! Faults on purpose: processes killed with SIGKILL again and again, disks that are full.
//!
//! The tests themselves stand beside what they test and run in small in every `cargo xtask test`; this task runs them in
//! earnest and writes what came of it.

use anyhow::Result;

use crate::{Output, build, shell, single::Singles};

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
    build::tested()?;
    let mut singles = Singles::new(SAID);
    for (name, place, test) in OUTBOX {
        let mut tests = shell::cargo();
        tests.arg("test").args(build::TESTED).arg("--lib");
        tests.env("TIDEGATE_FAULT_CYCLES", arguments.cycles.to_string());
        singles.run(name, place, test, &mut tests)?;
    }
    singles.end(&arguments.output)
}
