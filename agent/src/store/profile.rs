//! Descriptions that operators put in force, with the addresses their names had last: a restart must not shut out a device whose
//! cloud cannot be resolved at that moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::database::{Store, StoreError, document};
use crate::identity::Mac;

/// A description in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredProfile {
    /// Whose.
    pub device: Mac,
    /// Who put it in force.
    pub author: String,
    /// When.
    pub since: Timestamp,
    /// The description as it was given.
    pub description: String,
    /// Addresses of its names.
    pub names: BTreeMap<String, BTreeSet<IpAddr>>,
}

impl Store {
    /// Writes a description or replaces the device's earlier one.
    pub fn save_profile(&self, profile: &StoredProfile) -> Result<(), StoreError> {
        const OPERATION: &str = "save a profile";
        const SQL: &str = "INSERT INTO profile (device, document) VALUES (?1, ?2)
            ON CONFLICT DO UPDATE SET document = excluded.document";
        let text = document(OPERATION, profile)?;
        self.write(OPERATION, SQL, &[&profile.device.to_string(), &text]).map(drop)
    }

    /// Forgets a device's description; how many there were.
    pub fn delete_profile(&self, device: Mac) -> Result<usize, StoreError> {
        self.write("delete a profile", "DELETE FROM profile WHERE device = ?1", &[&device.to_string()])
    }

    /// Every description.
    pub fn profiles(&self) -> Result<Vec<StoredProfile>, StoreError> {
        self.documents("list profiles", "SELECT document FROM profile ORDER BY device", &[])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed store operation is the test's failure")]

    use super::*;

    #[test]
    fn a_device_has_one_profile_until_it_is_deleted() {
        let store = Store::in_memory().unwrap();
        let mut profile = StoredProfile {
            device: Mac([2, 0, 0, 0, 0, 1]),
            author: "eve (uid 0)".to_owned(),
            since: Timestamp::UNIX_EPOCH,
            description: "{}".to_owned(),
            names: BTreeMap::from([("cloud.example".to_owned(), BTreeSet::from([[192, 0, 2, 1].into()]))]),
        };
        store.save_profile(&profile).unwrap();
        profile.description = "{\"a\":1}".to_owned();
        store.save_profile(&profile).unwrap();
        assert_eq!(store.profiles().unwrap(), [profile.clone()]);
        assert_eq!(store.delete_profile(profile.device).unwrap(), 1);
        assert_eq!(store.profiles().unwrap(), []);
    }
}
