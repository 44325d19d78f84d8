//! Commands: envelopes, what is in them, payloads that nobody sealed, names of held ones and times of day.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::{
    messages::commands::{
        Hours,
        body::{self, Body},
        id_of, open,
    },
    policy::TrustAnchors,
};

fuzz_target!(|bytes: &[u8]| {
    let _ = open(bytes, &TrustAnchors::default());
    let keys = ["verb".to_owned(), "cmd".to_owned()];
    for value in [body::read(bytes), body::read_cbor(bytes)].into_iter().flatten() {
        if let Some(body) = Body::of_plain(&value, &keys, "set") {
            // Names come in order and once.
            assert!(body.params.is_sorted_by(|a, b| a.0 < b.0));
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = (id_of(text), text.parse::<Hours>());
    }
});
