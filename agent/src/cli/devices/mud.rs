//! `tidegate devices mud`: descriptions of what a device is meant to do (RFC 8520).

use std::{fmt::Write as _, fs, path::Path};

use serde::Serialize;

use crate::{
    api::{Client, DeviceRef, view::ProfileView},
    cli::{
        error::{CliError, Exit},
        output::{Output, print, printable, table},
    },
    mud::{self, Entry, Family, Party, Policy, Side},
};

/// Write a description (MUD, RFC 8520) of what a device was seen to do, or hold the device to one.
///
/// Without options, prints the description of the device's learned services: as a table, or with `-o json` as the document
/// itself. A device that is held to a description may do what its entries allow and nothing else; the kernel drops the rest. ARP,
/// neighbour discovery, DHCP, and the gateway's resolver and clock are always allowed, and never-block entries win.
///
/// Supported are allowing entries of IPv4 and IPv6 lists with networks, names (`ietf-acldns`), protocol, ports, `direction-initiated`,
/// `local-networks`, and the controllers `urn:ietf:params:mud:dns` and `urn:ietf:params:mud:ntp`. Of a description with anything else,
/// nothing is put in force, and every such entry is named.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidegate devices mud camera-1 -o json > camera.json    what the camera does
  tidegate devices mud --check camera.json               whether all of it can be enforced
  tidegate devices mud camera-1 --apply camera.json      allow that and nothing else
  tidegate devices mud camera-1 --applied                how often it was refused something
  tidegate devices mud camera-1 --remove                 allow everything again")]
pub(in crate::cli) struct Args {
    /// Hardware address, address or name.
    #[arg(value_name = "DEVICE", required_unless_present = "check")]
    device: Option<DeviceRef>,
    /// Hold the device to this description.
    #[arg(long, value_name = "FILE", group = "order")]
    apply: Option<std::path::PathBuf>,
    /// Hold the device to nothing.
    #[arg(long, group = "order")]
    remove: bool,
    /// Show the description in force.
    #[arg(long, group = "order")]
    applied: bool,
    /// Say whether a description can be enforced; asks no daemon.
    #[arg(long, value_name = "FILE", group = "order")]
    check: Option<std::path::PathBuf>,
}

/// What a description allows.
#[derive(Debug, Serialize)]
struct Checked {
    url: String,
    systeminfo: String,
    names: Vec<String>,
    entries: usize,
}

pub(super) async fn run(args: Args, output: Output, client: &Client) -> Result<Exit, CliError> {
    if let Some(path) = &args.check {
        return check(path, output);
    }
    let Some(device) = args.device else {
        return Err(CliError::usage("no device was named"));
    };
    if let Some(path) = &args.apply {
        let view = client.apply_profile(&device, read(path)?.into()).await?;
        return output.show(view, |view| {
            format!(
                "{} may do what {} lists and nothing else\n{}",
                view.device,
                printable(&view.url),
                details(view)
            )
        });
    }
    if args.remove {
        let view = client.remove_profile(&device).await?;
        return output.show(view, |view| format!("{} may do everything again", view.device));
    }
    if args.applied {
        return output.show(client.profile(&device).await?, details);
    }
    let document = client.describe(&device).await?;
    if output.is_json() {
        let text = serde_json::to_string_pretty(&document)
            .map_err(|error| CliError::failure(format!("cannot write JSON: {error}")))?;
        print(&text)?;
        return Ok(Exit::Ok);
    }
    let policy = mud::read(document.to_string().as_bytes())
        .map_err(|error| CliError::failure(format!("the daemon wrote no description: {error}")))?;
    print(&listing(&policy))?;
    Ok(Exit::Ok)
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let failed = |error| CliError::failure(format!("cannot read {}: {error}", path.display()));
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > mud::MAX_BYTES as u64 {
        return Err(CliError::failure(format!("{} is larger than {} bytes", path.display(), mud::MAX_BYTES)));
    }
    fs::read(path).map_err(failed)
}

fn check(path: &Path, output: Output) -> Result<Exit, CliError> {
    let policy = mud::read(&read(path)?).map_err(|error| {
        let problems = error.problems.iter().map(|problem| format!("\n  {problem}"));
        CliError::failure(format!("{} cannot be enforced:{}", path.display(), problems.collect::<String>()))
            .hint("leave these entries out, or write them with what `tidegate devices mud --help` lists")
    })?;
    let checked = Checked {
        url: policy.url.clone(),
        systeminfo: policy.systeminfo.clone(),
        names: policy.names().into_iter().map(str::to_owned).collect(),
        entries: policy.entries.len(),
    };
    output.show(checked, |_| listing(&policy))
}

fn listing(policy: &Policy) -> String {
    let rows = policy.entries.iter().map(|entry| {
        [
            match entry.from {
                Side::Device => "sends to".to_owned(),
                Side::Remote => "is sent by".to_owned(),
            },
            party(entry),
            protocol(entry.protocol),
            ports(&entry.remote_ports),
            ports(&entry.local_ports),
            match entry.begun_by {
                None => "-",
                Some(Side::Device) => "device",
                Some(Side::Remote) => "other end",
            }
            .to_owned(),
        ]
    });
    let header = ["THE DEVICE", "OTHER END", "PROTOCOL", "ITS PORT", "OWN PORT", "BEGUN BY"];
    table(header, rows, "nothing is allowed")
}

fn party(entry: &Entry) -> String {
    let any = if entry.family == Family::V4 { "any IPv4" } else { "any IPv6" };
    match &entry.party {
        Party::Anyone => any.to_owned(),
        Party::Net(net) => net.to_string(),
        Party::Name(name) => name.clone(),
        Party::Local => "local networks".to_owned(),
        Party::Gateway => "gateway".to_owned(),
    }
}

fn protocol(number: u8) -> String {
    match number {
        0 => "any".to_owned(),
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

fn ports(ports: &[u16]) -> String {
    if ports.is_empty() {
        return "any".to_owned();
    }
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn details(view: &ProfileView) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "description       {}", printable(&view.url));
    let _ = writeln!(text, "of                {}", printable(&view.systeminfo));
    let _ = writeln!(text, "in force since    {:.0} by {}", view.since, printable(&view.author));
    let _ = writeln!(
        text,
        "entries           {} ({} networks and {} rules in the kernel)",
        view.entries, view.nets, view.rules
    );
    let _ = writeln!(text, "packets refused   {}", view.refused);
    for (name, addresses) in &view.names {
        let known = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "not resolved yet: allows nothing".to_owned() } else { known };
        let _ = writeln!(text, "name              {name}: {known}");
    }
    text
}
