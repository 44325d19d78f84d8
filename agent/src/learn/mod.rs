//! What is normal for each device, and what is not: features, baselines, forests, behaviour rules.
//!
//! Pure: no IO of its own, no clock (`now_ns` is the kernel's monotonic clock and always an argument), bounded memory
//! whatever the traffic. It says what was found and how sure it is; what to do about it is `decide`'s.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test should stop at once")
)]

mod batch;
mod config;
mod finding;
mod forest;
mod grid;
mod model_file;
mod table;
mod technique;

pub use config::{LearnConfig, RuleConfig};
pub use finding::{FeatureNote, Finding, Subject};
pub use forest::{Forest, Growth, GrowthError};
pub use grid::{Grid, Rows};
pub use model_file::{Model, ModelError, ModelKind};
pub use table::{Table, TableError};
pub use technique::Technique;
