//! `tidegate run`: the daemon.

use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use crate::{
    cli::{
        error::{CliError, Exit},
        output::print,
    },
    config::{Config, Source, values::GatewayMode},
};

/// Guard the ports on the protected side until a signal ends it.
///
/// Name the ports where the devices are, not the WAN port and not a bridge. Enforcement that is in force outlives this
/// process: the kernel keeps it until it expires. SIGHUP reads the configuration again; SIGTERM and SIGINT stop.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate run -i lan0 -i lan1               guard two ports with the defaults
  tidegate run -i lan0 --mode monitor        measure and report, never drop
  tidegate run -c /etc/tidegate/tidegate.toml --check
                                             check a file and stop")]
pub(super) struct Args {
    /// Configuration file; by default /etc/tidegate/tidegate.toml if it exists, else the defaults.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Port on the protected side; may be repeated. Replaces the list in the file.
    #[arg(short, long = "interface", value_name = "IFACE")]
    interfaces: Vec<String>,

    /// When verdicts drop packets; replaces the mode in the file.
    #[arg(long, value_enum)]
    mode: Option<GatewayMode>,

    /// Check the configuration and stop.
    #[arg(long)]
    check: bool,

    /// Write log lines as JSON.
    #[arg(long)]
    log_json: bool,
}

pub(super) fn run(args: &Args, socket: Option<PathBuf>) -> Result<Exit, CliError> {
    let source = Source {
        path: Config::locate(args.config.as_deref()),
        interfaces: args.interfaces.clone(),
        mode: args.mode,
        socket,
    };
    let config = source.load()?;
    if args.check {
        let name =
            source.path.as_deref().map_or("the defaults".to_owned(), |path| path.display().to_string());
        print(&format!("{name}: sound"))?;
        return Ok(Exit::Ok);
    }
    if config.gateway.interfaces.is_empty() {
        return Err(CliError::usage("no interface to guard")
            .hint("name one with -i or under gateway.interfaces; `ip -brief link` lists them"));
    }
    log(args.log_json);
    crate::run::run(&config, &source)?;
    Ok(Exit::Ok)
}

/// Log lines go to standard error; RUST_LOG chooses them.
fn log(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second initialisation in one process changes nothing.
    let _ = if json { lines.json().flatten_event(true).try_init() } else { lines.compact().try_init() };
}
