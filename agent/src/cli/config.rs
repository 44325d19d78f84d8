//! `tidegate config`: the example, and what is in force.

use std::path::PathBuf;

use crate::{
    api::Client,
    cli::{
        asking,
        error::{CliError, Exit},
        output::{Output, print},
    },
    config::{Config, example},
};

/// Print the commented example, check a file, show or reload what is in force.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Print a configuration file with every key, its meaning and its default.
    Example,
    /// Check a file without starting anything.
    Check {
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the configuration of the running daemon.
    Show,
    /// Make the running daemon read its file again, as SIGHUP does.
    Reload,
}

pub(super) fn run(command: &Command, output: Output, client: &Client) -> Result<Exit, CliError> {
    match command {
        Command::Example => print(&example())?,
        Command::Check { file } => {
            Config::load(file)?;
            print(&format!("{}: sound", file.display()))?;
        }
        Command::Show => asking(async {
            print(&client.config().await?)?;
            Ok(Exit::Ok)
        })
        .map(drop)?,
        Command::Reload => {
            return asking(async {
                output.show(client.reload().await?, |reload| {
                    if reload.needs_restart.is_empty() {
                        return format!("{} is in force", reload.path);
                    }
                    let keys = reload.needs_restart.join(", ");
                    format!("{} is in force; a restart is needed for {keys}", reload.path)
                })
            });
        }
    }
    Ok(Exit::Ok)
}
