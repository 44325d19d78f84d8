//! `tidegate allow`: what no verdict may touch.

use crate::{
    api::{
        AllowOrder, Client,
        view::{AllowCheckView, AllowView, Allowed, RoleWord},
    },
    cli::{
        error::{CliError, Exit},
        output::{Output, printable, table},
    },
    enforce::Target,
};

/// List, add, delete and check never-block entries.
///
/// An operator's entry passes everything to and from it, isolation included. The roles `gateway`, `dhcp`, `dns`, `ntp` and `cloud`
/// come from the configuration and from what the gateway uses; they protect the address itself from any verdict and name what
/// isolation levels leave to devices.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List every entry: the configuration's, the discovered ones, and the operators'.
    List,
    /// Add an entry.
    #[command(after_help = "\
Examples:
  tidegate allow add 198.51.100.10 --reason \"our monitoring\"
  tidegate allow add 192.168.1.53 --role dns --role ntp --reason \"server in the cellar\"
  tidegate allow add 02:00:5e:10:00:01 --reason \"insulin pump\"")]
    Add {
        /// Address, prefix or hardware address.
        #[arg(value_name = "TARGET")]
        target: Target,
        /// What it is to the devices: `operator` passes everything to and from it; with another role, which only an address can
        /// have, no verdict touches the address, and isolation levels leave devices what the role is for. May be repeated.
        #[arg(long, value_name = "ROLE", default_value = "operator", value_enum)]
        role: Vec<RoleWord>,
        /// Why, for the audit.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Delete an operator's entry.
    Delete {
        /// Address, prefix or hardware address, as listed.
        #[arg(value_name = "TARGET")]
        target: Target,
    },
    /// Say whether a target is protected, and by what. Exits with 4 when it is not.
    Check {
        /// Address, prefix or hardware address.
        #[arg(value_name = "TARGET")]
        target: Target,
    },
}

pub(super) async fn run(command: Command, output: Output, client: &Client) -> Result<Exit, CliError> {
    match command {
        Command::List => output.show(Allowed { allow: client.allowed().await? }, |list| listing(&list.allow)),
        Command::Add { target, role, reason } => {
            let entry = client.allow(&AllowOrder { target, roles: role, reason }).await?;
            output.show(entry, |entry| format!("{} is protected as {}", entry.target, roles(entry)))
        }
        Command::Delete { target } => output.show(client.disallow(&target).await?, |entry| {
            format!("{} is no longer protected", entry.target)
        }),
        Command::Check { target } => {
            let check = client.check_allowed(&target).await?;
            let exit = if check.protected { Exit::Ok } else { Exit::NotFound };
            output.show(check, verdict)?;
            Ok(exit)
        }
    }
}

fn roles(entry: &AllowView) -> String {
    entry.roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ")
}

fn listing(entries: &[AllowView]) -> String {
    let rows = entries.iter().map(|entry| {
        [
            entry.target.to_string(),
            roles(entry),
            entry.hits.to_string(),
            printable(&entry.author),
            printable(&entry.reason),
        ]
    });
    table(["TARGET", "ROLE", "HITS", "BY", "WHY"], rows, "nothing is protected")
}

fn verdict(check: &AllowCheckView) -> String {
    if !check.protected {
        return format!("{} is not protected: verdicts may block it", check.target);
    }
    let by: Vec<_> = check
        .by
        .iter()
        .map(|entry| format!("{} ({}, by {})", entry.target, roles(entry), entry.author))
        .collect();
    format!("{} is protected by {}", check.target, by.join("; "))
}
