//! Devices that were seen, so that names and addresses are known again right after a restart.

use serde::{Deserialize, Serialize};

use super::database::{Store, StoreError, document};
use crate::identity::Device;

/// A device and where it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredDevice {
    /// Name of the interface: its index may be another one after a reboot.
    pub interface: String,
    /// The device as last seen.
    pub device: Device,
}

impl Store {
    /// Writes a device as it was last seen.
    pub fn save_device(&self, interface: &str, device: &Device) -> Result<(), StoreError> {
        const OPERATION: &str = "save a device";
        const SQL: &str = "INSERT INTO device (mac, interface, last_us, document) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT DO UPDATE SET last_us = excluded.last_us, document = excluded.document";
        let last_us = device.last_seen.as_microsecond();
        let text = document(OPERATION, device)?;
        self.write(OPERATION, SQL, &[&device.mac.to_string(), &interface, &last_us, &text]).map(drop)
    }

    /// The devices seen last, at most `limit`, last seen first.
    pub fn devices(&self, limit: u32) -> Result<Vec<StoredDevice>, StoreError> {
        const QUERY: &str = "SELECT json_object('interface', interface, 'device', json(document)) FROM device
            ORDER BY last_us DESC LIMIT ?1";
        self.documents("list devices", QUERY, &[&i64::from(limit)])
    }
}
