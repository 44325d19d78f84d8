//! A device in the words of the API.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::BaselineState;
use crate::{
    config::values::IsolationLevel,
    identity::{DevicePrint, Mac, PeerName},
    kind::Opinion,
};

/// A device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceView {
    /// Hardware address.
    pub mac: Mac,
    /// Interface it is behind.
    pub interface: String,
    /// Its addresses, last used first.
    pub addresses: Vec<IpAddr>,
    /// Name it gave by DHCP or mDNS.
    pub name: Option<String>,
    /// Maker, from the hardware address.
    pub vendor: Option<String>,
    /// Whether the hardware address is randomised.
    pub randomised: bool,
    /// What kind of device it seems to be.
    #[serde(default)]
    pub kind: Option<Opinion>,
    /// What it says about itself: `dhcp` and its vendor class, `mdns` and services it announces.
    #[serde(default)]
    pub says: Vec<String>,
    /// Contradictions between addresses and hardware addresses, in plain words.
    pub conflicts: Vec<String>,
    /// First packet.
    pub first_seen: Timestamp,
    /// Last packet.
    pub last_seen: Timestamp,
    /// Packets it sent.
    pub packets_out: u64,
    /// Bytes it sent.
    pub bytes_out: u64,
    /// Packets it was sent.
    pub packets_in: u64,
    /// Bytes it was sent.
    pub bytes_in: u64,
    /// How far its baseline is.
    pub baseline: BaselineState,
    /// How much of the learning is done, 0 to 1.
    pub learned: f64,
    /// Its isolation.
    pub isolation: Option<IsolationLevel>,
    /// When the isolation ends.
    pub isolated_until: Option<Timestamp>,
    /// Where the description it is held to says it comes from.
    #[serde(default)]
    pub profile: Option<String>,
    /// Whether no verdict may touch it.
    pub never_block: bool,
    /// Incidents it is the cause of and that go on.
    pub open_incidents: u64,
    /// What the hosts it talks to are called, last heard first; empty in lists.
    pub peers: Vec<PeerName>,
    /// TLS clients on it, last heard first; empty in lists.
    pub tls: Vec<DevicePrint>,
}
