//! What operators and monitoring ask: state, devices, enforcements, incidents, baselines.

use std::{collections::HashMap, sync::Arc};

use jiff::SignedDuration;
use tidegate_common::{
    device::{DeviceKey, DeviceRecord},
    parse::Unparsed,
    verdict::Mode,
};

use super::{
    answer::{Answer, LIST_BLOCKS, SEEN, failed},
    gateway::{Gateway, kernel_mode, now},
    messages::Messages,
    views,
};
use crate::{
    api::{
        DeviceRef, IncidentFilter, Refusal, Snapshot, TechniqueCount, VerdictCount,
        view::{
            ActionWord, AllowCheckView, AllowView, BaselineState, BlockView, DeviceView, ExplainView, Health,
            Incidents, MessagesView, ModelView, ProbesView, StatusView, Usage,
        },
    },
    enforce::{Target, VerdictTable},
    identity::{Device, Mac},
    judge,
    learn::{DeviceStatus, PROBE_RULE, Phase},
    store,
};

impl Gateway {
    pub(super) fn status(&self) -> Answer<StatusView> {
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
        problems.extend(self.messages.as_ref().and_then(Messages::problem));
        problems.extend(self.neighbour_problem());
        let live = self.enforcer.live();
        Ok(StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            health: if self.problems.is_empty()
                && self.messages.as_ref().and_then(Messages::problem).is_none()
                && self.neighbour_problem().is_none()
            {
                Health::Ok
            } else {
                Health::Degraded
            },
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
                used: self.datapath.devices().map_err(failed)?.len() as u64,
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
            messages: self
                .messages
                .as_ref()
                .map(|messages| MessagesView::of(&messages.counters, messages.commands.tally())),
        })
    }

    pub(super) fn flow_usage(&self) -> Answer<Usage> {
        Ok(Usage {
            used: self.datapath.flow_count().map_err(failed)?,
            capacity: self.config.kernel.max_flows.into(),
        })
    }

    pub(super) fn metrics(&self) -> Answer<Box<Snapshot>> {
        let now = now();
        let mut verdicts: HashMap<&'static str, VerdictCount> = HashMap::new();
        for record in self.enforcer.live() {
            let action = ActionWord::from(record.action);
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
                used: self.datapath.devices().map_err(failed)?.len() as u64,
                capacity: self.config.kernel.max_devices.into(),
            },
            verdicts: verdicts.into_values().collect(),
            incidents: self.tallies.incidents.iter().map(technique).collect(),
            events_received: self.tallies.events_received,
            ring_lag: self.tallies.ring_lag,
            alerts_taken: self.alerts.tallies.taken,
            alerts_held: self.alerts.tallies.held,
            alert_lines_unreadable: self.alerts.unreadable(),
            alert_bytes_skipped: self.alerts.skipped_bytes(),
            store_errors: self.tallies.store_errors
                + self.ledger.lost
                + self.eve.as_ref().map_or(0, |eve| eve.tally().failed),
            held_back: tally.refused.get("blast-radius").copied().unwrap_or(0),
            rollbacks: self.tallies.rollbacks,
            reconcile_differences: tally.drift,
            scoring: self.tallies.scoring,
            cloud_online: self.cloud.online,
            certificate_days: self.cloud.certificate_days,
            cloud_connects: self.cloud.connects,
            cloud_failures: self.cloud.failures,
            policy_version: self.policies.in_force().map_or(0, |held| held.document.version),
            policies_refused: self.refused_policies(),
            baselines_renewed: self.tallies.baselines_renewed,
            cloudwatch_sent: self.numbers.sent(),
            cloudwatch_failed: self.numbers.failed(),
            cloudwatch_dropped: self.numbers.dropped(),
            // A database that cannot be read is reported when it is written.
            outbox: self.store.outbox_tallies().unwrap_or_default(),
            neighbours: self.neighbour_counts(),
            messages: self.messages.as_ref().map(|messages| Arc::clone(&messages.counters)),
            commands: self
                .messages
                .as_ref()
                .map_or_else(Default::default, |messages| messages.commands.tally()),
        }))
    }

    pub(super) fn find(&self, device: &DeviceRef) -> Answer<DeviceKey> {
        self.registry.find(&device.to_string()).ok_or_else(|| {
            Refusal::not_found(
                format!("no device is called {device}"),
                "`tidegate devices list` shows every device",
            )
        })
    }

    pub(super) fn device_views(&self) -> Answer<Vec<DeviceView>> {
        let kernel = self.kernel_devices()?;
        let mut views: Vec<DeviceView> =
            self.registry.devices(now()).iter().map(|device| self.view_of(device, &kernel)).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.last_seen));
        Ok(views)
    }

    pub(super) fn device_view(&self, key: DeviceKey) -> Answer<DeviceView> {
        let kernel = self.kernel_devices()?;
        let device =
            self.registry.device(key, now()).ok_or_else(|| Refusal::not_found("the device is gone", SEEN))?;
        let peers = self.registry.names.peers(key, now().kernel_ns);
        Ok(DeviceView { peers, tls: self.registry.names.prints(key), ..self.view_of(&device, &kernel) })
    }

    pub(super) fn kernel_devices(&self) -> Answer<HashMap<DeviceKey, DeviceRecord>> {
        self.datapath.devices().map_err(failed)
    }

    pub(super) fn view_of(&self, device: &Device, kernel: &HashMap<DeviceKey, DeviceRecord>) -> DeviceView {
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
            kind: judge::kind_of(
                &self.registry,
                &self.learner,
                device.key(),
                (record.bytes_out, record.bytes_in),
                now(),
            ),
            says: device.says.clone(),
            profile: self.profiles.url(mac).map(str::to_owned),
            never_block: !self.enforcer.protectors(&target).is_empty(),
            open_incidents: self.incidents.values().filter(|incident| incident.target == Some(target)).count()
                as u64,
            peers: Vec::new(),
            tls: Vec::new(),
        }
    }

    pub(super) fn learned(&self, status: &DeviceStatus) -> f64 {
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

    pub(super) fn blocks(&self) -> Vec<BlockView> {
        let now = now();
        self.enforcer.live().iter().map(|record| views::block(record, now)).collect()
    }

    pub(super) fn allowed(&self) -> Answer<Vec<AllowView>> {
        let kernel: HashMap<Target, _> =
            self.enforcer.table().entries().map_err(failed)?.into_iter().collect();
        Ok(self
            .enforcer
            .allowed()
            .iter()
            .map(|entry| views::allow(entry, kernel.get(&entry.target)))
            .collect())
    }

    pub(super) fn check_allowed(&self, target: Target) -> AllowCheckView {
        let by: Vec<AllowView> =
            self.enforcer.protectors(&target).iter().map(|entry| views::allow(entry, None)).collect();
        AllowCheckView { target, protected: !by.is_empty(), by }
    }

    pub(super) fn list_incidents(&self, filter: IncidentFilter) -> Answer<Incidents> {
        let since = filter.within_s.and_then(|seconds| {
            now().wall.checked_sub(SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))).ok()
        });
        let wanted = store::IncidentFilter {
            open: filter.open.then_some(true),
            since,
            without_rule: filter.gathered.then_some(PROBE_RULE),
            limit: Some(u32::try_from(filter.limit).unwrap_or(u32::MAX)),
            ..store::IncidentFilter::default()
        };
        let incidents = self.store.incidents(&wanted).map_err(failed)?.iter().map(views::incident).collect();
        let tally =
            filter.gathered.then(|| self.store.tally(PROBE_RULE, &wanted)).transpose().map_err(failed)?;
        let probes = tally.map(|tally| ProbesView {
            incidents: tally.incidents,
            hosts: tally.subjects,
            evidence: tally.evidence,
            last_seen: tally.last_seen,
        });
        Ok(Incidents { incidents, probes })
    }

    pub(super) fn stored_incident(&self, id: &str) -> Answer<store::Incident> {
        self.store.incident(id).map_err(failed)?.ok_or_else(|| {
            Refusal::not_found(format!("no incident {id}"), "`tidegate incidents list` shows their ids")
        })
    }

    pub(super) fn explain(&self, id: &str) -> Answer<ExplainView> {
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

    pub(super) fn explain_incident(&self, id: &str) -> Answer<ExplainView> {
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

    pub(super) fn models(&self) -> Vec<ModelView> {
        self.learner.status().map(|status| self.model_view(&status)).collect()
    }

    pub(super) fn model_view(&self, status: &DeviceStatus) -> ModelView {
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

    pub(super) fn model_of(&self, key: DeviceKey) -> Answer<ModelView> {
        let status =
            self.learner.status().find(|status| status.mac.0 == key.mac && status.ifindex == key.ifindex);
        status
            .map(|status| self.model_view(&status))
            .ok_or_else(|| Refusal::not_found(format!("no baseline of {}", Mac(key.mac)), SEEN))
    }
}

fn baseline_state(status: &DeviceStatus) -> BaselineState {
    match status.phase {
        Phase::Learning => BaselineState::Learning,
        Phase::Ready => BaselineState::Ready,
    }
}

fn kernel_release() -> String {
    nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}
