//! `tidegate support dump`: everything a developer needs to see, in one directory that can be read before it is sent.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command as Process,
};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    api::{
        Client, IncidentFilter,
        view::{Allowed, Blocks, Devices, Events, Incidents, Models, Versioned},
    },
    cli::{
        doctor,
        error::{CliError, Exit},
        output::print,
    },
};

/// Log lines taken from the journal.
const LOG_LINES: &str = "500";
/// Words in a key's name that mark its value as a secret.
const SECRET: [&str; 4] = ["secret", "password", "token", "private_key"];

/// Gather what a developer needs to see.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Write status, configuration, tables, incidents, checks and log lines into a directory.
    ///
    /// Parts that cannot be had, for example because the daemon is down, are named in `missing.txt`. Values of keys that look
    /// like secrets are replaced. Addresses and device names are left in: look through the files before you send them.
    Dump {
        /// Directory to create; by default tidegate-support-TIME here.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

pub(super) async fn run(command: &Command, client: &Client) -> Result<Exit, CliError> {
    let Command::Dump { dir } = command;
    let name = || PathBuf::from(format!("tidegate-support-{}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ")));
    let dir = dir.clone().unwrap_or_else(name);
    fs::create_dir(&dir).map_err(|error| {
        CliError::failure(format!("cannot create {}: {error}", dir.display()))
            .hint("name a new directory with --dir")
    })?;
    let mut dump = Dump { dir, missing: Vec::new() };
    let filter = IncidentFilter { limit: 200, ..IncidentFilter::default() };
    dump.json("status.json", client.status().await)?;
    dump.json("devices.json", client.devices().await.map(|devices| Devices { devices }))?;
    dump.json("blocks.json", client.blocks().await.map(|blocks| Blocks { blocks }))?;
    dump.json("allow.json", client.allowed().await.map(|allow| Allowed { allow }))?;
    dump.json("incidents.json", client.incidents(filter).await.map(|incidents| Incidents { incidents }))?;
    dump.json("events.json", client.events(500).await.map(|events| Events { events }))?;
    dump.json("models.json", client.models().await.map(|models| Models { models }))?;
    dump.text("config.toml", client.config().await.map(|text| redact(&text)))?;
    dump.json("doctor.json", Ok::<_, CliError>(doctor::report()))?;
    dump.text("version.txt", Ok::<_, CliError>(versions()))?;
    dump.text("log.txt", output_of("journalctl", &["-u", "tidegate", "-n", LOG_LINES, "--no-pager"]))?;
    dump.text("links.txt", output_of("ip", &["-details", "link"]))?;
    let missing = std::mem::take(&mut dump.missing);
    if !missing.is_empty() {
        dump.text("missing.txt", Ok::<_, CliError>(missing.join("\n")))?;
    }
    let note = if missing.is_empty() { String::new() } else { format!(" ({} parts missing)", missing.len()) };
    print(&format!("{}{note}", dump.dir.display()))?;
    Ok(Exit::Ok)
}

struct Dump {
    dir: PathBuf,
    missing: Vec<String>,
}

impl Dump {
    fn json<T: Serialize, E: ToString>(&mut self, name: &str, view: Result<T, E>) -> Result<(), CliError> {
        let text = view.map_err(|error| error.to_string()).and_then(|view| {
            serde_json::to_string_pretty(&Versioned::from(view)).map_err(|error| error.to_string())
        });
        self.text(name, text)
    }

    fn text<E: ToString>(&mut self, name: &str, text: Result<String, E>) -> Result<(), CliError> {
        match text {
            Ok(text) => write(&self.dir.join(name), &text),
            Err(error) => {
                self.missing.push(format!("{name}: {}", error.to_string()));
                Ok(())
            }
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), CliError> {
    fs::write(path, text)
        .map_err(|error| CliError::failure(format!("cannot write {}: {error}", path.display())))
}

fn versions() -> String {
    let kernel = fs::read_to_string("/proc/version").unwrap_or_default();
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    format!("tidegate {}\n{kernel}{system}", env!("CARGO_PKG_VERSION"))
}

fn output_of(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output =
        Process::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Replaces the values of keys that look like secrets.
fn redact(config: &str) -> String {
    let line = |line: &str| match line.split_once('=') {
        Some((key, _)) if SECRET.iter().any(|word| key.to_ascii_lowercase().contains(word)) => {
            format!("{key}= \"(redacted)\"")
        }
        _ => line.to_owned(),
    };
    config.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_leave_the_gateway() {
        let text = "[fleet]\nname = \"gw\"\nAccess_Token = \"abc\"\nprivate_key_path = \"/x\"";
        assert_eq!(
            redact(text),
            "[fleet]\nname = \"gw\"\nAccess_Token = \"(redacted)\"\nprivate_key_path = \"(redacted)\""
        );
    }
}
