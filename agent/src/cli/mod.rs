//! Commands.
#[cfg(test)]
pub(crate) mod testing;
