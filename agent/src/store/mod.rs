//! What outlives the agent: records in SQLite and the event log.

mod id;

pub use id::IdSource;
