//! Tidegate's agent: everything between the kernel programs and the operator.
//!
//! The way of the data is one direction: `datapath` reads what the kernel measured, `learn` scores it, `decide` turns
//! scores into verdicts, `enforce` writes them back through `datapath`. `run` is the loop that carries it.

pub mod api;
pub mod cli;
pub mod config;
pub mod datapath;
pub mod decide;
pub mod enforce;
pub mod evaluate;
pub mod fleet;
pub mod identity;
pub mod judge;
pub mod kind;
pub mod learn;
pub mod messages;
pub mod mud;
pub mod policy;
pub mod replay;
pub mod run;
pub mod store;
mod text;
