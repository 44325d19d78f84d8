//! Sealed policies, keys and documents, from their first byte to the settings they make.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::{
    config::Config,
    policy::{Document, SigningKey, TrustAnchors, changes, open},
};
use tidegate_fuzz::{anchors, sealed};

fuzz_target!(|bytes: &[u8]| {
    assert!(open(bytes, anchors()).is_err());
    let _ = SigningKey::parse(bytes);
    let _ = TrustAnchors::parse(bytes);
    let written = serde_json::from_slice::<Document>(bytes).ok();
    for envelope in sealed(b"tidegate policy 1", bytes) {
        if let Ok((document, _)) = open(&envelope, anchors()) {
            // Signing adds nothing.
            assert_eq!(Some(&document), written.as_ref());
        }
    }
    let base = Config::default();
    if let Some(config) = written.and_then(|document| document.over(&base).ok()) {
        let _ = changes(&base, &config);
    }
});
