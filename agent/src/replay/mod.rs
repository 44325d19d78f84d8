//! (room replay)
