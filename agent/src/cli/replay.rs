//! `tidegate replay`: recorded captures through the accounting, as JSON Lines.

use std::{
    io::{self, BufWriter},
    path::PathBuf,
};

use crate::replay::{self, engine::HostEngine, kernel::KernelEngine};

/// Replay captures through the same accounting that guards live traffic.
///
/// Prints one JSON object a flow (with `--flows`) and one last line that accounts for every packet:
/// packets = in_flows + all unparsed + folded + lost. Several files are one stream, in the order given.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate replay office.pcapng --flows
  tidegate replay monday.pcap tuesday.pcap --flows | jq -c 'select(.dst_port == 23)'")]
pub struct Args {
    /// Captures in pcap or pcapng format.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// What does the accounting: this process, or the real kernel programs (needs root).
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

/// Runs the command. Nothing reaches standard output before every file was read.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let (report, cut_off) = match args.engine {
        EngineKind::Host => replay::replay(&args.files, HostEngine::default())?,
        EngineKind::Kernel => replay::replay(&args.files, KernelEngine::new()?)?,
    };
    for cut in cut_off {
        eprintln!(
            "warning: {} is cut off: the record at byte {} is incomplete and was left out",
            cut.path.display(),
            cut.at
        );
    }
    let stdout = BufWriter::with_capacity(1 << 18, io::stdout().lock());
    match report.write(args.flows, stdout) {
        // The reader of the pipe has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
