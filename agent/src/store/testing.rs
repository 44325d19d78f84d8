//! Tests that kill whoever works on a database: a test runs its own binary again as a child that only it starts.

#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    env,
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const DATABASE: &str = "TIDEGATE_TEST_STORE_DATABASE";

/// The database on which this process is to work until it is killed; `None` in the test itself.
pub(super) fn database_of_child() -> Option<PathBuf> {
    env::var_os(DATABASE).map(PathBuf::from)
}

/// Runs the test of this full name again as a child on the database, and kills it `after` its first word. `heard` is given each line
/// that the child says on its standard output, and tells whether it is a word of the child's or one of the test runner's.
pub(super) fn run_and_kill(
    test: &str,
    database: &Path,
    after: Duration,
    mut heard: impl FnMut(&str) -> bool,
) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(DATABASE, database)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut kill_at = None;
    while let Some(Ok(line)) = lines.next() {
        if heard(&line) && Instant::now() >= *kill_at.get_or_insert_with(|| Instant::now() + after) {
            // `Child::kill` is SIGKILL. What the child said before it died is still read.
            child.kill().unwrap();
        }
    }
    assert_eq!(child.wait().unwrap().signal(), Some(9), "it only ends by being killed");
    assert!(kill_at.is_some(), "the child said nothing");
}
