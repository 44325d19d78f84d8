//! `tidegate devices`: who is on the protected side.

mod mud;

use std::fmt::Write as _;

use crate::{
    api::{
        Client, DeviceRef, IsolationOrder,
        view::{BaselineState, DeviceView, Devices},
    },
    cli::{
        error::{CliError, Exit},
        output::{Output, ago, bytes, or_dash, printable, table},
    },
    config::{period::Period, values::IsolationLevel},
    identity::NameOrigin,
    kind::Opinion,
};

/// Peers that `show` prints; JSON has all.
const PEERS_SHOWN: usize = 20;

/// List, show, isolate and release devices on the protected side.
///
/// A device is named by its hardware address, one of its addresses, or its name.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List every device known, last seen first.
    List,
    /// Show everything known about one device.
    Show {
        /// Hardware address, address or name.
        #[arg(value_name = "DEVICE")]
        device: DeviceRef,
    },
    /// Cut a device off, as far as the level says.
    ///
    /// Levels, from mild to strict: `observe` drops nothing; `rate-limit` leaves a packet rate; `cloud-only` leaves ARP, ND,
    /// DHCP, the resolver, NTP and the cloud endpoints; `dhcp-dns-only` leaves ARP, ND, DHCP and the resolver; `full` leaves
    /// only what the operator's never-block list names.
    #[command(after_help = "\
Examples:
  tidegate devices isolate camera-1 --level cloud-only --ttl 2h --reason \"scans the office\"
  tidegate devices isolate 02:00:5e:10:00:01 --level full")]
    Isolate {
        /// Hardware address, address or name.
        #[arg(value_name = "DEVICE")]
        device: DeviceRef,
        /// How far it is cut off.
        #[arg(long, value_enum, default_value_t = IsolationLevel::DhcpDnsOnly)]
        level: IsolationLevel,
        /// How long, such as 30m or 2h; by default `enforcement.base_ttl`.
        #[arg(long, value_name = "TIME")]
        ttl: Option<Period>,
        /// Why, for the audit.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// End a device's isolation.
    Release {
        /// Hardware address, address or name.
        #[arg(value_name = "DEVICE")]
        device: DeviceRef,
    },
    Mud(mud::Args),
}

pub(super) async fn run(command: Command, output: Output, client: &Client) -> Result<Exit, CliError> {
    match command {
        Command::List => {
            output.show(Devices { devices: client.devices().await? }, |list| listing(&list.devices))
        }
        Command::Show { device } => output.show(client.device(&device).await?, details),
        Command::Isolate { device, level, ttl, reason } => {
            let block = client.isolate(&IsolationOrder { device, level, ttl, reason }).await?;
            output.show(block, |block| {
                let until = block.expires.map_or("for ever".to_owned(), |time| format!("until {time:.0}"));
                format!("{} is isolated at level {level} {until}", block.target)
            })
        }
        Command::Release { device } => {
            output.show(client.release(&device).await?, |block| format!("{} is released", block.target))
        }
        Command::Mud(args) => mud::run(args, output, client).await,
    }
}

fn listing(devices: &[DeviceView]) -> String {
    let rows = devices.iter().map(|device| {
        [
            device.mac.to_string(),
            device.interface.clone(),
            device.addresses.first().map_or_else(|| "-".to_owned(), ToString::to_string),
            printable(device.name.as_deref().or(device.vendor.as_deref()).unwrap_or("-")),
            device.kind.as_ref().map_or("-", |opinion| opinion.kind.name()).to_owned(),
            baseline(device),
            or_dash(device.isolation),
            device.open_incidents.to_string(),
            ago(device.last_seen),
        ]
    });
    let header = ["MAC", "PORT", "ADDRESS", "NAME", "KIND", "BASELINE", "ISOLATION", "INCIDENTS", "SEEN"];
    table(header, rows, "no device was seen yet")
}

fn baseline(device: &DeviceView) -> String {
    match device.baseline {
        BaselineState::Ready => "ready".to_owned(),
        BaselineState::Learning => format!("learning {:.0} %", device.learned * 100.0),
    }
}

fn details(device: &DeviceView) -> String {
    let mut text = String::new();
    let addresses = device.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let randomised = if device.randomised { " (randomised)" } else { "" };
    let _ = writeln!(text, "hardware address  {}{randomised}", device.mac);
    let _ = writeln!(text, "port              {}", device.interface);
    let _ = writeln!(text, "addresses         {addresses}");
    let _ = writeln!(text, "name              {}", or_dash(device.name.as_deref().map(printable)));
    let _ = writeln!(text, "maker             {}", or_dash(device.vendor.as_deref()));
    if let Some(Opinion { kind, confidence, reasons }) = &device.kind {
        let kind = kind.name();
        let _ =
            writeln!(text, "kind              {kind} ({:.0} %: {})", confidence * 100.0, reasons.join("; "));
    }
    for said in &device.says {
        let _ = writeln!(text, "says              {}", printable(said));
    }
    let _ = writeln!(
        text,
        "seen              {} to {:.0}",
        format_args!("{:.0}", device.first_seen),
        device.last_seen
    );
    let _ = writeln!(text, "sent              {} packets, {}", device.packets_out, bytes(device.bytes_out));
    let _ = writeln!(text, "received          {} packets, {}", device.packets_in, bytes(device.bytes_in));
    let _ = writeln!(text, "baseline          {}", baseline(device));
    let until = device.isolated_until.map(|time| format!(" until {time:.0}")).unwrap_or_default();
    let _ = writeln!(text, "isolation         {}{until}", or_dash(device.isolation));
    let _ = writeln!(text, "held to           {}", or_dash(device.profile.as_deref().map(printable)));
    let _ = writeln!(text, "never-block       {}", if device.never_block { "yes" } else { "no" });
    let _ = writeln!(text, "open incidents    {}", device.open_incidents);
    for conflict in &device.conflicts {
        let _ = writeln!(text, "conflict          {}", printable(conflict));
    }
    for print in &device.tls {
        let sni = print.sni.as_deref().map(|name| format!(" for {}", printable(name))).unwrap_or_default();
        let _ = writeln!(
            text,
            "TLS client        {} (JA3 {}), {} hellos{sni}",
            print.ja4, print.ja3, print.count
        );
    }
    for peer in device.peers.iter().take(PEERS_SHOWN) {
        let by = match peer.origin {
            NameOrigin::Dns => "DNS",
            NameOrigin::Tls => "TLS",
        };
        let _ = writeln!(text, "talks to          {} ({}, by {by})", printable(&peer.name), peer.address);
    }
    if let Some(more) = device.peers.len().checked_sub(PEERS_SHOWN).filter(|more| *more > 0) {
        let _ = writeln!(text, "                  and {more} more");
    }
    text
}
