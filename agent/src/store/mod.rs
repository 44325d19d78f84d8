//! What outlives the agent: records in SQLite, and the event log as JSON Lines.
//!
//! One writer, the agent's loop; every call is short and synchronous. A committed row survives `kill -9`; what an operator did
//! is on the disk before the answer ([`Durability::Disk`]), the rest may lose the last moments before a power cut. A database that
//! cannot be read is moved aside and replaced, because a gateway must go on enforcing. It decides nothing and keeps no state
//! of its own.

mod baseline;
mod command;
#[cfg(test)]
mod command_crash_tests;
#[cfg(test)]
mod crash_tests;
mod database;
mod device;
mod enforcement;
pub mod eve;
pub mod eve_names;
#[cfg(test)]
mod eve_tests;
mod id;
mod incident;
mod neighbour;
mod operator;
mod outbox;
#[cfg(test)]
mod outbox_crash_tests;
#[cfg(test)]
mod outbox_tests;
mod policy;
mod profile;
mod rotate;
mod schema;
mod telemetry;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use baseline::Baseline;
pub use command::StoredCommands;
pub use database::{Durability, MovedAside, Store, StoreError};
pub use device::StoredDevice;
pub use enforcement::{EnforcementFilter, Step};
pub use id::IdSource;
pub use incident::{Evidence, Incident, IncidentFilter, Note, Tally};
pub use operator::{AuditEntry, AuditFilter};
pub use outbox::{MessageKind, NewMessage, OutboxLimits, OutboxTally, Queued};
pub use policy::StoredPolicy;
pub use profile::StoredProfile;
