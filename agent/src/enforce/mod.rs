//! (room enforce)
