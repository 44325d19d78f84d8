//! The gateway against AWS, without AWS: provisioning, link, metrics and alarms against an emulator in a network namespace.
//!
//! The tests stand in `tests/tests/emulator.rs`; no other task runs them, because they need the emulator, which `setup` installs into
//! `target/venv-cloud`. Nothing leaves the machine once it is installed.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{
    Output, build,
    setup::{self, Tier},
    shell,
    single::Singles,
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
    let mut singles = Singles::new(SAID);
    for name in names {
        let mut tests = target();
        tests.env("TIDEGATE_BINARY", &binary).env("TIDEGATE_EMULATOR", &emulator);
        singles.run(name, "network namespace", name, &mut tests)?;
    }
    singles.end(&arguments.output)
}

fn target() -> Command {
    let mut command = shell::cargo();
    command.arg("test").args(build::TESTED).args(["--test", "emulator"]);
    command
}
