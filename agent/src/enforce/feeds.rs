//! Bulk lists: files with one address or CIDR a line.
//!
//! Single addresses go to the bulk-list tables, which hold many and swap all lists at once by flipping one setting. CIDRs need
//! the prefix table, which holds `maps::PREFIX_CAPACITY` entries, and become prefix verdicts; they are exchanged
//! one by one, new ones first, and an operator's verdict on the same prefix goes before. Never-block addresses and prefixes
//! that hold one are left out and reported. Downloading lists is somebody else's work.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{self, BufRead, Read},
    net::IpAddr,
};

use ipnet::IpNet;
use serde::Serialize;
use tidegate_common::{
    maps::{FEED_CAPACITY, FEED_V4, FEED_V6, PREFIX_CAPACITY, PREFIXES},
    verdict::{Action, Reason, Verdict},
};

use super::{
    enforcer::Enforcer,
    order::{is_host, is_too_wide},
    record::EnforceError,
    target::{TableError, Target, VerdictTable},
};

/// A list file may have this many bytes.
pub const LIST_BYTES: u64 = 64 << 20;
/// Faulty lines that are quoted; further ones are only counted.
const QUOTED: usize = 20;
/// Characters of a faulty line that are quoted.
const QUOTE_CHARS: usize = 60;

/// A line that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FeedError {
    /// Number of the line, from 1.
    pub line: usize,
    /// Its beginning.
    pub text: String,
    /// What is wrong with it.
    pub cause: &'static str,
}

/// A list that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FeedList {
    /// What the operator calls it.
    pub name: String,
    /// Its single addresses, each once.
    pub addresses: Vec<IpAddr>,
    /// Its prefixes, each once.
    pub prefixes: Vec<IpNet>,
    /// The first faulty lines.
    pub errors: Vec<FeedError>,
    /// How many lines were faulty.
    pub faulty: usize,
}

impl FeedList {
    /// Reads a list: one address or CIDR a line; `#` and `;` start a comment. Faulty lines are reported and skipped.
    pub fn read(name: &str, source: impl Read) -> io::Result<Self> {
        let mut list = Self { name: name.to_owned(), ..Self::default() };
        let mut seen = HashSet::new();
        let mut source = io::BufReader::new(source.take(LIST_BYTES + 1));
        let (mut line, mut number, mut total) = (Vec::new(), 0, 0);
        while source.read_until(b'\n', &mut line)? > 0 {
            number += 1;
            total += line.len() as u64;
            if total > LIST_BYTES {
                let cause =
                    format!("list {name} is larger than {LIST_BYTES} bytes: split it or drop entries");
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, cause));
            }
            let text = String::from_utf8_lossy(&line);
            let entry = text.split(['#', ';']).next().unwrap_or_default().trim();
            if !entry.is_empty() {
                match parse_entry(entry) {
                    Ok(target) if !seen.insert(target) => {}
                    Ok(Target::Address(address)) => list.addresses.push(address),
                    Ok(Target::Prefix(net)) => list.prefixes.push(net),
                    Ok(Target::Device(_)) => list.fault(number, entry, "neither an address nor a CIDR"),
                    Err(cause) => list.fault(number, entry, cause),
                }
            }
            line.clear();
        }
        Ok(list)
    }

    fn fault(&mut self, line: usize, text: &str, cause: &'static str) {
        self.faulty += 1;
        if self.errors.len() < QUOTED {
            let text = text.chars().take(QUOTE_CHARS).collect();
            self.errors.push(FeedError { line, text, cause });
        }
    }
}

fn parse_entry(entry: &str) -> Result<Target, &'static str> {
    let target: Target = entry.parse().map_err(|_| "neither an address nor a CIDR")?;
    match target {
        Target::Address(address) if !is_host(address) => Err("no single host has this address"),
        Target::Prefix(net) if is_too_wide(&net) => Err("too wide: at least /8 for IPv4 and /16 for IPv6"),
        _ => Ok(target),
    }
}

/// What became of the lists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FeedReport {
    /// Addresses in force: IPv4, IPv6.
    pub addresses: [usize; 2],
    /// Prefixes in force.
    pub prefixes: usize,
    /// Entries left out because they are never-block or hold something that is; the first few.
    pub spared: Vec<Target>,
    /// How many were left out.
    pub spared_total: usize,
}

impl FeedReport {
    fn spare(&mut self, target: Target) {
        self.spared_total += 1;
        if self.spared.len() < QUOTED {
            self.spared.push(target);
        }
    }
}

/// Prefixes of the lists in force.
#[derive(Debug, Default)]
pub(super) struct FedPrefixes {
    lists: HashMap<Target, u32>,
    /// Removed from `lists`, still to be settled.
    stale: Vec<Target>,
}

impl FedPrefixes {
    pub(super) fn keep(&mut self, target: Target, list: u32) {
        self.lists.insert(target, list);
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = Target> {
        self.lists.keys().copied()
    }

    pub(super) fn verdict(&self, target: &Target) -> Option<Verdict> {
        self.lists.get(target).map(|list| Verdict {
            expires_ns: u64::MAX,
            rule: *list,
            action: Action::Block as u8,
            reason: Reason::Feed as u8,
            ..Verdict::default()
        })
    }

    /// Drops what the never-block list does not admit any more.
    pub(super) fn retain(&mut self, admitted: impl Fn(&Target) -> bool) {
        let void: Vec<_> = self.targets().filter(|target| !admitted(target)).collect();
        for target in &void {
            self.lists.remove(target);
        }
        self.stale.extend(void);
    }
}

impl<T: VerdictTable> Enforcer<T> {
    /// Puts exactly these lists in force, all at once; on an error the lists before stay in force.
    ///
    /// The number of a list in the kernel is its place in `lists`, from 1.
    pub fn load_feeds(&mut self, lists: &[FeedList]) -> Result<FeedReport, EnforceError> {
        let mut report = FeedReport::default();
        let prefixes = self.admit_prefixes(lists, &mut report)?;
        let addresses = self.admit_addresses(lists, &mut report)?;

        let slot = self.kernel.feed_slot() ^ 1;
        self.kernel.feed_clear(slot)?;
        for (list, addresses) in &addresses {
            if let Err(cause) = self.kernel.feed_mark(addresses, slot, *list) {
                self.kernel.feed_clear(slot)?;
                return Err(cause.into());
            }
        }
        let before = std::mem::replace(&mut self.fed.lists, prefixes);
        let new: Vec<Target> = self.fed.targets().collect();
        for target in &new {
            if let Err(cause) = self.settle(target) {
                let failed = std::mem::replace(&mut self.fed.lists, before);
                self.fed.stale.extend(failed.into_keys().chain(self.fed.targets().collect::<Vec<_>>()));
                self.settle_feeds()?;
                self.kernel.feed_clear(slot)?;
                return Err(cause.into());
            }
        }
        self.kernel.feed_flip(slot, report.addresses)?;
        self.fed.stale.extend(before.into_keys());
        self.settle_feeds()?;
        self.kernel.feed_clear(slot ^ 1)?;
        Ok(report)
    }

    pub(super) fn settle_feeds(&mut self) -> Result<(), TableError> {
        std::mem::take(&mut self.fed.stale).iter().try_for_each(|target| self.settle(target))
    }

    fn admit_prefixes(
        &self,
        lists: &[FeedList],
        report: &mut FeedReport,
    ) -> Result<HashMap<Target, u32>, TableError> {
        let mut admitted = HashMap::new();
        for (list, net) in
            numbered(lists).flat_map(|(list, feed)| feed.prefixes.iter().map(move |net| (list, *net)))
        {
            let target = Target::from(net);
            if self.never_block.protector(&target).is_some() {
                report.spare(target);
                continue;
            }
            admitted.insert(target, list);
            if admitted.len() > PREFIX_CAPACITY as usize {
                return Err(TableError::Full { table: PREFIXES, capacity: PREFIX_CAPACITY });
            }
        }
        report.prefixes = admitted.len();
        Ok(admitted)
    }

    fn admit_addresses(
        &self,
        lists: &[FeedList],
        report: &mut FeedReport,
    ) -> Result<BTreeMap<u32, Vec<IpAddr>>, TableError> {
        let mut admitted: BTreeMap<u32, Vec<IpAddr>> = BTreeMap::new();
        let mut seen = HashSet::new();
        for (list, address) in numbered(lists)
            .flat_map(|(list, feed)| feed.addresses.iter().map(move |address| (list, *address)))
        {
            let target = Target::from(address);
            if self.never_block.protector(&target).is_some() {
                report.spare(target);
                continue;
            }
            if !seen.insert(address) {
                continue;
            }
            let family = usize::from(address.is_ipv6());
            report.addresses[family] += 1;
            if report.addresses[family] > FEED_CAPACITY as usize {
                let table = [FEED_V4, FEED_V6][family];
                return Err(TableError::Full { table, capacity: FEED_CAPACITY });
            }
            admitted.entry(list).or_default().push(address);
        }
        Ok(admitted)
    }
}

fn numbered(lists: &[FeedList]) -> impl Iterator<Item = (u32, &FeedList)> {
    lists.iter().enumerate().map(|(index, list)| (index as u32 + 1, list))
}
