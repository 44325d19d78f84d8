//! Checks of what the configuration names: ports, places, and whether the never-block list covers what the gateway needs.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::net::UnixStream,
    path::Path,
};

use nix::{
    sys::statvfs::statvfs,
    unistd::{AccessFlags, access},
};

use super::{fail, ok, warn};
use crate::{api::view::CheckView, config::Config, enforce::Target};

/// Beyond this MTU, XDP in the driver needs multi-buffer support, which few drivers have: one page less headroom and tail.
const LINEAR_MTU: u32 = 3_506;
/// Less room than this and the event log stops before long.
const ROOM_BYTES: u64 = 256 << 20;

pub(super) fn checks(config: &Config) -> Vec<CheckView> {
    let mut checks: Vec<_> = config.gateway.interfaces.iter().map(|name| port(name)).collect();
    if checks.is_empty() {
        checks.push(warn("ports", "none named", "name them with -i or under gateway.interfaces"));
    }
    checks.push(state_dir(&config.gateway.state_dir));
    checks.push(socket(&config.gateway.socket));
    checks.push(never_block(config));
    checks
}

fn port(name: &str) -> CheckView {
    let title = format!("port {name}");
    let place = Path::new("/sys/class/net").join(name);
    if !place.exists() {
        return fail(title, "no such interface", "`ip -brief link` lists the interfaces");
    }
    if place.join("bridge").exists() {
        let hint =
            "guard the bridge's ports instead: frames between two of them never reach the bridge itself";
        return warn(title, "a bridge", hint);
    }
    if default_route_interface().as_deref() == Some(name) {
        let hint = "guard the ports where the devices are: NAT hides the devices on the WAN port";
        return warn(title, "the default route leaves here", hint);
    }
    let read = |file: &str| fs::read_to_string(place.join(file)).map(|text| text.trim().to_owned());
    let up = read("operstate").unwrap_or_default();
    let mtu: u32 = read("mtu").ok().and_then(|mtu| mtu.parse().ok()).unwrap_or_default();
    let driver = fs::read_link(place.join("device/driver"))
        .ok()
        .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "virtual".to_owned());
    let found = format!("{up}, MTU {mtu}, driver {driver}");
    if mtu > LINEAR_MTU {
        let hint = format!("above an MTU of {LINEAR_MTU} most drivers refuse XDP; generic mode will be used");
        return warn(title, found, hint);
    }
    if up == "down" {
        return warn(title, found, format!("ip link set {name} up"));
    }
    ok(title, found)
}

fn state_dir(path: &Path) -> CheckView {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    if access(existing, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        let hint = "run it as root, or name another gateway.state_dir";
        return fail("state directory", format!("{} cannot be written", existing.display()), hint);
    }
    #[allow(clippy::unnecessary_cast, reason = "both are narrower on 32-bit machines")]
    let room = statvfs(existing)
        .map(|fs| fs.blocks_available() as u64 * fs.fragment_size() as u64)
        .unwrap_or_default();
    let found = format!("{}, {} free", path.display(), crate::cli::output::bytes(room));
    if room < ROOM_BYTES {
        return warn("state directory", found, "make room, or lower log.rotate_bytes and log.keep");
    }
    ok("state directory", found)
}

fn socket(path: &Path) -> CheckView {
    if UnixStream::connect(path).is_ok() {
        return ok("daemon", format!("answers on {}", path.display()));
    }
    ok("daemon", format!("does not run at {}", path.display()))
}

fn never_block(config: &Config) -> CheckView {
    let needed: Vec<(IpAddr, &str)> =
        default_gateway().map(|address| (address, "default route")).into_iter().chain(resolvers()).collect();
    if config.never_block.discover {
        let list: Vec<_> = needed.iter().map(|(address, role)| format!("{address} ({role})")).collect();
        let found = if list.is_empty() { "nothing to discover".to_owned() } else { list.join(", ") };
        return ok("never-block", format!("discovered: {found}"));
    }
    let covered = |address: &IpAddr| {
        let target = Target::from(*address);
        let lists = [
            &config.never_block.dns,
            &config.never_block.dhcp,
            &config.never_block.ntp,
            &config.never_block.cloud,
        ];
        config.never_block.addresses.iter().any(|entry| entry.contains(&target))
            || lists.iter().any(|list| list.contains(address))
    };
    let bare: Vec<_> = needed
        .iter()
        .filter(|(address, _)| !covered(address))
        .map(|(a, role)| format!("{a} ({role})"))
        .collect();
    if bare.is_empty() {
        return ok("never-block", "covers the default route and the resolvers");
    }
    let hint = "set never_block.discover = true, or list them under never_block";
    warn("never-block", format!("does not cover {}", bare.join(", ")), hint)
}

fn resolvers() -> Vec<(IpAddr, &'static str)> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            line.trim().strip_prefix("nameserver")?.trim().split('%').next()?.parse::<IpAddr>().ok()
        })
        .filter(|address| !address.is_loopback())
        .map(|address| (address, "resolver"))
        .collect()
}

/// Gateway and interface of the IPv4 default route, from `/proc/net/route` (addresses as hexadecimal, host order).
fn default_route() -> Option<(String, Ipv4Addr)> {
    let text = fs::read_to_string("/proc/net/route").ok()?;
    text.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (name, destination, gateway) = (*fields.first()?, *fields.get(1)?, *fields.get(2)?);
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        (destination == "00000000").then(|| (name.to_owned(), Ipv4Addr::from(gateway.to_ne_bytes())))
    })
}

fn default_route_interface() -> Option<String> {
    default_route().map(|(name, _)| name)
}

fn default_gateway() -> Option<IpAddr> {
    default_route().map(|(_, gateway)| gateway.into()).filter(|gateway: &IpAddr| !gateway.is_unspecified())
}
