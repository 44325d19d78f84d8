//! The learner's keeping of baselines: training, renewal, roll-back, export and import.

use std::net::IpAddr;

use lru::LruCache;
use serde::Serialize;
use tidegate_common::device::DeviceKey;

use super::{
    config::LearnConfig,
    detector::FlowForest,
    device::{Device, Phase},
    evidence,
    finding::Finding,
    learner::Learner,
    renewal::Outcome,
    rules::SECOND_NS,
    services::Service,
    state::{BaselineState, StateError},
};
use crate::identity::Mac;

/// A device silent for so much longer than another gives its models' memory up to it.
const SILENT_NS: u64 = 60 * SECOND_NS;
/// A device with a baseline that was silent for so long may be forgotten like any other; the store still has its baseline.
const KEPT_NS: u64 = 24 * 3_600 * SECOND_NS;
/// Devices looked at for one that may be forgotten for a new one.
const LOOKED_AT: usize = 8;

/// The state of a device. A new one takes the place of the longest silent one without a baseline, never that of one with a
/// baseline that was heard within a day: else whoever makes up addresses could have all real devices forgotten.
pub(super) fn admit<'a>(
    devices: &'a mut LruCache<DeviceKey, Device>,
    config: &LearnConfig,
    device: DeviceKey,
    now_ns: u64,
) -> Option<&'a mut Device> {
    if !devices.contains(&device) && devices.len() >= devices.cap().get() {
        let mut looked_at = 0;
        let is_kept =
            |state: &Device| state.phase == Phase::Ready && now_ns.saturating_sub(state.last_ns) < KEPT_NS;
        while let Some((silent, true)) = devices.peek_lru().map(|(key, state)| (*key, is_kept(state))) {
            devices.promote(&silent);
            looked_at += 1;
            if looked_at == LOOKED_AT {
                return None;
            }
        }
    }
    Some(devices.get_or_insert_mut(device, || Device::new(config, now_ns)))
}

/// A device's baseline in one line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DeviceStatus {
    /// Hardware address.
    pub mac: Mac,
    /// Interface.
    pub ifindex: u32,
    /// Learning or ready.
    pub phase: Phase,
    /// Flow samples collected.
    pub flows: usize,
    /// Window samples collected.
    pub windows: usize,
    /// Since when traffic has been collected, kernel clock.
    pub since_ns: u64,
    /// When the baseline came into force, kernel clock.
    pub ready_ns: Option<u64>,
    /// Last flow or window, kernel clock.
    pub last_ns: u64,
    /// Tells the device's own models from earlier ones; `None` when they are not in memory.
    pub model: Option<u64>,
    /// Whether there is an earlier baseline to roll back to.
    pub has_previous: bool,
}

/// A request about a baseline cannot be met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LearnError {
    /// Unknown device.
    #[error("no baseline of {0}: the device has not been seen since the start")]
    Unknown(Mac),
    /// Nothing to go back to.
    #[error("no earlier baseline of {0} to roll back to")]
    NoPrevious(Mac),
    /// Stored state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
}

impl Learner {
    /// How far a device's baseline is; `None` for one never seen.
    pub fn phase(&self, device: DeviceKey) -> Option<Phase> {
        self.devices.peek(&device).map(|state| state.phase)
    }

    /// All devices, most recently heard first.
    pub fn status(&self) -> impl Iterator<Item = DeviceStatus> {
        self.devices.iter().map(|(device, state)| DeviceStatus {
            mac: Mac(device.mac),
            ifindex: device.ifindex,
            phase: state.phase,
            flows: state.flow_count(),
            windows: state.window_count(),
            since_ns: state.since_ns,
            ready_ns: state.ready_ns,
            last_ns: state.last_ns,
            model: state.baseline.as_ref().and_then(|baseline| baseline.flows.fingerprint()),
            has_previous: state.previous.is_some(),
        })
    }

    /// Lets a device be learned anew; its present baseline can be rolled back to.
    pub fn relearn(&mut self, device: DeviceKey, now_ns: u64) -> Result<(), LearnError> {
        let state = self.devices.peek_mut(&device).ok_or(LearnError::Unknown(Mac(device.mac)))?;
        if state.phase == Phase::Ready {
            state.previous = Some(Box::new(state.export(device, now_ns)));
        }
        state.start_over(&self.config, now_ns);
        Ok(())
    }

    /// Puts the baseline from before the last [`Self::relearn`] in force again.
    pub fn rollback(&mut self, device: DeviceKey, now_ns: u64) -> Result<(), LearnError> {
        let state = self.devices.peek_mut(&device).ok_or(LearnError::Unknown(Mac(device.mac)))?;
        let previous = state.previous.take().ok_or(LearnError::NoPrevious(Mac(device.mac)))?;
        *state = Device::import(&self.config, &previous, now_ns);
        self.renewed.push(device);
        Ok(())
    }

    /// A device's own flow model for the kernel; `None` without a trained baseline.
    pub fn flow_forest(&self, device: DeviceKey) -> Option<FlowForest> {
        self.devices.peek(&device)?.baseline.as_ref()?.flows.for_kernel()
    }

    /// The services of a device, those used last at the end; `None` for one never seen.
    pub fn services(&self, device: DeviceKey) -> Option<Vec<Service>> {
        self.devices.peek(&device).map(|state| state.services.list())
    }

    /// What a trusted resolver called an address when the device asked.
    pub fn service_name(&self, device: DeviceKey, address: IpAddr) -> Option<String> {
        self.devices.peek(&device)?.services.name(address).map(str::to_owned)
    }

    /// Services that devices with a baseline were met with for the first time since this was last asked.
    pub fn take_fresh_services(&mut self) -> Vec<(DeviceKey, Service)> {
        std::mem::take(&mut self.fresh_services)
    }

    /// A device's baseline, to be stored or carried to another gateway.
    pub fn export(&self, device: DeviceKey, now_ns: u64) -> Option<BaselineState> {
        self.devices.peek(&device).map(|state| state.export(device, now_ns))
    }

    /// Takes over a stored baseline; its models are trained by the next calls of [`Self::tick`].
    pub fn import(&mut self, state: &BaselineState, now_ns: u64) -> Result<(), LearnError> {
        state.check()?;
        let device = DeviceKey::new(state.device.0, state.ifindex);
        self.inbound.meet(&state.known);
        self.devices.put(device, Device::import(&self.config, state, now_ns));
        Ok(())
    }

    /// Forgets a device.
    pub fn forget(&mut self, device: DeviceKey) {
        self.devices.pop(&device);
    }

    /// Trains a device, if any is due: the one heard last of those that wait for models.
    pub(super) fn train_one(&mut self, now_ns: u64) {
        let waits = |state: &Device| {
            let untrained = state.phase == Phase::Ready && state.baseline.is_none();
            untrained || state.is_due(&self.config, now_ns)
        };
        let due =
            self.devices.iter().filter(|(_, state)| waits(state)).max_by_key(|(_, state)| state.last_ns);
        let Some((device, heard_ns)) = due.map(|(device, state)| (*device, state.last_ns)) else { return };
        let loaded = || self.devices.iter().filter(|(_, state)| state.baseline.is_some());
        if loaded().count() >= self.config.max_models as usize {
            let silent = loaded().min_by_key(|(_, state)| state.last_ns);
            // A device heard more recently takes the longest silent one's place in memory, unless both are heard all the time.
            let Some(silent) = silent
                .filter(|(_, state)| state.last_ns.saturating_add(SILENT_NS) <= heard_ns)
                .map(|(silent, _)| *silent)
            else {
                return;
            };
            if let Some(state) = self.devices.peek_mut(&silent) {
                state.baseline = None;
            }
        }
        let habits = self.destinations.habits(device);
        let Some(state) = self.devices.peek_mut(&device) else { return };
        // Training fails only without samples, and then the device is not due.
        if state.train(&self.config).is_ok() && state.phase == Phase::Learning {
            state.phase = Phase::Ready;
            state.ready_ns = Some(now_ns);
            state.habits = habits;
            self.renewed.push(device);
        }
    }

    /// Learns from what has been vetted, and renews the models of at most one device.
    pub(super) fn follow(&mut self, now_ns: u64, found: &mut Vec<Finding>) {
        let mut outcome = None;
        for (device, state) in &mut self.devices {
            state.learn_vetted(&self.config, now_ns);
            if outcome.is_none() {
                outcome = state.renew(&self.config, *device, now_ns).map(|outcome| (*device, outcome));
            }
        }
        match outcome {
            Some((device, Outcome::Adopted)) => self.renewed.push(device),
            Some((device, Outcome::TooFar(share))) => {
                found.push(evidence::drifted(&self.config, device, share, now_ns));
            }
            None => {}
        }
    }

    /// Devices that have another baseline than when this was last asked: it is to be stored.
    pub fn take_renewed(&mut self) -> Vec<DeviceKey> {
        std::mem::take(&mut self.renewed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::{
        RuleConfig,
        testing::{S, device},
    };

    fn learner(config: LearnConfig) -> Learner {
        Learner::new(config, RuleConfig::default()).unwrap()
    }

    /// A ready baseline of a device, not yet trained.
    fn ready(last: u8) -> BaselineState {
        let mut state = Device::new(&LearnConfig::default(), 0);
        for flow in 0..64_u32 {
            state.collect_flow(&LearnConfig::default(), &[flow * 20 + 1; tidegate_common::feature::FEATURES]);
        }
        BaselineState { ready: true, ..state.export(device(last), S) }
    }

    fn loaded(learner: &Learner) -> Vec<u8> {
        let mut loaded: Vec<u8> =
            learner.status().filter(|status| status.model.is_some()).map(|status| status.mac.0[5]).collect();
        loaded.sort_unstable();
        loaded
    }

    #[test]
    fn models_follow_who_is_heard_and_come_back() {
        let mut learner = learner(LearnConfig { max_models: 2, ..LearnConfig::default() });
        for last in 1..=3 {
            learner.import(&ready(last), u64::from(last) * 1_000 * S).unwrap();
        }
        (0..6).for_each(|_| learner.train_one(3_000 * S));
        assert_eq!(loaded(&learner), [2, 3], "the two heard last");
        learner.devices.peek_mut(&device(1)).unwrap().last_ns = 4_000 * S;
        (0..6).for_each(|_| learner.train_one(4_000 * S));
        assert_eq!(loaded(&learner), [1, 3], "a device that speaks again has its models back");
        learner.devices.peek_mut(&device(2)).unwrap().last_ns = 3_010 * S;
        (0..6).for_each(|_| learner.train_one(4_010 * S));
        assert_eq!(loaded(&learner), [1, 3], "two that are both heard do not take turns");
    }

    #[test]
    fn every_new_baseline_is_to_be_stored() {
        let mut learner = learner(LearnConfig { period_s: 10, min_windows: 0, ..LearnConfig::default() });
        learner.import(&BaselineState { ready: false, ..ready(1) }, S).unwrap();
        learner.train_one(100 * S);
        assert_eq!(learner.phase(device(1)), Some(Phase::Ready));
        assert_eq!(learner.take_renewed(), [device(1)]);
        learner.relearn(device(1), 200 * S).unwrap();
        learner.rollback(device(1), 201 * S).unwrap();
        assert_eq!(learner.take_renewed(), [device(1)]);
    }

    #[test]
    fn made_up_devices_push_none_with_a_baseline_out() {
        let config = LearnConfig { max_devices: 16, ..LearnConfig::default() };
        let mut learner = learner(config.clone());
        (1..=10).for_each(|last| learner.import(&ready(last), S).unwrap());
        for made_up in 0..5_000_u32 {
            let [a, b, c, d] = made_up.to_be_bytes();
            admit(&mut learner.devices, &config, DeviceKey::new([2, 7, a, b, c, d], 3), S);
        }
        assert!((1..=10).all(|last| learner.phase(device(last)) == Some(Phase::Ready)));
        assert_eq!(learner.devices.len(), 16);
    }
}
