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

/// Roles that mean the gateway or its devices depend on the address.
const NEEDED: u16 = role::GATEWAY | role::DHCP | role::DNS | role::NTP | role::CLOUD;

/// What protects one target. An operator's entry and the agent's own are kept apart: either may go while the other stays.
#[derive(Debug, Default)]
struct Item {
    by_operator: Option<AllowEntry>,
    by_system: Option<AllowEntry>,
}

impl Item {
    fn rows(&self) -> impl Iterator<Item = &AllowEntry> {
        self.by_operator.iter().chain(&self.by_system)
    }

    fn roles(&self) -> u16 {
        self.rows().fold(0, |roles, entry| roles | entry.roles)
    }
}

/// The list.
#[derive(Debug, Default)]
pub(super) struct NeverBlock {
    /// Ordered, so that all addresses of a prefix are one range. No item is empty.
    items: BTreeMap<Target, Item>,
    /// How many prefixes there are of each length, so that a lookup tries only lengths in use.
    prefix_lengths: HashMap<(bool, u8), usize>,
}

impl NeverBlock {
    /// Everything that protects exactly `target`, as role bits; 0 for nothing.
    pub(super) fn roles(&self, target: &Target) -> u16 {
        self.items.get(target).map_or(0, Item::roles)
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = Target> {
        self.items.keys().copied()
    }

    /// All entries; a target has two when both an operator and the agent listed it.
    pub(super) fn rows(&self) -> Vec<AllowEntry> {
        self.items.values().flat_map(Item::rows).cloned().collect()
    }

    /// The entries that forbid a verdict on `target`.
    pub(super) fn rows_about(&self, target: &Target) -> Vec<AllowEntry> {
        let item = self.protector(target).and_then(|protector| self.items.get(&protector));
        item.map_or_else(Vec::new, |item| item.rows().cloned().collect())
    }

    /// Adds an operator's entry or replaces it.
    pub(super) fn allow(&mut self, entry: AllowEntry) {
        let item = self.item(entry.target);
        item.by_operator = Some(entry);
    }

    /// Takes an operator's entry away.
    pub(super) fn disallow(&mut self, target: &Target) -> Option<AllowEntry> {
        let entry = self.items.get_mut(target)?.by_operator.take();
        self.drop_empty(target);
        entry
    }

    /// Makes exactly `wanted` the agent's own entries. Returns the targets that changed.
    pub(super) fn set_system<K: Into<Target> + Copy>(
        &mut self,
        wanted: &[(K, u16)],
        since: Timestamp,
    ) -> Vec<Target> {
        let mut roles: HashMap<Target, u16> = HashMap::new();
        for (target, bits) in wanted.iter().filter(|(_, bits)| *bits != 0) {
            *roles.entry((*target).into().canonical()).or_default() |= bits;
        }
        let own = |item: &Item| item.by_system.as_ref().map(|entry| entry.roles);
        let before: Vec<(Target, u16)> =
            self.items.iter().filter_map(|(target, item)| Some((*target, own(item)?))).collect();
        let mut changed = Vec::new();
        for (target, bits) in before {
            if roles.get(&target) == Some(&bits) {
                roles.remove(&target);
            } else {
                self.item(target).by_system = None;
                self.drop_empty(&target);
                changed.push(target);
            }
        }
        for (target, roles) in roles {
            let note = "the configuration or the gateway itself needs it".to_owned();
            self.item(target).by_system =
                Some(AllowEntry { target, roles, author: Author::System, note, since });
            changed.push(target);
        }
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    fn item(&mut self, target: Target) -> &mut Item {
        if let Target::Prefix(net) = target
            && !self.items.contains_key(&target)
        {
            *self.prefix_lengths.entry((net.addr().is_ipv6(), net.prefix_len())).or_default() += 1;
        }
        self.items.entry(target).or_default()
    }

    fn drop_empty(&mut self, target: &Target) {
        if self.items.get(target).is_none_or(|item| item.rows().next().is_some()) {
            return;
        }
        self.items.remove(target);
        if let Target::Prefix(net) = target
            && let Some(count) = self.prefix_lengths.get_mut(&(net.addr().is_ipv6(), net.prefix_len()))
        {
            *count -= 1;
        }
    }

    /// The entry that forbids a verdict on `target`.
    pub(super) fn protector(&self, target: &Target) -> Option<Target> {
        if self.items.contains_key(target) {
            return Some(*target);
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
            Target::Prefix(net) if exceptions => {
                self.around(net.addr(), net.prefix_len()).or_else(|| self.inside(net, NEEDED))
            }
            _ => self.protector(target),
        };
        match own.or_else(|| aliases.iter().find_map(|name| self.protector(name))) {
            None => Ok(()),
            Some(entry) => Err(Refusal::NeverBlock {
                target: *target,
                entry,
                roles: role_names(self.roles(&entry)).join(", "),
            }),
        }
    }

    /// An entry on a prefix around `address`, of at most `bits`.
    fn around(&self, address: IpAddr, bits: u8) -> Option<Target> {
        let family = address.is_ipv6();
        (0..=bits)
            .filter(|length| self.prefix_lengths.get(&(family, *length)).is_some_and(|count| *count > 0))
            .filter_map(|length| Some(Target::from(IpNet::new(address, length).ok()?)))
            .find(|target| self.items.contains_key(target))
    }

    /// An entry within `net` that has one of `roles`.
    fn inside(&self, net: &IpNet, roles: u16) -> Option<Target> {
        let has_role = |(_, item): &(&Target, &Item)| item.roles() & roles != 0;
        let addresses = Target::Address(net.network())..=Target::Address(net.broadcast());
        let address = self.items.range(addresses).find(has_role);
        let prefix = || {
            let mut prefixes = self.items.iter().filter(|(target, _)| matches!(target, Target::Prefix(_)));
            prefixes.find(|row| has_role(row) && Target::Prefix(*net).contains(row.0))
        };
        address.or_else(prefix).map(|(target, _)| *target)
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
