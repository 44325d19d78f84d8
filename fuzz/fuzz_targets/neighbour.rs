//! Notices of neighbours: envelopes, and what is in them. Nothing that nobody signed is a notice.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::fleet::neighbours::{Answer, PeerKey, open};
use tidegate_fuzz::{key, sealed};

fuzz_target!(|bytes: &[u8]| {
    let peer = PeerKey::of(key());
    assert!(open(bytes, &peer, key().id()).is_err());
    // What a peer signs is read further.
    for envelope in sealed(b"tidegate neighbour notice 1", bytes) {
        let _ = open(&envelope, &peer, key().id());
    }
    let _ = Answer::word(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = PeerKey::try_from(text.to_owned());
    }
});
