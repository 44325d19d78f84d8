//! The guard: takes connections, and stands between clients and the broker for as long as they last.

mod deliver;
mod flow;
mod hub;
pub(crate) mod limits;
pub(super) mod listen;
mod relay;
mod session;
mod talk;
mod wire;

pub(crate) use hub::Hub;
