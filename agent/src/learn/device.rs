//! One device's learning: collect, train, and then gather evidence against what was trained.

use std::{net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use tidegate_common::{
    device::{DeviceKey, DeviceWindow},
    feature::{FEATURE_VERSION, FeatureVector},
};

use super::{
    baseline::Baseline,
    bounded::bounded,
    config::LearnConfig,
    destinations::{Habit, Past},
    forest::GrowthError,
    model::ModelKind,
    naming::Domains,
    recent::{Flows, Recent},
    renewal::{Outcome, Renewal},
    rules::SECOND_NS,
    samples::{Samples, narrow, wide},
    services::Services,
    state::{BaselineState, STATE_VERSION},
    vetting::Vetting,
};
use crate::identity::Mac;

/// Hosts a device may know.
const MAX_KNOWN: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
/// A device that is rarely heard gets a baseline from what there is after this many learning periods.
const PATIENCE: u64 = 4;
/// Fewest flows of such a baseline.
const FEWEST_FLOWS: usize = 8;

/// How far a device's baseline is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Traffic is being collected.
    Learning,
    /// Baseline in force.
    Ready,
}

pub(super) struct Device {
    pub(super) phase: Phase,
    pub(super) since_ns: u64,
    pub(super) ready_ns: Option<u64>,
    pub(super) last_ns: u64,
    flows: Samples,
    windows: Samples,
    pub(super) known: LruCache<IpAddr, ()>,
    pub(super) services: Services,
    pub(super) habits: Vec<Habit>,
    pub(super) domains: Domains,
    pub(super) largest_upload: u64,
    pub(super) baseline: Option<Baseline>,
    open: Option<DeviceWindow>,
    /// The window in which the device was last released: it and those before it count no more.
    spent: Option<u64>,
    pub(super) recent_flows: Flows,
    pub(super) recent_windows: Recent,
    /// Since when and until when peers of the baseline said nothing, the last time.
    pub(super) outage: Option<(u64, u64)>,
    /// What `rollback` returns to.
    pub(super) previous: Option<Box<BaselineState>>,
    pub(super) vetting: Vetting,
    pub(super) renewal: Renewal,
}

impl Device {
    pub(super) fn new(config: &LearnConfig, now_ns: u64) -> Self {
        Self {
            phase: Phase::Learning,
            since_ns: now_ns,
            ready_ns: None,
            last_ns: now_ns,
            flows: Samples::new(config.seed),
            windows: Samples::new(config.seed),
            known: bounded(MAX_KNOWN),
            services: Services::default(),
            habits: Vec::new(),
            domains: Domains::default(),
            largest_upload: 0,
            baseline: None,
            open: None,
            spent: None,
            recent_flows: Flows::default(),
            recent_windows: Recent::default(),
            outage: None,
            previous: None,
            vetting: Vetting::default(),
            renewal: Renewal::new(config.seed),
        }
    }

    /// What the baseline says of its contacts.
    pub(super) fn past(&self) -> Past<'_> {
        Past { habits: &self.habits, hosts: self.known.len() }
    }

    pub(super) fn flow_count(&self) -> usize {
        self.flows.len()
    }

    pub(super) fn window_count(&self) -> usize {
        self.windows.len()
    }

    /// Forgets what was collected in a learning period that turned out not to be normal.
    pub(super) fn start_over(&mut self, config: &LearnConfig, now_ns: u64) {
        let previous = self.previous.take();
        *self = Self { previous, ..Self::new(config, now_ns) };
    }

    pub(super) fn collect_flow(&mut self, config: &LearnConfig, vector: &FeatureVector) {
        self.flows.add(narrow(vector), config.samples as usize);
    }

    pub(super) fn collect_window(&mut self, config: &LearnConfig, vector: &FeatureVector) {
        self.windows.add(narrow(vector), config.samples as usize);
    }

    /// Takes a window as it stands; gives back the window before when a new one has begun.
    pub(super) fn next_window(&mut self, window: &DeviceWindow) -> Option<DeviceWindow> {
        match &mut self.open {
            Some(open) if open.epoch > window.epoch => None,
            Some(open) if open.epoch == window.epoch => {
                *open = *window;
                None
            }
            open => open.replace(*window),
        }
    }

    /// Forgets the evidence against the device; its present window becomes none either.
    pub(super) fn drop_evidence(&mut self) {
        self.recent_flows = Flows::default();
        self.recent_windows = Recent::default();
        self.spent = self.open.as_ref().map(|open| open.epoch);
    }

    /// Whether a window began before the device was released.
    pub(super) fn is_spent(&self, epoch: u64) -> bool {
        self.spent.is_some_and(|spent| epoch <= spent)
    }

    /// Whether enough was collected for a baseline.
    pub(super) fn is_due(&self, config: &LearnConfig, now_ns: u64) -> bool {
        let period_ns = config.period_s.saturating_mul(SECOND_NS);
        let age_ns = now_ns.saturating_sub(self.since_ns);
        let enough = self.flow_count() >= config.min_flows as usize
            && self.window_count() >= config.min_windows as usize;
        let waited = age_ns >= period_ns.saturating_mul(PATIENCE) && self.flow_count() >= FEWEST_FLOWS;
        self.phase == Phase::Learning && age_ns >= period_ns && (enough || waited)
    }

    pub(super) fn train(&mut self, config: &LearnConfig) -> Result<(), GrowthError> {
        let (flows, windows) = (wide(&self.flows.rows()), wide(&self.windows.rows()));
        self.baseline = Some(self.renewal.fit(config, &flows, &windows)?);
        self.recent_flows = Flows::default();
        self.recent_windows = Recent::default();
        // What waits was judged by other models.
        self.vetting.drop_waiting();
        self.flows.pack();
        self.windows.pack();
        Ok(())
    }

    /// Learns from what has been vetted.
    pub(super) fn learn_vetted(&mut self, config: &LearnConfig, now_ns: u64) {
        while let Some(vetted) = self.vetting.release(now_ns) {
            let Some(baseline) = &mut self.baseline else { continue };
            let detector = match vetted.kind {
                ModelKind::Flow => Some(&mut baseline.flows),
                ModelKind::Window => baseline.windows.as_mut(),
            };
            let Some(detector) = detector else { continue };
            detector.learn(vetted.sum, vetted.evidence, config.evidence_p);
            self.renewal.add(&vetted, detector.score(vetted.sum), config.samples as usize / 2);
        }
    }

    /// Renews the models when the device's traffic has changed and may have.
    pub(super) fn renew(&mut self, config: &LearnConfig, device: DeviceKey, now_ns: u64) -> Option<Outcome> {
        let period_ns = config.period_s.saturating_mul(SECOND_NS);
        let old_enough = self.ready_ns.is_some_and(|ready| now_ns.saturating_sub(ready) >= period_ns);
        if self.phase != Phase::Ready || !old_enough || !self.renewal.is_due(config) {
            return None;
        }
        let before = self.export(device, now_ns);
        let outcome =
            self.renewal.adopt(config, &wide(&self.flows.rows()), &wide(&self.windows.rows())).ok()?;
        if outcome == Outcome::Adopted && self.train(config).is_ok() {
            self.previous = Some(Box::new(before));
            self.services.adopt(now_ns);
            self.ready_ns = Some(now_ns);
        }
        Some(outcome)
    }

    pub(super) fn export(&self, device: DeviceKey, now_ns: u64) -> BaselineState {
        BaselineState {
            version: STATE_VERSION,
            feature_version: FEATURE_VERSION,
            device: Mac(device.mac),
            ifindex: device.ifindex,
            ready: self.phase == Phase::Ready,
            collected_s: self.ready_ns.unwrap_or(now_ns).saturating_sub(self.since_ns) / SECOND_NS,
            flows: self.flows.rows(),
            windows: self.windows.rows(),
            // Least recently seen first, so that putting them in again gives the same order.
            known: self.known.iter().rev().map(|(address, ())| *address).collect(),
            services: self.services.list(),
            service_names: self.services.names(),
            habits: self.habits.clone(),
            domains: self.domains.export(),
            largest_upload: self.largest_upload,
            adopted_flows: self.renewal.flows.clone(),
            adopted_windows: self.renewal.windows.clone(),
        }
    }

    /// A device from a checked state; a ready one still has to be trained.
    pub(super) fn import(config: &LearnConfig, state: &BaselineState, now_ns: u64) -> Self {
        let collected_ns = state.collected_s.saturating_mul(SECOND_NS);
        let mut device = Self::new(config, now_ns.saturating_sub(collected_ns));
        device.last_ns = now_ns;
        state.flows.iter().for_each(|row| device.flows.add(*row, config.samples as usize));
        state.windows.iter().for_each(|row| device.windows.add(*row, config.samples as usize));
        for address in &state.known {
            device.known.put(*address, ());
        }
        device.services = Services::restored(&state.services, &state.service_names);
        device.habits.clone_from(&state.habits);
        device.domains = Domains::import(&state.domains);
        device.renewal.flows.clone_from(&state.adopted_flows);
        device.renewal.windows.clone_from(&state.adopted_windows);
        device.largest_upload = state.largest_upload;
        if state.ready {
            device.phase = Phase::Ready;
            device.ready_ns = Some(now_ns);
        }
        device
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_handed_over_once_it_has_ended() {
        let mut device = Device::new(&LearnConfig::default(), 0);
        let window = |epoch, flows_out| DeviceWindow { epoch, flows_out, ..DeviceWindow::default() };
        assert_eq!(device.next_window(&window(4, 1)), None);
        assert_eq!(device.next_window(&window(4, 3)), None);
        assert_eq!(device.next_window(&window(5, 1)), Some(window(4, 3)));
        assert_eq!(device.next_window(&window(4, 9)), None, "a late reading of an ended window");
    }
}
