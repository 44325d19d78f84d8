//! `tidegate replay`: recorded traffic through the accounting, as JSON Lines.

use std::{
    io::{self, BufWriter},
    path::PathBuf,
};

use anyhow::bail;

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
  tidegate replay /opt/zeek/logs/current/conn.log --flows")]
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
pub fn run(args: &Args) -> anyhow::Result<()> {
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
