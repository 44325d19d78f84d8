//! The lab: an internet, a gateway with Tidegate, devices that behave and attackers, all in network namespaces.
//!
//! `topology` lays the wires, `service` and `device` put life on them, `attack` names what goes wrong, `sniffer` is the
//! independent witness, `agent` starts and questions Tidegate through its command line like any operator, and `lab` plays
//! the attacks and measures; `messages` is the scenario of commands, telemetry, policies and the cloud. `load` measures brokers,
//! `emulator` is AWS in a namespace, `web` a server with TLS. Nothing here calls into the agent's code, and nothing touches an
//! interface of the machine: every namespace is called `tg-<pid>-…` and goes away with its owner, or at the next start when the owner was killed.

pub mod agent;
pub mod attack;
pub mod device;
pub mod emulator;
pub mod interrupt;
pub mod lab;
pub mod load;
mod messages;
pub mod mqtt;
pub mod netns;
pub mod process;
pub mod report;
pub mod service;
pub mod sniffer;
pub mod storm;
pub mod topology;
pub mod web;

use std::{
    fs::File,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

/// Whether this process may create namespaces and load programs.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Waits until no other test uses the machine for namespaces and traffic; they would disturb each other's measurements.
pub fn alone() -> Result<Flock<File>> {
    let file = File::create("/run/tidegate-tests.lock").context("cannot create the tests' lock")?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .context("cannot take the tests' lock")
}

/// Says aloud that test `name` cannot run here, in the form that `cargo xtask test` counts.
#[allow(clippy::print_stdout, reason = "the line is for the person or task that runs the tests")]
pub fn skipped(name: &str, reason: &str) {
    println!("SKIPPED {name}: {reason}");
}

/// Asks `probe` until it answers or `patience` is over.
pub fn wait_for<T>(patience: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= deadline || interrupt::requested() {
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
