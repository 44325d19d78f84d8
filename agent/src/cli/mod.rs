//! The command line: parses, asks the daemon or works offline, prints, and chooses the exit code.
//!
//! Results go to standard output, everything else to standard error. Nothing here decides about traffic.

mod alarms;
mod allow;
mod blocks;
mod commands;
mod config;
mod detect;
mod devices;
mod doctor;
mod error;
mod evaluate;
mod events;
mod incidents;
pub mod model;
mod models;
mod neighbours;
mod output;
mod policy;
mod provision;
pub mod replay;
mod run;
mod shell;
mod status;
mod support;
#[cfg(test)]
pub(crate) mod testing;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand};

use self::{
    error::{CliError, Exit},
    output::{Format, Output},
};
use crate::{api::Client, config::Config};

/// Shuts hostile traffic out in the kernel, so that the devices behind this gateway keep working.
///
/// `tidegate run` guards the ports you name; every other command talks to that daemon, or works without it where it says so.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    propagate_version = true,
    max_term_width = 110,
    after_help = "\
Examples:
  tidegate run -i lan0                   guard the port lan0
  tidegate status                        how the gateway is
  tidegate events --follow               watch what happens
  tidegate blocks add 203.0.113.9 --ttl 1h --reason \"scans us\"
  tidegate explain 203.0.113.9           why it is blocked, and how to undo it

Exit codes: 0 done, 1 failure, 2 wrong usage, 3 degraded, 4 not found."
)]
struct Cli {
    /// Socket of the daemon; by default the one in the configuration file, else /run/tidegate/tidegate.sock.
    #[arg(long, global = true, value_name = "PATH", env = "TIDEGATE_SOCKET")]
    socket: Option<PathBuf>,

    /// How results are printed.
    #[arg(short = 'o', long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    format: Format,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Status(status::Args),
    Doctor(doctor::Args),
    Events(events::Args),
    #[command(subcommand)]
    Devices(devices::Command),
    #[command(subcommand)]
    Blocks(blocks::Command),
    #[command(subcommand)]
    Allow(allow::Command),
    #[command(subcommand)]
    Incidents(incidents::Command),
    Explain(incidents::Explain),
    #[command(subcommand)]
    Model(models::Command),
    #[command(subcommand)]
    Policy(policy::Command),
    #[command(subcommand)]
    Commands(commands::Command),
    #[command(subcommand)]
    Neighbours(neighbours::Command),
    Provision(provision::Args),
    Deprovision(provision::UndoArgs),
    #[command(subcommand)]
    Alarms(alarms::Command),
    Replay(replay::Args),
    Evaluate(evaluate::Args),
    #[command(subcommand)]
    Config(config::Command),
    #[command(subcommand)]
    Support(support::Command),
    Completions(shell::Completions),
    Man(shell::Man),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are answers; everything else is wrong usage. The reader of a pipe may have gone away.
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    match dispatch(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("{error}");
            error.exit.into()
        }
    }
}

fn dispatch(cli: Cli) -> Result<Exit, CliError> {
    let output = Output::new(cli.format);
    let socket = cli.socket;
    let client = || Client::new(socket.clone().unwrap_or_else(default_socket));
    match cli.command {
        Command::Run(args) => run::run(&args, socket),
        Command::Doctor(args) => doctor::run(&args, output),
        Command::Support(command) => asking(support::run(&command, &client())),
        Command::Replay(args) => replay::run(&args, output).map(|()| Exit::Ok),
        Command::Evaluate(args) => evaluate::run(&args),
        Command::Config(command) => config::run(&command, output, &client()),
        Command::Completions(args) => shell::completions(&args, &mut Cli::command()),
        Command::Man(args) => shell::man(&args, Cli::command()),
        Command::Status(args) => asking(status::run(&args, output, &client())),
        Command::Events(args) => asking(events::run(&args, output, &client())),
        Command::Devices(command) => asking(devices::run(command, output, &client())),
        Command::Blocks(command) => asking(blocks::run(command, output, &client())),
        Command::Allow(command) => asking(allow::run(command, output, &client())),
        Command::Incidents(command) => asking(incidents::run(command, output, &client())),
        Command::Explain(args) => asking(incidents::explain(&args, output, &client())),
        Command::Model(command) => asking(models::run(command, output, &client())),
        Command::Commands(command) => asking(commands::run(command, output, &client())),
        Command::Neighbours(command) => asking(neighbours::run(command, output, &client())),
        Command::Policy(command) => asking(policy::run(command, output, &client())),
        Command::Provision(args) => asking(provision::run(&args, output)),
        Command::Deprovision(args) => asking(provision::undo(&args, output)),
        Command::Alarms(command) => asking(alarms::run(&command, output)),
    }
}

/// Runs a question to the daemon on this thread.
fn asking(question: impl Future<Output = Result<Exit, CliError>>) -> Result<Exit, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failure(format!("cannot start the event loop: {error}")))?
        .block_on(question)
}

/// A daemon started from the default file listens where that file says.
fn default_socket() -> PathBuf {
    let located = Config::locate(None);
    let config = located.as_deref().and_then(|path: &Path| Config::load(path).ok()).unwrap_or_default();
    config.gateway.socket
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn the_commands_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_reference_in_the_docs_is_current() {
        let mut page =
            String::from("# Command line\n\nGenerated from `tidegate --help`; a test keeps it current.\n");
        describe(&mut page, Cli::command().term_width(100), "");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/cli.md");
        testing::assert_generated(&path, &page);
    }

    fn describe(page: &mut String, mut command: clap::Command, parent: &str) {
        let name = format!("{parent}{}", command.get_name());
        command = command.bin_name(name.clone());
        let _ = write!(
            page,
            "\n## {name}\n\n```text\n{}\n```\n",
            command.render_long_help().to_string().trim_end()
        );
        for sub in command.get_subcommands() {
            let shown = !sub.is_hide_set() && sub.get_name() != "help";
            if shown {
                describe(page, sub.clone().term_width(100), &format!("{name} "));
            }
        }
    }
}
