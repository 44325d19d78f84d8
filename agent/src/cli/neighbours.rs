//! `tidegate neighbours`: other gateways of the site, and the key of this one.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use serde::Serialize;

use crate::{
    api::{Client, view::NeighboursView},
    cli::{
        error::{CliError, Exit},
        output::{Output, or_dash, printable, table},
        policy::write,
    },
    config::neighbours::Neighbours,
    fleet::neighbours::PeerKey,
    policy::SigningKey,
};

/// List other gateways of the site, and make the key of this one.
///
/// Gateways named in `[neighbours]` tell each other over the local network what they shut out by their own evidence, cloud or no cloud.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the neighbours: whether they can be told, when they were heard, and what became of notices.
    List,
    /// Make the gateway's key and print what its neighbours need. Asks no daemon.
    #[command(after_help = "\
Examples:
  tidegate neighbours keygen                      /etc/tidegate/neighbours.key, for neighbours.key
  tidegate neighbours keygen --output east.key    for another gateway")]
    Keygen {
        /// File to write, readable by its owner alone; an existing one is left alone. By default /etc/tidegate/neighbours.key.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// A key that was made.
#[derive(Debug, Serialize)]
struct Made {
    /// The file with the private key.
    file: PathBuf,
    /// Its name.
    id: String,
    /// The public key, as neighbours write it in their configuration.
    key: PeerKey,
}

pub(super) async fn run(command: Command, output: Output, client: &Client) -> Result<Exit, CliError> {
    match command {
        Command::List => output.show(client.neighbours().await?, listing),
        Command::Keygen { output: file } => {
            let failed = |error: crate::policy::KeyError| CliError::failure(error.to_string());
            let text = SigningKey::generate().map_err(failed)?;
            let key = SigningKey::parse(text.as_bytes()).map_err(failed)?;
            let file = file.unwrap_or_else(|| Neighbours::default().key);
            write(&file, text.as_bytes(), 0o600, true)?;
            output.show(Made { file, id: key.id().to_string(), key: PeerKey::of(&key) }, |made| {
                format!(
                    "key {}: keep {} secret; neighbours name this gateway by\n  key = \"{}\"",
                    made.id,
                    made.file.display(),
                    made.key
                )
            })
        }
    }
}

fn listing(view: &NeighboursView) -> String {
    let rows = view.peers.iter().map(|peer| {
        let reached = match &peer.trouble {
            Some(trouble) => printable(trouble),
            None => if peer.reached { "yes" } else { "not yet" }.to_owned(),
        };
        [
            printable(&peer.name),
            peer.address.to_string(),
            peer.key.clone(),
            reached,
            or_dash(peer.heard.map(|heard| format!("{heard:.0}"))),
            peer.waiting.to_string(),
            counts(&peer.answers),
            counts(&peer.judged),
        ]
    });
    let header = ["NAME", "ADDRESS", "KEY", "REACHED", "HEARD", "WAITING", "ANSWERED", "TOLD US"];
    let mut text = table(header, rows, "no neighbours are named in the configuration");
    if let Some(problem) = &view.problem {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n\nnobody can be heard: {}", printable(problem));
    }
    if !view.strangers.is_empty() {
        let _ = write!(text, "\n\nstrangers refused since the start: {}", counts(&view.strangers));
    }
    text
}

fn counts(counts: &BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return "-".to_owned();
    }
    let words = counts.iter().map(|(word, count)| format!("{} {count}", printable(word)));
    words.collect::<Vec<_>>().join(", ")
}
