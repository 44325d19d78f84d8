//! Baselines from other gateways: imported, trained, exported.

#![no_main]

use std::sync::{LazyLock, Mutex, PoisonError};

use libfuzzer_sys::fuzz_target;
use tidegate::learn::{BaselineState, LearnConfig, Learner, RuleConfig};
use tidegate_common::device::DeviceKey;

/// One for all inputs, because a new one takes longer than an import; it forgets each device again.
static LEARNER: LazyLock<Mutex<Learner>> = LazyLock::new(|| {
    Mutex::new(Learner::new(LearnConfig::default(), RuleConfig::default()).expect("the defaults are sound"))
});
const NOW_NS: u64 = 1_000_000_000_000;

fuzz_target!(|bytes: &[u8]| {
    let Ok(state) = serde_json::from_slice::<BaselineState>(bytes) else { return };
    let mut learner = LEARNER.lock().unwrap_or_else(PoisonError::into_inner);
    if learner.import(&state, NOW_NS).is_ok() {
        let device = DeviceKey::new(state.device.0, state.ifindex);
        let _ = learner.tick(NOW_NS);
        let _ = learner.flow_forest(device);
        let exported = learner.export(device, NOW_NS).expect("it was imported");
        assert_eq!(exported.check(), Ok(()));
        learner.forget(device);
    }
});
