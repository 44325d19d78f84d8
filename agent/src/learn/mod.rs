//! What is normal for each device, and what is not: features, baselines, forests, behaviour rules.
//!
//! Pure: no IO of its own, no clock (`now_ns` is the kernel's monotonic clock and always an argument), bounded memory
//! whatever the traffic. It says what was found and how sure it is; what to do about it is `decide`'s.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test should stop at once")
)]

mod attribution;
mod baseline;
mod batch;
mod bounded;
mod calibration;
mod compact;
mod config;
mod contact;
mod destinations;
mod detector;
mod device;
mod drift;
mod evidence;
mod extended;
mod finding;
mod fleet;
mod forest;
mod grid;
mod inbound;
mod keeping;
mod learner;
mod limit;
mod lines;
mod model;
mod model_file;
mod naming;
mod opinion;
mod peers;
mod ranked;
mod recent;
mod release;
mod renewal;
mod reported;
mod reporting;
mod rules;
mod samples;
mod services;
mod standard;
mod state;
mod table;
mod technique;
#[cfg(test)]
mod testing;
mod vetting;
mod window;

pub(crate) use calibration::Calibration;
pub use config::{LearnConfig, RuleConfig};
pub use contact::{FlowEnds, address};
pub use destinations::Habit;
pub use detector::FlowForest;
pub use device::Phase;
pub use extended::Extended;
pub use finding::{FeatureNote, Finding, Nature, Subject};
pub use forest::{Forest, Growth, GrowthError};
pub use grid::{Grid, Rows};
pub use inbound::PROBE_RULE;
pub use keeping::{DeviceStatus, LearnError};
pub use learner::Learner;
pub(crate) use limit::Limit;
pub use model::{Model, ModelKind};
pub use model_file::ModelError;
pub use naming::Resolver;
pub use opinion::Opinion;
pub use ranked::{Rank, Ranked};
pub use reported::Alert;
pub use rules::{ArpClaim, is_local};
pub use samples::Row;
pub use services::{Service, Whom};
pub use standard::Standard;
pub use state::{BaselineState, STATE_VERSION, StateError};
pub use table::{Table, TableError};
pub use technique::Technique;
pub(crate) use vetting::QUARANTINE_NS;
pub use window::{WINDOW_FEATURES, estimate, read, window_features};
