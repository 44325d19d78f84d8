//! `tidegate incidents` and `tidegate explain`: what was found hostile, and why.

use std::fmt::Write as _;

use crate::{
    api::{
        Client, IncidentFilter,
        view::{ExplainView, IncidentView, Incidents},
    },
    cli::{
        error::{CliError, Exit},
        output::{Output, ago, or_dash, printable, table},
    },
    config::period::Period,
};

/// List and show incidents.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List incidents, newest first.
    List {
        /// Only those still going on.
        #[arg(long)]
        open: bool,
        /// Only those with evidence within this time, such as 24h.
        #[arg(long, value_name = "TIME")]
        within: Option<Period>,
        /// How many at most.
        #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
        limit: usize,
    },
    /// Show one incident.
    Show {
        /// Id, as listed.
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// Say in plain words why something was done, and how to undo it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate explain 203.0.113.9        why an address is blocked
  tidegate explain 02:00:5e:10:00:01  why a device is isolated
  tidegate explain INCIDENT-ID        what an incident is about")]
pub(super) struct Explain {
    /// Id of an incident, or target of an enforcement.
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) async fn run(command: Command, output: Output, client: &Client) -> Result<Exit, CliError> {
    match command {
        Command::List { open, within, limit } => {
            let within_s = within.map(|period| period.duration().as_secs());
            let incidents = client.incidents(IncidentFilter { limit, open, within_s }).await?;
            output.show(Incidents { incidents }, |list| listing(&list.incidents))
        }
        Command::Show { id } => output.show(client.incident(&id).await?, details),
    }
}

pub(super) async fn explain(args: &Explain, output: Output, client: &Client) -> Result<Exit, CliError> {
    output.show(client.explain(&args.id).await?, explanation)
}

fn listing(incidents: &[IncidentView]) -> String {
    let rows = incidents.iter().map(|incident| {
        [
            incident.id.clone(),
            format!("{} {}", incident.technique.id, incident.technique.name),
            incident.subject.clone(),
            if incident.open { "open" } else { "over" }.to_owned(),
            incident.evidence.to_string(),
            ago(incident.last_seen),
            printable(&incident.response),
        ]
    });
    table(["ID", "TECHNIQUE", "SUBJECT", "STATE", "EVIDENCE", "LAST", "RESPONSE"], rows, "no incident")
}

fn details(incident: &IncidentView) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", printable(&incident.summary));
    let _ = writeln!(text, "technique  {} {}", incident.technique.id, incident.technique.name);
    let _ = writeln!(text, "subject    {}", incident.subject);
    let _ = writeln!(text, "victim     {}", or_dash(incident.victim));
    let _ = writeln!(
        text,
        "evidence   {} times, {:.0} to {:.0}",
        incident.evidence, incident.first_seen, incident.last_seen
    );
    let _ = writeln!(text, "score      {:.3}", incident.score);
    let _ = writeln!(text, "response   {}", printable(&incident.response));
    let _ = writeln!(text, "`tidegate explain {}` says more", incident.id);
    text
}

fn explanation(explain: &ExplainView) -> String {
    let mut text = printable_lines(&explain.explanation);
    text.push('\n');
    if let Some(rule) = &explain.rule {
        let _ = writeln!(text, "rule: {rule}");
    }
    if let Some(p_value) = explain.p_value {
        let _ = writeln!(text, "rarity among the device's normal traffic: {:.3} %", p_value * 100.0);
    }
    for note in &explain.notes {
        let _ = writeln!(
            text,
            "  {}: {:.2}, normally {:.2} to {:.2}, {:.0} % of the score",
            note.name,
            note.value,
            note.normal_low,
            note.normal_high,
            note.share * 100.0
        );
    }
    if let Some(reason) = &explain.held_back {
        let _ = writeln!(text, "only observed: {}", printable(reason));
    }
    if let Some(block) = &explain.block {
        let until = block.expires.map_or("for ever".to_owned(), |time| format!("until {time:.0}"));
        let _ = writeln!(
            text,
            "in force: {} on {} {until}, {} packets matched",
            block.action.as_str(),
            block.target,
            block.hits
        );
        let _ = writeln!(text, "undo it: tidegate blocks delete {}", block.target);
        let _ = writeln!(text, "never again: tidegate allow add {}", block.target);
    }
    text
}

fn printable_lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}
