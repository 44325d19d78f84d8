//! A device's profile in the words of the API.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::identity::Mac;

/// The description that a device is held to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileView {
    /// The device.
    pub device: Mac,
    /// Where the description says it comes from.
    pub url: String,
    /// What it calls the device.
    pub systeminfo: String,
    /// Its allowing entries.
    pub entries: u64,
    /// Its names and the addresses they have now. A name without addresses allows nothing yet.
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// Networks in the kernel.
    pub nets: u64,
    /// Rules in the kernel.
    pub rules: u64,
    /// Packets it refused, or in monitor mode would have; together with those of an isolation beside it.
    pub refused: u64,
    /// Who put it in force.
    pub author: String,
    /// Since when.
    pub since: Timestamp,
}
