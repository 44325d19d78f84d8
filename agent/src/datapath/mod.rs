//! (room datapath)
