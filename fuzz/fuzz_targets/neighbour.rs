//! Notices of neighbours: envelopes, and what is in them. Nothing that nobody signed is a notice.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use tidegate::{
    fleet::neighbours::{Answer, PeerKey, open},
    policy::{
        SigningKey,
        sealed::{Format, Purpose},
    },
};

static KEY: OnceLock<SigningKey> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    let key = KEY.get_or_init(|| {
        SigningKey::generate().ok().and_then(|text| SigningKey::parse(text.as_bytes()).ok()).expect("a key")
    });
    let peer = PeerKey::of(key);
    assert!(open(bytes, &peer, key.id()).is_err());
    // What a peer signs is read further.
    let purpose = Purpose { context: b"tidegate neighbour notice 1", most: 1 << 10 };
    if let Ok(sealed) = purpose.seal(bytes.to_vec(), Format::Cbor, key) {
        let _ = open(&sealed, &peer, key.id());
    }
    let _ = Answer::word(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = PeerKey::try_from(text.to_owned());
    }
});
