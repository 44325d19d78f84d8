//! Answers to operators: every request of the API, answered once, orders audited.

use super::{
    gateway::{Gateway, now},
    views,
};
use crate::{
    api::{Operator, Refusal, RefusalKind, Request, view::EventKind},
    enforce::{self, EnforceError, Target},
    identity::Mac,
    store::{AuditEntry, Durability},
};

pub(super) type Answer<T> = Result<T, Refusal>;

/// Hints that several refusals share.
pub(super) const SEEN: &str = "`tidegate devices list` shows what was seen";
pub(super) const LIST_BLOCKS: &str = "`tidegate blocks list` shows what is in force";

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
            Request::Describe { device, reply } => drop(reply.send(self.description(&device))),
            Request::Profile { device, reply } => drop(reply.send(self.profile_of(&device))),
            Request::ApplyProfile { device, description, operator, reply } => {
                let answer = self.apply_profile(&device, &description, &operator);
                let detail = answer.as_ref().map_or("", |view| view.url.as_str());
                self.audit(&operator, "apply profile", &device.to_string(), detail, &answer);
                drop(reply.send(answer));
            }
            Request::RemoveProfile { device, operator, reply } => {
                let answer = self.remove_profile(&device);
                self.audit(&operator, "remove profile", &device.to_string(), "", &answer);
                drop(reply.send(answer));
            }
            Request::Policy { reply } => drop(reply.send(self.policy_view())),
            Request::CheckPolicy { sealed, reply } => drop(reply.send(self.check_policy(&sealed))),
            Request::ApplyPolicy { sealed, operator, reply } => {
                let answer = self.apply_policy(&sealed, &operator.to_string());
                let version = answer.as_ref().ok().and_then(|view| view.version);
                let detail = version.map(|version| version.to_string()).unwrap_or_default();
                self.audit(&operator, "apply policy", "", &detail, &answer);
                drop(reply.send(answer));
            }
            Request::RollbackPolicy { operator, reply } => {
                let answer = self.rollback_policy();
                self.audit(&operator, "roll back policy", "", "", &answer);
                drop(reply.send(answer));
            }
            Request::Neighbours { reply } => drop(reply.send(Ok(self.neighbours_view()))),
            Request::Commands { reply } => drop(reply.send(self.commands_view())),
            Request::Command { id, reply } => drop(reply.send(self.held_command(&id))),
            Request::ReleaseCommand { id, operator, reply } => {
                let answer = self.release_command(&id, &operator);
                let detail = answer.as_ref().map_or("", |view| view.device.as_str());
                self.audit(&operator, "release command", &id, detail, &answer);
                drop(reply.send(answer));
            }
            Request::DropCommand { id, operator, reply } => {
                let answer = self.drop_command(&id, &operator);
                let detail = answer.as_ref().map_or("", |view| view.device.as_str());
                self.audit(&operator, "drop command", &id, detail, &answer);
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
}

pub(super) fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::failed(error.to_string(), "`tidegate doctor` checks what the gateway depends on")
}

pub(super) fn refused(error: impl std::borrow::Borrow<EnforceError>) -> Refusal {
    let error = error.borrow();
    let kind = match error {
        EnforceError::Refused(enforce::Refusal::NotFound { .. }) => RefusalKind::NotFound,
        EnforceError::Refused(_) => RefusalKind::Refused,
        EnforceError::Table(_) => RefusalKind::Failed,
    };
    Refusal { kind, cause: error.to_string(), hint: String::new() }
}
