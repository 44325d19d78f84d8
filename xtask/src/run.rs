//! `cargo xtask run`: the shortest way from a clone to a guarded network.

use std::{os::unix::process::CommandExt, path::Path};

use anyhow::{Context, Result, bail};

use crate::{
    build, lab,
    setup::{self, Tier},
    shell,
};

/// Without interfaces the lab with a live view, else the agent on them, in this process' place.
pub(crate) fn run(interfaces: &[String], arguments: &[String]) -> Result<()> {
    if interfaces.is_empty() {
        if let Some(first) = arguments.first() {
            bail!(
                "`{first}` is for `tidegate run`, which needs an interface: cargo xtask run -i lan0 {first}"
            );
        }
        return lab::show();
    }
    for interface in interfaces {
        if !Path::new("/sys/class/net").join(interface).exists() {
            bail!("there is no interface {interface}; `ip -br link` lists them");
        }
    }
    let toolchain = setup::run(Tier::Build)?;
    build::bpf(&toolchain)?;
    let binary = build::agent(true)?;
    let mut agent = shell::command(&binary);
    if !shell::is_root() {
        println!("  loading kernel programs needs root: sudo");
        agent = shell::command("sudo");
        agent.arg(&binary);
    }
    agent.arg("run");
    for interface in interfaces {
        agent.args(["-i", interface]);
    }
    Err(agent.args(arguments).exec()).context("cannot start the agent")
}
