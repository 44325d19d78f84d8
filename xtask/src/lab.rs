//! `cargo xtask lab`: builds the agent and hands it to the lab.

use anyhow::{Result, bail};

use crate::Output;

/// Arguments of `lab`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Only this scenario; repeat for more
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// Afterwards let the devices behave for so long and count what was blocked
    #[arg(long, value_name = "N", default_value_t = 0)]
    quiet_minutes: u64,
    #[command(flatten)]
    output: Output,
}

/// Runs the lab.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    bail!("the lab cannot run {:?} yet", arguments.scenario)
}

/// The lab of CI.
pub(crate) fn smoke() -> Result<()> {
    bail!("no lab yet")
}

/// The lab as the first thing a newcomer sees.
pub(crate) fn show() -> Result<()> {
    bail!("no lab yet")
}
