//! What AWS IoT says unasked or in answer: jobs, and why a report was refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::fleet::{
    defender::refusal,
    jobs::{Ending, next, update},
};

fuzz_target!(|bytes: &[u8]| {
    if let Some(job) = next(bytes) {
        // It becomes a part of a topic.
        assert!(!job.id.is_empty() && !job.id.contains(['/', '+', '#', '$']));
        assert!(job.desired.is_none_or(|desired| desired.is_sound()));
    }
    if let Some(said) = refusal("gateway/rejected", bytes) {
        let update = update(Ending::Failed, None, &said);
        assert!(serde_json::from_str::<serde_json::Value>(&update).is_ok());
    }
});
