//! Payloads of telemetry: JSON, CBOR, plain numbers, and whatever else devices send.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::messages::telemetry::{Reading, Shape};

fuzz_target!(|payloads: Vec<&[u8]>| {
    let shape = Shape { bytes: 4_096, fields: 16, depth: 4 };
    let mut reading = Reading::new(shape);
    for payload in payloads {
        // The buffers of one payload must not show in the next.
        let again = Reading::new(shape).read(payload);
        assert_eq!(reading.read(payload), again);
        assert!(reading.leaves().len() <= shape.fields);
        assert!(
            reading.leaves().all(|(_, kind, value)| value.is_finite() && (kind.is_number() || value == 0.0))
        );
    }
});
