//! Learning from recordings: baselines of whatever there is, carried from one gateway to the next, and windows for whoever
//! wants to see what was learned from.

use tidegate_common::device::{DeviceKey, DeviceWindow};

use super::{SECOND_NS, Watch, WatchError};
use crate::{
    identity::Device,
    learn::{BaselineState, DeviceStatus, LearnConfig, Learner, Opinion},
};

/// Training makes progress by one device a tick.
const MOST_TRAININGS: usize = 100_000;

/// A device's window that has ended.
#[derive(Clone, Copy, Debug)]
pub struct EndedWindow {
    /// The device.
    pub device: DeviceKey,
    /// What it did.
    pub window: DeviceWindow,
    /// What the model thought of it at its end; `None` without a baseline.
    pub opinion: Option<Opinion>,
}

/// Everything learned about devices.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// Their baselines.
    pub baselines: Vec<BaselineState>,
    /// Who they are.
    pub devices: Vec<Device>,
}

impl Watch {
    /// What follows is normal traffic, to be learned however long it is; nothing is judged.
    pub fn begin_learning(&mut self) {
        self.learning = true;
        let never = LearnConfig { period_s: u64::MAX / SECOND_NS, ..self.learn.clone() };
        self.learner.reconfigure(never, self.config.detection.clone());
    }

    /// Makes baselines of what was learned, also of little.
    pub fn finish_learning(&mut self) -> Result<(), WatchError> {
        self.flush()?;
        self.train_all()?;
        self.learning = false;
        Ok(())
    }

    /// Everything learned so far.
    pub fn learned(&self) -> Learned {
        let key = |device: DeviceStatus| DeviceKey::new(device.mac.0, device.ifindex);
        let baselines =
            self.learner.status().filter_map(|device| self.learner.export(key(device), self.now_ns));
        Learned { baselines: baselines.collect(), devices: self.registry.devices(self.now()) }
    }

    /// Takes over what another gateway learned, and trains its models.
    pub fn take_over(&mut self, learned: &Learned) -> Result<(), WatchError> {
        let now = self.now();
        for device in &learned.devices {
            let seen = Device { first_seen: now.wall, last_seen: now.wall, ..device.clone() };
            self.registry.restore(device.ifindex, &seen, now);
        }
        for state in &learned.baselines {
            self.learner.import(state, self.now_ns)?;
        }
        self.learning = true;
        self.train_all()?;
        self.learning = false;
        Ok(())
    }

    /// Trains every device that has anything to train from.
    fn train_all(&mut self) -> Result<(), WatchError> {
        let at_once = LearnConfig { period_s: 0, ..self.learn.clone() };
        self.learner.reconfigure(at_once, self.config.detection.clone());
        let trained = |learner: &Learner| learner.status().filter(|device| device.model.is_some()).count();
        for _ in 0..MOST_TRAININGS {
            let before = trained(&self.learner);
            self.now_ns += SECOND_NS;
            let found = self.learner.tick(self.now_ns);
            self.judge_all(found)?;
            if trained(&self.learner) == before {
                break;
            }
        }
        self.ticked_ns = self.now_ns;
        self.learner.reconfigure(self.learn.clone(), self.config.detection.clone());
        Ok(())
    }

    /// From now on keeps the windows that end, for [`Self::take_windows`].
    pub fn keep_windows(&mut self) {
        self.ended = Some(Default::default());
    }

    /// Windows that ended since the last call.
    pub fn take_windows(&mut self) -> Vec<EndedWindow> {
        self.ended.as_mut().map(|(windows, _)| std::mem::take(windows)).unwrap_or_default()
    }
}
