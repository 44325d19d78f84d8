//! A baseline as it is stored, exported and imported: the samples, not the trees, because the seed grows the same trees again.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use tidegate_common::feature::{FEATURE_VERSION, FEATURES};

use super::{destinations::Habit, samples::Row, services::Service};
use crate::identity::Mac;

/// Version of the stored form.
pub const STATE_VERSION: u32 = 1;
/// Samples, hosts and domains a stored baseline may hold at most, each.
const MAX_ENTRIES: usize = 16_384;

/// Everything learned about one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselineState {
    /// [`STATE_VERSION`].
    pub version: u32,
    /// Meaning of the features, see `tidegate_common::feature`.
    pub feature_version: u32,
    /// The device.
    pub device: Mac,
    /// The interface it is behind.
    pub ifindex: u32,
    /// Whether learning had ended.
    pub ready: bool,
    /// How long traffic was collected, in seconds.
    pub collected_s: u64,
    /// Flow samples.
    pub flows: Vec<Row>,
    /// Window samples.
    pub windows: Vec<Row>,
    /// Hosts it talked to.
    pub known: Vec<IpAddr>,
    /// Its services.
    #[serde(default)]
    pub services: Vec<Service>,
    /// Names of their peers.
    #[serde(default)]
    pub service_names: BTreeMap<IpAddr, String>,
    /// Its regular contacts.
    pub habits: Vec<Habit>,
    /// Registered domains it asked for.
    #[serde(default)]
    pub domains: Vec<String>,
    /// Most bytes sent to one host within an hour.
    pub largest_upload: u64,
    /// Flow samples adopted since, see `renewal`.
    #[serde(default)]
    pub adopted_flows: Vec<Row>,
    /// Window samples adopted since.
    #[serde(default)]
    pub adopted_windows: Vec<Row>,
}

/// A stored baseline cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Another version.
    #[error(
        "baseline of {device} has version {version} and features {features}: this program reads {STATE_VERSION} and {FEATURE_VERSION}; let the device be learned again"
    )]
    Version {
        /// Device.
        device: Mac,
        /// Version found.
        version: u32,
        /// Feature version found.
        features: u32,
    },
    /// Not a device's address.
    #[error("baseline of {0}: no device can have this hardware address")]
    Device(Mac),
    /// Too large.
    #[error("baseline of {0} holds more than {MAX_ENTRIES} samples, hosts or domains")]
    TooLarge(Mac),
    /// Marked ready without samples.
    #[error("baseline of {0} is marked ready but holds no flows")]
    Empty(Mac),
}

impl BaselineState {
    /// Checks a baseline that came from outside.
    pub fn check(&self) -> Result<(), StateError> {
        let device = self.device;
        if (self.version, self.feature_version) != (STATE_VERSION, FEATURE_VERSION) {
            return Err(StateError::Version {
                device,
                version: self.version,
                features: self.feature_version,
            });
        }
        if !device.is_device() {
            return Err(StateError::Device(device));
        }
        let samples = [&self.flows, &self.windows, &self.adopted_flows, &self.adopted_windows].map(Vec::len);
        if samples
            .into_iter()
            .chain([
                self.known.len(),
                self.services.len(),
                self.service_names.len(),
                self.habits.len(),
                self.domains.len(),
            ])
            .any(|n| n > MAX_ENTRIES)
        {
            return Err(StateError::TooLarge(device));
        }
        if self.ready && self.flows.is_empty() {
            return Err(StateError::Empty(device));
        }
        Ok(())
    }
}

const _: () = assert!(FEATURES == 16, "a change of the vector is a change of STATE_VERSION");
