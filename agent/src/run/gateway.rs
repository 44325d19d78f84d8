//! Everything the loop keeps, and what happens to each thing that reaches it. Does no waiting and spawns nothing.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use jiff::Timestamp;
use tidegate_common::{
    counter::Counters,
    device::DeviceKey,
    event::{FlowEvent, SampleEvent},
    flow::{FlowKey, FlowRecord},
    verdict::{Action, Level, Mode},
};
use tokio::sync::broadcast;

use super::needs;
use crate::{
    api::{
        Latency,
        view::{EventKind, EventView},
    },
    config::{Config, Source, values::GatewayMode},
    datapath::{self, Datapath, DecodeError, Event, KernelLog, VerdictTables},
    decide::{self, Baseline, Context, Decision},
    enforce::{
        Author, EnforceError, Enforcer, FeedList, Notice, Now, Order, Reachability, Refusal, Report, State,
        Target,
    },
    identity::{IdentityEvent, Mac, Registry},
    learn::{ArpClaim, Finding, FlowEnds, LearnError, Learner, Phase, Subject, address},
    store::{Durability, IdSource, Incident, Store, StoreError, eve, eve::EveLog},
};

/// Events kept for `tidegate events`.
const RECENT_EVENTS: usize = 1_000;
/// An incident without new evidence for this long is over.
const INCIDENT_QUIET: Duration = Duration::from_mins(10);
/// Flow lines a second in the event log; a scan must not fill the disk.
const FLOW_LINES_PER_SECOND: u32 = 200;

/// What the loop counts about itself.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    pub(super) events_received: u64,
    pub(super) events_malformed: u64,
    pub(super) store_errors: u64,
    pub(super) rollbacks: u64,
    pub(super) flow_lines_held: u64,
    pub(super) ring_lag: Duration,
    pub(super) scoring: Latency,
    pub(super) incidents: HashMap<String, u64>,
}

/// The state of a running gateway.
pub(super) struct Gateway {
    pub(super) config: Config,
    pub(super) source: Source,
    pub(super) datapath: Datapath,
    pub(super) kernel_log: KernelLog,
    pub(super) enforcer: Enforcer<VerdictTables>,
    pub(super) learner: Learner,
    pub(super) registry: Registry,
    pub(super) store: Store,
    pub(super) eve: Option<EveLog>,
    pub(super) incidents: HashMap<String, Incident>,
    pub(super) events: broadcast::Sender<EventView>,
    pub(super) recent: VecDeque<EventView>,
    pub(super) tallies: Tallies,
    pub(super) started: Now,
    pub(super) problems: Vec<String>,
    ids: IdSource,
    flow_lines_left: u32,
}

/// What a gateway is made of.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) source: Source,
    pub(super) datapath: Datapath,
    pub(super) kernel_log: KernelLog,
    pub(super) enforcer: Enforcer<VerdictTables>,
    pub(super) learner: Learner,
    pub(super) registry: Registry,
    pub(super) store: Store,
    pub(super) events: broadcast::Sender<EventView>,
    pub(super) problems: Vec<String>,
}

/// Now, on both clocks.
pub(super) fn now() -> Now {
    Now { kernel_ns: datapath::now_ns(), wall: Timestamp::now() }
}

impl Gateway {
    pub(super) fn new(parts: Parts) -> Self {
        let log = &parts.config.log;
        let eve = parts.config.eve_path().map(|path| EveLog::new(&path, log.rotate_bytes, log.keep));
        Self {
            config: parts.config,
            source: parts.source,
            datapath: parts.datapath,
            kernel_log: parts.kernel_log,
            enforcer: parts.enforcer,
            learner: parts.learner,
            registry: parts.registry,
            store: parts.store,
            eve,
            incidents: HashMap::new(),
            events: parts.events,
            recent: VecDeque::with_capacity(RECENT_EVENTS),
            tallies: Tallies::default(),
            started: now(),
            problems: parts.problems,
            ids: IdSource::from_process(),
            flow_lines_left: FLOW_LINES_PER_SECOND,
        }
    }

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
        let began = std::time::Instant::now();
        let known = self.registry.observe_flow(&event.key, &event.record, now_ns);
        let ends = self.ends(&event.key, &event.record);
        let findings = self.learner.observe_flow(event, ends);
        self.tallies.scoring.observe(began.elapsed());
        for event in known {
            self.on_identity(event, now());
        }
        self.judge_all(findings);
    }

    fn on_sample(&mut self, event: &SampleEvent) {
        let now = now();
        for event in self.registry.observe_sample(event, now.kernel_ns) {
            self.on_identity(event, now);
        }
    }

    fn on_identity(&mut self, event: IdentityEvent, now: Now) {
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
            IdentityEvent::Conflict { ip, old, new } => {
                let claim = ArpClaim {
                    claimant: new,
                    address: ip,
                    holder: old.map_or(Mac::default(), |old| Mac(old.mac)),
                    of_gateway: old.is_none(),
                };
                let findings = self.learner.observe_arp_claim(&claim, now.kernel_ns);
                self.judge_all(findings);
                format!("{} claims {ip}, which somebody else has", name(self, new))
            }
        };
        self.tell(EventKind::Device, message, None, None);
    }

    /// Other names of the same host: a device's addresses, or the device that has an address.
    pub(super) fn aliases(&self, target: &Target) -> Vec<Target> {
        match target {
            Target::Device(mac) => {
                let device = self.registry.find(&mac.to_string());
                device
                    .map(|device| self.registry.addresses(device))
                    .into_iter()
                    .flatten()
                    .map(Target::from)
                    .collect()
            }
            Target::Address(address) => self
                .registry
                .resolve(*address)
                .map(|device| Target::Device(Mac(device.mac)))
                .into_iter()
                .collect(),
            Target::Prefix(_) => Vec::new(),
        }
    }

    /// The devices at both ends of a flow: what the record says, and for the rest what the registry knows.
    fn ends(&self, key: &FlowKey, record: &FlowRecord) -> FlowEnds {
        let (source, _, destination, _) = key.seen_from(record.initiator());
        FlowEnds::of(record)
            .or(self.registry.resolve(address(source)), self.registry.resolve(address(destination)))
    }

    /// Once a second: windows, models, verdicts that expire, incidents that are over.
    pub(super) fn on_second(&mut self) {
        let now = now();
        self.flow_lines_left = FLOW_LINES_PER_SECOND;
        self.kernel_log.flush();
        match self.datapath.devices() {
            Ok(devices) => {
                for (key, record) in devices {
                    for event in self.registry.observe_device(key, record.last_ns) {
                        self.on_identity(event, now);
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
        let findings = self.learner.tick(now.kernel_ns);
        self.judge_all(findings);
        let swept = self.enforcer.sweep(now);
        self.commit(swept, now);
        self.close_quiet_incidents(now);
    }

    /// Every few seconds: silent flows leave the table.
    pub(super) fn on_sweep(&mut self) {
        let now = now();
        let swept = match self.datapath.sweep_flows(now.kernel_ns, self.config.idle_limits()) {
            Ok(swept) => swept,
            Err(error) => return self.degraded(&error.to_string()),
        };
        for (key, record) in swept {
            let ends = self.ends(&key, &record);
            let findings = self.learner.observe_swept(&key, &record, ends, now.kernel_ns);
            self.judge_all(findings);
            let reason = if record.is_closed() { "closed" } else { "timeout" };
            self.log_flow(&key, &record, reason, now);
        }
    }

    fn log_flow(&mut self, key: &FlowKey, record: &FlowRecord, reason: &str, now: Now) {
        let Some(eve) = &mut self.eve else { return };
        if self.flow_lines_left == 0 {
            self.tallies.flow_lines_held += 1;
            return;
        }
        self.flow_lines_left -= 1;
        let ifindex = record.out.point.ifindex();
        let interface = self.datapath.attached().iter().find(|attached| attached.ifindex == ifindex);
        let name = interface.map(|attached| attached.interface.as_str());
        eve.write(&eve::flow(key, record, name, reason, now));
    }

    /// Twice a minute: kernel and desired state are compared, devices and baselines saved, statistics logged.
    pub(super) fn on_housekeeping(&mut self) {
        let now = now();
        let reconciled = self.enforcer.reconcile(now);
        self.commit(reconciled, now);
        self.save(now);
        if let (Some(eve), Ok(counters)) = (&mut self.eve, self.datapath.counters()) {
            eve.write(&eve::stats(stats(&counters), now.wall));
        }
    }

    /// A probe of the gateway's own reachability came back.
    pub(super) fn on_reachability(&mut self, reachable: Reachability) {
        let now = now();
        let report = self.enforcer.on_reachability(reachable, now);
        self.commit(report, now);
    }

    /// Whether a verdict is on trial and probes should come quickly.
    pub(super) fn is_on_trial(&self) -> bool {
        self.enforcer.live().iter().any(|record| record.state == State::Pending)
    }

    fn judge_all(&mut self, findings: Vec<Finding>) {
        for finding in findings {
            self.judge(finding);
        }
    }

    fn judge(&mut self, finding: Finding) {
        let now = now();
        let baseline = match finding.subject {
            Subject::Remote(_) => Baseline::None,
            Subject::Device(key) => match self.learner.phase(key) {
                Some(Phase::Ready) => Baseline::Ready,
                Some(Phase::Learning) => Baseline::Learning,
                None => Baseline::None,
            },
        };
        let armed = self.is_armed(&finding.subject, baseline);
        let mode = if armed && self.config.gateway.mode != GatewayMode::Monitor {
            Mode::Enforce
        } else {
            Mode::Monitor
        };
        let enforcer = &self.enforcer;
        let protected = |target: &Target| {
            enforcer
                .protectors(target)
                .first()
                .map(|entry| format!("never-block entry {} of {}", entry.target, entry.author))
        };
        let response = self.config.response_config();
        let decision =
            decide::decide(finding, &Context { mode, baseline, protected: &protected, response: &response });
        self.follow(&decision, armed, now);
    }

    /// In auto mode nothing is cut by itself before there is a baseline: the device's own, or for a host outside any.
    fn is_armed(&self, subject: &Subject, baseline: Baseline) -> bool {
        match (self.config.gateway.mode, subject) {
            (GatewayMode::Enforce | GatewayMode::Monitor, _) => true,
            (GatewayMode::Auto, Subject::Device(_)) => baseline == Baseline::Ready,
            (GatewayMode::Auto, Subject::Remote(_)) => {
                self.learner.status().any(|device| device.phase == Phase::Ready)
            }
        }
    }

    /// Carries out a decision and records why.
    fn follow(&mut self, decision: &Decision, armed: bool, now: Now) {
        let finding = &decision.finding;
        let name = format!("{} {}", finding.subject, finding.technique.id);
        let is_new = !self.incidents.contains_key(&name);
        let mut incident = match self.incidents.remove(&name) {
            Some(mut known) => {
                known.add(finding, now.wall);
                known
            }
            None => Incident::open(self.ids.next(now.wall), finding, now.wall),
        };
        if is_new {
            *self.tallies.incidents.entry(incident.technique.clone()).or_default() += 1;
        }
        incident.explanation.clone_from(&decision.explanation);
        incident.held_back.clone_from(&decision.held_back);
        incident.target = Some(decision.target);

        let mut blocked = false;
        incident.response = if decision.acts() {
            match self.enforcer.apply(self.order(decision, &incident.id, armed), now) {
                Ok(report) => {
                    blocked = armed && self.config.gateway.mode != GatewayMode::Monitor;
                    self.commit(Ok(report), now);
                    decision.explanation.clone()
                }
                Err(EnforceError::Refused(Refusal::InForce { .. })) => {
                    blocked = true;
                    incident.response.clone()
                }
                Err(error) => {
                    self.tell(EventKind::Alarm, error.to_string(), Some(decision.target), Some(&incident.id));
                    incident.held_back = Some(error.to_string());
                    format!("not enforced: {error}")
                }
            }
        } else {
            decision.explanation.clone()
        };
        self.log_alert(decision, &incident, blocked, now);
        let saved = self
            .store
            .save_incident(&incident)
            .and_then(|()| self.store.add_evidence(&incident.id, &decision.finding, now.wall));
        self.stored(saved);
        if is_new {
            let message = format!("{}: {}", incident.technique_name, decision.explanation);
            tracing::info!(incident = incident.id, technique = incident.technique, "{message}");
            self.tell(EventKind::Incident, message, Some(decision.target), Some(&incident.id));
        }
        self.incidents.insert(name, incident);
    }

    fn order(&self, decision: &Decision, incident: &str, armed: bool) -> Order {
        let (action, level) = match (armed, decision.level) {
            (true, level) => (decision.action, level),
            (false, Some(_)) => (decision.action, Some(Level::Observe)),
            (false, None) => (Action::Observe, None),
        };
        Order {
            target: decision.target,
            action,
            level,
            reason: decision.reason,
            author: Author::Automatic,
            ttl: Some(decision.ttl),
            rate_pps: None,
            rule: decision.finding.rule.map(str::to_owned),
            technique: Some(decision.finding.technique.id.to_owned()),
            incident: Some(incident.to_owned()),
            explanation: decision.explanation.clone(),
            aliases: self.aliases(&decision.target),
        }
    }

    fn log_alert(&mut self, decision: &Decision, incident: &Incident, blocked: bool, now: Now) {
        let source = match decision.finding.subject {
            Subject::Remote(address) => Some(address),
            Subject::Device(key) => self.registry.addresses(key).first().copied(),
        };
        let Some(eve) = &mut self.eve else { return };
        let severity = if decision.acts() { 1 } else { 3 };
        let tuple = eve::Tuple {
            src: source.map(|address| (address, 0)),
            dest: decision.finding.victim.map(|address| (address, 0)),
            proto: None,
        };
        let alert = eve::Alert {
            tuple,
            in_iface: None,
            blocked,
            rule: decision.finding.rule.unwrap_or("model"),
            signature: &decision.finding.detail,
            category: decision.finding.technique.name,
            severity,
            tidegate: serde_json::json!({
                "incident": incident.id,
                "technique": decision.finding.technique.id,
                "target": decision.target,
                "score": decision.finding.score,
                "p_value": decision.finding.p_value,
                "explanation": decision.explanation,
                "held_back": decision.held_back,
            }),
        };
        eve.write(&eve::alert(&alert, now.wall));
    }

    /// Stores what an operation of the enforcer changed and passes its notices on.
    pub(super) fn commit(&mut self, outcome: Result<Report, EnforceError>, now: Now) {
        let report = match outcome {
            Ok(report) => report,
            Err(error) => return self.degraded(&error.to_string()),
        };
        if report.is_empty() {
            return;
        }
        let saved = self.store.batch(Durability::Process, |store| {
            report.changes.iter().try_for_each(|record| store.save_enforcement(record, now.wall))
        });
        self.stored(saved);
        for record in &report.changes {
            let ended = record.ended_because.as_deref().unwrap_or(&record.explanation);
            let message = format!("{} {}: {ended}", record.target, record.state.name());
            tracing::info!(target = %record.target, state = record.state.name(), "verdict");
            if let Some(eve) = &mut self.eve {
                eve.write(&eve::tidegate("verdict", record, now.wall));
            }
            self.tell(EventKind::Verdict, message, Some(record.target), record.incident.as_deref());
        }
        for notice in &report.notices {
            let (message, target) = describe(notice);
            if matches!(notice, Notice::RolledBack { .. }) {
                self.tallies.rollbacks += 1;
            }
            tracing::warn!("{message}");
            self.tell(EventKind::Alarm, message, target, None);
        }
    }

    fn close_quiet_incidents(&mut self, now: Now) {
        let quiet: Vec<String> = self
            .incidents
            .iter()
            .filter(|(_, incident)| now.since(incident.last_seen) > INCIDENT_QUIET)
            .map(|(name, _)| name.clone())
            .collect();
        for name in quiet {
            if let Some(mut incident) = self.incidents.remove(&name) {
                incident.open = false;
                let saved = self.store.save_incident(&incident);
                self.stored(saved);
            }
        }
    }

    /// Saves devices and their baselines.
    pub(super) fn save(&mut self, now: Now) {
        let interfaces: HashMap<u32, String> = self
            .datapath
            .attached()
            .iter()
            .map(|attached| (attached.ifindex, attached.interface.clone()))
            .collect();
        let ready: Vec<DeviceKey> = self
            .learner
            .status()
            .filter(|device| device.phase == Phase::Ready)
            .map(|device| DeviceKey::new(device.mac.0, device.ifindex))
            .collect();
        let saved = self.store.batch(Durability::Process, |store| {
            self.registry.devices(now).iter().try_for_each(|device| match interfaces.get(&device.ifindex) {
                Some(interface) => store.save_device(interface, device),
                None => Ok(()),
            })
        });
        self.stored(saved);
        for key in ready {
            self.save_baseline(key, now);
        }
    }

    /// Saves a baseline that the store does not have yet.
    fn save_baseline(&mut self, key: DeviceKey, now: Now) {
        let name = Mac(key.mac).to_string();
        let known = self.store.baseline(&name).map(|known| known.is_some());
        if matches!(known, Ok(true)) {
            return;
        }
        if let Some(state) = self.learner.export(key, now.kernel_ns) {
            let document = serde_json::to_vec(&state).unwrap_or_default();
            let saved = self.store.save_baseline(&name, now.wall, &document).map(drop);
            self.stored(saved);
            self.tell(EventKind::Lifecycle, format!("the baseline of {name} is learned"), None, None);
        }
    }

    /// Reads the configuration again and takes over what can change while running; the keys that need a restart.
    pub(super) fn reload(&mut self) -> Result<Vec<&'static str>, String> {
        let next = self.source.load().map_err(|error| error.to_string())?;
        let needs_restart = self.config.diff_reloadable(&next);
        let interfaces = self.config.gateway.interfaces.clone();
        self.config = next;
        self.config.gateway.interfaces = interfaces;
        let now = now();
        self.enforcer.set_settings(self.config.enforce_settings());
        let mode = kernel_mode(self.config.gateway.mode);
        self.enforcer.set_config(self.config.kernel_config(mode)).map_err(|error| error.to_string())?;
        self.learner.reconfigure(self.config.learn_config(), self.config.detection.clone());
        let system = self.enforcer.set_system(&needs::system_entries(&self.config), now);
        self.commit(system, now);
        self.load_feeds();
        if let Some(eve) = &mut self.eve {
            eve.reopen();
        }
        self.tell(EventKind::Lifecycle, "the configuration was read again".to_owned(), None, None);
        Ok(needs_restart)
    }

    /// Puts the configured bulk lists in force; on an error the lists before stay.
    pub(super) fn load_feeds(&mut self) {
        let mut lists = Vec::new();
        for path in &self.config.feeds.files {
            let name = path.display().to_string();
            match std::fs::File::open(path).and_then(|file| FeedList::read(&name, file)) {
                Ok(list) => lists.push(list),
                Err(error) => {
                    return self
                        .degraded(&format!("cannot read list {name}: {error}; the lists before stay"));
                }
            }
        }
        match self.enforcer.load_feeds(&lists) {
            Ok(report) => tracing::info!(?report, "bulk lists loaded"),
            Err(error) => self.degraded(&error.to_string()),
        }
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

    fn degraded(&mut self, problem: &str) {
        const MOST: usize = 20;
        tracing::warn!("{problem}");
        if !self.problems.iter().any(|known| known == problem) && self.problems.len() < MOST {
            self.problems.push(problem.to_owned());
            self.tell(EventKind::Alarm, problem.to_owned(), None, None);
        }
    }

    /// A baseline's stored form, or why there is none.
    pub(super) fn export_baseline(&self, key: DeviceKey) -> Result<Vec<u8>, LearnError> {
        let state = self.learner.export(key, datapath::now_ns()).ok_or(LearnError::Unknown(Mac(key.mac)))?;
        Ok(serde_json::to_vec(&state).unwrap_or_default())
    }
}

/// What the kernel does in a mode: auto decides for each verdict, so the kernel enforces.
pub(super) const fn kernel_mode(mode: GatewayMode) -> Mode {
    match mode {
        GatewayMode::Monitor => Mode::Monitor,
        GatewayMode::Auto | GatewayMode::Enforce => Mode::Enforce,
    }
}

fn describe(notice: &Notice) -> (String, Option<Target>) {
    match notice {
        Notice::RolledBack { target, lost } => (
            format!(
                "{target} was released again: the gateway lost {} right after it was shut",
                lost.join(", ")
            ),
            Some(*target),
        ),
        Notice::OutageNotOurs { lost } => {
            (format!("the gateway cannot reach {}; no verdict is to blame", lost.join(", ")), None)
        }
        Notice::Suppressed { target, by } => {
            (format!("the verdict on {target} is void: {by} may never be blocked"), Some(*target))
        }
        Notice::Drift { drift, target } => {
            (format!("kernel and desired state differed on {target} ({drift:?}); repaired"), Some(*target))
        }
    }
}

fn stats(counters: &Counters) -> serde_json::Value {
    counters
        .named()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
