//! Answers to operators: every request of the API, answered once, orders audited.

use std::collections::HashMap;

use jiff::SignedDuration;
use tidegate_common::{
    device::DeviceKey,
    parse::Unparsed,
    verdict::{Action, Mode, role},
};

use super::{
    gateway::{Gateway, kernel_mode, now},
    views,
};
use crate::{
    api::{
        AllowOrder, BlockOrder, DeviceRef, IncidentFilter, IsolationOrder, Operator, Refusal, RefusalKind,
        Request, Snapshot, TechniqueCount, VerdictCount,
        view::{
            AllowCheckView, AllowView, BaselineState, BlockView, DeviceView, EventKind, ExplainView, Health,
            IncidentView, ModelView, ReloadView, StatusView, Usage,
        },
    },
    enforce::{self, EnforceError, Now, Order, Report, Target},
    identity::{Device, Mac},
    learn::{BaselineState as StoredBaseline, DeviceStatus, Phase},
    store::{self, AuditEntry, Durability},
};

type Answer<T> = Result<T, Refusal>;

impl Gateway {
    /// Answers one request.
    pub(super) fn answer(&mut self, request: Request) {
        // An operator who has gone away needs no answer.
        match request {
            Request::Status { reply } => drop(reply.send(self.status())),
            Request::Metrics { reply } => drop(reply.send(self.metrics())),
            Request::Config { reply } => {
                let text = toml::to_string(&self.config);
                drop(reply.send(text.map_err(|error| Refusal::failed(error.to_string(), ""))));
            }
            Request::Reload { operator, reply } => {
                let answer = self.reload_order();
                self.audit(&operator, "reload", "", "", &answer);
                drop(reply.send(answer));
            }
            Request::Devices { reply } => drop(reply.send(self.device_views())),
            Request::Device { device, reply } => {
                drop(reply.send(self.find(&device).and_then(|key| self.device_view(key))));
            }
            Request::Isolate { order, operator, reply } => {
                let answer = self.isolate(&order, &operator);
                self.audit(
                    &operator,
                    "isolate",
                    &order.device.to_string(),
                    &order.level.to_string(),
                    &answer,
                );
                drop(reply.send(answer));
            }
            Request::Release { device, operator, reply } => {
                let answer =
                    self.find(&device).and_then(|key| self.release(Target::Device(Mac(key.mac)), &operator));
                self.audit(&operator, "release", &device.to_string(), "", &answer);
                drop(reply.send(answer));
            }
            Request::Blocks { reply } => drop(reply.send(Ok(self.blocks()))),
            Request::AddBlock { order, operator, reply } => {
                let answer = self.add_block(&order, &operator);
                self.audit(&operator, "block", &order.target.to_string(), &order.reason, &answer);
                drop(reply.send(answer));
            }
            Request::DeleteBlock { target, operator, reply } => {
                let answer = self.release(target, &operator);
                self.audit(&operator, "unblock", &target.to_string(), "", &answer);
                drop(reply.send(answer));
            }
            Request::FlushBlocks { operator, reply } => {
                let answer = self.flush(&operator);
                self.audit(&operator, "flush", "", "", &answer);
                drop(reply.send(answer));
            }
            Request::Allowed { reply } => drop(reply.send(self.allowed())),
            Request::Allow { order, operator, reply } => {
                let answer = self.allow(&order, &operator);
                self.audit(&operator, "allow", &order.target.to_string(), &order.reason, &answer);
                drop(reply.send(answer));
            }
            Request::Disallow { target, operator, reply } => {
                let answer = self.disallow(target);
                self.audit(&operator, "disallow", &target.to_string(), "", &answer);
                drop(reply.send(answer));
            }
            Request::CheckAllowed { target, reply } => drop(reply.send(Ok(self.check_allowed(target)))),
            Request::Incidents { filter, reply } => drop(reply.send(self.list_incidents(filter))),
            Request::Incident { id, reply } => {
                drop(reply.send(self.stored_incident(&id).map(|incident| views::incident(&incident))));
            }
            Request::Explain { id, reply } => drop(reply.send(self.explain(&id))),
            Request::Events { limit, reply } => {
                let skipped = self.recent.len().saturating_sub(limit);
                drop(reply.send(Ok(self.recent.iter().skip(skipped).cloned().collect())));
            }
            Request::Models { reply } => drop(reply.send(Ok(self.models()))),
            Request::TrainModel { device, operator, reply } => {
                let answer = self.relearn(device.as_ref());
                let named = device.map(|device| device.to_string()).unwrap_or_default();
                self.audit(&operator, "train", &named, "", &answer);
                drop(reply.send(answer));
            }
            Request::RollbackModel { device, operator, reply } => {
                let answer = self.rollback(&device);
                self.audit(&operator, "rollback", &device.to_string(), "", &answer);
                drop(reply.send(answer));
            }
            Request::ExportModel { device, reply } => drop(reply.send(self.find(&device).and_then(|key| {
                self.export_baseline(key)
                    .map(Into::into)
                    .map_err(|error| Refusal::not_found(error.to_string(), SEEN))
            }))),
            Request::ImportModel { device, document, operator, reply } => {
                let answer = self.import(&device, &document);
                self.audit(&operator, "import", &device.to_string(), "", &answer);
                drop(reply.send(answer));
            }
        }
    }

    /// Remembers what an operator did, on the disk before the answer is believed.
    fn audit<T>(&mut self, who: &Operator, what: &str, target: &str, detail: &str, answer: &Answer<T>) {
        let result = match answer {
            Ok(_) => "ok".to_owned(),
            Err(refusal) => refusal.to_string(),
        };
        let message = format!("{who}: {what} {target} ({result})");
        let entry = AuditEntry {
            at: now().wall,
            who: who.to_string(),
            what: what.to_owned(),
            target: target.to_owned(),
            detail: detail.to_owned(),
            result,
        };
        let saved = self.store.batch(Durability::Disk, |store| store.audit(&entry));
        self.stored(saved);
        self.tell(EventKind::Operator, message, target.parse().ok(), None);
    }

    fn status(&self) -> Answer<StatusView> {
        let now = now();
        let counters = self.datapath.counters().map_err(failed)?;
        let phases: Vec<Phase> = self.learner.status().map(|device| device.phase).collect();
        let ready = phases.iter().filter(|phase| **phase == Phase::Ready).count() as u64;
        let mut problems = self.problems.clone();
        if let Some(trouble) = self.eve.as_ref().and_then(|eve| eve.tally().trouble.clone()) {
            problems.push(format!("the event log cannot be written: {trouble}"));
        }
        for attached in self.datapath.attached() {
            if let Some(cause) = &attached.fallback {
                problems.push(format!("{} runs in the network stack: {cause}", attached.interface));
            }
        }
        let live = self.enforcer.live();
        Ok(StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            health: if self.problems.is_empty() { Health::Ok } else { Health::Degraded },
            problems,
            mode: self.config.gateway.mode,
            enforcing: kernel_mode(self.config.gateway.mode) == Mode::Enforce,
            pid: std::process::id(),
            started: self.started.wall,
            uptime_s: now.since(self.started.wall).as_secs(),
            kernel: kernel_release(),
            resumed: self.datapath.attached().iter().any(|attached| attached.adopted),
            interfaces: self.datapath.attached().iter().map(views::interface).collect(),
            flows: self.flow_usage()?,
            devices: Usage {
                used: self.datapath.device_count().map_err(failed)?,
                capacity: self.config.kernel.max_devices.into(),
            },
            blocks: live.len() as u64,
            allow: self.enforcer.allowed().len() as u64,
            feed_entries: self.enforcer.table().feed_entries(),
            open_incidents: self.incidents.len() as u64,
            baselines_ready: ready,
            baselines_learning: phases.len() as u64 - ready,
            counters: counters.named().map(|(name, value)| (name.to_owned(), value)).collect(),
            unparsed: Unparsed::ALL
                .iter()
                .map(|reason| (reason.name().to_owned(), counters.unparsed[*reason as usize]))
                .collect(),
            unaccounted: counters.unaccounted(),
            events_received: self.tallies.events_received,
        })
    }

    fn flow_usage(&self) -> Answer<Usage> {
        Ok(Usage {
            used: self.datapath.flow_count().map_err(failed)?,
            capacity: self.config.kernel.max_flows.into(),
        })
    }

    fn metrics(&self) -> Answer<Box<Snapshot>> {
        let now = now();
        let mut verdicts: HashMap<&'static str, VerdictCount> = HashMap::new();
        for record in self.enforcer.live() {
            let action = crate::api::view::ActionWord::from(record.action);
            verdicts.entry(action.as_str()).or_insert(VerdictCount { action, count: 0 }).count += 1;
        }
        let technique = |(technique, count): (&String, &u64)| TechniqueCount {
            technique: technique.clone(),
            count: *count,
        };
        let tally = self.enforcer.tally();
        Ok(Box::new(Snapshot {
            uptime: now.since(self.started.wall),
            enforcing: kernel_mode(self.config.gateway.mode) == Mode::Enforce,
            problems: self.problems.len() as u64,
            counters: self.datapath.counters().map_err(failed)?,
            flows: self.flow_usage()?,
            devices: Usage {
                used: self.datapath.device_count().map_err(failed)?,
                capacity: self.config.kernel.max_devices.into(),
            },
            verdicts: verdicts.into_values().collect(),
            incidents: self.tallies.incidents.iter().map(technique).collect(),
            events_received: self.tallies.events_received,
            ring_lag: self.tallies.ring_lag,
            store_errors: self.tallies.store_errors + self.eve.as_ref().map_or(0, |eve| eve.tally().failed),
            held_back: tally.refused.get("blast-radius").copied().unwrap_or(0),
            rollbacks: self.tallies.rollbacks,
            reconcile_differences: tally.drift,
            scoring: self.tallies.scoring,
        }))
    }

    fn reload_order(&mut self) -> Answer<ReloadView> {
        let needs_restart = self
            .reload()
            .map_err(|cause| Refusal::refused(cause, "the configuration before stays in force"))?;
        Ok(ReloadView {
            path: self.source.path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            needs_restart: needs_restart.into_iter().map(str::to_owned).collect(),
        })
    }

    fn find(&self, device: &DeviceRef) -> Answer<DeviceKey> {
        self.registry.find(&device.to_string()).ok_or_else(|| {
            Refusal::not_found(
                format!("no device is called {device}"),
                "`tidegate devices list` shows every device",
            )
        })
    }

    fn device_views(&self) -> Answer<Vec<DeviceView>> {
        let kernel = self.kernel_devices()?;
        let mut views: Vec<DeviceView> =
            self.registry.devices(now()).iter().map(|device| self.view_of(device, &kernel)).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.last_seen));
        Ok(views)
    }

    fn device_view(&self, key: DeviceKey) -> Answer<DeviceView> {
        let kernel = self.kernel_devices()?;
        let device =
            self.registry.device(key, now()).ok_or_else(|| Refusal::not_found("the device is gone", SEEN))?;
        Ok(self.view_of(&device, &kernel))
    }

    fn kernel_devices(&self) -> Answer<HashMap<DeviceKey, tidegate_common::device::DeviceRecord>> {
        Ok(self.datapath.devices().map_err(failed)?.into_iter().collect())
    }

    fn view_of(
        &self,
        device: &Device,
        kernel: &HashMap<DeviceKey, tidegate_common::device::DeviceRecord>,
    ) -> DeviceView {
        let mac = device.mac;
        let target = Target::Device(mac);
        let record = kernel.get(&device.key()).copied().unwrap_or_default();
        let isolation = self.enforcer.get(&target);
        let status =
            self.learner.status().find(|status| status.mac == mac && status.ifindex == device.ifindex);
        let interface = self.datapath.attached().iter().find(|attached| attached.ifindex == device.ifindex);
        DeviceView {
            mac,
            interface: interface.map(|attached| attached.interface.clone()).unwrap_or_default(),
            addresses: device.addresses.clone(),
            name: device.name.clone(),
            vendor: device.vendor.clone(),
            randomised: device.randomised,
            conflicts: device.conflicts.clone(),
            first_seen: device.first_seen,
            last_seen: device.last_seen.max(views::wall_of(record.last_ns, now())),
            packets_out: record.packets_out,
            bytes_out: record.bytes_out,
            packets_in: record.packets_in,
            bytes_in: record.bytes_in,
            baseline: status.as_ref().map_or(BaselineState::Learning, baseline_state),
            learned: status.as_ref().map_or(0.0, |status| self.learned(status)),
            isolation: isolation.and_then(|record| record.level).map(Into::into),
            isolated_until: isolation.and_then(|record| record.expires_at),
            never_block: !self.enforcer.protectors(&target).is_empty(),
            open_incidents: self.incidents.values().filter(|incident| incident.target == Some(target)).count()
                as u64,
        }
    }

    fn learned(&self, status: &DeviceStatus) -> f64 {
        if status.phase == Phase::Ready {
            return 1.0;
        }
        let config = self.config.learn_config();
        let share = |have: f64, want: f64| if want <= 0.0 { 1.0 } else { (have / want).min(1.0) };
        let collected_ns = now().kernel_ns.saturating_sub(status.since_ns);
        [
            share(collected_ns as f64 / 1e9, config.period_s as f64),
            share(status.flows as f64, config.min_flows.into()),
            share(status.windows as f64, config.min_windows.into()),
        ]
        .into_iter()
        .fold(1.0, f64::min)
    }

    fn blocks(&self) -> Vec<BlockView> {
        let now = now();
        self.enforcer.live().iter().map(|record| views::block(record, now)).collect()
    }

    fn add_block(&mut self, order: &BlockOrder, who: &Operator) -> Answer<BlockView> {
        if let Target::Device(mac) = order.target {
            return Err(Refusal::refused(
                format!("{mac} is a device"),
                format!("isolate it: `tidegate devices isolate {mac} --level full`"),
            ));
        }
        let action = if order.rate_pps.is_some() { Action::RateLimit } else { Action::Block };
        let ttl = order.ttl.map_or(self.config.enforcement.base_ttl.0, |ttl| ttl.0);
        let mut wanted = Order::by_operator(who.to_string(), order.target, action, Some(ttl), &order.reason);
        wanted.rate_pps = order.rate_pps;
        self.install(wanted)
    }

    fn isolate(&mut self, order: &IsolationOrder, who: &Operator) -> Answer<BlockView> {
        let key = match &order.device {
            // A device may be isolated before it is seen.
            DeviceRef::Mac(mac) => DeviceKey::new(mac.0, 0),
            other => self.find(other)?,
        };
        let target = Target::Device(Mac(key.mac));
        let ttl = order.ttl.map_or(self.config.enforcement.isolate_ttl.0, |ttl| ttl.0);
        let wanted = Order::by_operator(who.to_string(), target, Action::Isolate, Some(ttl), &order.reason);
        self.install(wanted.at_level(order.level.into()))
    }

    fn install(&mut self, order: Order) -> Answer<BlockView> {
        let now = now();
        let target = order.target.canonical();
        let order = Order { aliases: self.aliases(&target), ..order };
        let report = self.enforcer.apply(order, now).map_err(refused)?;
        self.commit(Ok(report), now);
        self.enforcer
            .get(&target)
            .map(|record| views::block(record, now))
            .ok_or_else(|| Refusal::failed(format!("{target} is not in force"), "see `tidegate events`"))
    }

    fn release(&mut self, target: Target, who: &Operator) -> Answer<BlockView> {
        let now = now();
        let report = self.enforcer.release(&target, &who.to_string(), now).map_err(refused)?;
        let ended = first_block(&report, now);
        self.commit(Ok(report), now);
        ended.ok_or_else(|| Refusal::not_found(format!("{target} is under no enforcement"), LIST_BLOCKS))
    }

    fn flush(&mut self, who: &Operator) -> Answer<Vec<BlockView>> {
        let now = now();
        let report = self.enforcer.flush(&who.to_string(), |_| true, now).map_err(refused)?;
        let ended = report.changes.iter().map(|record| views::block(record, now)).collect();
        self.commit(Ok(report), now);
        Ok(ended)
    }

    fn allowed(&self) -> Answer<Vec<AllowView>> {
        let kernel: HashMap<Target, _> =
            enforce::VerdictTable::entries(self.enforcer.table()).map_err(failed)?.into_iter().collect();
        Ok(self
            .enforcer
            .allowed()
            .iter()
            .map(|entry| views::allow(entry, kernel.get(&entry.target)))
            .collect())
    }

    fn allow(&mut self, order: &AllowOrder, who: &Operator) -> Answer<AllowView> {
        let now = now();
        let aliases = self.aliases(&order.target);
        let (entry, report) = self
            .enforcer
            .allow(order.target, role::OPERATOR, &aliases, &who.to_string(), &order.reason, now)
            .map_err(refused)?;
        let saved = self.store.batch(Durability::Disk, |store| store.save_allow(&entry));
        self.stored(saved);
        self.commit(Ok(report), now);
        Ok(views::allow(&entry, None))
    }

    fn disallow(&mut self, target: Target) -> Answer<AllowView> {
        let entry = self.enforcer.disallow(&target).map_err(refused)?.ok_or_else(|| {
            Refusal::not_found(
                format!("no operator made {target} never-block"),
                "`tidegate allow list` shows every entry; those of the configuration are changed there",
            )
        })?;
        let saved = self.store.batch(Durability::Disk, |store| store.delete_allow(&entry.target).map(drop));
        self.stored(saved);
        Ok(views::allow(&entry, None))
    }

    fn check_allowed(&self, target: Target) -> AllowCheckView {
        let by: Vec<AllowView> =
            self.enforcer.protectors(&target).iter().map(|entry| views::allow(entry, None)).collect();
        AllowCheckView { target, protected: !by.is_empty(), by }
    }

    fn list_incidents(&self, filter: IncidentFilter) -> Answer<Vec<IncidentView>> {
        let since = filter.within_s.and_then(|seconds| {
            now().wall.checked_sub(SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))).ok()
        });
        let wanted = store::IncidentFilter {
            open: filter.open.then_some(true),
            since,
            limit: Some(u32::try_from(filter.limit).unwrap_or(u32::MAX)),
            ..store::IncidentFilter::default()
        };
        let found = self.store.incidents(&wanted).map_err(failed)?;
        Ok(found.iter().map(views::incident).collect())
    }

    fn stored_incident(&self, id: &str) -> Answer<store::Incident> {
        self.store.incident(id).map_err(failed)?.ok_or_else(|| {
            Refusal::not_found(format!("no incident {id}"), "`tidegate incidents list` shows their ids")
        })
    }

    fn explain(&self, id: &str) -> Answer<ExplainView> {
        let now = now();
        if let Ok(target) = id.parse::<Target>() {
            let record = self.enforcer.get(&target.canonical()).cloned().ok_or_else(|| {
                Refusal::not_found(format!("{target} is under no enforcement"), LIST_BLOCKS)
            })?;
            let block = Some(views::block(&record, now));
            return match record.incident.as_deref() {
                Some(incident) => Ok(ExplainView { block, ..self.explain_incident(incident)? }),
                None => Ok(ExplainView {
                    incident: None,
                    explanation: record.explanation,
                    rule: record.rule,
                    p_value: None,
                    notes: Vec::new(),
                    block,
                    held_back: None,
                }),
            };
        }
        self.explain_incident(id)
    }

    fn explain_incident(&self, id: &str) -> Answer<ExplainView> {
        let incident = self.stored_incident(id)?;
        let block = incident.target.and_then(|target| self.enforcer.get(&target));
        Ok(ExplainView {
            incident: Some(views::incident(&incident)),
            explanation: incident.explanation.clone(),
            rule: incident.rule.clone(),
            p_value: (incident.p_value < 1.0).then_some(incident.p_value),
            notes: views::notes(&incident),
            block: block.map(|record| views::block(record, now())),
            held_back: incident.held_back.clone(),
        })
    }

    fn models(&self) -> Vec<ModelView> {
        self.learner.status().map(|status| self.model_view(&status)).collect()
    }

    fn model_view(&self, status: &DeviceStatus) -> ModelView {
        let name = status.mac.to_string();
        // A database that cannot be read is reported when it is written; the view goes without it.
        let stored = self.store.baseline(&name).ok().flatten();
        ModelView {
            device: Some(status.mac),
            state: baseline_state(status),
            learned: self.learned(status),
            version: stored.as_ref().map_or(0, |baseline| baseline.version),
            trained: status.ready_ns.map(|ready_ns| views::wall_of(ready_ns, now())),
            flows: status.flows as u64,
            windows: status.windows as u64,
            earlier: self.store.earlier_baselines(&name).unwrap_or(0),
        }
    }

    fn model_of(&self, key: DeviceKey) -> Answer<ModelView> {
        let status =
            self.learner.status().find(|status| status.mac.0 == key.mac && status.ifindex == key.ifindex);
        status
            .map(|status| self.model_view(&status))
            .ok_or_else(|| Refusal::not_found(format!("no baseline of {}", Mac(key.mac)), SEEN))
    }

    fn relearn(&mut self, device: Option<&DeviceRef>) -> Answer<Vec<ModelView>> {
        let keys = match device {
            Some(device) => vec![self.find(device)?],
            None => {
                self.learner.status().map(|status| DeviceKey::new(status.mac.0, status.ifindex)).collect()
            }
        };
        for key in keys {
            self.learner
                .relearn(key, now().kernel_ns)
                .map_err(|error| Refusal::not_found(error.to_string(), SEEN))?;
        }
        Ok(self.models())
    }

    fn rollback(&mut self, device: &DeviceRef) -> Answer<ModelView> {
        let key = self.find(device)?;
        let name = Mac(key.mac).to_string();
        let stored = self.store.rollback_baseline(&name).map_err(failed)?;
        match stored {
            Some(baseline) => {
                let state: StoredBaseline = serde_json::from_slice(&baseline.document).map_err(failed)?;
                self.learner.import(&state, now().kernel_ns).map_err(failed)?;
            }
            None => self
                .learner
                .rollback(key, now().kernel_ns)
                .map_err(|error| Refusal::not_found(error.to_string(), SEEN))?,
        }
        self.model_of(key)
    }

    fn import(&mut self, device: &DeviceRef, document: &[u8]) -> Answer<ModelView> {
        let key = self.find(device)?;
        let mut state: StoredBaseline = serde_json::from_slice(document).map_err(|error| {
            Refusal::refused(format!("not a baseline: {error}"), "`tidegate model export` writes one")
        })?;
        state.device = Mac(key.mac);
        state.ifindex = key.ifindex;
        let now = now();
        self.learner.import(&state, now.kernel_ns).map_err(|error| {
            Refusal::refused(error.to_string(), "export it anew from a gateway of this version")
        })?;
        let saved = serde_json::to_vec(&state).map_err(failed)?;
        let name = state.device.to_string();
        self.store.save_baseline(&name, now.wall, &saved).map_err(failed)?;
        self.model_of(key)
    }
}

const SEEN: &str = "`tidegate devices list` shows what was seen";
const LIST_BLOCKS: &str = "`tidegate blocks list` shows what is in force";

fn baseline_state(status: &DeviceStatus) -> BaselineState {
    match status.phase {
        Phase::Learning => BaselineState::Learning,
        Phase::Ready => BaselineState::Ready,
    }
}

fn first_block(report: &Report, now: Now) -> Option<BlockView> {
    report.changes.first().map(|record| views::block(record, now))
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::failed(error.to_string(), "`tidegate doctor` checks what the gateway depends on")
}

fn refused(error: impl std::borrow::Borrow<EnforceError>) -> Refusal {
    let error = error.borrow();
    let kind = match error {
        EnforceError::Refused(enforce::Refusal::NotFound { .. }) => RefusalKind::NotFound,
        EnforceError::Refused(_) => RefusalKind::Refused,
        EnforceError::Table(_) => RefusalKind::Failed,
    };
    Refusal { kind, cause: error.to_string(), hint: String::new() }
}

fn kernel_release() -> String {
    nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}
