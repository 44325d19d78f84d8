//! Descriptions of devices, from their first byte to the profile that the kernel gets.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::mud;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(policy) = mud::read(bytes) {
        let _ = policy.profile(&|_| vec![[192, 0, 2, 1].into()]);
    }
});
