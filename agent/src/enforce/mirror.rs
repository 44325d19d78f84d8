//! The kernel tables, and what they should hold according to what was written.
//!
//! Every write goes through here, so the presence flags in [`Config`] always match the contents: a lookup the kernel skips
//! would be a verdict that does not hold.

use std::{collections::HashMap, net::IpAddr};

use tidegate_common::verdict::{Action, Config, Mode, Verdict, present};

use super::target::{TableError, Target, VerdictTable};

/// A table with its expected contents.
#[derive(Debug)]
pub(super) struct Mirror<T> {
    table: T,
    config: Config,
    /// What `table` was last told.
    configured: Option<Config>,
    entries: HashMap<Target, Verdict>,
    counts: [usize; PLACES],
    /// Addresses in the bulk-list slot in force: IPv4, IPv6.
    fed: [usize; 2],
    /// Entries of the operator's never-block list, prefixes excepted.
    operators: usize,
}

const PLACES: usize = 5;
const FLAGS: [u32; PLACES] = [present::V4, present::V6, present::PREFIXES, present::ALLOWED, present::DEVICE];

/// The kernel table that holds `verdict` on `target`: never-block prefixes have their own.
const fn place(target: &Target, verdict: &Verdict) -> usize {
    match target {
        Target::Address(IpAddr::V4(_)) => 0,
        Target::Address(IpAddr::V6(_)) => 1,
        Target::Prefix(_) if verdict.is(Action::NeverBlock) => 3,
        Target::Prefix(_) => 2,
        Target::Device(_) => 4,
    }
}

impl<T: VerdictTable> Mirror<T> {
    pub(super) fn new(table: T, config: Config) -> Self {
        let fed = [present::FEED_V4, present::FEED_V6].map(|flag| usize::from(config.present & flag != 0));
        Self {
            table,
            config,
            configured: None,
            entries: HashMap::new(),
            counts: [0; PLACES],
            fed,
            operators: 0,
        }
    }

    /// Takes `found` for what was written: the tables outlived the agent that wrote them.
    pub(super) fn adopt(&mut self, found: &[(Target, Verdict)]) {
        for (target, verdict) in found {
            self.note(*target, *verdict);
        }
    }

    fn note(&mut self, target: Target, verdict: Verdict) {
        self.counts[place(&target, &verdict)] += 1;
        self.operators += usize::from(target.spares_peers(&verdict));
        if let Some(before) = self.entries.insert(target, verdict) {
            self.forget(&target, &before);
        }
    }

    fn forget(&mut self, target: &Target, before: &Verdict) {
        self.counts[place(target, before)] -= 1;
        self.operators -= usize::from(target.spares_peers(before));
    }

    pub(super) const fn table(&self) -> &T {
        &self.table
    }

    /// For what only the table knows, not for verdicts.
    pub(super) const fn table_mut(&mut self) -> &mut T {
        &mut self.table
    }

    pub(super) fn get(&self, target: &Target) -> Option<&Verdict> {
        self.entries.get(target)
    }

    pub(super) fn put(&mut self, target: Target, verdict: Verdict) -> Result<(), TableError> {
        // A never-block prefix and a verdict on the same prefix live in different tables: one of them must go first.
        if self.entries.get(&target).is_some_and(|before| place(&target, before) != place(&target, &verdict))
        {
            self.remove(&target)?;
        }
        self.table.put(&target, &verdict)?;
        self.note(target, verdict);
        self.configure()
    }

    pub(super) fn remove(&mut self, target: &Target) -> Result<(), TableError> {
        self.table.remove(target)?;
        if let Some(before) = self.entries.remove(target) {
            self.forget(target, &before);
        }
        self.configure()
    }

    pub(super) const fn config(&self) -> Config {
        self.config
    }

    /// Takes over every setting but those this room computes.
    pub(super) fn set_config(&mut self, base: Config) -> Result<(), TableError> {
        self.config = Config { feed_slot: self.config.feed_slot, ..base };
        self.configure()
    }

    pub(super) fn set_mode(&mut self, mode: Mode) -> Result<(), TableError> {
        self.config.mode = mode as u32;
        self.configure()
    }

    pub(super) fn feed_slot(&self) -> u32 {
        self.config.feed_slot
    }

    pub(super) fn feed_clear(&mut self, slot: u32) -> Result<(), TableError> {
        self.table.feed_clear(slot)
    }

    pub(super) fn feed_mark(&mut self, addresses: &[IpAddr], slot: u32, list: u32) -> Result<(), TableError> {
        self.table.feed_mark(addresses, slot, list)
    }

    /// Puts `slot` in force, which holds `fed` IPv4 and IPv6 addresses.
    pub(super) fn feed_flip(&mut self, slot: u32, fed: [usize; 2]) -> Result<(), TableError> {
        self.config.feed_slot = slot;
        self.fed = fed;
        self.configure()
    }

    /// Writes the settings again, whether or not they should be there already.
    pub(super) fn rewrite_config(&mut self) -> Result<(), TableError> {
        self.configured = None;
        self.configure()
    }

    fn configure(&mut self) -> Result<(), TableError> {
        self.config.present = self.presence();
        if self.configured != Some(self.config) {
            self.table.configure(&self.config)?;
            self.configured = Some(self.config);
        }
        Ok(())
    }

    fn presence(&self) -> u32 {
        let tables = FLAGS.iter().zip(self.counts);
        let feeds = [present::FEED_V4, present::FEED_V6].iter().zip(self.fed);
        let operators = if self.operators > 0 { present::OPERATORS } else { 0 };
        tables.chain(feeds).filter(|(_, count)| *count > 0).fold(operators, |flags, (flag, _)| flags | flag)
    }
}
