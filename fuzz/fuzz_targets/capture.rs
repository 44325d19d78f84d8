//! Captures from their first byte to the printed report; the account must be exact whatever was in them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::replay::{Replay, engine::HostEngine};

fuzz_target!(|input: &[u8]| {
    let mut replay = Replay::new(HostEngine::with_capacity(64));
    if replay.stream(input).is_ok() {
        let report = replay.finish().expect("the host engine cannot fail");
        assert!(report.balances() && report.summary.lost == 0);
        report.write(true, std::io::sink()).expect("a sink takes everything");
    }
});
