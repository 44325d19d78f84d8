//! What the gateway itself needs, found out from the system: its own addresses, its routers, its resolvers.
//!
//! Read at start and on every reload, so that no verdict ever touches what keeps the gateway alive.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use nix::{ifaddrs::getifaddrs, sys::socket::SockaddrStorage};
use tidegate_common::verdict::role;

use crate::{
    config::{Config, values::Endpoint},
    enforce::Target,
};

/// Everything that must never be blocked without an operator having said so at run time, with its roles.
pub(super) fn system_entries(config: &Config) -> Vec<(Target, u16)> {
    let listed = &config.never_block;
    let operators =
        listed.addresses.iter().copied().chain(listed.devices.iter().copied().map(Target::Device));
    let needed = needed_addresses(config).into_iter().map(|(address, roles)| (Target::from(address), roles));
    operators.map(|target| (target, role::OPERATOR)).chain(needed).collect()
}

fn needed_addresses(config: &Config) -> Vec<(IpAddr, u16)> {
    let mut roles: BTreeMap<IpAddr, u16> = BTreeMap::new();
    let mut add = |addresses: &[IpAddr], bits: u16| {
        for address in addresses.iter().filter(|address| !address.is_unspecified()) {
            *roles.entry(address.to_canonical()).or_default() |= bits;
        }
    };
    let listed = &config.never_block;
    add(&listed.dns, role::DNS);
    add(&listed.dhcp, role::DHCP);
    add(&listed.ntp, role::NTP);
    add(&listed.cloud, role::CLOUD);
    add(&config.reachability.dns, role::DNS);
    add(&config.reachability.ntp, role::NTP);
    let endpoints: Vec<IpAddr> = config.reachability.cloud.iter().filter_map(Endpoint::address).collect();
    add(&endpoints, role::CLOUD);
    if listed.discover {
        // Devices resolve and get their leases at the gateway, unless the configuration names other servers.
        let own = own_addresses();
        add(&own, role::GATEWAY | role::DNS | role::DHCP | role::NTP);
        add(&routers(), role::GATEWAY);
        add(&resolvers(), role::DNS);
    }
    roles.into_iter().collect()
}

/// Addresses of the gateway's own interfaces, loopback left out.
pub(super) fn own_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    let addresses = interfaces.filter_map(|interface| interface.address).filter_map(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    addresses.filter(|address| !address.is_loopback()).collect()
}

/// Networks of the gateway's own interfaces, loopback left out.
pub(super) fn own_networks() -> Vec<IpNet> {
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    let ip = |address: SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    let networks = interfaces.filter_map(|interface| {
        let (address, mask) = (ip(interface.address?)?, ip(interface.netmask?)?);
        IpNet::with_netmask(address, mask).ok().map(|net| net.trunc())
    });
    networks.filter(|net| !net.addr().is_loopback() && net.prefix_len() > 0).collect()
}

/// Resolvers of `/etc/resolv.conf` that are not the machine itself.
pub(super) fn resolvers() -> Vec<IpAddr> {
    fs::read_to_string("/etc/resolv.conf").map(|text| parse_resolvers(&text)).unwrap_or_default()
}

fn parse_resolvers(text: &str) -> Vec<IpAddr> {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = servers.filter_map(|rest| {
        let address = rest.trim();
        // A link-local address carries its interface after a percent sign.
        address.split('%').next()?.parse::<IpAddr>().ok()
    });
    addresses.filter(|address| !address.is_loopback()).collect()
}

/// Next hops of the default routes.
fn routers() -> Vec<IpAddr> {
    let v4 = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    parse_routes_v4(&v4).into_iter().chain(parse_routes_v6(&v6)).collect()
}

/// Columns: interface, destination, gateway, …, mask as the eighth; numbers in the machine's byte order.
fn parse_routes_v4(text: &str) -> Vec<IpAddr> {
    let default = |line: &str| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let (destination, gateway, mask) = (columns.get(1)?, columns.get(2)?, columns.get(7)?);
        let number = |text: &str| u32::from_str_radix(text, 16).ok();
        let is_default = number(destination)? == 0 && number(mask)? == 0;
        let gateway = Ipv4Addr::from(number(gateway)?.to_ne_bytes());
        (is_default && !gateway.is_unspecified()).then_some(IpAddr::V4(gateway))
    };
    text.lines().skip(1).filter_map(default).collect()
}

/// Columns: destination, its length, source, its length, next hop, …; numbers as 32 hex digits in network order.
fn parse_routes_v6(text: &str) -> Vec<IpAddr> {
    let default = |line: &str| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let (destination, length, hop) = (columns.first()?, columns.get(1)?, columns.get(4)?);
        let number = |text: &str| u128::from_str_radix(text, 16).ok();
        let is_default = number(destination)? == 0 && *length == "00";
        let hop = Ipv6Addr::from(number(hop)?);
        (is_default && !hop.is_unspecified()).then_some(IpAddr::V6(hop))
    };
    text.lines().filter_map(default).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn resolvers_are_read_and_the_machine_itself_is_left_out() {
        let text =
            "# comment\nsearch lan\nnameserver 192.0.2.53\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\n";
        let expected: Vec<IpAddr> =
            vec![[192, 0, 2, 53].into(), "fe80::1".parse().unwrap_or_else(|_| unreachable!())];
        assert_eq!(parse_resolvers(text), expected);
    }

    #[test]
    fn next_hops_of_default_routes_are_found() {
        let v4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                  wan\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                  lan\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let expected = IpAddr::from(u32::from_str_radix("010200C0", 16).unwrap_or(0).to_ne_bytes());
        assert_eq!(parse_routes_v4(v4), [expected]);
        let v6 = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                  fe800000000000000000000000000001 00000400 00000001 00000000 00000003 wan\n";
        assert_eq!(parse_routes_v6(v6), ["fe80::1".parse::<IpAddr>().unwrap_or_else(|_| unreachable!())]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(.{0,60}\n){0,5}") {
            let _ = (parse_resolvers(&text), parse_routes_v4(&text), parse_routes_v6(&text));
        }
    }
}
