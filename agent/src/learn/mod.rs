//! (room learn)
