//! Bulk lists of addresses that somebody else publishes, and registries of vendors.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::enforce::FeedList;

fuzz_target!(|bytes: &[u8]| {
    let list = FeedList::read("fuzz", bytes).expect("memory can be read");
    let lines = bytes.split(|byte| *byte == b'\n').count();
    assert!(list.addresses.len() + list.prefixes.len() + list.faulty <= lines);
    assert!(list.errors.len() <= list.faulty);
});
