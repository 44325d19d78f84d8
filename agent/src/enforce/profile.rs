//! Profiles of devices, and their compilation into the kernel's networks and rules. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::{IpNet, Ipv4Net};
use tidegate_common::{
    pod::Addr,
    profile::{NetKey, ProfileTables, RuleKey, may},
};

/// Networks of one profile at most.
const MAX_NETS: usize = 1 << NET_BITS;
/// Rules of one profile in the kernel at most.
const MAX_RULES: usize = 4_096;
/// Bits of a network's number that tell the networks of one profile apart; those above are the profile's own.
const NET_BITS: u32 = 10;
/// In front of an IPv4 address in the kernel's tables.
const MAPPED_BITS: u32 = 96;

/// One thing a device may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileRule {
    /// With whom.
    pub remote: IpNet,
    /// IP protocol, 0 for all.
    pub protocol: u8,
    /// Port at the other end, 0 for all.
    pub remote_port: u16,
    /// Port of the device, 0 for all.
    pub local_port: u16,
    /// Bits of [`tidegate_common::profile::may`].
    pub may: u32,
}

/// All that a device may do. Whatever no rule lists is dropped, but for what the gateway serves every device: ARP, neighbour
/// discovery, DHCP, its resolver and its clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The rules, in any order.
    pub rules: Vec<ProfileRule>,
}

/// Entries of the kernel's profile tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProfileEntries {
    /// Numbers of networks.
    pub nets: BTreeMap<NetKey, u32>,
    /// What rules let happen.
    pub rules: BTreeMap<RuleKey, u32>,
}

/// More than one profile may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

impl ProfileEntries {
    /// Adds `other`'s entries or replaces those with the same keys.
    pub fn extend(&mut self, other: &Self) {
        self.nets.extend(&other.nets);
        self.rules.extend(&other.rules);
    }

    /// Takes away the entries with `other`'s keys.
    pub fn subtract(&mut self, other: &Self) {
        self.nets.retain(|key, _| !other.nets.contains_key(key));
        self.rules.retain(|key, _| !other.rules.contains_key(key));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nets.is_empty() && self.rules.is_empty()
    }

    /// The highest number of a profile that any entry belongs to.
    pub(super) fn last_profile(&self) -> u32 {
        let nets = self.nets.keys().map(|key| key.profile);
        nets.chain(self.rules.keys().map(|key| key.net >> NET_BITS)).max().unwrap_or(0)
    }
}

/// What the kernel does with its tables, done here.
impl ProfileTables for ProfileEntries {
    fn net(&self, key: NetKey) -> Option<u32> {
        let around = |net: &&NetKey| net.profile == key.profile && shares(net.address, key.address, net.bits);
        self.nets.keys().filter(around).max_by_key(|net| net.bits).and_then(|net| self.nets.get(net)).copied()
    }

    fn rule(&self, key: RuleKey) -> Option<u32> {
        self.rules.get(&key).copied()
    }
}

fn shares(a: Addr, b: Addr, bits: u32) -> bool {
    let [a, b] = [a, b].map(|address| u128::from_be_bytes(address.octets()));
    bits == 0 || (a ^ b) >> (128 - bits.min(128)) == 0
}

fn net_key(profile: u32, net: IpNet) -> NetKey {
    let (bits, address) = match net {
        IpNet::V4(v4) => (MAPPED_BITS + u32::from(v4.prefix_len()), Addr::v4(v4.network().octets())),
        IpNet::V6(v6) => (u32::from(v6.prefix_len()), Addr::v6(v6.network().octets())),
    };
    NetKey { profile, bits, address }
}

impl Profile {
    /// The entries of this profile under a number of its own.
    pub(super) fn compile(&self, number: u32) -> Result<ProfileEntries, TooLarge> {
        let mut nets: BTreeSet<IpNet> = self.rules.iter().map(|rule| rule.remote.trunc()).collect();
        if nets.iter().any(|net| net.addr().is_ipv6()) {
            // In the kernel's tables IPv4 is a part of IPv6, and no rule for ::/0 means it.
            nets.insert(IpNet::V4(Ipv4Net::default()));
        }
        if nets.len() > MAX_NETS {
            return Err(TooLarge);
        }
        let mut entries = ProfileEntries::default();
        for (net, id) in nets.iter().zip(number << NET_BITS..) {
            entries.nets.insert(net_key(number, *net), id);
            // The narrowest network alone is asked, so it says what the wider ones say, too.
            for rule in self.rules.iter().filter(|rule| rule.remote.contains(net)) {
                let key = RuleKey::ports(id, rule.protocol, rule.remote_port, rule.local_port);
                *entries.rules.entry(key).or_default() |= rule.may;
                if rule.protocol != 0 {
                    *entries.rules.entry(RuleKey::unread(id, rule.protocol)).or_default() |=
                        rule.may & (may::SEND | may::RECEIVE);
                }
                if entries.rules.len() > MAX_RULES {
                    return Err(TooLarge);
                }
            }
        }
        Ok(entries)
    }
}
