//! Policies in the words of the API.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{identity::Mac, policy::Change};

/// The policy in force and what led to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyView {
    /// Its version; none when the configuration file alone rules.
    pub version: Option<u64>,
    /// What it is for.
    pub description: String,
    /// The fleet that policies must be for.
    pub fleet: String,
    /// The gateway that policies must be for.
    pub gateway: String,
    /// It takes effect from then on.
    pub not_before: Option<Timestamp>,
    /// From then on the configuration file rules again.
    pub expires: Option<Timestamp>,
    /// The key that signed it.
    pub key: Option<String>,
    /// Who put it in force.
    pub author: Option<String>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// What it sets.
    pub settings: Value,
    /// What differs from the configuration file.
    pub changes: Vec<Change>,
    /// The time zone that hours of command rules are of.
    pub time_zone: String,
    /// The highest version there ever was.
    pub highest: u64,
    /// Versions kept, newest first.
    pub history: Vec<PolicyVersionView>,
    /// Refusals since the start, by reason.
    pub refused: BTreeMap<String, u64>,
}

/// A version that is or was in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyVersionView {
    /// The version.
    pub version: u64,
    /// Whether it is in force.
    pub in_force: bool,
    /// When it was put in force last.
    pub since: Timestamp,
    /// Who put it there.
    pub author: String,
}

/// What a policy would change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyCheckView {
    /// Its version.
    pub version: u64,
    /// The key that signed it.
    pub key: String,
    /// It takes effect from then on.
    pub not_before: Timestamp,
    /// Until then.
    pub expires: Timestamp,
    /// What it is for.
    pub description: String,
    /// Settings that would differ from those in force.
    pub changes: Vec<Change>,
    /// Devices it isolates.
    pub isolates: Vec<Mac>,
    /// Devices it holds to a description.
    pub profiles: Vec<Mac>,
}
