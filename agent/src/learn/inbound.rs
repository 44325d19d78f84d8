//! Who turns to a device from outside without having been asked.
//!
//! A device that was learned has shown which services it offers to the outside, mostly none. A stranger, to whom no device ever
//! turned, that knocks where none was offered and is not let in, is probing: one try is evidence enough, because nobody who has
//! business there tries it. Whoever is let in all the same found something that the baseline does not know: that is reported.
//!
//! Source addresses of single packets may be forged, so what is blocked by them is kept within a budget an hour and never
//! touches a host that a device turned to; hosts with local addresses are left to the scan rules.

use std::{collections::VecDeque, net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use tidegate_common::{device::DeviceKey, parse::proto};

use super::{
    config::RuleConfig,
    contact::Contact,
    finding::{Finding, Subject},
    rules::{Outcome, SECOND_NS, finding, forget, is_attempt, is_local, outcome},
    services::Services,
    technique::Technique,
};

/// The rule that speaks of strangers' tries.
pub const PROBE_RULE: &str = "unsolicited_probe";

const MAX_MET: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
const MAX_SOCKETS: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();
const MAX_WAITING: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();
/// How long an answer may take.
const GRACE_NS: u64 = 3 * SECOND_NS;
const HOUR_NS: u64 = 3_600 * SECOND_NS;
/// Chance that a stranger knocks in vain at a device that nobody outside ever called while it was learned; an estimate.
const PROBE_P: f64 = 1e-6;
/// Confidence of what is only reported once the budget is spent.
const REPORTED: f64 = 0.55;

/// A try that nobody has answered yet.
type Knock = (IpAddr, IpAddr, (u8, u16));

pub(super) struct Inbound {
    /// Hosts outside that a device turned to.
    met: LruCache<IpAddr, ()>,
    /// Ports from which devices began conversations without connections: whoever answers there was most likely invited.
    sockets: LruCache<(DeviceKey, u16), ()>,
    waiting: LruCache<Knock, u64>,
    /// When strangers were last found that are to be blocked.
    spent: VecDeque<u64>,
}

impl Inbound {
    pub(super) fn new() -> Self {
        Self {
            met: LruCache::new(MAX_MET),
            sockets: LruCache::new(MAX_SOCKETS),
            waiting: LruCache::new(MAX_WAITING),
            spent: VecDeque::new(),
        }
    }

    /// A device turns to a host outside.
    pub(super) fn outward(&mut self, device: DeviceKey, contact: &Contact<'_>) {
        self.met.put(contact.victim, ());
        if contact.protocol == proto::UDP {
            self.sockets.put((device, contact.source_port), ());
        }
    }

    /// Hosts that a device turned to before, as its baseline says.
    pub(super) fn meet(&mut self, known: &[IpAddr]) {
        for host in known {
            self.met.put(*host, ());
        }
    }

    /// Whether a device turned to a host before.
    pub(super) fn has_met(&self, host: &IpAddr) -> bool {
        self.met.contains(host)
    }

    /// Whether a flow from outside is a stranger's try of something that is none of the device's known `services`.
    pub(super) fn is_uninvited(&self, device: DeviceKey, contact: &Contact<'_>, services: &Services) -> bool {
        let Subject::Remote(source) = contact.subject else { return false };
        let invited = contact.protocol == proto::UDP && self.sockets.contains(&(device, contact.port));
        !(is_local(source)
            || invited
            || self.met.contains(&source)
            || services.are_offered_outside(contact.protocol, contact.port))
    }

    /// A stranger knocks.
    pub(super) fn knock(&mut self, contact: &Contact<'_>) {
        if is_attempt(contact.protocol, contact.record) {
            self.waiting.put(name(contact), contact.now_ns);
        }
    }

    /// A flow from outside, at whose beginning somebody knocked, as it stands later.
    pub(super) fn continued(
        &mut self,
        config: &RuleConfig,
        contact: &Contact<'_>,
        ended: bool,
        found: &mut Vec<Finding>,
    ) {
        let outcome = outcome(contact.protocol, contact.record);
        if outcome == Outcome::Open && !ended {
            return;
        }
        let Some(at_ns) = self.waiting.pop(&name(contact)) else { return };
        if outcome == Outcome::Answered && matches!(contact.protocol, proto::TCP | proto::UDP) {
            let detail = format!(
                "{} port {} of {} let a stranger in, and its baseline knows of no service there",
                protocol(contact.protocol),
                contact.port,
                contact.victim
            );
            found.push(finding(contact, Technique::ACTIVE_SCANNING, "new_service", REPORTED, at_ns, detail));
        } else {
            found.push(self.probe(config, name(contact), at_ns, contact.now_ns));
        }
    }

    /// Tries that stayed unanswered.
    pub(super) fn tick(&mut self, config: &RuleConfig, now_ns: u64, found: &mut Vec<Finding>) {
        while let Some((knock, at_ns)) = self.waiting.peek_lru().map(|(knock, at_ns)| (*knock, *at_ns))
            && now_ns.saturating_sub(at_ns) >= GRACE_NS
        {
            self.waiting.pop_lru();
            found.push(self.probe(config, knock, at_ns, now_ns));
        }
    }

    pub(super) fn forget(&mut self, about: &impl Fn(&Subject) -> bool) {
        forget(&mut self.waiting, |(source, ..)| about(&Subject::Remote(*source)));
    }

    fn probe(&mut self, config: &RuleConfig, knock: Knock, at_ns: u64, now_ns: u64) -> Finding {
        let (source, victim, (proto, port)) = knock;
        while self.spent.front().is_some_and(|at_ns| now_ns.saturating_sub(*at_ns) > HOUR_NS) {
            self.spent.pop_front();
        }
        let within_budget = self.spent.len() < config.probe_blocks_per_hour as usize;
        let sure = match proto {
            proto::TCP => 0.75,
            _ => 0.65,
        };
        let score = if within_budget { sure } else { REPORTED };
        if within_budget {
            self.spent.push_back(now_ns);
        }
        let detail = match proto {
            proto::TCP | proto::UDP => format!(
                "a stranger tried {} port {port} of {victim}, where its baseline knows of no service, and was not let in",
                protocol(proto)
            ),
            _ => format!(
                "a stranger looked whether {victim} is there, which never offered a service to the outside"
            ),
        };
        Finding {
            subject: Subject::Remote(source),
            victim: Some(victim),
            technique: Technique::ACTIVE_SCANNING,
            rule: Some(PROBE_RULE),
            score,
            p_value: PROBE_P,
            first_ns: at_ns,
            at_ns: now_ns,
            detail,
            notes: Vec::new(),
        }
    }
}

const fn name(contact: &Contact<'_>) -> Knock {
    (contact.source, contact.victim, (contact.protocol, contact.port))
}

const fn protocol(protocol: u8) -> &'static str {
    match protocol {
        proto::TCP => "TCP",
        proto::UDP => "UDP",
        _ => "IP",
    }
}

#[cfg(test)]
#[path = "inbound_tests.rs"]
mod tests;
