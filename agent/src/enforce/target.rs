//! What a verdict can be put on, and the border to the kernel tables that hold verdicts.
//!
//! A target has one spelling: an IPv4-mapped IPv6 address is the IPv4 address, a prefix has no host bits, and a prefix
//! of full length is an address. Only targets made by [`Target::from`] or parsed from text are guaranteed canonical.

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net};
use tidegate_common::verdict::{Config, Verdict, role};

use super::profile::ProfileEntries;
use crate::{identity::Mac, text::serde_as_text};

/// What a verdict applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// One address, in either direction.
    Address(IpAddr),
    /// All addresses of a network.
    Prefix(IpNet),
    /// A device on the protected side, by its hardware address.
    Device(Mac),
}

/// The text names no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither an address, a prefix nor a hardware address: write 192.0.2.7, 2001:db8::/48 or 02:00:5e:10:00:01"
)]
pub struct TargetError(String);

impl Target {
    /// The target's kind in metrics, the store and JSON.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Address(_) => "address",
            Self::Prefix(_) => "prefix",
            Self::Device(_) => "device",
        }
    }

    /// Whether `verdict` on this target also spares whoever talks to it: the operator's never-block list, prefixes excepted.
    pub const fn spares_peers(&self, verdict: &Verdict) -> bool {
        !matches!(self, Self::Prefix(_)) && verdict.roles & role::OPERATOR != 0
    }

    /// The same target in its one spelling.
    #[must_use]
    pub fn canonical(self) -> Self {
        match self {
            Self::Address(address) => address.into(),
            Self::Prefix(net) => net.into(),
            Self::Device(_) => self,
        }
    }

    /// Whether every packet of `other` is one of this target's. Devices contain only themselves.
    pub fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Prefix(net), Self::Address(address)) => net.contains(address),
            (Self::Prefix(net), Self::Prefix(inner)) => net.contains(inner),
            _ => self == other,
        }
    }
}

impl From<IpAddr> for Target {
    fn from(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }
}

impl From<IpNet> for Target {
    fn from(net: IpNet) -> Self {
        const MAPPED_BITS: u8 = 96;
        let net = match net {
            IpNet::V6(v6) if v6.prefix_len() >= MAPPED_BITS => {
                unmap(v6.addr(), v6.prefix_len() - MAPPED_BITS)
            }
            _ => None,
        }
        .unwrap_or(net);
        if net.prefix_len() == net.max_prefix_len() { net.addr().into() } else { Self::Prefix(net.trunc()) }
    }
}

fn unmap(address: Ipv6Addr, prefix_len: u8) -> Option<IpNet> {
    Some(IpNet::V4(Ipv4Net::new(address.to_ipv4_mapped()?, prefix_len).ok()?))
}

impl From<Mac> for Target {
    fn from(mac: Mac) -> Self {
        Self::Device(mac)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Prefix(net) => net.fmt(f),
            Self::Device(mac) => mac.fmt(f),
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(net.into());
        }
        text.parse::<Mac>().map(Self::Device).map_err(|_| TargetError(text.to_owned()))
    }
}

serde_as_text!(Target);

/// A kernel table refused an operation.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// No room for another entry.
    #[error("table {table} is full at {capacity} entries: delete entries or shorten the lists")]
    Full {
        /// Name of the table, see `tidegate_common::maps`.
        table: &'static str,
        /// Entries it can hold.
        capacity: u32,
    },
    /// The kernel refused the system call.
    #[error("cannot {operation} table {table}: {cause}")]
    Kernel {
        /// `read` or `write`.
        operation: &'static str,
        /// Name of the table.
        table: &'static str,
        /// What the kernel said.
        cause: io::Error,
    },
}

/// The kernel tables that hold verdicts. `datapath` implements it; tests use a table in memory.
///
/// Targets are canonical. Putting replaces what the same table holds; never-block prefixes have a table of their own, and
/// `enforce` never puts a prefix into both. Absent is not an error for `remove`, which clears the target in all tables.
pub trait VerdictTable {
    /// Installs `verdict` on `target`, in place of what was there.
    fn put(&mut self, target: &Target, verdict: &Verdict) -> Result<(), TableError>;
    /// Takes the entry of `target` away; nothing happens when there is none.
    fn remove(&mut self, target: &Target) -> Result<(), TableError>;
    /// Every entry of the exact, prefix and device tables, expired ones included, with the kernel's hit counts.
    fn entries(&self) -> Result<Vec<(Target, Verdict)>, TableError>;
    /// The entry of `target`, with the kernel's hit counts. Tables that can look one entry up do better than this.
    fn get(&self, target: &Target) -> Result<Option<Verdict>, TableError> {
        Ok(self.entries()?.into_iter().find(|(known, _)| known == target).map(|(_, verdict)| verdict))
    }
    /// Every entry of the profile tables.
    fn profiles(&self) -> Result<ProfileEntries, TableError>;
    /// Adds entries to the profile tables, or replaces those with the same keys.
    fn profile_add(&mut self, entries: &ProfileEntries) -> Result<(), TableError>;
    /// Takes entries out of the profile tables, by their keys; absent ones are no error.
    fn profile_delete(&mut self, entries: &ProfileEntries) -> Result<(), TableError>;
    /// Writes the global settings.
    fn configure(&mut self, config: &Config) -> Result<(), TableError>;
    /// Adds `addresses` to slot 0 or 1 of the bulk lists, on behalf of list number `list`; the other slot is not touched.
    fn feed_mark(&mut self, addresses: &[IpAddr], slot: u32, list: u32) -> Result<(), TableError>;
    /// Empties slot 0 or 1 of the bulk lists and deletes the entries that are then in neither.
    fn feed_clear(&mut self, slot: u32) -> Result<(), TableError>;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed parse is the test's failure")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_target_has_one_spelling() {
        for (text, expected) in [
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("192.0.2.7/24", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7/120", "192.0.2.0/24"),
            ("::ffff:192.0.2.7/128", "192.0.2.7"),
            ("2001:DB8::1/48", "2001:db8::/48"),
            ("02-00-5E-10-00-01", "02:00:5e:10:00:01"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), expected, "{text}");
        }
        assert!("example.org".parse::<Target>().unwrap_err().to_string().contains("example.org"));
    }

    proptest! {
        #[test]
        fn a_prefix_target_round_trips_and_contains_itself(octets: [u8; 16], bits in 0u8..=128) {
            let target = Target::from(IpNet::new(IpAddr::from(octets), bits).unwrap());
            prop_assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
            prop_assert_eq!(target.canonical(), target);
            prop_assert!(target.contains(&target));
        }

        #[test]
        fn any_text_is_parsed_without_a_panic(text in ".{0,48}") {
            let _ = text.parse::<Target>();
        }
    }
}
