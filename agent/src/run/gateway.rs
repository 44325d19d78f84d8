//! Everything the loop keeps, and what happens to each thing that reaches it. Does no waiting and spawns nothing.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tidegate_common::{
    device::{DeviceKey, DeviceRecord},
    event::{FlowEvent, SampleEvent},
    flow::{FlowKey, FlowRecord},
    verdict::Mode,
};
use tokio::sync::broadcast;

use super::{
    alerts::Alerts, cloud::Cloud, defender::Defender, forests::Forests, heal::Healer, ledger::Ledger,
    messages::Messages, neighbours::Neighbours, numbers::Numbers, policy::Trial, profiles::Profiles,
};
use crate::{
    api::{
        Latency,
        view::{EventKind, EventView},
    },
    config::{Config, Source, values::GatewayMode},
    datapath::{self, Datapath, DecodeError, Event, KernelLog, VerdictTables},
    enforce::{Enforcer, Now, Reachability, State, Target},
    identity::{IdentityEvent, Mac, Registry},
    judge,
    learn::{FlowEnds, Learner},
    policy::Policies,
    store::{IdSource, Incident, Store, StoreError, eve::EveLog},
};

/// Events kept for `tidegate events`.
const RECENT_EVENTS: usize = 1_000;
/// Flow lines a second in the event log; a scan must not fill the disk.
const FLOW_LINES_PER_SECOND: u32 = 200;

/// What the loop counts about itself.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    pub(super) events_received: u64,
    pub(super) events_malformed: u64,
    pub(super) store_errors: u64,
    pub(super) rollbacks: u64,
    pub(super) baselines_renewed: u64,
    pub(super) flow_lines_held: u64,
    pub(super) ring_lag: Duration,
    pub(super) scoring: Latency,
    pub(super) incidents: HashMap<String, u64>,
}

/// The state of a running gateway.
pub(super) struct Gateway {
    /// The settings in force: the file's, with the policy over them.
    pub(super) config: Config,
    /// The settings of the file.
    pub(super) base: Config,
    /// The settings that it was started with, which a part of it keeps until it ends.
    pub(super) started_with: Config,
    pub(super) policies: Policies,
    pub(super) policy_trial: Option<Trial>,
    pub(super) last_reach: Option<Reachability>,
    pub(super) source: Source,
    pub(super) datapath: Datapath,
    pub(super) kernel_log: KernelLog,
    pub(super) forests: Forests,
    pub(super) enforcer: Enforcer<VerdictTables>,
    pub(super) profiles: Profiles,
    pub(super) learner: Learner,
    pub(super) registry: Registry,
    pub(super) store: Store,
    pub(super) ledger: Ledger,
    pub(super) cloud: Cloud,
    pub(super) numbers: Numbers,
    pub(super) defender: Defender,
    pub(super) last_beat: Timestamp,
    pub(super) eve: Option<EveLog>,
    pub(super) alerts: Alerts,
    pub(super) incidents: HashMap<String, Incident>,
    pub(super) events: broadcast::Sender<EventView>,
    pub(super) recent: VecDeque<EventView>,
    pub(super) tallies: Tallies,
    pub(super) started: Now,
    pub(super) problems: Vec<String>,
    pub(super) ids: IdSource,
    pub(super) flow_lines_left: u32,
    pub(super) healer: Healer,
    pub(super) messages: Option<Messages>,
    pub(super) neighbours: Option<Neighbours>,
}

/// Now, on both clocks.
pub(super) fn now() -> Now {
    Now { kernel_ns: datapath::now_ns(), wall: Timestamp::now() }
}

impl Gateway {
    /// Something arrived from the kernel.
    pub(super) fn on_event(&mut self, event: Result<Event, DecodeError>) {
        self.tallies.events_received += 1;
        match event {
            Ok(Event::Flow(event)) => self.on_flow(&event),
            Ok(Event::Sample(event)) => self.on_sample(&event),
            Err(error) => {
                self.tallies.events_malformed += 1;
                tracing::debug!(%error, "event is malformed");
            }
        }
    }

    fn on_flow(&mut self, event: &FlowEvent) {
        let now_ns = datapath::now_ns();
        self.tallies.ring_lag = Duration::from_nanos(now_ns.saturating_sub(event.header.time_ns));
        let began = Instant::now();
        let known = self.registry.observe_flow(&event.key, &event.record, now_ns);
        let ends = self.ends(&event.key, &event.record);
        let findings = self.learner.observe_flow(event, ends);
        self.tallies.scoring.observe(began.elapsed());
        for event in known {
            self.on_identity(event);
        }
        self.judge_all(findings);
    }

    fn on_sample(&mut self, event: &SampleEvent) {
        let now = now();
        if let Some(heard) = self.registry.names.observe(event, now.kernel_ns) {
            return self.on_heard(&heard, now);
        }
        let (events, findings) = judge::sampled(&mut self.registry, &mut self.learner, event, now.kernel_ns);
        self.judge_all(findings);
        for event in events {
            self.on_identity(event);
        }
    }

    fn on_identity(&mut self, event: IdentityEvent) {
        let name = |gateway: &Self, device: DeviceKey| {
            let mac = Mac(device.mac);
            gateway.registry.name(device).map_or_else(|| mac.to_string(), |name| format!("{name} ({mac})"))
        };
        let message = match event {
            IdentityEvent::New { device } => format!("new device {}", name(self, device)),
            IdentityEvent::Address { device, ip } => format!("{} has the address {ip}", name(self, device)),
            IdentityEvent::Name { device, name } => format!("{} is called {name}", Mac(device.mac)),
            IdentityEvent::Moved { ip, from, to } => {
                format!("{ip} went from {} to {}", name(self, from), name(self, to))
            }
            IdentityEvent::Forgotten { device } => {
                format!("{} is forgotten: there is no room", Mac(device.mac))
            }
            IdentityEvent::Conflict { ip, new, contest, .. } => {
                if contest.repeated {
                    return;
                }
                format!("{} claims {ip}, which somebody else has", name(self, new))
            }
        };
        self.tell(EventKind::Device, message, None, None);
    }

    /// Other names of the same host.
    pub(super) fn aliases(&self, target: &Target) -> Vec<Target> {
        judge::aliases(&self.registry, target)
    }

    /// The devices at both ends of a flow.
    pub(super) fn ends(&self, key: &FlowKey, record: &FlowRecord) -> FlowEnds {
        judge::ends(&self.registry, key, record)
    }

    /// Once a second: windows, models, verdicts that expire, incidents that are over.
    pub(super) fn on_second(&mut self) {
        let now = now();
        self.flow_lines_left = FLOW_LINES_PER_SECOND;
        self.kernel_log.flush();
        self.write_ledger();
        self.tell_numbers();
        match self.datapath.devices() {
            Ok(devices) => {
                // Whoever has been silent for long has nothing new, and must not seem to be heard.
                let recent_ns = 3 * self.config.learning.window.as_ns();
                let heard = |record: &DeviceRecord| now.kernel_ns.saturating_sub(record.last_ns) <= recent_ns;
                for (key, record) in devices.into_iter().filter(|(_, record)| heard(record)) {
                    for event in self.registry.observe_device(key, record.last_ns) {
                        self.on_identity(event);
                    }
                    let [even, odd] = &record.windows;
                    let (older, newer) = if even.epoch < odd.epoch { (even, odd) } else { (odd, even) };
                    for window in [older, newer] {
                        let findings = self.learner.observe_window(key, window, now.kernel_ns);
                        self.judge_all(findings);
                    }
                }
            }
            Err(error) => self.degraded(&error.to_string()),
        }
        self.take_alerts();
        let findings = judge::unlike_kinds(&self.registry, &mut self.learner, now);
        self.judge_all(findings);
        let findings = self.learner.tick(now.kernel_ns);
        self.judge_all(findings);
        if let Err(error) = self.sync_forests(now.kernel_ns) {
            self.degraded(&error.to_string());
        }
        let swept = self.enforcer.sweep(now);
        self.commit(swept, now);
        let mended = self.healer.tick(&self.config.gateway.interfaces);
        self.mended(mended);
        self.close_quiet_incidents(now);
        self.order_messages();
        self.tend_commands(now);
    }

    /// A probe of the gateway's own reachability came back.
    pub(super) fn on_reachability(&mut self, reachable: Reachability) {
        let now = now();
        let report = self.enforcer.on_reachability(reachable, now);
        self.commit(report, now);
        self.try_reachability(reachable, now);
    }

    /// Whether a verdict or a policy is on trial and probes should come quickly.
    pub(super) fn is_on_trial(&self) -> bool {
        self.policy_trial.is_some()
            || self.enforcer.live().iter().any(|record| record.state == State::Pending)
    }

    /// Passes an event on to whoever listens and keeps it for a while.
    pub(super) fn tell(
        &mut self,
        kind: EventKind,
        message: String,
        target: Option<Target>,
        incident: Option<&str>,
    ) {
        let event = EventView {
            time: Timestamp::now(),
            kind,
            message,
            target,
            incident: incident.map(str::to_owned),
        };
        if self.recent.len() == RECENT_EVENTS {
            self.recent.pop_front();
        }
        self.recent.push_back(event.clone());
        // Nobody listening is the normal case.
        let _ = self.events.send(event);
    }

    /// Counts a write that failed; enforcement goes on without its record.
    pub(super) fn stored(&mut self, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.tallies.store_errors += 1;
            self.degraded(&error.to_string());
        }
    }

    pub(super) fn degraded(&mut self, problem: &str) {
        const MOST: usize = 20;
        tracing::warn!("{problem}");
        if !self.problems.iter().any(|known| known == problem) && self.problems.len() < MOST {
            self.problems.push(problem.to_owned());
            self.tell(EventKind::Alarm, problem.to_owned(), None, None);
        }
    }

    /// A trouble that stands in the status while it lasts, and is told once.
    pub(super) fn trouble(&mut self, what: &str, why: Option<&str>) {
        let problem = why.map(|why| format!("{what}: {why}"));
        self.problems.retain(|known| !known.starts_with(what) || Some(known) == problem.as_ref());
        if let Some(problem) = problem.filter(|problem| !self.problems.contains(problem)) {
            self.degraded(&problem);
        }
    }
}

/// What the kernel does in a mode: auto decides for each verdict, so the kernel enforces.
pub(super) const fn kernel_mode(mode: GatewayMode) -> Mode {
    match mode {
        GatewayMode::Monitor => Mode::Monitor,
        GatewayMode::Auto | GatewayMode::Enforce => Mode::Enforce,
    }
}
