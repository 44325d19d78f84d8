//! Commands: envelopes, what is in them, payloads that nobody sealed, names of held ones and times of day.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::messages::commands::{
    Hours,
    body::{self, Body},
    id_of, open, seal,
};
use tidegate_fuzz::{anchors, key, sealed};

fuzz_target!(|bytes: &[u8]| {
    assert!(open(bytes, anchors()).is_err());
    for envelope in sealed(b"tidegate command 1", bytes) {
        if let Ok((command, _)) = open(&envelope, anchors()) {
            // What was accepted can be written, and has one form.
            let written = seal(&command, key()).expect("an accepted command is sound");
            let (again, _) = open(&written, anchors()).expect("and is accepted again");
            assert_eq!(seal(&again, key()).ok(), Some(written));
        }
    }
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
