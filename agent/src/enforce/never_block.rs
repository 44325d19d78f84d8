//! The never-block list: what no verdict may touch, and why.
//!
//! An address is protected by its own entry or by a prefix around it. A prefix is refused as soon as it holds one protected
//! address, unless an operator asks and only operators' entries are inside: those are exceptions that the kernel spares.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use jiff::Timestamp;
use tidegate_common::verdict::{Action, Reason, Verdict, role};

use super::{
    names::role_names,
    record::{AllowEntry, Author, Refusal},
    target::Target,
};

/// Roles the agent manages itself.
const SYSTEM: u16 = role::GATEWAY | role::DHCP | role::DNS | role::NTP | role::CLOUD;

/// The list.
#[derive(Debug, Default)]
pub(super) struct NeverBlock {
    /// Ordered, so that everything inside a prefix is one range.
    entries: BTreeMap<Target, AllowEntry>,
    /// How many prefix entries there are of each length, so that a lookup tries only lengths in use.
    prefix_lengths: HashMap<(bool, u8), usize>,
}

impl NeverBlock {
    pub(super) fn get(&self, target: &Target) -> Option<&AllowEntry> {
        self.entries.get(target)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &AllowEntry> {
        self.entries.values()
    }

    pub(super) fn insert(&mut self, entry: AllowEntry) {
        let target = entry.target;
        if self.entries.insert(target, entry).is_none()
            && let Target::Prefix(net) = target
        {
            *self.prefix_lengths.entry((net.addr().is_ipv6(), net.prefix_len())).or_default() += 1;
        }
    }

    fn remove(&mut self, target: &Target) {
        if self.entries.remove(target).is_some()
            && let Target::Prefix(net) = target
            && let Some(count) = self.prefix_lengths.get_mut(&(net.addr().is_ipv6(), net.prefix_len()))
        {
            *count -= 1;
        }
    }

    /// Adds the operator's role to `target`.
    pub(super) fn allow(
        &mut self,
        target: Target,
        author: Author,
        note: String,
        since: Timestamp,
    ) -> AllowEntry {
        let roles = self.get(&target).map_or(0, |entry| entry.roles) | role::OPERATOR;
        let entry = AllowEntry { target, roles, author, note, since };
        self.insert(entry.clone());
        entry
    }

    /// Takes the operator's role from `target`. `None` when it has no such role; the agent's own roles stay.
    pub(super) fn disallow(&mut self, target: &Target) -> Option<AllowEntry> {
        let entry = self.entries.get(target).filter(|entry| entry.roles & role::OPERATOR != 0)?.clone();
        self.set_roles(target, entry.roles & !role::OPERATOR);
        Some(entry)
    }

    /// Gives exactly `wanted` the agent's own roles. Returns the targets whose entry changed.
    pub(super) fn set_system(&mut self, wanted: &[(IpAddr, u16)], since: Timestamp) -> Vec<Target> {
        let mut roles: HashMap<Target, u16> = HashMap::new();
        for (address, bits) in wanted {
            *roles.entry(Target::from(*address)).or_default() |= bits & SYSTEM;
        }
        let mut changed = Vec::new();
        let known: Vec<_> = self.entries.values().map(|entry| (entry.target, entry.roles)).collect();
        for (target, before) in known {
            let after = before & !SYSTEM | roles.remove(&target).unwrap_or(0);
            if after != before {
                self.set_roles(&target, after);
                changed.push(target);
            }
        }
        for (target, bits) in roles {
            if bits != 0 {
                let note = "the gateway needs it".to_owned();
                self.insert(AllowEntry { target, roles: bits, author: Author::System, note, since });
                changed.push(target);
            }
        }
        changed
    }

    fn set_roles(&mut self, target: &Target, roles: u16) {
        if roles == 0 {
            self.remove(target);
        } else if let Some(entry) = self.entries.get_mut(target) {
            entry.roles = roles;
        }
    }

    /// The entry that forbids a verdict on `target`.
    pub(super) fn protector(&self, target: &Target) -> Option<&AllowEntry> {
        if let Some(entry) = self.get(target) {
            return Some(entry);
        }
        match target {
            Target::Address(address) => self.around(*address, address_bits(*address)),
            Target::Prefix(net) => {
                self.around(net.addr(), net.prefix_len()).or_else(|| self.inside(net, u16::MAX))
            }
            Target::Device(_) => None,
        }
    }

    /// The refusal of a verdict on `target`, when it or one of its `aliases` is protected.
    ///
    /// An operator may put a prefix around addresses that an operator listed: they are the exceptions, and the kernel spares them.
    pub(super) fn refuse(&self, target: &Target, aliases: &[Target], author: &Author) -> Result<(), Refusal> {
        let exceptions = matches!((target, author), (Target::Prefix(_), Author::Operator(_)));
        let own = match target {
            Target::Prefix(net) if exceptions => self.get(target).or_else(|| {
                let around = self.around(net.addr(), net.prefix_len());
                around.or_else(|| self.inside(net, SYSTEM))
            }),
            _ => self.protector(target),
        };
        match own.or_else(|| aliases.iter().find_map(|name| self.protector(name))) {
            None => Ok(()),
            Some(entry) => Err(Refusal::NeverBlock {
                target: *target,
                entry: entry.target,
                roles: role_names(entry.roles).join(", "),
            }),
        }
    }

    /// An entry on a prefix around `address`, of at most `bits`.
    fn around(&self, address: IpAddr, bits: u8) -> Option<&AllowEntry> {
        let family = address.is_ipv6();
        (0..=bits)
            .filter(|length| self.prefix_lengths.get(&(family, *length)).is_some_and(|count| *count > 0))
            .find_map(|length| self.get(&IpNet::new(address, length).ok()?.into()))
    }

    /// An entry within `net` that has one of `roles`.
    fn inside(&self, net: &IpNet, roles: u16) -> Option<&AllowEntry> {
        let first = Target::Address(net.network());
        let last = Target::Address(net.broadcast());
        let mut addresses = self.entries.range(first..=last).map(|(_, entry)| entry);
        addresses.find(|entry| entry.roles & roles != 0).or_else(|| {
            let mut prefixes =
                self.entries.values().filter(|entry| matches!(entry.target, Target::Prefix(_)));
            prefixes.find(|entry| entry.roles & roles != 0 && Target::Prefix(*net).contains(&entry.target))
        })
    }
}

const fn address_bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// What the kernel holds for a never-block entry.
pub(super) fn verdict(roles: u16) -> Verdict {
    let reason = if roles & role::OPERATOR == 0 { Reason::System } else { Reason::Operator };
    Verdict {
        expires_ns: u64::MAX,
        roles,
        action: Action::NeverBlock as u8,
        reason: reason as u8,
        ..Verdict::default()
    }
}
