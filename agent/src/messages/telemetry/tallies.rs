//! What is counted of telemetry. Shared between the guard's thread and whoever asks.

use std::sync::atomic::AtomicU64;

use super::Sign;

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Tallies {
    /// Topics that are known now.
    pub topics: AtomicU64,
    /// Topics that are judged now: learning is over.
    pub judged_topics: AtomicU64,
    /// Messages on telemetry topics.
    pub messages: AtomicU64,
    /// Messages before their topic was learned.
    pub learning: AtomicU64,
    /// Messages of no format that is read.
    pub unreadable: AtomicU64,
    /// Messages whose device or topic found no room.
    pub no_room: AtomicU64,
    /// Topics that were learned again, as what was odd had lasted.
    pub relearned: AtomicU64,
    /// Measurements that went to the cloud as a summary only.
    pub summarised: AtomicU64,
    /// Odd messages that were not told: nobody took them.
    pub untold: AtomicU64,
    odd: [AtomicU64; Sign::ALL.len()],
}

impl Tallies {
    /// The counter of messages with `sign`.
    pub const fn odd(&self, sign: Sign) -> &AtomicU64 {
        &self.odd[sign as usize]
    }
}
