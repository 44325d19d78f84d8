//! Shadow documents from the cloud, and the addresses in them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::fleet::shadow::{desired, is_allowed};

fuzz_target!(|bytes: &[u8]| {
    if let Some(wanted) = desired(bytes) {
        let _ = is_allowed(&wanted.url, &["https://policies.example/home/".to_owned()]);
        let _ = wanted.is(bytes);
    }
});
