//! Neighbours in the words of the API.

use std::{collections::BTreeMap, net::SocketAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Other gateways of the site.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NeighboursView {
    /// Where they are heard; none when nobody is.
    pub listen: Option<SocketAddr>,
    /// The name of the gateway's own key; none when there are no neighbours.
    pub key: Option<String>,
    /// Why nobody can be heard.
    pub problem: Option<String>,
    /// Every peer, in the order of the configuration.
    pub peers: Vec<NeighbourView>,
    /// Connections refused that were no peer's, by reason, since the start.
    pub strangers: BTreeMap<String, u64>,
}

/// One of them. Counts are since the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NeighbourView {
    /// Its name in the configuration.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// The name of its key.
    pub key: String,
    /// Whether it can be told something now.
    pub reached: bool,
    /// Why not.
    pub trouble: Option<String>,
    /// When it was heard last.
    pub heard: Option<Timestamp>,
    /// Notices that wait for it.
    pub waiting: u64,
    /// Notices to it that found no room.
    pub dropped: u64,
    /// Notices to it that expired before it could be told.
    pub expired: u64,
    /// What it answered to notices, by word.
    pub answers: BTreeMap<String, u64>,
    /// What became of its notices and connections, by word: `taken`, `observed`, `withdrawn`, or why not.
    pub judged: BTreeMap<String, u64>,
}
