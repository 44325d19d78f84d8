//! `tidegate incidents` and `tidegate explain`: what was found hostile, and why.

use std::fmt::Write as _;

use crate::{
    api::{
        Client, IncidentFilter,
        view::{ExplainView, IncidentView, Incidents, ProbesView},
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
    /// List incidents, newest first; strangers' probes are counted in one line.
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
        /// List strangers' probes one by one, too, as `-o json` does.
        #[arg(long)]
        all: bool,
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
        Command::List { open, within, limit, all } => {
            let within_s = within.map(|period| period.duration().as_secs());
            let gathered = !(all || output.is_json());
            let filter = IncidentFilter { limit, open, within_s, gathered };
            output.show(client.incidents(filter).await?, listing)
        }
        Command::Show { id } => output.show(client.incident(&id).await?, details),
    }
}

pub(super) async fn explain(args: &Explain, output: Output, client: &Client) -> Result<Exit, CliError> {
    output.show(client.explain(&args.id).await?, explanation)
}

fn listing(list: &Incidents) -> String {
    let rows = list.incidents.iter().map(|incident| {
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
    let mut text =
        table(["ID", "TECHNIQUE", "SUBJECT", "STATE", "EVIDENCE", "LAST", "RESPONSE"], rows, "no incident");
    if let Some(ProbesView { incidents, hosts, last_seen: Some(last_seen), .. }) = list.probes {
        let _ = write!(
            text,
            "\nbesides, {hosts} strangers knocked where nothing is offered ({incidents} incidents, the last {}): --all lists them",
            ago(last_seen)
        );
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_probes_are_one_line() {
        let probes = ProbesView {
            incidents: 310,
            hosts: 290,
            evidence: 700,
            last_seen: Some(jiff::Timestamp::now() - jiff::SignedDuration::from_secs(125)),
        };
        let list = |probes| listing(&Incidents { incidents: Vec::new(), probes });
        assert_eq!(
            list(Some(probes)),
            "no incident\nbesides, 290 strangers knocked where nothing is offered (310 incidents, the last 2m ago): --all lists them"
        );
        let none = ProbesView { incidents: 0, hosts: 0, evidence: 0, last_seen: None };
        assert_eq!((list(Some(none)), list(None)), ("no incident".to_owned(), "no incident".to_owned()));
    }
}
