//! The section of other gateways on the local network, and what the rooms need of it.

use std::{net::SocketAddr, path::PathBuf};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, period::Period, section::section, values::Listen},
    fleet::neighbours::{Peer, Terms},
};

/// What a neighbour's block leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnNotice {
    /// A block here, as far as the rest of the configuration wants one.
    Block,
    /// An incident.
    Observe,
}

section! {
    /// Other gateways on the local network: each is told what the others shut out by their own evidence, cloud or no cloud. Off until
    /// peers are named. Changes of `listen`, `key` and `peers` need a restart.
    Neighbours {
        /// Address and port where peers are heard, such as `192.0.2.1:7443`, port 1,024 or higher; `off` to tell only. Connections to peers
        /// come from the same address.
        listen: Listen = Listen::Off,
        /// File with the gateway's own private key (Ed25519, PEM), mode 0600; `tidegate neighbours keygen` makes one.
        key: PathBuf = PathBuf::from("/etc/tidegate/neighbours.key"),
        /// Who is told and believed, at most 32. Example:
        /// `peers = [{ name = "east", address = "192.0.2.2:7443", key = "MCowBQYDK2VwAyEA…" }]`
        peers: Vec<Peer> = Vec::new(),
        /// What a neighbour's block leads to: `block` for as long as it says, or `observe` for an incident only. Never-block, `monitor`
        /// mode and [response] win either way.
        act: OnNotice = OnNotice::Block,
        /// Longest that a neighbour's block lasts here, and that an own one is told for, 1m to 24h.
        max_ttl: Period = Period::hours(1),
        /// Addresses that one neighbour may tell within an hour, 1 to 4,096. Beyond, they are refused.
        addresses_per_hour: u32 = 100,
        /// How far a neighbour's clock may be ahead, 0s to 5m.
        skew: Period = Period::seconds(30),
        /// Whether private addresses may be hosts outside, where gateways stand within a larger private network.
        private_addresses: bool = false,
    }
}

impl Neighbours {
    /// Where peers are heard.
    pub fn listens_at(&self) -> Option<SocketAddr> {
        match self.listen {
            Listen::Off => None,
            Listen::At(address) => Some(address),
        }
    }
}

impl Config {
    /// How neighbours' notices are taken.
    pub fn neighbour_terms(&self) -> Terms {
        let neighbours = &self.neighbours;
        Terms {
            max_ttl: neighbours.max_ttl.0.min(self.enforcement.max_ttl.0),
            skew: SignedDuration::try_from(neighbours.skew.0).unwrap_or(SignedDuration::ZERO),
            per_hour: neighbours.addresses_per_hour as usize,
            private: neighbours.private_addresses,
        }
    }
}
