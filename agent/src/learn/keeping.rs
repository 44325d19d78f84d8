//! The learner's keeping of baselines: training, renewal, roll-back, export and import.

use serde::Serialize;
use tidegate_common::device::DeviceKey;

use super::{
    detector::FlowForest,
    device::{Device, Phase},
    evidence,
    finding::Finding,
    learner::Learner,
    renewal::Outcome,
    services::Service,
    state::{BaselineState, StateError},
};
use crate::identity::Mac;

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
        self.devices.put(device, Device::import(&self.config, state, now_ns));
        Ok(())
    }

    /// Forgets a device.
    pub fn forget(&mut self, device: DeviceKey) {
        self.devices.pop(&device);
    }

    /// Trains the device that has waited longest, if any is due.
    pub(super) fn train_one(&mut self, now_ns: u64) {
        let due = self.devices.iter().find_map(|(device, state)| {
            let untrained = state.phase == Phase::Ready && state.baseline.is_none() && !state.unloaded;
            (untrained || state.is_due(&self.config, now_ns)).then_some(*device)
        });
        let models = self.devices.iter().filter(|(_, state)| state.baseline.is_some()).count();
        let Some(device) = due else { return };
        if models >= self.config.max_models as usize {
            let silent = self
                .devices
                .iter()
                .rev()
                .find(|(_, state)| state.baseline.is_some())
                .map(|(device, _)| *device);
            // A device heard more recently takes the longest silent one's place in memory.
            if let Some(state) = silent.and_then(|silent| self.devices.peek_mut(&silent)) {
                state.baseline = None;
                state.unloaded = true;
            }
        }
        let habits = self.destinations.habits(device);
        let Some(state) = self.devices.peek_mut(&device) else { return };
        // Training fails only without samples, and then the device is not due.
        if state.train(&self.config).is_ok() && state.phase == Phase::Learning {
            state.phase = Phase::Ready;
            state.ready_ns = Some(now_ns);
            state.habits = habits;
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

    /// Devices whose models were renewed since this was last asked: their baselines are to be stored again.
    pub fn take_renewed(&mut self) -> Vec<DeviceKey> {
        std::mem::take(&mut self.renewed)
    }
}
