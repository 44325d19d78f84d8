//! One line of another detector's event log.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::replay::flowlog::eve_alert;

fuzz_target!(|line: &str| {
    if let Ok(Some(alert)) = eve_alert(line) {
        assert!(alert.signature.chars().count() <= 200 && !alert.signature.contains(char::is_control));
    }
});
