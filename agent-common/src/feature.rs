//! (feature)
