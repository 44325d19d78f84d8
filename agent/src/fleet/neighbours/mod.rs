//! Notices between gateways of one site: what one of them shut out by its own evidence, the others are told over the local network.
//!
//! Pairs of gateways know each other's Ed25519 key from the configuration. A connection is TLS 1.3 in which both sides show that
//! key raw (RFC 7250), and a [`Notice`] is signed with it besides (`policy::sealed`), so that it can be judged whatever carried it;
//! see docs/decisions/0031. `notice`, `gatekeeper` and `queue` are pure; `dial` tells, `listen` is told, [`serve`] runs both, and
//! [`Board`] is what they share with the loop. A refusal has one [`Refused`] of a closed set, is counted, and changes nothing else.
//! Nothing here decides about traffic: what a neighbour says is evidence, which the loop judges, and it is never passed on.

mod board;
mod dial;
mod frame;
mod gatekeeper;
mod keys;
mod link;
#[cfg(test)]
mod link_tests;
mod listen;
mod notice;
mod queue;
mod refused;
mod tls;

pub use board::{Board, PeerState};
pub use gatekeeper::{Admitted, Gatekeeper, Known, Surroundings, Terms, is_outside};
pub use keys::{KeyFileError, OwnKey, PeerKey, PeerKeyError};
pub use link::{Link, Peer, Told, serve};
pub use notice::{Block, MAX_BYTES, Notice, Say, open, seal};
pub use queue::MOST_WAITING;
pub use refused::{Answer, Refused};
