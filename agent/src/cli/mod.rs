//! Commands.

pub mod model;
#[cfg(test)]
pub(crate) mod testing;
