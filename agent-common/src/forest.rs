//! (forest)
