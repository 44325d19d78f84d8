//! The verdict tables: what `enforce` reads and writes.
//!
//! Which tables hold anything is part of the programs' settings, so that an empty table costs nothing; it is kept true
//! here, where entries come and go.

use std::{collections::HashSet, io, net::IpAddr};

use aya::maps::{Array, HashMap, LpmTrie, MapData, MapError, lpm_trie::Key};
use ipnet::IpNet;
use tidegate_common::{
    maps,
    pod::{Addr, MacKey},
    verdict::{Action, Config, FeedEntry, Verdict, present},
};

use super::{Abi, Datapath, DatapathError, filter::AddressFilter, load::open, profiles::Profiles, table};
use crate::{
    enforce::{ProfileEntries, TableError, Target, VerdictTable},
    identity::Mac,
};

const MAPPED_BITS: u32 = 96;

/// Settings, verdicts and bulk lists.
pub struct VerdictTables {
    config: Array<MapData, Abi<Config>>,
    v4: HashMap<MapData, u32, Abi<Verdict>>,
    v6: HashMap<MapData, [u64; 2], Abi<Verdict>>,
    filter: AddressFilter,
    prefixes: LpmTrie<MapData, [u64; 2], Abi<Verdict>>,
    allowed: LpmTrie<MapData, [u64; 2], Abi<Verdict>>,
    devices: HashMap<MapData, Abi<MacKey>, Abi<Verdict>>,
    profiles: Profiles,
    feed_v4: HashMap<MapData, u32, Abi<FeedEntry>>,
    feed_v6: HashMap<MapData, [u64; 2], Abi<FeedEntry>>,
    /// The operator's never-block addresses and devices.
    operators: HashSet<Target>,
}

impl Datapath {
    /// Takes the verdict tables out; there is one writer.
    pub fn take_verdicts(&mut self) -> Result<VerdictTables, DatapathError> {
        let programs = &mut self.programs;
        let mut tables = VerdictTables {
            config: open(programs, maps::CONFIG)?,
            v4: open(programs, maps::VERDICT_V4)?,
            v6: open(programs, maps::VERDICT_V6)?,
            filter: AddressFilter::new(open(programs, maps::VERDICT_FILTER)?),
            prefixes: open(programs, maps::PREFIXES)?,
            allowed: open(programs, maps::ALLOWED)?,
            devices: open(programs, maps::VERDICT_DEVICE)?,
            profiles: Profiles::open(programs)?,
            feed_v4: open(programs, maps::FEED_V4)?,
            feed_v6: open(programs, maps::FEED_V6)?,
            operators: HashSet::new(),
        };
        let found = VerdictTable::entries(&tables)
            .map_err(|error| DatapathError::Table { table: maps::VERDICT_V4, cause: error.to_string() })?;
        let exact = found.iter().filter_map(|(target, _)| match target {
            Target::Address(address) => Some(*address),
            _ => None,
        });
        tables.filter.reset(exact).map_err(table(maps::VERDICT_FILTER))?;
        let operators = found.iter().filter(|(target, verdict)| target.spares_peers(verdict));
        tables.operators = operators.map(|(target, _)| *target).collect();
        Ok(tables)
    }
}

impl VerdictTables {
    /// The settings the programs work with now.
    pub fn config(&self) -> Result<Config, DatapathError> {
        Ok(self.config.get(&0, 0).map_err(table(maps::CONFIG))?.0)
    }

    /// Addresses on bulk lists.
    pub fn feed_entries(&self) -> u64 {
        (self.feed_v4.keys().count() + self.feed_v6.keys().count()) as u64
    }

    fn write_config(&mut self, config: Config) -> Result<(), TableError> {
        self.config.set(0, Abi(config), 0).map_err(refused(maps::CONFIG, "write", 1))
    }

    fn set_present(&mut self, bit: u32, holds_entries: bool) -> Result<(), TableError> {
        let mut config = self.config.get(&0, 0).map_err(refused(maps::CONFIG, "read", 1))?.0;
        let wanted = if holds_entries { config.present | bit } else { config.present & !bit };
        if wanted == config.present {
            return Ok(());
        }
        config.present = wanted;
        self.write_config(config)
    }

    /// An entry that the filter hides from the programs is none: reconciliation must find it missing.
    fn list_shown(
        &self,
        address: IpAddr,
        verdict: Verdict,
        entries: &mut Vec<(Target, Verdict)>,
    ) -> Result<(), TableError> {
        if self.filter.shows(address).map_err(refused(maps::VERDICT_FILTER, "read", maps::FILTER_WORDS))? {
            entries.push((Target::from(address), verdict));
        }
        Ok(())
    }

    fn present(&self) -> u32 {
        let tables = self;
        let bits = [
            (present::OPERATORS, !self.operators.is_empty()),
            (present::V4, tables.v4.keys().next().is_some()),
            (present::V6, tables.v6.keys().next().is_some()),
            (present::PREFIXES, tables.prefixes.keys().next().is_some()),
            (present::ALLOWED, tables.allowed.keys().next().is_some()),
            (present::DEVICE, tables.devices.keys().next().is_some()),
            (present::FEED_V4, tables.feed_v4.keys().next().is_some()),
            (present::FEED_V6, tables.feed_v6.keys().next().is_some()),
        ];
        bits.iter().filter(|(_, holds_entries)| *holds_entries).map(|(bit, _)| bit).sum()
    }
}

impl VerdictTable for VerdictTables {
    fn put(&mut self, target: &Target, verdict: &Verdict) -> Result<(), TableError> {
        let value = Abi(*verdict);
        if target.spares_peers(verdict) {
            self.operators.insert(*target);
            self.set_present(present::OPERATORS, true)?;
        } else {
            self.operators.remove(target);
        }
        if let Target::Address(address) = target {
            self.filter.add(*address).map_err(refused(maps::VERDICT_FILTER, "write", maps::FILTER_WORDS))?;
        }
        let bit = match target {
            Target::Address(IpAddr::V4(v4)) => {
                let key = Addr::v4(v4.octets()).v4_key();
                let full = refused(maps::VERDICT_V4, "write", maps::VERDICT_CAPACITY);
                self.v4.insert(key, value, 0).map_err(full)?;
                present::V4
            }
            Target::Address(IpAddr::V6(v6)) => {
                let key = Addr::v6(v6.octets()).words();
                let full = refused(maps::VERDICT_V6, "write", maps::VERDICT_CAPACITY);
                self.v6.insert(key, value, 0).map_err(full)?;
                present::V6
            }
            Target::Prefix(net) if verdict.is(Action::NeverBlock) => {
                let full = refused(maps::ALLOWED, "write", maps::ALLOW_CAPACITY);
                self.allowed.insert(&prefix_key(net), value, 0).map_err(full)?;
                present::ALLOWED
            }
            Target::Prefix(net) => {
                let full = refused(maps::PREFIXES, "write", maps::PREFIX_CAPACITY);
                self.prefixes.insert(&prefix_key(net), value, 0).map_err(full)?;
                present::PREFIXES
            }
            Target::Device(mac) => {
                let full = refused(maps::VERDICT_DEVICE, "write", maps::VERDICT_DEVICE_CAPACITY);
                self.devices.insert(Abi(MacKey::new(mac.0)), value, 0).map_err(full)?;
                present::DEVICE
            }
        };
        self.set_present(bit, true)
    }

    fn remove(&mut self, target: &Target) -> Result<(), TableError> {
        self.operators.remove(target);
        let tables = &mut *self;
        match target {
            Target::Address(IpAddr::V4(v4)) => {
                absent_is_fine(tables.v4.remove(&Addr::v4(v4.octets()).v4_key()), maps::VERDICT_V4)?;
            }
            Target::Address(IpAddr::V6(v6)) => {
                absent_is_fine(tables.v6.remove(&Addr::v6(v6.octets()).words()), maps::VERDICT_V6)?;
            }
            Target::Prefix(net) => {
                absent_is_fine(tables.prefixes.remove(&prefix_key(net)), maps::PREFIXES)?;
                absent_is_fine(tables.allowed.remove(&prefix_key(net)), maps::ALLOWED)?;
            }
            Target::Device(mac) => {
                let key = Abi(MacKey::new(mac.0));
                absent_is_fine(tables.devices.remove(&key), maps::VERDICT_DEVICE)?;
            }
        }
        let mut config = self.config.get(&0, 0).map_err(refused(maps::CONFIG, "read", 1))?.0;
        config.present = self.present();
        self.write_config(config)
    }

    fn entries(&self) -> Result<Vec<(Target, Verdict)>, TableError> {
        let tables = self;
        let mut entries = Vec::new();
        for entry in &tables.v4 {
            let (key, verdict) = entry.map_err(refused(maps::VERDICT_V4, "read", 0))?;
            self.list_shown(IpAddr::from(key.to_ne_bytes()), verdict.0, &mut entries)?;
        }
        for entry in &tables.v6 {
            let (key, verdict) = entry.map_err(refused(maps::VERDICT_V6, "read", 0))?;
            let octets: [u8; 16] = bytemuck::cast(key);
            self.list_shown(IpAddr::from(octets), verdict.0, &mut entries)?;
        }
        for (name, trie) in [(maps::PREFIXES, &tables.prefixes), (maps::ALLOWED, &tables.allowed)] {
            for entry in trie {
                let (key, verdict) = entry.map_err(refused(name, "read", 0))?;
                entries.push((prefix_target(&key), verdict.0));
            }
        }
        for entry in &tables.devices {
            let (key, verdict) = entry.map_err(refused(maps::VERDICT_DEVICE, "read", 0))?;
            entries.push((Target::Device(Mac(key.0.mac)), verdict.0));
        }
        Ok(entries)
    }

    fn get(&self, target: &Target) -> Result<Option<Verdict>, TableError> {
        let (name, found) = match target {
            Target::Address(IpAddr::V4(v4)) => {
                (maps::VERDICT_V4, self.v4.get(&Addr::v4(v4.octets()).v4_key(), 0))
            }
            Target::Address(IpAddr::V6(v6)) => {
                (maps::VERDICT_V6, self.v6.get(&Addr::v6(v6.octets()).words(), 0))
            }
            // A lookup in a trie finds the longest match, which may be another prefix.
            Target::Prefix(_) => {
                let mut entries = self.entries()?.into_iter();
                return Ok(entries.find(|(known, _)| known == target).map(|(_, verdict)| verdict));
            }
            Target::Device(mac) => (maps::VERDICT_DEVICE, self.devices.get(&Abi(MacKey::new(mac.0)), 0)),
        };
        match found {
            Ok(verdict) => Ok(Some(verdict.0)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(refused(name, "read", 0)(error)),
        }
    }

    fn configure(&mut self, config: &Config) -> Result<(), TableError> {
        let present = self.present();
        self.write_config(Config { present, ..*config })
    }

    fn profiles(&self) -> Result<ProfileEntries, TableError> {
        self.profiles.read()
    }

    fn profile_add(&mut self, entries: &ProfileEntries) -> Result<(), TableError> {
        self.profiles.add(entries)
    }

    fn profile_delete(&mut self, entries: &ProfileEntries) -> Result<(), TableError> {
        self.profiles.delete(entries)
    }

    fn feed_mark(&mut self, addresses: &[IpAddr], slot: u32, list: u32) -> Result<(), TableError> {
        let bit = 1 << (slot & 1);
        for address in addresses {
            let marked = |known: Option<Abi<FeedEntry>>| {
                let mut entry = known.map_or(FeedEntry { list, ..FeedEntry::default() }, |entry| entry.0);
                entry.slots |= bit;
                Abi(entry)
            };
            match address {
                IpAddr::V4(v4) => {
                    let key = Addr::v4(v4.octets()).v4_key();
                    let entry = marked(self.feed_v4.get(&key, 0).ok());
                    let full = refused(maps::FEED_V4, "write", maps::FEED_CAPACITY);
                    self.feed_v4.insert(key, entry, 0).map_err(full)?;
                }
                IpAddr::V6(v6) => {
                    let key = Addr::v6(v6.octets()).words();
                    let entry = marked(self.feed_v6.get(&key, 0).ok());
                    let full = refused(maps::FEED_V6, "write", maps::FEED_CAPACITY);
                    self.feed_v6.insert(key, entry, 0).map_err(full)?;
                }
            }
        }
        let present = self.present();
        self.set_present(present & (present::FEED_V4 | present::FEED_V6), true)
    }

    fn feed_clear(&mut self, slot: u32) -> Result<(), TableError> {
        clear_slot(&mut self.feed_v4, maps::FEED_V4, slot)?;
        clear_slot(&mut self.feed_v6, maps::FEED_V6, slot)?;
        let mut config = self.config.get(&0, 0).map_err(refused(maps::CONFIG, "read", 1))?.0;
        config.present = self.present();
        self.write_config(config)
    }
}

fn clear_slot<K: aya::Pod>(
    feed: &mut HashMap<MapData, K, Abi<FeedEntry>>,
    name: &'static str,
    slot: u32,
) -> Result<(), TableError> {
    let keys: Vec<K> = feed.keys().collect::<Result<_, _>>().map_err(refused(name, "read", 0))?;
    for key in keys {
        let Ok(Abi(mut entry)) = feed.get(&key, 0) else {
            continue;
        };
        entry.slots &= !(1 << (slot & 1));
        if entry.slots == 0 {
            absent_is_fine(feed.remove(&key), name)?;
        } else {
            feed.insert(key, Abi(entry), 0).map_err(refused(name, "write", maps::FEED_CAPACITY))?;
        }
    }
    Ok(())
}

fn prefix_key(net: &IpNet) -> Key<[u64; 2]> {
    let (bits, address) = match net {
        IpNet::V4(v4) => (MAPPED_BITS + u32::from(v4.prefix_len()), Addr::v4(v4.network().octets())),
        IpNet::V6(v6) => (u32::from(v6.prefix_len()), Addr::v6(v6.network().octets())),
    };
    Key::new(bits, address.words())
}

fn prefix_target(key: &Key<[u64; 2]>) -> Target {
    let octets: [u8; 16] = bytemuck::cast(key.data());
    // The kernel holds only lengths that were put in; a longer one would be a /128.
    let bits = u8::try_from(key.prefix_len()).unwrap_or(128).min(128);
    IpNet::new(IpAddr::from(octets), bits).map_or(Target::Address(IpAddr::from(octets)), Target::from)
}

/// Names the operation and the table in an error of aya's; a full table gets its own error.
pub(super) fn refused(
    table: &'static str,
    operation: &'static str,
    capacity: u32,
) -> impl FnOnce(MapError) -> TableError {
    move |error| {
        let cause = cause(error);
        match cause.raw_os_error() {
            Some(libc::E2BIG | libc::ENOSPC | libc::ENOMEM) => TableError::Full { table, capacity },
            _ => TableError::Kernel { operation, table, cause },
        }
    }
}

pub(super) fn absent_is_fine(result: Result<(), MapError>, table: &'static str) -> Result<(), TableError> {
    match result.map_err(cause) {
        Err(cause) if cause.raw_os_error() != Some(libc::ENOENT) => {
            Err(TableError::Kernel { operation: "delete from", table, cause })
        }
        _ => Ok(()),
    }
}

fn cause(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::IoError(error) => error,
        MapError::KeyNotFound => io::Error::from_raw_os_error(libc::ENOENT),
        other => io::Error::other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::print_stdout,
        reason = "a test may stop at once, and says when it skips"
    )]

    use super::*;
    use crate::datapath::{TestBed, object_is_embedded};

    #[test]
    fn an_entry_hidden_by_the_filter_counts_as_missing_until_it_is_put_again() {
        if !nix::unistd::geteuid().is_root() || !object_is_embedded() {
            println!("SKIPPED an_entry_hidden_by_the_filter: needs root and the kernel programs");
            return;
        }
        let mut bed = TestBed::new(1_024).unwrap();
        for address in ["10.0.0.2", "2001:db8::2"] {
            let target: Target = address.parse().unwrap();
            let block = Verdict { action: Action::Block as u8, expires_ns: u64::MAX, ..Verdict::default() };
            bed.verdicts.put(&target, &block).unwrap();
            assert_eq!(bed.verdicts.entries().unwrap().len(), 1);
            let (word, _) = tidegate_common::verdict::filter_bit(match address.parse().unwrap() {
                IpAddr::V4(v4) => Addr::v4(v4.octets()),
                IpAddr::V6(v6) => Addr::v6(v6.octets()),
            });
            bed.verdicts.filter.spoil(word);
            assert_eq!(bed.verdicts.entries().unwrap(), []);
            bed.verdicts.put(&target, &block).unwrap();
            assert_eq!(bed.verdicts.entries().unwrap().len(), 1);
            bed.verdicts.remove(&target).unwrap();
        }
    }
}
