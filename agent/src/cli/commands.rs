//! `tidegate commands`: what waits for an operator, and signed commands.

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{
        Client,
        view::{CommandsView, HeldCommandView},
    },
    cli::{
        error::{CliError, Exit},
        output::{Output, or_dash, printable, table},
        policy::{Written, keygen, signing_key, write},
    },
    config::period::Period,
    messages::commands::{self, Value, body},
    policy::nonce,
};

/// List, show, release and drop held commands; make keys and sign commands.
///
/// Commands to devices pass the gateway when a trusted key signed them, the rules in `[commands]` allow them, and they are like what the
/// device is normally told. What is unlike that is held: an operator lets it go on or drops it, or it expires.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the commands that wait, oldest first, and what was done so far.
    List,
    /// Show one of them, and why it is held.
    Show {
        /// Its name in the list.
        id: String,
    },
    /// Let one go on to its device; the device learns that it is normal. An interrupted one was released before, and may have got to
    /// its device already.
    Release {
        /// Its name in the list.
        id: String,
    },
    /// Take one away for good.
    Drop {
        /// Its name in the list.
        id: String,
    },
    /// Sign a command; asks no daemon.
    #[command(after_help = "\
Examples:
  tidegate commands keygen --output orders         orders.key, to be kept secret, and orders.pub for commands.keys
  tidegate commands sign set --device pump --params '{\"level\": 40}' --key orders.key --output set.command
  mosquitto_pub -t cmd/pump/set -f set.command")]
    Sign(SignArgs),
    /// Make a key: NAME.key, readable by its owner alone, and NAME.pub. Asks no daemon.
    Keygen {
        /// Files to write, without their endings; existing ones are left alone.
        #[arg(long, value_name = "NAME")]
        output: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct SignArgs {
    /// What is to be done.
    verb: String,
    /// The device, as its topic names it.
    #[arg(long, value_name = "NAME")]
    device: String,
    /// Parameters by name, as a JSON object.
    #[arg(long, value_name = "JSON")]
    params: Option<String>,
    /// Names the command in answers and logs; by default its nonce.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// How long it is valid.
    #[arg(long, value_name = "TIME", default_value = "1m")]
    lifetime: Period,
    /// File of the private key, which nobody else may read.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

pub(super) async fn run(command: Command, output: Output, client: &Client) -> Result<Exit, CliError> {
    match command {
        Command::List => output.show(client.commands().await?, listing),
        Command::Show { id } => output.show(client.command(&id).await?, shown),
        Command::Release { id } => {
            output.show(client.release_command(&id).await?, |held| format!("released:\n{}", shown(held)))
        }
        Command::Drop { id } => {
            output.show(client.drop_command(&id).await?, |held| format!("dropped:\n{}", shown(held)))
        }
        Command::Sign(args) => sign(&args, output),
        Command::Keygen { output: name } => keygen(&name, output),
    }
}

fn sign(args: &SignArgs, output: Output) -> Result<Exit, CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::failure(error.to_string());
    let key = signing_key(&args.key)?;
    let params = match &args.params {
        Some(text) => {
            body::read(text.as_bytes()).filter(|params| matches!(params, Value::Map(_))).ok_or_else(|| {
                CliError::usage(format!("{text} is no JSON object with names that come once each"))
            })?
        }
        None => Value::Nothing,
    };
    let nonce = nonce().map_err(|error| failed(&error))?;
    let issued = Timestamp::now();
    let lifetime = SignedDuration::try_from(args.lifetime.0).map_err(|error| failed(&error))?;
    let command = commands::Command {
        id: args.id.clone().unwrap_or_else(|| nonce.clone()),
        device: args.device.clone(),
        issued,
        expires: issued.saturating_add(lifetime).map_err(|error| failed(&error))?,
        nonce,
        verb: args.verb.clone(),
        params,
    };
    let sealed = commands::seal(&command, &key).map_err(|error| failed(&error))?;
    write(&args.output, &sealed, 0o644, false)?;
    let written = Written { file: args.output.clone(), key: key.id().to_string() };
    output.show(written, |written| {
        let file: &Path = &written.file;
        format!(
            "{} holds command {} for {}, signed by {}, valid until {}",
            file.display(),
            command.id,
            command.device,
            written.key,
            command.expires
        )
    })
}

fn listing(view: &CommandsView) -> String {
    let rows = view.waiting.iter().map(|held| {
        [
            held.id.clone(),
            held.state.name().to_owned(),
            printable(&held.device),
            printable(&held.verb),
            printable(&held.sender),
            format!("{} s", held.left_s),
            printable(&held.why),
        ]
    });
    format!(
        "{}\n\n{} passed; {} held, of these {} released, {} dropped, {} expired; {} interrupted; {} of {} devices have a known habit",
        table(["ID", "STATE", "DEVICE", "VERB", "SENDER", "LEFT", "WHY"], rows, "no command waits"),
        view.passed,
        view.held,
        view.released,
        view.dropped,
        view.expired,
        view.interrupted,
        view.known,
        view.devices
    )
}

fn shown(held: &HeldCommandView) -> String {
    let params: Vec<String> =
        held.params.iter().map(|(name, value)| printable(&format!("{name} = {value}"))).collect();
    format!(
        "{}, {}: {} for {} by {} on {}\nparameters: {}\ncommand {} by key {}\nsince {}, {} s left\np = {:.1e}: {}",
        held.id,
        held.state.name(),
        printable(&held.verb),
        printable(&held.device),
        printable(&held.sender),
        printable(&held.topic),
        if params.is_empty() { "none".to_owned() } else { params.join(", ") },
        or_dash(held.command.as_deref().map(printable)),
        or_dash(held.key.as_deref()),
        held.since,
        held.left_s,
        held.p_value,
        printable(&held.why)
    )
}
