//! `tidegate status`: how the gateway is.

use std::fmt::Write as _;

use crate::{
    api::{
        Client,
        view::{Health, StatusView},
    },
    cli::{
        error::{CliError, Exit},
        output::{Output, long},
    },
};

/// Show how the gateway is: ports, mode, tables, drops, and what is wrong.
///
/// Exits with 3 when something is wrong, so that scripts can ask.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_: &Args, output: Output, client: &Client) -> Result<Exit, CliError> {
    let status = client.status().await?;
    let exit = if status.health == Health::Degraded { Exit::Degraded } else { Exit::Ok };
    output.show(status, text)?;
    Ok(exit)
}

fn text(status: &StatusView) -> String {
    let mut text = String::new();
    let state = match (status.health, status.enforcing) {
        (Health::Ok, true) => "guarding",
        (Health::Ok, false) => "watching (nothing is dropped)",
        (Health::Degraded, true) => "DEGRADED, enforcement holds",
        (Health::Degraded, false) => "DEGRADED, nothing is dropped",
    };
    let resumed = if status.resumed { ", took over the tables of an earlier run" } else { "" };
    let _ = writeln!(text, "tidegate {} is {state}; mode {}", status.version, status.mode);
    for problem in &status.problems {
        let _ = writeln!(text, "  problem: {problem}");
    }
    let _ = writeln!(
        text,
        "up {} (pid {}, kernel {}{resumed})",
        long(status.uptime_s),
        status.pid,
        status.kernel
    );
    for port in &status.interfaces {
        let _ = writeln!(text, "port {}: XDP {}, TC {}", port.name, port.xdp, port.tc);
    }
    let (flows, devices) = (status.flows, status.devices);
    let _ = writeln!(
        text,
        "flows {}/{}, devices {}/{} ({} with a baseline, {} learning)",
        flows.used,
        flows.capacity,
        devices.used,
        devices.capacity,
        status.baselines_ready,
        status.baselines_learning
    );
    let _ = writeln!(
        text,
        "{} blocks, {} never-block entries, {} listed addresses, {} open incidents",
        status.blocks, status.allow, status.feed_entries, status.open_incidents
    );
    let counter = |name: &str| status.counters.get(name).copied().unwrap_or_default();
    let dropped: u64 =
        status.counters.iter().filter(|(name, _)| name.starts_with("dropped_")).map(|(_, count)| count).sum();
    let _ = writeln!(
        text,
        "packets: {} seen, {} in flows, {} folded, {} unparsed, {} dropped, {} would drop, {} unexplained",
        counter("seen"),
        counter("in_flow"),
        counter("folded"),
        status.unparsed.values().sum::<u64>(),
        dropped,
        counter("would_drop"),
        status.unaccounted
    );
    let _ = writeln!(
        text,
        "events: {} sent, {} received, {} lost",
        counter("events"),
        status.events_received,
        counter("events_lost")
    );
    if let Some(messages) = &status.messages {
        let _ = writeln!(
            text,
            "MQTT: {} sessions, {} messages published, {} delivered, {} refusals, {} broker restarts",
            messages.sessions,
            messages.published,
            messages.delivered,
            messages.refused.values().sum::<u64>(),
            messages.broker_restarts
        );
        let _ = writeln!(
            text,
            "commands: {} passed, {} wait for an operator",
            messages.commands_passed, messages.commands_waiting
        );
    }
    text
}
