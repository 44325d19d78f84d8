//! Policies on a running gateway: dry-run, put in force as a whole or not at all, taken back, ended in time.
//!
//! A policy changes the settings as a reload does, and its isolations and profiles are orders of an operator called `policy N`.

use std::{collections::BTreeMap, mem};

use tidegate_common::verdict::{Action, Level};
use tidegate_wire::{PolicyOutcome, PolicyReport, Report};

use super::{
    answer::{Answer, failed},
    gateway::{Gateway, kernel_mode, now},
    ledger::Record,
    needs,
};
use crate::{
    api::{
        Refusal,
        view::{EventKind, PolicyCheckView, PolicyVersionView, PolicyView},
    },
    config::Config,
    enforce::{Author, Now, Order, Reachability, Target},
    fleet::report::clip,
    policy::{Accepted, Held, Isolation, Policies, Reason, Refused, Terms, TrustAnchors, changes},
    store::{Durability, Store, StoreError, StoredPolicy},
};

const BY_POLICY: &str = "policy ";

/// A policy whose first moments are watched.
#[derive(Debug)]
pub(super) struct Trial {
    before: Reachability,
    until_ns: u64,
}

/// Takes up the policy of the last run; what came of that, and the settings with it in force.
pub(super) fn restore(
    store: &Store,
    base: &Config,
    problems: &mut Vec<String>,
) -> Result<(Policies, Config), StoreError> {
    let rows = store.policies()?;
    let mut policies = Policies::new(rows.first().map_or(0, |row| row.version));
    let Some(row) = rows.into_iter().find(|row| row.in_force) else { return Ok((policies, base.clone())) };
    let version = row.version;
    match resume(&mut policies, row, base) {
        Ok(config) => Ok((policies, config)),
        Err(refused) => {
            problems.push(format!("{BY_POLICY}{version} is not in force: {refused}"));
            Ok((policies, base.clone()))
        }
    }
}

fn resume(policies: &mut Policies, row: StoredPolicy, base: &Config) -> Result<Config, Refused> {
    let anchors = anchors(base)?;
    let identity = base.policy_identity();
    let terms = Terms { anchors: &anchors, identity: &identity, base, now: now().wall };
    policies.resume(&row.sealed, &terms, row.who, row.since)
}

/// The keys whose signatures count.
fn anchors(config: &Config) -> Result<TrustAnchors, Refused> {
    let refuse = |cause: String| Refused::new(Reason::NoKeys, cause);
    let path = config.policy_keys_path().ok_or_else(|| refuse("policy.keys names no file".to_owned()))?;
    TrustAnchors::load(&path).map_err(|error| refuse(format!("{}: {error}", path.display())))
}

fn refusal(refused: &Refused) -> Refusal {
    Refusal::refused(format!("{refused} ({})", refused.reason.name()), refused.reason.hint())
}

impl Gateway {
    fn judge_policy(&self, sealed: &[u8]) -> Result<Accepted, Refused> {
        let anchors = anchors(&self.base)?;
        let protected = |target: &Target| {
            let entries = self.enforcer.protectors(target);
            entries.first().map(|entry| format!("never-block entry {} of {}", entry.target, entry.author))
        };
        let identity = self.base.policy_identity();
        let terms = Terms { anchors: &anchors, identity: &identity, base: &self.base, now: now().wall };
        let accepted = self.policies.judge(sealed, &terms, &protected)?;
        for device in accepted.document.settings.profiles.keys() {
            if let Some(author) = self.profiles.author(*device).filter(|author| !is_policy(author)) {
                let cause = format!("{device} is held to a profile by {author}, which comes first");
                return Err(accepted.document.unusable(&cause));
            }
        }
        Ok(accepted)
    }

    /// What a policy would change; changes nothing.
    pub(super) fn check_policy(&self, sealed: &[u8]) -> Answer<PolicyCheckView> {
        let accepted = self.judge_policy(sealed).map_err(|refused| refusal(&refused))?;
        let document = accepted.document;
        Ok(PolicyCheckView {
            version: document.version,
            key: accepted.key.to_string(),
            not_before: document.not_before,
            expires: document.expires,
            description: document.description,
            changes: changes(&self.config, &accepted.config),
            isolates: document.settings.isolation.iter().map(|wanted| wanted.device).collect(),
            profiles: document.settings.profiles.keys().copied().collect(),
        })
    }

    /// Puts a policy in force.
    pub(super) fn apply_policy(&mut self, sealed: &[u8], who: &str) -> Answer<PolicyView> {
        let now = now();
        self.try_policy(sealed, who, now).map_err(|refused| self.refuse_policy(&refused))?;
        self.policy_view()
    }

    /// Counts, tells and reports a refusal.
    pub(super) fn refuse_policy(&mut self, refused: &Refused) -> Refusal {
        self.policies.refuse(refused);
        let message = format!("a policy was refused: {refused}");
        tracing::warn!(reason = refused.reason.name(), "{message}");
        self.tell(EventKind::Alarm, message, None, None);
        self.report_policy(PolicyOutcome::Refused, refused.version, Some(refused), now());
        refusal(refused)
    }

    fn try_policy(&mut self, sealed: &[u8], who: &str, now: Now) -> Result<(), Refused> {
        let Accepted { document, key, config } = self.judge_policy(sealed)?;
        let version = document.version;
        let held = Held { document, key, who: who.to_owned(), since: now.wall };
        let row = StoredPolicy {
            version,
            since: now.wall,
            in_force: true,
            who: who.to_owned(),
            sealed: sealed.to_vec(),
        };
        self.switch(Some(held), config, now, |store| store.put_policy(&row))
            .map_err(|cause| Refused::new(Reason::Failed, cause).of(version))?;
        self.policy_trial = self.last_reach.map(|before| Trial {
            before,
            until_ns: now.kernel_in(self.config.enforcement.confirm_window.0),
        });
        self.told(format!("policy {version} is in force, by {who}"));
        self.report_policy(PolicyOutcome::Applied, Some(version), None, now);
        Ok(())
    }

    /// Puts `next` in force: settings, isolations, profiles, record; or nothing of it.
    fn switch(
        &mut self,
        next: Option<Held>,
        config: Config,
        now: Now,
        save: impl FnOnce(&Store) -> Result<(), StoreError>,
    ) -> Result<(), String> {
        let before = (self.policies.clone(), self.config.clone());
        self.take_over(config)?;
        match next {
            Some(held) => self.policies.adopt(held),
            None => drop(self.policies.drop_in_force()),
        }
        let done = self.follow_policy(now).and_then(|()| {
            self.store.batch(Durability::Disk, save).map_err(|error| {
                self.tallies.store_errors += 1;
                error.to_string()
            })
        });
        let Err(cause) = done else {
            self.policy_trial = None;
            self.problems.retain(|problem| !problem.starts_with(BY_POLICY));
            return Ok(());
        };
        let (policies, config) = before;
        self.policies = policies;
        for undone in [self.take_over(config), self.follow_policy(now)] {
            if let Err(cause) = undone {
                self.degraded(&format!("the policy before is not wholly in force again: {cause}"));
            }
        }
        Err(cause)
    }

    /// Brings isolations and profiles of policies in line with the one in force.
    pub(super) fn follow_policy(&mut self, now: Now) -> Result<(), String> {
        let document = self.policies.in_force().map(|held| held.document.clone());
        let author = document.as_ref().map(crate::policy::Document::author).unwrap_or_default();
        let settings = document.as_ref().map(|document| document.settings.clone()).unwrap_or_default();
        let live = self.enforcer.live().into_iter().filter_map(|record| match &record.author {
            Author::Operator(name) if is_policy(name) => Some((record.target, name.clone(), record.level)),
            _ => None,
        });
        let ours: Vec<(Target, String, Option<Level>)> = live.collect();
        let target_of = |wanted: &Isolation| Target::Device(wanted.device);
        for (target, ..) in &ours {
            if !settings.isolation.iter().any(|wanted| target_of(wanted) == *target) {
                let report =
                    self.enforcer.release(target, &author, now).map_err(|error| error.to_string())?;
                self.commit(Ok(report), now);
            }
        }
        for wanted in &settings.isolation {
            let (target, level) = (target_of(wanted), Level::from(wanted.level));
            if ours.contains(&(target, author.clone(), Some(level))) {
                continue;
            }
            let ttl = document.as_ref().map(|document| now.until(document.expires));
            let order = Order::by_operator(&author, target, Action::Isolate, ttl, &wanted.reason);
            self.install(order.at_level(level)).map_err(|refusal| refusal.cause)?;
        }
        for device in self.profiles.by_author(is_policy) {
            if !settings.profiles.contains_key(&device) {
                self.end_profile(device).map_err(|refusal| refusal.cause)?;
            }
        }
        for (device, description) in &settings.profiles {
            self.hold(*device, description.to_string().as_bytes(), author.clone())
                .map_err(|refusal| refusal.cause)?;
        }
        Ok(())
    }

    /// Puts the policy before the one in force back, or none if there is none that is still good.
    pub(super) fn rollback_policy(&mut self) -> Answer<PolicyView> {
        let Some(present) = self.policies.in_force().map(|held| held.document.version) else {
            return Err(Refusal::not_found(
                "no policy is in force",
                "`tidegate policy apply FILE` puts one in force",
            ));
        };
        self.go_back(present, now()).map_err(|cause| Refusal::failed(cause, Reason::Failed.hint()))?;
        self.policy_view()
    }

    fn go_back(&mut self, from: u64, now: Now) -> Result<(), String> {
        let rows = self.store.policies().map_err(|error| error.to_string())?;
        let earlier = rows.into_iter().filter(|row| row.version < from).find_map(|row| {
            let mut policies = Policies::default();
            let config = resume(&mut policies, row.clone(), &self.base).ok()?;
            policies.drop_in_force().map(|held| (held, config, row))
        });
        let to = if let Some((held, config, row)) = earlier {
            let row = StoredPolicy { since: now.wall, ..row };
            let version = held.document.version;
            self.switch(Some(held), config, now, |store| store.put_policy(&row))?;
            format!("policy {version}")
        } else {
            self.switch(None, self.base.clone(), now, Store::end_policies)?;
            "the configuration file".to_owned()
        };
        self.told(format!("policy {from} was taken back: {to} is in force"));
        self.report_policy(PolicyOutcome::RolledBack, Some(from), None, now);
        Ok(())
    }

    /// A probe came back: a policy after which the gateway can no longer reach what it could goes back.
    pub(super) fn try_reachability(&mut self, reachable: Reachability, now: Now) {
        let lost = match &self.policy_trial {
            Some(trial) if now.kernel_ns <= trial.until_ns => trial.before.lost(reachable),
            Some(_) => {
                self.policy_trial = None;
                Vec::new()
            }
            None => Vec::new(),
        };
        self.last_reach = Some(reachable);
        let present = self.policies.in_force().map(|held| held.document.version);
        let Some(present) = present.filter(|_| !lost.is_empty()) else { return };
        self.policy_trial = None;
        self.degraded(&format!("{BY_POLICY}{present} goes back: the gateway lost {}", lost.join(", ")));
        if let Err(cause) = self.go_back(present, now) {
            self.degraded(&format!("{BY_POLICY}{present} could not be taken back: {cause}"));
        }
    }

    /// Twice a minute: a policy whose time is over ends, one whose time has come again, after the clock was set, returns.
    pub(super) fn watch_policy(&mut self, now: Now) {
        if self.policies.is_over(now.wall) {
            let version = self.policies.in_force().map(|held| held.document.version);
            let ended = self.switch(None, self.base.clone(), now, |_| Ok(()));
            let shown = version.unwrap_or_default();
            match ended {
                Ok(()) => {
                    self.degraded(&format!("{BY_POLICY}{shown} has expired: the configuration file rules"));
                }
                Err(cause) => self.degraded(&format!("{BY_POLICY}{shown} could not be ended: {cause}")),
            }
            self.report_policy(PolicyOutcome::Expired, version, None, now);
            return;
        }
        if self.policies.in_force().is_some() || self.policies.highest() == 0 {
            return;
        }
        let Ok(rows) = self.store.policies() else { return };
        let Some(row) = rows.into_iter().find(|row| row.in_force) else { return };
        let mut policies = Policies::default();
        let Ok(config) = resume(&mut policies, row, &self.base) else { return };
        let held = policies.drop_in_force();
        if self.switch(held, config, now, |_| Ok(())).is_ok() {
            self.told("the last policy is in force again".to_owned());
        }
    }

    /// The policy in force, the ones before, and what was refused.
    pub(super) fn policy_view(&self) -> Answer<PolicyView> {
        let rows = self.store.policies().map_err(failed)?;
        let held = self.policies.in_force();
        let document = held.map(|held| &held.document);
        let settings = document.map(|document| serde_json::to_value(&document.settings));
        Ok(PolicyView {
            version: document.map(|document| document.version),
            description: document.map(|document| document.description.clone()).unwrap_or_default(),
            fleet: self.base.policy.fleet.clone(),
            gateway: self.base.gateway_name(),
            not_before: document.map(|document| document.not_before),
            expires: document.map(|document| document.expires),
            key: held.map(|held| held.key.to_string()),
            author: held.map(|held| held.who.clone()),
            since: held.map(|held| held.since),
            settings: settings.transpose().map_err(failed)?.unwrap_or_default(),
            changes: changes(&self.base, &self.config),
            time_zone: self.config.command_clock().to_string(),
            highest: self.policies.highest(),
            history: rows
                .into_iter()
                .map(|row| PolicyVersionView {
                    in_force: document.is_some_and(|document| document.version == row.version),
                    version: row.version,
                    since: row.since,
                    author: row.who,
                })
                .collect(),
            refused: self.refused_policies(),
        })
    }

    /// Refusals by reason.
    pub(super) fn refused_policies(&self) -> BTreeMap<String, u64> {
        let named = |(reason, count): (&Reason, &u64)| (reason.name().to_owned(), *count);
        self.policies.refused().iter().map(named).collect()
    }

    fn report_policy(
        &mut self,
        outcome: PolicyOutcome,
        version: Option<u64>,
        refused: Option<&Refused>,
        now: Now,
    ) {
        let report = Report::Policy(PolicyReport {
            outcome,
            version,
            in_force: self.policies.in_force().map(|held| held.document.version),
            reason: refused.map(|refused| refused.reason.name().to_owned()),
            detail: refused.map(|refused| clip(&refused.detail)).unwrap_or_default(),
        });
        self.record([Record::Message(Box::new(report))], now);
    }

    fn told(&mut self, message: String) {
        tracing::info!("{message}");
        self.tell(EventKind::Lifecycle, message, None, None);
    }

    /// Takes over settings as a reload does; on an error nothing has changed.
    pub(super) fn take_over(&mut self, mut next: Config) -> Result<(), String> {
        let now = now();
        next.gateway.interfaces.clone_from(&self.config.gateway.interfaces);
        let mode = kernel_mode(next.gateway.mode);
        self.enforcer.set_config(next.kernel_config(mode)).map_err(|error| error.to_string())?;
        let before = mem::replace(&mut self.config, next);
        self.enforcer.set_settings(self.config.enforce_settings());
        self.learner.reconfigure(self.config.learn_config(), self.config.detection.clone());
        if before.never_block != self.config.never_block {
            let system = self.enforcer.set_system(&needs::system_entries(&self.config), now);
            self.commit(system, now);
        }
        // Whoever reads that a policy is in force may rely on it at once, with messages too.
        self.order_messages();
        Ok(())
    }
}

fn is_policy(author: &str) -> bool {
    author.starts_with(BY_POLICY)
}
