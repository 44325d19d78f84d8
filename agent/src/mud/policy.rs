//! What a description lets a device do, and the kernel profile that follows from it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tidegate_common::profile::may;

use crate::enforce::{Profile, ProfileRule};

/// IP version of an access list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One end of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The device.
    Device,
    /// Whoever it talks to.
    Remote,
}

/// Whom an entry allows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// Everyone.
    Anyone,
    /// A network.
    Net(IpNet),
    /// A host by its name.
    Name(String),
    /// Whoever is on the local networks.
    Local,
    /// The gateway's resolver or clock, which every device may use anyway.
    Gateway,
}

/// One allowing entry of an access list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who sends the packets it is about.
    pub from: Side,
    /// IP version.
    pub family: Family,
    /// Who is at the other end.
    pub party: Party,
    /// IP protocol, 0 for all.
    pub protocol: u8,
    /// Ports at the other end; empty for all.
    pub remote_ports: Vec<u16>,
    /// Ports of the device; empty for all.
    pub local_ports: Vec<u16>,
    /// Who may begin a TCP connection; `None` for both.
    pub begun_by: Option<Side>,
}

/// A description as far as it is enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Where the description says it comes from.
    pub url: String,
    /// What it calls the device.
    pub systeminfo: String,
    /// The allowing entries. Everything else is dropped.
    pub entries: Vec<Entry>,
}

impl Family {
    const fn everyone(self) -> IpNet {
        match self {
            Self::V4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
            Self::V6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
        }
    }

    /// Private and link-local networks and what never leaves a link (RFC 1918, 3927, 4193, 4291, 5771).
    fn local(self) -> Vec<IpNet> {
        let texts: &[&str] = match self {
            Self::V4 => &[
                "10.0.0.0/8",
                "172.16.0.0/12",
                "192.168.0.0/16",
                "169.254.0.0/16",
                "224.0.0.0/24",
                "255.255.255.255/32",
            ],
            Self::V6 => &["fc00::/7", "fe80::/10", "ff02::/16"],
        };
        texts.iter().filter_map(|text| text.parse().ok()).collect()
    }

    /// Whether `address` is of this version.
    pub const fn is_of(self, address: IpAddr) -> bool {
        matches!((self, address), (Self::V4, IpAddr::V4(_)) | (Self::V6, IpAddr::V6(_)))
    }
}

impl Entry {
    fn nets(&self, addresses: &dyn Fn(&str) -> Vec<IpAddr>) -> Vec<IpNet> {
        match &self.party {
            Party::Anyone => vec![self.family.everyone()],
            Party::Net(net) => vec![*net],
            Party::Name(name) => {
                let own = addresses(name).into_iter().filter(|address| self.family.is_of(*address));
                own.map(IpNet::from).collect()
            }
            Party::Local => self.family.local(),
            Party::Gateway => Vec::new(),
        }
    }

    fn may(&self) -> u32 {
        match self.from {
            Side::Device if self.begun_by == Some(Side::Remote) => may::SEND,
            Side::Device => may::SEND | may::CONNECT,
            Side::Remote if self.begun_by == Some(Side::Device) => may::RECEIVE,
            Side::Remote => may::RECEIVE | may::ACCEPT,
        }
    }
}

impl Policy {
    /// The names whose addresses the profile needs.
    pub fn names(&self) -> BTreeSet<&str> {
        let named = self.entries.iter().filter_map(|entry| match &entry.party {
            Party::Name(name) => Some(name.as_str()),
            _ => None,
        });
        named.collect()
    }

    /// What the kernel is to let the device do, with the addresses that its names have now.
    pub fn profile(&self, addresses: &dyn Fn(&str) -> Vec<IpAddr>) -> Profile {
        const ALL: &[u16] = &[0];
        let or_all = |ports: &[u16]| if ports.is_empty() { ALL.to_vec() } else { ports.to_vec() };
        let mut rules = Vec::new();
        for entry in &self.entries {
            for remote in entry.nets(addresses) {
                for remote_port in or_all(&entry.remote_ports) {
                    for local_port in or_all(&entry.local_ports) {
                        rules.push(ProfileRule {
                            remote,
                            protocol: entry.protocol,
                            remote_port,
                            local_port,
                            may: entry.may(),
                        });
                    }
                }
            }
        }
        rules.sort_unstable();
        rules.dedup();
        Profile { rules }
    }
}
