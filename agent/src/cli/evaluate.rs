//! `tidegate evaluate`: how good the detector is on labelled flows, as JSON.

use std::path::PathBuf;

use ipnet::IpNet;
use serde::Serialize;

use super::{
    error::{CliError, Exit},
    output::{Format, Output},
};
use crate::{
    config::{Config, period::Period},
    evaluate::{self, Plan, SetResult},
    replay::{
        detect::Protected,
        flowlog::Entry,
        input::{self, LogFile, Opened},
    },
};

/// Measure the detector on labelled flows: ranking, recall, time to detect, false blocks.
///
/// Each device's benign flows are split by time: models learn from the first half, limits begin with the next fifth and
/// follow what is vetted later, the rest and every attack are judged. Three detectors a set: the flow model alone, the window model alone, and the
/// whole gateway with its rules (`combined`, judged window by window). Figures are medians over the seeds. Prints JSON.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate evaluate --flows conn.log.labeled
  tidegate evaluate --flows a.labeled b.labeled --window 60s --seeds 3 | jq '.sets[] | [.name, .detector, .auroc]'")]
pub(super) struct Args {
    /// Labelled flow logs, each a set of its own: conn.log with label columns, or a table with conn.log's columns.
    #[arg(long, required = true, value_name = "FILE", num_args = 1..)]
    flows: Vec<PathBuf>,

    /// Length of a window, 5s to 10m.
    #[arg(long, default_value = "30s", value_name = "TIME")]
    window: Period,

    /// First seed.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,

    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000))]
    seeds: u64,

    /// Network behind the gateway, whose hosts are devices; may be given several times. By default what the log itself
    /// counts as local, or else every private address.
    #[arg(long, value_name = "PREFIX")]
    protected: Vec<IpNet>,

    /// Configuration file whose settings hold; by default the built-in ones.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    sets: Vec<SetResult>,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<Exit, CliError> {
    let plan = Plan { window: args.window.duration(), seed: args.seed, seeds: args.seeds };
    if !plan.is_allowed() {
        return Err(
            CliError::usage(format!("--window {} is out of range", args.window)).hint("give 5s to 10m")
        );
    }
    let config = match &args.config {
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    let protected = Protected::new(args.protected.clone());
    let progress = input::progress_of(&args.flows);
    let opened: Vec<Opened> =
        args.flows.iter().map(|path| input::open(path, &progress)).collect::<Result<_, _>>()?;
    let mut sets = Vec::new();
    for opened in opened {
        let Opened::Log(mut file) = opened else {
            return Err(CliError::failure("a capture holds no labels").hint("give labelled flow logs"));
        };
        let name = file.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let flows = flows(&mut file)?;
        sets.extend(evaluate::evaluate(&name, flows, &config, &plan, &protected)?);
    }
    Output::new(Format::Json).show(Report { sets }, |_| String::new())
}

fn flows(file: &mut LogFile) -> Result<Vec<crate::replay::flowlog::LoggedFlow>, CliError> {
    let mut flows = Vec::new();
    let mut labelled = false;
    while let Some(entry) = file.next_entry()? {
        if let Entry::Flow(flow) = entry {
            labelled |= flow.label.is_some();
            flows.push(*flow);
        }
    }
    if labelled {
        return Ok(flows);
    }
    Err(CliError::failure(format!("{} has no labels", file.path.display()))
        .hint("the log needs a column `label`, with Benign or Malicious"))
}
