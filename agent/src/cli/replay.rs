//! `tidegate replay`: recorded traffic through the accounting, as JSON Lines.

use std::{
    io::{self, BufWriter},
    path::PathBuf,
};

use anyhow::bail;
use ipnet::IpNet;

use super::{detect, error::CliError, output::Output};
use crate::replay::{
    self, CutOff, ReplayError,
    engine::HostEngine,
    input::{self, CaptureFile, Files},
    kernel::KernelEngine,
    logs,
    report::Report,
};

/// Replay recorded traffic through the same accounting that guards live traffic.
///
/// Reads captures (pcap, pcapng) and flow logs (Zeek conn.log as text or JSON, Suricata EVE JSON, tables with conn.log's
/// columns), told apart by their content. Prints one JSON object a flow (with `--flows`) and one last line that accounts
/// for every packet: packets = in_flows + all unparsed + folded + lost. Several files are one stream, in the order given.
///
/// A flow log holds no packets: its account is of the packets it claims, bytes are as it counts them, its flows come out
/// one a line in its own order, and a line that cannot be read counts as one packet under its reason.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate replay office.pcapng --flows
  tidegate replay monday.pcap tuesday.pcap --flows | jq -c 'select(.dst_port == 23)'
  tidegate replay /opt/zeek/logs/current/conn.log --flows
  tidegate replay today.log --detect --learn yesterday.log
  tidegate replay eve.json --detect --protected 10.1.0.0/16 -o json")]
pub struct Args {
    /// Captures, or flow logs.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// What does the accounting of captures: this process, or the real kernel programs (needs root).
    #[arg(long, value_enum, default_value_t = EngineKind::Host)]
    engine: EngineKind,

    /// Print one line a flow before the summary.
    #[arg(long)]
    flows: bool,

    /// Print what a gateway would have found and blocked instead: incidents, then verdicts, then a summary.
    #[arg(long, conflicts_with_all = ["flows", "engine"])]
    detect: bool,

    /// Normal traffic to learn baselines from before, however long it is; may be given several times.
    #[arg(long, value_name = "FILE", requires = "detect", num_args = 1..)]
    learn: Vec<PathBuf>,

    /// Network behind the gateway, whose hosts are devices; may be given several times. By default what the log itself
    /// counts as local, or else every private address; in a capture without any, hosts that a DNS resolver answers.
    #[arg(long, value_name = "PREFIX", requires = "detect")]
    protected: Vec<IpNet>,

    /// Configuration file whose settings of detection, learning, response and enforcement hold; by default the built-in ones.
    #[arg(short, long, value_name = "FILE", requires = "detect")]
    config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum EngineKind {
    /// In this process, millions of packets a second.
    Host,
    /// Every packet through the kernel programs that guard live traffic.
    Kernel,
}

/// Runs the command. Nothing reaches standard output before every file was opened and recognised, and of captures nothing
/// before all were read.
pub(super) fn run(args: &Args, output: Output) -> Result<(), CliError> {
    if args.detect {
        let settings = detect::Settings {
            files: &args.files,
            learn: &args.learn,
            protected: &args.protected,
            config: args.config.as_deref(),
        };
        return detect::run(&settings, output);
    }
    account_for(args).map_err(CliError::from)
}

fn account_for(args: &Args) -> anyhow::Result<()> {
    let stdout = BufWriter::with_capacity(1 << 18, io::stdout().lock());
    let written = match input::open_all(&args.files)? {
        Files::Captures(files) => {
            let (report, cut_off) = account(files, args.engine)?;
            cut_off.iter().for_each(warn_of_cut);
            report.write(args.flows, stdout).map_err(ReplayError::from)
        }
        Files::Logs(_) if args.engine == EngineKind::Kernel => {
            bail!("a flow log holds no packets that the kernel could take (hint: leave --engine out)")
        }
        Files::Logs(files) => logs::replay(files, args.flows, stdout).map(|summary| {
            for (reason, lines) in summary.log.iter().flat_map(|log| &log.bad) {
                eprintln!(
                    "warning: {} lines could not be read ({}), the first is line {}",
                    lines.count,
                    reason.name(),
                    lines.first_line
                );
            }
        }),
    };
    match written {
        // The reader of the pipe has seen enough.
        Err(ReplayError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn account(files: Vec<CaptureFile>, engine: EngineKind) -> Result<(Report, Vec<CutOff>), ReplayError> {
    match engine {
        EngineKind::Host => replay::replay(files, HostEngine::default()),
        EngineKind::Kernel => replay::replay(files, KernelEngine::new()?),
    }
}

fn warn_of_cut(cut: &CutOff) {
    eprintln!(
        "warning: {} is cut off: the record at byte {} is incomplete and was left out",
        cut.path.display(),
        cut.at
    );
}
