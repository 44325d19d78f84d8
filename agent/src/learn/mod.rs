//! What is normal for each device, and what is not: features, baselines, forests, behaviour rules.
//!
//! Pure: no IO, no clock (`now_ns` is the kernel's monotonic clock and always an argument), bounded memory whatever the
//! traffic. It says what was found and how sure it is; what to do about it is `decide`'s.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test should stop at once"))]

mod config;
mod finding;
mod technique;

pub use config::{LearnConfig, RuleConfig};
pub use finding::{FeatureNote, Finding, Subject};
pub use technique::Technique;
