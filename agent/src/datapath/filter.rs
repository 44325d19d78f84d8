//! The filter before the exact addresses: which of them may have an entry.
//!
//! A bit is set before its address is written and never cleared while the agent runs, so the programs may look in vain but
//! never miss an entry. The next start clears what is not needed any more.

use std::net::IpAddr;

use aya::maps::{Array, MapData, MapError};
use tidegate_common::{maps::FILTER_WORDS, pod::Addr, verdict::filter_bit};

/// One bit for every address that has, or lately had, an exact entry; several addresses may share one.
pub(super) struct AddressFilter {
    words: Vec<u64>,
    table: Array<MapData, u64>,
}

impl AddressFilter {
    /// The filter in `table`; the programs go by what it holds until [`Self::reset`].
    pub(super) fn new(table: Array<MapData, u64>) -> Self {
        Self { words: vec![0; FILTER_WORDS as usize], table }
    }

    /// Makes it the filter of exactly `addresses`.
    pub(super) fn reset(&mut self, addresses: impl Iterator<Item = IpAddr>) -> Result<(), MapError> {
        self.words.fill(0);
        for address in addresses {
            let (word, bit) = filter_bit(common(address));
            self.words[word as usize] |= bit;
        }
        for (index, word) in (0..).zip(&self.words) {
            self.table.set(index, *word, 0)?;
        }
        Ok(())
    }

    /// Lets the programs look for an entry of `address`, whatever became of the bit since it was first set.
    pub(super) fn add(&mut self, address: IpAddr) -> Result<(), MapError> {
        let (word, bit) = filter_bit(common(address));
        self.words[word as usize] |= bit;
        self.table.set(word, self.words[word as usize], 0)
    }

    /// Whether the programs look for an entry of `address`.
    pub(super) fn shows(&self, address: IpAddr) -> Result<bool, MapError> {
        let (word, bit) = filter_bit(common(address));
        Ok(self.table.get(&word, 0)? & bit != 0)
    }
}

#[cfg(test)]
impl AddressFilter {
    /// Clears a word behind the agent's back.
    pub(super) fn spoil(&mut self, word: u32) {
        assert!(self.table.set(word, 0, 0).is_ok());
    }
}

const fn common(address: IpAddr) -> Addr {
    match address {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr::v6(v6.octets()),
    }
}
