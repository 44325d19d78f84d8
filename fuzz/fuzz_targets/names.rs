//! DNS messages and TLS hellos as the kernel samples them: read, put together, named.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::identity::{Heard, Names, registered};
use tidegate_fuzz::samples;

fuzz_target!(|input: &[u8]| {
    let mut names = Names::default();
    for (second, sample) in samples(input).enumerate() {
        if let Some(Heard::Dns(message)) = names.observe(&sample, second as u64 * 1_000_000_000)
            && let Some(found) = registered(&message.name)
        {
            assert!(message.name.trim_end_matches('.').ends_with(found.domain));
        }
    }
});
