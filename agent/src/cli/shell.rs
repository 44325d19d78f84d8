//! `tidegate completions` and `tidegate man`: generated from the commands themselves.

use std::{io, path::PathBuf};

use clap_complete::Shell;

use crate::cli::error::{CliError, Exit};

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate completions bash > /etc/bash_completion.d/tidegate
  tidegate completions zsh > \"${fpath[1]}/_tidegate\"")]
pub(super) struct Completions {
    /// Which shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the manual page, or write one page a command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate man | man -l -
  tidegate man --dir /usr/local/share/man/man1")]
pub(super) struct Man {
    /// Directory for one page a command.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(args: &Completions, command: &mut clap::Command) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "tidegate", &mut script);
    write(&script)
}

pub(super) fn man(args: &Man, command: clap::Command) -> Result<Exit, CliError> {
    if let Some(dir) = &args.dir {
        clap_mangen::generate_to(command, dir).map_err(|error| {
            CliError::failure(format!("cannot write manual pages to {}: {error}", dir.display()))
                .hint("the directory must exist and be writable")
        })?;
        return Ok(Exit::Ok);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(|error| CliError::failure(format!("cannot write the manual page: {error}")))?;
    write(&page)
}

fn write(bytes: &[u8]) -> Result<Exit, CliError> {
    match io::Write::write_all(&mut io::stdout().lock(), bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::failure(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(Exit::Ok),
    }
}
