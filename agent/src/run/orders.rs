//! What operators order: verdicts, never-block entries, baselines.

use tidegate_common::{
    device::DeviceKey,
    verdict::{Action, role},
};

use super::{
    answer::{Answer, LIST_BLOCKS, SEEN, failed, refused},
    gateway::{Gateway, now},
    views,
};
use crate::{
    api::{
        AllowOrder, BlockOrder, DeviceRef, IsolationOrder, Operator, Refusal,
        view::{AllowView, BlockView, ModelView, ReloadView},
    },
    decide::target_of,
    enforce::{Now, Order, Report, Target},
    identity::Mac,
    learn::{BaselineState, Subject},
    store::Durability,
};

impl Gateway {
    pub(super) fn reload_order(&mut self) -> Answer<ReloadView> {
        let needs_restart = self
            .reload()
            .map_err(|cause| Refusal::refused(cause, "the configuration before stays in force"))?;
        Ok(ReloadView {
            path: self.source.path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            needs_restart: needs_restart.into_iter().map(str::to_owned).collect(),
        })
    }

    pub(super) fn add_block(&mut self, order: &BlockOrder, who: &Operator) -> Answer<BlockView> {
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

    pub(super) fn isolate(&mut self, order: &IsolationOrder, who: &Operator) -> Answer<BlockView> {
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

    pub(super) fn install(&mut self, order: Order) -> Answer<BlockView> {
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

    pub(super) fn release(&mut self, target: Target, who: &Operator) -> Answer<BlockView> {
        let now = now();
        let report = self.enforcer.release(&target, &who.to_string(), now).map_err(refused)?;
        let ended = report.changes.first().map(|record| views::block(record, now));
        self.forget_reports(&report, now);
        self.commit(Ok(report), now);
        ended.ok_or_else(|| Refusal::not_found(format!("{target} is under no enforcement"), LIST_BLOCKS))
    }

    pub(super) fn flush(&mut self, who: &Operator) -> Answer<Vec<BlockView>> {
        let now = now();
        let report = self.enforcer.flush(&who.to_string(), |_| true, now).map_err(refused)?;
        let ended = report.changes.iter().map(|record| views::block(record, now)).collect();
        self.forget_reports(&report, now);
        self.commit(Ok(report), now);
        Ok(ended)
    }

    /// What goes on although an operator took its verdict back is found again at once, not only when it would be repeated; what
    /// was going on and ends now is no reason to take the decision back.
    fn forget_reports(&mut self, ended: &Report, now: Now) {
        let targets: Vec<Target> = ended.changes.iter().map(|record| record.target).collect();
        let is_meant = |subject: &Subject| {
            let own = target_of(subject);
            targets.iter().any(|target| target.contains(&own))
        };
        self.learner.forget_reports(is_meant, now.kernel_ns);
    }

    pub(super) fn allow(&mut self, order: &AllowOrder, who: &Operator) -> Answer<AllowView> {
        let now = now();
        let mut roles = order.roles.iter().fold(0, |bits, word| bits | word.bit());
        if roles == 0 {
            roles = role::OPERATOR;
        }
        if roles != role::OPERATOR && !matches!(order.target.canonical(), Target::Address(_)) {
            return Err(Refusal::refused(
                format!("{} is no address, and only an address has a role but `operator`", order.target),
                "name the server's address, or leave `--role` out",
            ));
        }
        let aliases = self.aliases(&order.target);
        let (entry, report) = self
            .enforcer
            .allow(order.target, roles, &aliases, &who.to_string(), &order.reason, now)
            .map_err(refused)?;
        let saved = self.store.batch(Durability::Disk, |store| store.save_allow(&entry));
        self.stored(saved);
        self.commit(Ok(report), now);
        Ok(views::allow(&entry, None))
    }

    pub(super) fn disallow(&mut self, target: Target) -> Answer<AllowView> {
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

    pub(super) fn relearn(&mut self, device: Option<&DeviceRef>) -> Answer<Vec<ModelView>> {
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

    pub(super) fn rollback(&mut self, device: &DeviceRef) -> Answer<ModelView> {
        let key = self.find(device)?;
        let name = Mac(key.mac).to_string();
        let stored = self.store.rollback_baseline(&name).map_err(failed)?;
        match stored {
            Some(baseline) => {
                let state: BaselineState = serde_json::from_slice(&baseline.document).map_err(failed)?;
                self.learner.import(&state, now().kernel_ns).map_err(failed)?;
            }
            None => self
                .learner
                .rollback(key, now().kernel_ns)
                .map_err(|error| Refusal::not_found(error.to_string(), SEEN))?,
        }
        self.model_of(key)
    }

    pub(super) fn import(&mut self, device: &DeviceRef, document: &[u8]) -> Answer<ModelView> {
        let key = self.find(device)?;
        let mut state: BaselineState = serde_json::from_slice(document).map_err(|error| {
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
