//! A gateway that watches recorded traffic: the live loop's registry, learner, judgement and enforcer, on a clock that the
//! recording drives, writing verdicts into tables in memory.
//!
//! Invariants: the clock never goes back; a second of the recording is a tick, as live, but a silence of any length costs no
//! more than ten minutes of them. Verdicts change nothing about the recording: what a blocked host goes on to do is seen.

mod learning;
mod packets;
mod protected;
mod result;
mod schedule;
mod window;

use std::collections::HashMap;

use jiff::Timestamp;
use tidegate_common::{
    device::{DeviceKey, DeviceRecord},
    event::{EventHeader, FlowCause, FlowEvent},
    flow::{FlowKey, FlowRecord},
};

pub use learning::{EndedWindow, Learned};
use packets::{Measured, Meter, Times};
pub use protected::{Protected, device_of};
pub use result::{Counts, Detected, FoundBlock, FoundIncident};
use schedule::Schedule;

use super::flowlog::{LoggedAlert, LoggedFlow};
use crate::{
    config::{Config, values::GatewayMode},
    decide::ResponseConfig,
    enforce::{Author, EnforceError, Enforcer, MemoryTable, Now, TableError},
    identity::{Heard, Registry, Vendors},
    judge::{self, Bench, Judged},
    learn::{Finding, GrowthError, LearnConfig, LearnError, Learner, is_local},
    store::{IdSource, Incident},
};

const SECOND_NS: u64 = 1_000_000_000;
/// As often as live.
const SWEEP_EVERY_S: u64 = 2;
/// Ticks of a silence; after it the clock jumps.
const PATIENCE_NS: u64 = 600 * SECOND_NS;
/// A file that begins this long before the one before it has got to is of another time.
const OVERLAP_NS: u64 = 60 * SECOND_NS;
/// Between two files of different times.
const PAUSE_NS: u64 = SECOND_NS;
/// Where the clock begins: late enough that everything learned may have happened before.
const BEGIN_NS: u64 = 86_400 * SECOND_NS;

/// Why watching failed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The default model could not be trained.
    #[error("cannot train the default model: {0}")]
    Growth(#[from] GrowthError),
    /// A baseline cannot be taken over.
    #[error("cannot take over a baseline: {0}")]
    Learn(#[from] LearnError),
    /// The verdict tables are full.
    #[error("cannot keep the verdicts: {0}")]
    Table(#[from] TableError),
    /// The enforcer gave up.
    #[error("cannot keep the verdicts: {0}")]
    Enforce(#[from] EnforceError),
}

/// The gateway.
pub struct Watch {
    learner: Learner,
    registry: Registry,
    enforcer: Enforcer<MemoryTable>,
    incidents: HashMap<String, Incident>,
    ids: IdSource,
    response: ResponseConfig,
    mode: GatewayMode,
    learn: LearnConfig,
    config: Config,
    protected: Protected,
    schedule: Schedule,
    meter: Meter,
    devices: HashMap<DeviceKey, DeviceRecord>,
    /// The recording's clock as the kernel's.
    now_ns: u64,
    ticked_ns: u64,
    /// Wall clock of the recording minus the kernel's.
    ahead_ns: Option<i128>,
    learning: bool,
    learning_findings: u64,
    judged: Vec<Judged>,
    /// Windows that ended, when somebody wants them, and the last epoch of each device.
    ended: Option<(Vec<EndedWindow>, HashMap<DeviceKey, u64>)>,
}

impl Watch {
    /// A gateway that knows nothing yet, with the settings of `config`. Rules act from the start.
    pub fn new(config: &Config, protected: Protected) -> Result<Self, WatchError> {
        let mode = GatewayMode::Enforce;
        let kernel = config.kernel_config(tidegate_common::verdict::Mode::Enforce);
        let mut enforcer = Enforcer::new(MemoryTable::default(), config.enforce_settings(), kernel);
        enforcer.set_config(kernel)?;
        Ok(Self {
            learner: Learner::new(config.learn_config(), config.detection.clone())?,
            registry: Registry::with_capacity(Vendors::installed(), config.kernel.max_devices as usize),
            enforcer,
            incidents: HashMap::new(),
            ids: IdSource::new(0),
            response: config.response_config(),
            mode,
            learn: config.learn_config(),
            schedule: Schedule::new(config.kernel.active_timeout.as_ns(), config.idle_limits()),
            config: config.clone(),
            protected,
            meter: Meter::default(),
            devices: HashMap::new(),
            now_ns: BEGIN_NS,
            ticked_ns: BEGIN_NS,
            ahead_ns: None,
            learning: false,
            learning_findings: 0,
            judged: Vec::new(),
            ended: None,
        })
    }

    /// A file begins whose first record is of `first_ns`, nanoseconds since the epoch. It continues what was watched before,
    /// unless it is of an earlier time: then all that is over, and the clock goes on from where it is.
    pub fn begin_file(&mut self, first_ns: u64) -> Result<(), WatchError> {
        let is_settled = self.meter.is_empty() && self.schedule.is_empty();
        let overlap_ns = if is_settled { 0 } else { OVERLAP_NS };
        let first = self.clock_of(first_ns);
        if self.ahead_ns.is_none() || first.saturating_add(overlap_ns) < self.now_ns {
            self.flush()?;
            self.ahead_ns = Some(i128::from(first_ns) - i128::from(self.now_ns + PAUSE_NS));
        }
        Ok(())
    }

    /// A flow of a log. Logs are written when flows end: what is done with it may wait for others that began before.
    pub fn push(&mut self, flow: Box<LoggedFlow>) -> Result<(), WatchError> {
        let first_ns = self.clock_of(flow.first_ns);
        self.schedule.push(flow, first_ns);
        while self.schedule.is_crowded() {
            self.step()?;
        }
        Ok(())
    }

    /// An Ethernet frame of a capture.
    pub fn frame(&mut self, time_ns: u64, frame: &[u8]) -> Result<(), WatchError> {
        self.advance(self.clock_of(time_ns).max(self.now_ns))?;
        let times = Times {
            now_ns: self.now_ns,
            window_ns: self.config.learning.window.as_ns(),
            active_timeout_ns: self.config.kernel.active_timeout.as_ns(),
        };
        for measured in self.meter.frame(frame, times, &mut self.protected, &mut self.devices) {
            match measured {
                Measured::Flow(key, record, cause) => {
                    let found = self.observe(key, &record, cause);
                    self.judge_all(found)?;
                }
                Measured::Sample(sample) => {
                    if let Some(heard) = self.registry.names.observe(&sample, self.now_ns) {
                        self.heard(&heard)?;
                        continue;
                    }
                    let (_, found) =
                        judge::sampled(&mut self.registry, &mut self.learner, &sample, self.now_ns);
                    self.judge_all(found)?;
                }
            }
        }
        Ok(())
    }

    /// A DNS message: a recording does not say which resolvers its gateway trusts, so those of the local network are.
    fn heard(&mut self, heard: &Heard) -> Result<(), WatchError> {
        let Heard::Dns(message) = heard else { return Ok(()) };
        let resolver = judge::resolver(&self.registry, is_local(message.resolver), message);
        let found = self.learner.observe_dns(message, resolver, self.now_ns);
        self.judge_all(found)
    }

    /// An alert of another detector: evidence that is reported, and no more than that.
    pub fn alert(&mut self, alert: &LoggedAlert) -> Result<(), WatchError> {
        if self.learning {
            return Ok(());
        }
        let at_ns = self.clock_of(alert.time_ns).max(self.now_ns);
        let found = self.learner.observe_alert(judge::reported(&self.registry, alert), at_ns);
        self.judge_all(found)
    }

    /// Everything that still waits.
    pub fn flush(&mut self) -> Result<(), WatchError> {
        while self.step()? {}
        if self.meter.is_empty() {
            return Ok(());
        }
        self.advance(self.now_ns.saturating_add(self.config.kernel.idle_timeout.as_ns() + 2 * SECOND_NS))
    }

    /// The end of everything: what becomes true by waiting does.
    pub fn finish(&mut self) -> Result<(), WatchError> {
        self.flush()?;
        self.advance(self.now_ns + 2 * self.config.learning.window.as_ns())
    }

    /// What was judged since the last call.
    pub fn take_judged(&mut self) -> Vec<Judged> {
        std::mem::take(&mut self.judged)
    }

    /// Findings while learning: each made its device learn anew.
    pub const fn learning_findings(&self) -> u64 {
        self.learning_findings
    }

    /// The learner, to ask.
    pub const fn learner(&self) -> &Learner {
        &self.learner
    }

    /// What the devices sent and were sent, to ask.
    pub const fn devices(&self) -> &HashMap<DeviceKey, DeviceRecord> {
        &self.devices
    }

    /// The networks behind the gateway, to ask.
    pub const fn protected(&self) -> &Protected {
        &self.protected
    }

    /// The registry, to ask.
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Now, on both clocks.
    pub fn now(&self) -> Now {
        Now { kernel_ns: self.now_ns, wall: self.wall_of(self.now_ns) }
    }

    /// The recording's time of a moment on the kernel's clock.
    pub fn wall_of(&self, kernel_ns: u64) -> Timestamp {
        let wall_ns = i128::from(kernel_ns) + self.ahead_ns.unwrap_or(0);
        Timestamp::from_nanosecond(wall_ns).unwrap_or(Timestamp::MAX)
    }

    /// The kernel's clock at a moment of the recording.
    pub fn clock_of(&self, epoch_ns: u64) -> u64 {
        let clock_ns = i128::from(epoch_ns) - self.ahead_ns.unwrap_or(0);
        u64::try_from(clock_ns.max(0)).unwrap_or(u64::MAX).min(u64::MAX >> 1)
    }

    /// The next thing that is due; whether there was one.
    fn step(&mut self) -> Result<bool, WatchError> {
        let Some(at_ns) = self.schedule.next_ns() else { return Ok(false) };
        self.advance(at_ns)?;
        let (registry, devices) = (&mut self.registry, &mut self.devices);
        for report in self.schedule.step(self.now_ns, &self.protected, registry, devices, &self.config) {
            let found = if let Some(cause) = report.cause {
                self.observe(report.key, &report.record, cause)
            } else {
                let ends = judge::ends(&self.registry, &report.key, &report.record);
                self.learner.observe_swept(&report.key, &report.record, ends, self.now_ns)
            };
            self.judge_all(found)?;
        }
        Ok(true)
    }

    fn observe(&mut self, key: FlowKey, record: &FlowRecord, cause: FlowCause) -> Vec<Finding> {
        let header = EventHeader { time_ns: self.now_ns, ..EventHeader::default() };
        let event = FlowEvent { header, key, record: *record, cause: cause as u8, reserved: [0; 7] };
        self.registry.observe_flow(&key, record, self.now_ns);
        let ends = judge::ends(&self.registry, &key, record);
        self.learner.observe_flow(&event, ends)
    }

    /// Lets the clock run to `to_ns`, second by second.
    fn advance(&mut self, to_ns: u64) -> Result<(), WatchError> {
        let until_ns = to_ns.min(self.now_ns.saturating_add(PATIENCE_NS));
        while self.ticked_ns + SECOND_NS <= until_ns {
            self.ticked_ns += SECOND_NS;
            self.now_ns = self.now_ns.max(self.ticked_ns);
            self.tick()?;
        }
        if to_ns > until_ns {
            self.ticked_ns = to_ns - to_ns % SECOND_NS;
        }
        self.now_ns = self.now_ns.max(to_ns);
        Ok(())
    }

    /// Once a second, as live: windows, models, verdicts that expire, incidents that are over.
    fn tick(&mut self) -> Result<(), WatchError> {
        let now = self.now();
        let window_ns = self.config.learning.window.as_ns().max(SECOND_NS);
        if now.kernel_ns % window_ns < SECOND_NS {
            self.schedule.settle(now.kernel_ns, &mut self.devices, window_ns);
        }
        if (now.kernel_ns / SECOND_NS).is_multiple_of(SWEEP_EVERY_S) {
            for (key, record) in self.meter.sweep(now.kernel_ns, self.config.idle_limits()) {
                let ends = judge::ends(&self.registry, &key, &record);
                let found = self.learner.observe_swept(&key, &record, ends, now.kernel_ns);
                self.judge_all(found)?;
            }
        }
        let mut found = Vec::new();
        for (key, record) in &self.devices {
            if now.kernel_ns.saturating_sub(record.last_ns) > 3 * window_ns {
                continue;
            }
            self.registry.observe_device(*key, record.last_ns);
            let [even, odd] = &record.windows;
            let (older, newer) = if even.epoch < odd.epoch { (even, odd) } else { (odd, even) };
            for window in [older, newer] {
                if let Some((windows, last)) = &mut self.ended
                    && window.epoch < now.kernel_ns / window_ns
                    && window.epoch > last.get(key).copied().unwrap_or(0)
                {
                    last.insert(*key, window.epoch);
                    let opinion = self.learner.opinion_of_window(*key, window);
                    windows.push(EndedWindow { device: *key, window: *window, opinion });
                }
                found.extend(self.learner.observe_window(*key, window, now.kernel_ns));
            }
        }
        found.extend(judge::unlike_kinds(&self.registry, &mut self.learner, now));
        found.extend(self.learner.tick(now.kernel_ns));
        self.judge_all(found)?;
        self.enforcer.sweep(now)?;
        judge::close_quiet(&mut self.incidents, now);
        Ok(())
    }

    fn judge_all(&mut self, found: Vec<Finding>) -> Result<(), WatchError> {
        if self.learning {
            self.learning_findings += found.len() as u64;
            return Ok(());
        }
        let now = self.now();
        for finding in found {
            let mut bench = Bench {
                mode: self.mode,
                response: &self.response,
                learner: &self.learner,
                registry: &self.registry,
                enforcer: &mut self.enforcer,
                author: Author::Automatic,
                incidents: &mut self.incidents,
                ids: &mut self.ids,
            };
            let judged = bench.judge(finding, now);
            if let Judged { refused: Some(error @ EnforceError::Table(_)), .. } = judged {
                return Err(error.into());
            }
            self.judged.push(judged);
        }
        Ok(())
    }
}

#[cfg(test)]
mod prints_tests;
#[cfg(test)]
mod tests;
