//! Verdict tables in memory: for replay, which has no kernel to write to, and for tests.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use tidegate_common::{
    maps::{FEED_CAPACITY, FEED_V4, FEED_V6, VERDICT_CAPACITY, VERDICT_V4},
    verdict::{Config, FeedEntry, Verdict},
};

use super::{
    profile::ProfileEntries,
    target::{TableError, Target, VerdictTable},
};

/// The tables a kernel would hold.
#[derive(Debug, Clone, Default)]
pub struct MemoryTable {
    /// Exact, prefix and device entries.
    pub verdicts: BTreeMap<Target, Verdict>,
    /// Bulk list entries.
    pub feeds: HashMap<IpAddr, FeedEntry>,
    /// Networks and rules of device profiles.
    pub profiles: ProfileEntries,
    /// Settings last written.
    pub config: Config,
    /// Entries it takes at most, 0 for the kernel's own limit.
    pub capacity: u32,
}

impl MemoryTable {
    /// How many addresses of each family a bulk-list slot holds.
    pub fn fed(&self, slot: u32) -> [usize; 2] {
        let in_slot = self.feeds.iter().filter(|(_, entry)| entry.slots & 1 << slot != 0);
        in_slot.fold([0; 2], |mut counts, (address, _)| {
            counts[usize::from(address.is_ipv6())] += 1;
            counts
        })
    }

    fn limit(&self, own: u32) -> u32 {
        if self.capacity == 0 { own } else { self.capacity }
    }
}

impl VerdictTable for MemoryTable {
    fn put(&mut self, target: &Target, verdict: &Verdict) -> Result<(), TableError> {
        let capacity = self.limit(VERDICT_CAPACITY);
        if !self.verdicts.contains_key(target) && self.verdicts.len() >= capacity as usize {
            return Err(TableError::Full { table: VERDICT_V4, capacity });
        }
        self.verdicts.insert(*target, *verdict);
        Ok(())
    }

    fn remove(&mut self, target: &Target) -> Result<(), TableError> {
        self.verdicts.remove(target);
        Ok(())
    }

    fn entries(&self) -> Result<Vec<(Target, Verdict)>, TableError> {
        Ok(self.verdicts.iter().map(|(target, verdict)| (*target, *verdict)).collect())
    }

    fn get(&self, target: &Target) -> Result<Option<Verdict>, TableError> {
        Ok(self.verdicts.get(target).copied())
    }

    fn profiles(&self) -> Result<ProfileEntries, TableError> {
        Ok(self.profiles.clone())
    }

    fn profile_add(&mut self, entries: &ProfileEntries) -> Result<(), TableError> {
        self.profiles.extend(entries);
        Ok(())
    }

    fn profile_delete(&mut self, entries: &ProfileEntries) -> Result<(), TableError> {
        self.profiles.subtract(entries);
        Ok(())
    }

    fn configure(&mut self, config: &Config) -> Result<(), TableError> {
        self.config = *config;
        Ok(())
    }

    fn feed_mark(&mut self, addresses: &[IpAddr], slot: u32, list: u32) -> Result<(), TableError> {
        let capacity = self.limit(FEED_CAPACITY);
        for address in addresses {
            if !self.feeds.contains_key(address) && self.feeds.len() >= capacity as usize {
                let table = if address.is_ipv4() { FEED_V4 } else { FEED_V6 };
                return Err(TableError::Full { table, capacity });
            }
            let entry = self.feeds.entry(*address).or_default();
            entry.slots |= 1 << slot;
            entry.list = list;
        }
        Ok(())
    }

    fn feed_clear(&mut self, slot: u32) -> Result<(), TableError> {
        self.feeds.retain(|_, entry| {
            entry.slots &= !(1 << slot);
            entry.slots != 0
        });
        Ok(())
    }
}
