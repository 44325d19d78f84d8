//! Whose domains a device always uses: learned with its baseline, and asked about when it goes to an address it never went to.
//!
//! A maker's service moves from address to address below the same registered domain. An address that a trusted resolver gave for a name
//! of such a domain is a change and no threat. What a device itself says, by a hello or through a resolver of its own choice, vouches
//! for nothing.

use std::{net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use tidegate_common::device::DeviceKey;

use super::{
    bounded::bounded,
    contact::Contact,
    device::{Device, Phase},
    finding::Finding,
    learner::Learner,
    rules::{DnsContext, SECOND_NS, finding},
    technique::Technique,
};
use crate::identity::{DnsMessage, registered};

const MAX_DOMAINS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
const MAX_ADDRESSES: NonZeroUsize = NonZeroUsize::new(512).unwrap();
/// An address counts as the domain's at least for so long, whatever the answer says.
const SHORTEST_NS: u64 = 600 * SECOND_NS;
/// Confidence in a change: below that of a threat.
const CHANGE_SCORE: f64 = 0.2;

/// What is known about who answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// The gateway itself, or a resolver that the operator named.
    pub trusted: bool,
    /// The device that it is, if it is one.
    pub device: Option<DeviceKey>,
}

/// The domains of a device and the addresses they stand for.
pub(super) struct Domains {
    usual: LruCache<Box<str>, ()>,
    vouched: LruCache<IpAddr, (Box<str>, u64)>,
}

impl Default for Domains {
    fn default() -> Self {
        Self { usual: bounded(MAX_DOMAINS), vouched: bounded(MAX_ADDRESSES) }
    }
}

impl Domains {
    /// The domains, least recently used first, so that putting them in again gives the same order.
    pub(super) fn export(&self) -> Vec<String> {
        self.usual.iter().rev().map(|(domain, ())| domain.to_string()).collect()
    }

    pub(super) fn import(domains: &[String]) -> Self {
        let mut known = Self::default();
        for domain in domains {
            known.usual.put(domain.as_str().into(), ());
        }
        known
    }

    /// An answer of a trusted resolver.
    fn answered(&mut self, phase: Phase, domain: &str, message: &DnsMessage, now_ns: u64) {
        let addresses = message.answer.iter().flat_map(|answer| &answer.addresses);
        if message.answer.as_ref().is_none_or(|answer| answer.addresses.is_empty()) {
            return;
        }
        match phase {
            Phase::Learning => _ = self.usual.put(domain.into(), ()),
            Phase::Ready if self.usual.get(domain).is_some() => {
                for (address, ttl) in addresses {
                    let for_ns = (u64::from(*ttl) * SECOND_NS).clamp(SHORTEST_NS, 86_400 * SECOND_NS);
                    self.vouched.put(*address, (message.name.as_str().into(), now_ns.saturating_add(for_ns)));
                }
            }
            Phase::Ready => {}
        }
    }
}

impl Learner {
    /// A DNS message of a device. An answer belongs here before the flow that follows from it.
    pub fn observe_dns(&mut self, message: &DnsMessage, resolver: Resolver, now_ns: u64) -> Vec<Finding> {
        let state = self.devices.get_or_insert_mut(message.device, || Device::new(&self.config, now_ns));
        for (address, _) in
            message.answer.iter().filter(|_| resolver.trusted).flat_map(|answer| &answer.addresses)
        {
            state.services.named(*address, &message.name);
        }
        let mut is_usual = false;
        if let Some(registered) = registered(&message.name) {
            is_usual = state.phase == Phase::Ready && state.domains.usual.contains(registered.domain);
            if resolver.trusted {
                state.domains.answered(state.phase, registered.domain, message, now_ns);
            }
        }
        let context = DnsContext { is_usual, resolver: resolver.device };
        let found = self.rules.dns(message, context, now_ns).into_iter().collect();
        self.report(found, now_ns)
    }
}

/// A device with a baseline goes to an address that the baseline does not know. When a domain it always uses stands for it, that is
/// a change, and the address is known from now on.
pub(super) fn moved(state: &mut Device, contact: &Contact<'_>) -> Option<Finding> {
    let (name, until_ns) = state.domains.vouched.get(&contact.victim)?;
    if *until_ns <= contact.now_ns {
        return None;
    }
    let detail = format!(
        "its first contact with {}, which is {name}, of a domain that it used while it was learned",
        contact.victim
    );
    state.known.put(contact.victim, ());
    Some(finding(contact, Technique::CHANGE, "known_domain", CHANGE_SCORE, contact.now_ns, detail))
}

#[cfg(test)]
#[path = "naming_tests.rs"]
mod tests;
