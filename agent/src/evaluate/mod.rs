//! How good the detector is on labelled flows: the flow model, the window model, and the whole gateway with its rules.
//!
//! The whole gateway is the one of `replay --detect`; nothing here detects. Baselines come from each device's first benign
//! half, limits from the next fifth and what was vetted since, figures from the rest and every attack; seeds change the models alone. A set may
//! be of any size; its flows are kept in memory.

mod alarms;
mod episode;
mod found;
pub mod metrics;
mod report;
mod run;
pub mod split;

use std::time::Duration;

pub use report::{AttackResult, SetResult};
pub use run::evaluate;

/// What is evaluated.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Length of a window.
    pub window: Duration,
    /// First seed.
    pub seed: u64,
    /// Seeds, one after the other.
    pub seeds: u64,
}

impl Plan {
    /// Whether the gateway can be set to such windows.
    pub fn is_allowed(&self) -> bool {
        (5..=600).contains(&self.window.as_secs())
    }
}

#[cfg(test)]
mod tests;
