//! The device table: every CPU's records of every device, put together.

use std::collections::HashMap;

use tidegate_common::{
    device::{DEVICE_WAYS, DeviceKey, DeviceRecord},
    maps,
};

use super::{Datapath, DatapathError, table};

impl Datapath {
    /// Every device in the table, its totals summed and its windows merged over all CPUs.
    pub fn devices(&self) -> Result<HashMap<DeviceKey, DeviceRecord>, DatapathError> {
        let records = &self.tables.devices;
        let mut devices: HashMap<DeviceKey, DeviceRecord> = HashMap::new();
        for set in 0..records.len() / DEVICE_WAYS {
            // A set is filled from its first place on.
            for way in 0..DEVICE_WAYS {
                let blocks = records.get(&(set * DEVICE_WAYS + way), 0).map_err(table(maps::DEVICES))?;
                let mut vacant = true;
                for block in blocks.iter().map(|block| &block.0).filter(|block| !block.key.is_vacant()) {
                    devices.entry(block.key).or_default().merge(block);
                    vacant = false;
                }
                if vacant {
                    break;
                }
            }
        }
        Ok(devices)
    }
}
