//! Events as the kernel's ring buffer hands them over, of any length and content.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = tidegate::datapath::decode(input);
});
