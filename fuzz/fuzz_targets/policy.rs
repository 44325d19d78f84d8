//! Sealed policies, keys and documents, from their first byte to the settings they make.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::{
    config::Config,
    policy::{Document, SigningKey, TrustAnchors, open},
};

fuzz_target!(|bytes: &[u8]| {
    let _ = open(bytes, &TrustAnchors::default());
    let _ = SigningKey::parse(bytes);
    let _ = TrustAnchors::parse(bytes);
    if let Ok(document) = serde_json::from_slice::<Document>(bytes) {
        let _ = document.over(&Config::default());
    }
});
