//! What is done now and then: silent flows leave the table, kernel and desired state are compared, what was learned is
//! saved, the configuration is read again.

use std::collections::HashMap;

use tidegate_common::{
    counter::Counters,
    device::DeviceKey,
    flow::{FlowKey, FlowRecord},
};

use super::{
    gateway::{Gateway, now},
    needs,
};
use crate::{
    api::view::EventKind,
    datapath,
    enforce::{FeedList, Now},
    identity::Mac,
    learn::{LearnError, Phase},
    store::{Durability, eve},
};

impl Gateway {
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

    pub(super) fn log_flow(&mut self, key: &FlowKey, record: &FlowRecord, reason: &str, now: Now) {
        if self.eve.is_none() || !self.take_line() {
            return;
        }
        let Some(eve) = &mut self.eve else { return };
        let ifindex = record.out.point.ifindex();
        let interface = self.datapath.attached().iter().find(|attached| attached.ifindex == ifindex);
        let name = interface.map(|attached| attached.interface.as_str());
        eve.write(&eve::flow(key, record, name, reason, now));
    }

    /// Whether the event log may have one more line of ordinary traffic in this second.
    pub(super) fn take_line(&mut self) -> bool {
        if self.flow_lines_left == 0 {
            self.tallies.flow_lines_held += 1;
            return false;
        }
        self.flow_lines_left -= 1;
        true
    }

    /// Twice a minute: kernel and desired state are compared, devices and baselines saved, statistics logged.
    pub(super) fn on_housekeeping(&mut self) {
        let now = now();
        let reconciled = self.enforcer.reconcile(now);
        self.commit(reconciled, now);
        self.save(now);
        self.beat(now);
        self.report_metrics(now);
        self.watch_policy(now);
        self.save_commands(now, false);
        if let (Some(eve), Ok(counters)) = (&mut self.eve, self.datapath.counters()) {
            eve.write(&eve::stats(stats(&counters), now.wall));
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
        let renewed = self.learner.take_renewed();
        self.tallies.baselines_renewed += renewed.len() as u64;
        for key in ready {
            self.save_baseline(key, renewed.contains(&key), now);
        }
    }

    /// Saves a baseline that the store does not have yet, or not as it was `renewed`.
    fn save_baseline(&mut self, key: DeviceKey, renewed: bool, now: Now) {
        let name = Mac(key.mac).to_string();
        let known = self.store.baseline(&name).map(|known| known.is_some());
        if matches!(known, Ok(true)) && !renewed {
            return;
        }
        if let Some(state) = self.learner.export(key, now.kernel_ns) {
            let document = serde_json::to_vec(&state).unwrap_or_default();
            let saved = self.store.save_baseline(&name, now.wall, &document).map(drop);
            self.stored(saved);
            self.tell(
                EventKind::Lifecycle,
                format!("the baseline of {name} is {}", if renewed { "renewed" } else { "learned" }),
                None,
                None,
            );
        }
    }

    /// Reads the configuration again and takes over what can change while running; the keys that need a restart.
    pub(super) fn reload(&mut self) -> Result<Vec<&'static str>, String> {
        let mut base = self.source.load().map_err(|error| error.to_string())?;
        let next = self.policies.over(&base).map_err(|refused| refused.to_string())?;
        let needs_restart = self.started_with.diff_reloadable(&next);
        self.take_over(next)?;
        base.gateway.interfaces.clone_from(&self.config.gateway.interfaces);
        self.base = base;
        // What the gateway needs is found out anew, whatever the file says.
        let now = now();
        let system = self.enforcer.set_system(&needs::system_entries(&self.config), now);
        self.commit(system, now);
        self.load_feeds();
        self.alerts.reconfigure(&self.config);
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

    /// A baseline's stored form, or why there is none.
    pub(super) fn export_baseline(&self, key: DeviceKey) -> Result<Vec<u8>, LearnError> {
        let state = self.learner.export(key, datapath::now_ns()).ok_or(LearnError::Unknown(Mac(key.mac)))?;
        Ok(serde_json::to_vec(&state).unwrap_or_default())
    }
}

fn stats(counters: &Counters) -> serde_json::Value {
    counters
        .named()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
