//! `tidegate support dump`: everything a developer needs to see, in one archive that can be looked through before it is sent.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    process::Command as Process,
};

use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    api::{
        Client, IncidentFilter,
        view::{Allowed, Blocks, Devices, Events, Models, Versioned},
    },
    cli::{
        doctor,
        error::{CliError, Exit},
        output::print,
    },
};

/// Log lines taken from the journal.
const LOG_LINES: &str = "500";
/// Bytes of one part; what is longer is cut.
const PART_BYTES: usize = 4 << 20;
/// Words in a key's name that mark its value as a secret.
const SECRET: [&str; 4] = ["secret", "password", "token", "private_key"];

/// Gather what a developer needs to see.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Write status, configuration, tables, incidents, checks and log lines into one archive (tar, gzip).
    ///
    /// Parts that cannot be had, for example because the daemon is down, are named in `missing.txt`. Values of keys that look
    /// like secrets are replaced, and each part ends after 4 MiB. Addresses and device names are left in: look through the
    /// archive before you send it.
    Dump {
        /// File to write, which must not exist; by default tidegate-support-TIME.tar.gz here.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

pub(super) async fn run(command: &Command, client: &Client) -> Result<Exit, CliError> {
    let Command::Dump { file } = command;
    let name = format!("tidegate-support-{}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ"));
    let path = file.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let failed = |error: io::Error| {
        CliError::failure(format!("cannot write {}: {error}", path.display()))
            .hint("name another file with --file")
    };
    let mut options = File::options();
    let target = options.write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    let missing = gather(name, target, client).await.map_err(failed)?;
    let note = if missing == 0 { String::new() } else { format!(" ({missing} parts missing)") };
    print(&format!("{}{note}", path.display()))?;
    Ok(Exit::Ok)
}

/// Writes all parts to `target`; how many could not be had.
async fn gather(name: String, target: File, client: &Client) -> io::Result<usize> {
    let filter = IncidentFilter { limit: 200, ..IncidentFilter::default() };
    let mut dump = Dump::new(name, target);
    dump.json("status.json", client.status().await)?;
    dump.json("devices.json", client.devices().await.map(|devices| Devices { devices }))?;
    dump.json("blocks.json", client.blocks().await.map(|blocks| Blocks { blocks }))?;
    dump.json("allow.json", client.allowed().await.map(|allow| Allowed { allow }))?;
    dump.json("incidents.json", client.incidents(filter).await)?;
    dump.json("events.json", client.events(500).await.map(|events| Events { events }))?;
    dump.json("models.json", client.models().await.map(|models| Models { models }))?;
    dump.text("config.toml", client.config().await.map(|text| redact(&text)))?;
    dump.json("doctor.json", Ok::<_, CliError>(doctor::report()))?;
    dump.text("version.txt", Ok::<_, CliError>(versions()))?;
    let log = output_of("journalctl", &["-u", "tidegate", "-n", LOG_LINES, "--no-pager"]);
    dump.text("log.txt", log.map(|text| redact(&text)))?;
    dump.text("links.txt", output_of("ip", &["-details", "link"]))?;
    dump.finish()
}

/// An archive in the making: every part is a file in one directory.
struct Dump<W: io::Write> {
    directory: String,
    archive: tar::Builder<GzEncoder<W>>,
    missing: Vec<String>,
}

impl<W: io::Write> Dump<W> {
    fn new(directory: String, target: W) -> Self {
        let archive = tar::Builder::new(GzEncoder::new(target, Compression::default()));
        Self { directory, archive, missing: Vec::new() }
    }

    fn json<T: Serialize, E: ToString>(&mut self, name: &str, view: Result<T, E>) -> io::Result<()> {
        let text = view.map_err(|error| error.to_string()).and_then(|view| {
            serde_json::to_string_pretty(&Versioned::from(view)).map_err(|error| error.to_string())
        });
        self.text(name, text)
    }

    fn text<E: ToString>(&mut self, name: &str, text: Result<String, E>) -> io::Result<()> {
        match text {
            Ok(text) => self.write(name, text.as_bytes()),
            Err(error) => {
                self.missing.push(format!("{name}: {}", error.to_string()));
                Ok(())
            }
        }
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let bytes = &bytes[..bytes.len().min(PART_BYTES)];
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(Timestamp::now().as_second().try_into().unwrap_or(0));
        self.archive.append_data(&mut header, format!("{}/{name}", self.directory), bytes)
    }

    fn finish(mut self) -> io::Result<usize> {
        let missing = std::mem::take(&mut self.missing);
        if !missing.is_empty() {
            self.write("missing.txt", missing.join("\n").as_bytes())?;
        }
        self.archive.into_inner()?.finish()?.flush()?;
        Ok(missing.len())
    }
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
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use std::io::Read as _;

    use super::*;

    #[test]
    fn secrets_do_not_leave_the_gateway() {
        let text = "[fleet]\nname = \"gw\"\nAccess_Token = \"abc\"\nprivate_key_path = \"/x\"";
        assert_eq!(
            redact(text),
            "[fleet]\nname = \"gw\"\nAccess_Token = \"(redacted)\"\nprivate_key_path = \"(redacted)\""
        );
    }

    #[test]
    fn an_archive_holds_bounded_parts_and_names_those_it_lacks() {
        let mut bytes = Vec::new();
        let mut dump = Dump::new("dump".to_owned(), &mut bytes);
        dump.text("long.txt", Ok::<_, String>("x".repeat(PART_BYTES + 1))).unwrap();
        dump.text("none.txt", Err("the daemon is down")).unwrap();
        assert_eq!(dump.finish().unwrap(), 1);
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..]));
        let parts: Vec<(String, String)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                (entry.path().unwrap().display().to_string(), text)
            })
            .collect();
        assert_eq!(parts[0].0, "dump/long.txt");
        assert_eq!(parts[0].1.len(), PART_BYTES);
        assert_eq!(parts[1], ("dump/missing.txt".to_owned(), "none.txt: the daemon is down".to_owned()));
    }
}
