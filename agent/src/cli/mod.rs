//! Commands.

pub mod model;
pub mod replay;
#[cfg(test)]
pub(crate) mod testing;
