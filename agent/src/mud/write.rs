//! Writes a description from the services of a device.
//!
//! Addresses become names where one is known. Of a service that is met at very many addresses without a name, or at very many ports,
//! the description allows all addresses or all ports: a list of those seen so far would fail tomorrow.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tidegate_common::parse::proto;

use super::{policy::Family, read::is_host_name};
use crate::learn::{Service, Whom};

/// More addresses without a name than these are everyone.
const MOST_ADDRESSES: usize = 16;
/// More ports than these are all ports.
const MOST_PORTS: usize = 32;
/// Characters of `systeminfo` (RFC 8520, section 3.6).
const SYSTEMINFO_CHARS: usize = 60;

/// What a description says about itself.
#[derive(Clone, Copy, Debug)]
pub struct Author<'a> {
    /// Its URL.
    pub url: &'a str,
    /// What the device is, for people.
    pub systeminfo: &'a str,
    /// When it was written.
    pub at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Remote {
    Anyone,
    Address(IpAddr),
    Name(String),
    Local,
    Dns,
    Ntp,
}

/// One service as both lists have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    v6: bool,
    remote: Remote,
    protocol: u8,
    /// 0 for all.
    port: u16,
    by_device: bool,
}

/// The description of a device that uses `services`; `name_of` gives the name that an address was resolved from.
pub fn write(services: &[Service], name_of: &dyn Fn(IpAddr) -> Option<String>, author: Author<'_>) -> Value {
    let uses = uses(services, name_of);
    let families = [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| *family == Family::V4 || uses.iter().any(|used| used.v6))
        .map(|family| (family, uses.iter().filter(move |used| used.v6 == (family == Family::V6))));
    let mut lists = Vec::new();
    let (mut from, mut to) = (Vec::new(), Vec::new());
    for (family, uses) in families {
        let (number, kind) = if family == Family::V4 { (4, "ipv4-acl-type") } else { (6, "ipv6-acl-type") };
        let uses: Vec<_> = uses.collect();
        for (from_device, short, names) in [(true, "fr", &mut from), (false, "to", &mut to)] {
            let name = format!("tidegate-v{number}{short}");
            let aces: Vec<Value> =
                uses.iter().enumerate().map(|(index, used)| ace(used, index, from_device, short)).collect();
            names.push(json!({ "name": name }));
            lists.push(json!({ "name": name, "type": kind, "aces": { "ace": aces } }));
        }
    }
    json!({
        "ietf-mud:mud": {
            "mud-version": 1,
            "mud-url": author.url,
            "last-update": author.at.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string(),
            "cache-validity": 48,
            "is-supported": true,
            "systeminfo": author.systeminfo.chars().take(SYSTEMINFO_CHARS).collect::<String>(),
            "from-device-policy": { "access-lists": { "access-list": from } },
            "to-device-policy": { "access-lists": { "access-list": to } },
        },
        "ietf-access-control-list:acls": { "acl": lists },
    })
}

fn uses(services: &[Service], name_of: &dyn Fn(IpAddr) -> Option<String>) -> BTreeSet<Use> {
    let mut uses: BTreeSet<Use> = services
        .iter()
        .map(|service| Use {
            v6: service.peer.is_ipv6(),
            remote: remote(service, name_of),
            protocol: service.protocol,
            port: service.port,
            by_device: service.by_device,
        })
        .collect();
    let mut ports: BTreeMap<(bool, Remote, u8, bool), BTreeSet<u16>> = BTreeMap::new();
    for used in &uses {
        let end = (used.v6, used.remote.clone(), used.protocol, used.by_device);
        ports.entry(end).or_default().insert(used.port);
    }
    ports.retain(|_, ports| ports.len() > MOST_PORTS);
    uses = uses
        .into_iter()
        .map(|used| {
            let end = (used.v6, used.remote.clone(), used.protocol, used.by_device);
            Use { port: if ports.contains_key(&end) { 0 } else { used.port }, ..used }
        })
        .collect();
    let mut addresses: BTreeMap<(bool, u8, u16, bool), usize> = BTreeMap::new();
    for used in uses.iter().filter(|used| matches!(used.remote, Remote::Address(_))) {
        *addresses.entry((used.v6, used.protocol, used.port, used.by_device)).or_default() += 1;
    }
    uses.into_iter()
        .map(|used| {
            let many = addresses.get(&(used.v6, used.protocol, used.port, used.by_device));
            let is_many = many.is_some_and(|many| *many > MOST_ADDRESSES);
            match used.remote {
                Remote::Address(_) if is_many => Use { remote: Remote::Anyone, ..used },
                _ => used,
            }
        })
        .collect()
}

fn remote(service: &Service, name_of: &dyn Fn(IpAddr) -> Option<String>) -> Remote {
    let is_dns = service.port == 53 && service.by_device;
    let is_ntp = service.port == 123 && service.protocol == proto::UDP && service.by_device;
    let is_dhcp = service.protocol == proto::UDP && matches!(service.port, 67 | 547);
    match service.whom {
        Whom::Gateway if is_dns => Remote::Dns,
        Whom::Gateway if is_ntp => Remote::Ntp,
        _ if is_dhcp => Remote::Local,
        Whom::Gateway | Whom::Neighbour => Remote::Local,
        Whom::Group => Remote::Address(service.peer),
        Whom::Remote => match name_of(service.peer).filter(|name| is_host_name(name)) {
            Some(name) => Remote::Name(name),
            None => Remote::Address(service.peer),
        },
    }
}

fn ace(used: &Use, index: usize, from_device: bool, short: &str) -> Value {
    let (ip, far, far_name) = match (used.v6, from_device) {
        (false, true) => ("ipv4", "destination-ipv4-network", "ietf-acldns:dst-dnsname"),
        (false, false) => ("ipv4", "source-ipv4-network", "ietf-acldns:src-dnsname"),
        (true, true) => ("ipv6", "destination-ipv6-network", "ietf-acldns:dst-dnsname"),
        (true, false) => ("ipv6", "source-ipv6-network", "ietf-acldns:src-dnsname"),
    };
    let mut matches = Map::new();
    let mut network = Map::new();
    match &used.remote {
        Remote::Anyone => {}
        Remote::Address(address) => {
            let bits = if address.is_ipv6() { 128 } else { 32 };
            network.insert(far.to_owned(), format!("{address}/{bits}").into());
        }
        Remote::Name(name) => _ = network.insert(far_name.to_owned(), name.clone().into()),
        Remote::Local => _ = matches.insert("ietf-mud:mud".to_owned(), json!({ "local-networks": [null] })),
        Remote::Dns => {
            matches.insert("ietf-mud:mud".to_owned(), json!({ "controller": "urn:ietf:params:mud:dns" }));
        }
        Remote::Ntp => {
            matches.insert("ietf-mud:mud".to_owned(), json!({ "controller": "urn:ietf:params:mud:ntp" }));
        }
    }
    network.insert("protocol".to_owned(), used.protocol.into());
    matches.insert(ip.to_owned(), network.into());
    let transport = match used.protocol {
        proto::TCP => Some("tcp"),
        proto::UDP => Some("udp"),
        _ => None,
    };
    if let Some(transport) = transport {
        let mut fields = Map::new();
        if used.protocol == proto::TCP {
            let begun = if used.by_device { "from-device" } else { "to-device" };
            fields.insert("ietf-mud:direction-initiated".to_owned(), begun.into());
        }
        if used.port != 0 {
            // The service's port is where the packets go when its client sends them.
            let field = if from_device == used.by_device { "destination-port" } else { "source-port" };
            fields.insert(field.to_owned(), json!({ "operator": "eq", "port": used.port }));
        }
        if !fields.is_empty() {
            matches.insert(transport.to_owned(), fields.into());
        }
    }
    json!({
        "name": format!("s{index}-{short}dev"),
        "matches": matches,
        "actions": { "forwarding": "accept" },
    })
}
