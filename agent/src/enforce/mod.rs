//! The only writer of kernel verdicts.

mod target;

pub use target::{TableError, Target, TargetError, VerdictTable};
