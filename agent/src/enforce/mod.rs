//! The only writer of kernel verdicts: orders in, kernel entries and records out.
//!
//! Invariants: never-block goes before everything; every automatic verdict has an expiry on the kernel clock, bounded by the
//! settings; at most so many automatic verdicts an hour; presence flags match the contents. Synchronous, reads no clock,
//! touches no store: callers pass [`Now`] and save what a [`Report`] says has changed.

mod claims;
mod confirm;
mod enforcer;
mod exempt;
mod feeds;
#[cfg(test)]
mod kernel_tests;
mod memory;
mod mirror;
pub mod names;
mod never_block;
mod order;
mod pace;
mod profile;
mod profiles;
#[cfg(test)]
mod profiles_tests;
#[cfg(test)]
mod properties;
mod record;
mod restore;
mod settings;
mod target;
#[cfg(test)]
mod tests;

pub use confirm::Reachability;
pub use enforcer::{Enforcer, Tally};
pub use feeds::{FeedError, FeedList, FeedReport, LIST_BYTES};
pub use memory::MemoryTable;
pub use order::Order;
pub use profile::{Profile, ProfileEntries, ProfileRule};
pub use profiles::ProfileState;
pub use record::{AllowEntry, Author, Drift, EnforceError, Enforcement, Notice, Now, Refusal, Report, State};
pub use settings::Settings;
pub use target::{TableError, Target, TargetError, VerdictTable};
