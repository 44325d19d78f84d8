//! What operators ask through the socket: orders, filters and names of devices.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};
use tidegate::{
    api::{AllowOrder, BlockOrder, DeviceRef, IncidentFilter, IsolationOrder},
    enforce::Target,
};

/// What is read is written so that it is read again as it was.
fn round<T: DeserializeOwned + Serialize + PartialEq>(bytes: &[u8]) {
    if let Ok(order) = serde_json::from_slice::<T>(bytes) {
        let written = serde_json::to_vec(&order).expect("an order can be written");
        assert!(serde_json::from_slice::<T>(&written).is_ok_and(|again| again == order));
    }
}

fuzz_target!(|bytes: &[u8]| {
    round::<BlockOrder>(bytes);
    round::<IsolationOrder>(bytes);
    round::<AllowOrder>(bytes);
    round::<IncidentFilter>(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let device = DeviceRef::from(text.to_owned());
        assert_eq!(DeviceRef::from(device.to_string()), device);
        if let Ok(target) = text.parse::<Target>() {
            assert_eq!(target.to_string().parse().ok(), Some(target));
        }
    }
});
