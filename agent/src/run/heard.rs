//! What DNS messages and TLS hellos tell: to the detector, and to the event log.

use tidegate_common::verdict::role;

use super::{gateway::Gateway, names::Resolved};
use crate::{
    enforce::{Now, Target},
    identity::{DnsMessage, Heard, Mac},
    judge,
    store::eve_names,
};

impl Gateway {
    pub(super) fn on_heard(&mut self, heard: &Heard, now: Now) {
        if let Heard::Dns(message) = heard {
            let resolver = judge::resolver(&self.registry, self.is_named_resolver(message), message);
            let findings = self.learner.observe_dns(message, resolver, now.kernel_ns);
            self.judge_all(findings);
            if let Some(answer) = message.answer.as_ref().filter(|_| resolver.trusted) {
                let addresses = answer.addresses.iter().map(|(address, _)| *address).collect();
                let resolved = Resolved { name: message.name.clone(), addresses };
                self.on_resolved(&resolved, Some(Mac(message.device.mac)));
            }
        }
        if !self.config.names.log {
            return;
        }
        let event = match heard {
            // Questions that nobody answers are in their flows.
            Heard::Dns(message) if message.answer.is_some() => eve_names::dns(message, now.wall),
            Heard::Dns(_) => return,
            Heard::Tls(connection) => eve_names::tls(connection, now.wall),
        };
        if self.eve.is_some()
            && self.take_line()
            && let Some(eve) = &mut self.eve
        {
            eve.write(&event);
        }
    }

    /// Whether a resolver is one that the system uses or the operator named.
    fn is_named_resolver(&self, message: &DnsMessage) -> bool {
        let target = Target::from(message.resolver);
        self.enforcer.allowed().iter().any(|entry| entry.target == target && entry.roles & role::DNS != 0)
    }
}
