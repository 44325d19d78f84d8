//! Flow logs from their first byte to every record and part of a record.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::replay::flowlog::{Entry, FlowLog};

fuzz_target!(|input: &[u8]| {
    let Ok(mut log) = FlowLog::open(input) else { return };
    while let Ok(Some(entry)) = log.next_entry() {
        let Entry::Flow(flow) = entry else { continue };
        assert_eq!(flow.record().packets(), flow.packets());
        assert!(flow.record_after(8, flow.first_ns).packets() <= flow.packets());
    }
    let tally = log.tally();
    let bad: u64 = tally.bad.values().map(|bad| bad.count).sum();
    assert_eq!(tally.lines, tally.flows + tally.alerts + tally.other + bad);
});
