//! `tidegate events`: what happened, and what happens.

use crate::{
    api::{Client, view::EventView},
    cli::{
        error::{CliError, Exit},
        output::{Output, printable},
    },
};

/// Show what happened: devices, incidents, verdicts, operators' orders, alarms.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate events --limit 50
  tidegate events --follow -o json | jq -r 'select(.kind == \"verdict\") | .message'")]
pub(super) struct Args {
    /// Keep printing events as they happen, until the daemon stops.
    #[arg(short, long)]
    follow: bool,

    /// How many past events to print.
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
    limit: usize,
}

pub(super) async fn run(args: &Args, output: Output, client: &Client) -> Result<Exit, CliError> {
    // Subscribed first: an event between the two questions may be printed twice but is never missed.
    let follow = if args.follow { Some(client.follow().await?) } else { None };
    for event in client.events(args.limit).await? {
        output.line(event, text)?;
    }
    if let Some(mut follow) = follow {
        while let Some(event) = follow.next().await? {
            output.line(event, text)?;
        }
        return Err(CliError::failure("the daemon stopped").hint("`systemctl status tidegate` says why"));
    }
    Ok(Exit::Ok)
}

fn text(event: &EventView) -> String {
    let incident = event.incident.as_ref().map(|id| format!("  [{id}]")).unwrap_or_default();
    format!("{:.0}  {:9}  {}{incident}", event.time, event.kind.as_str(), printable(&event.message))
}
