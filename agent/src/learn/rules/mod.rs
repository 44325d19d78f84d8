//! Behaviour rules: what is an attack whoever does it, told from flow events by counting.
//!
//! Every tracker is bounded: whatever a sender makes up, the least recently seen entry gives way. Rules look at who began
//! a conversation and whether it came about; they never look at a baseline. Broadcast and multicast are nobody's attack.

mod amplify;
mod arp;
mod brute;
mod dns;
mod flood;
mod insist;
mod lateral;
mod scan;
mod series;
mod slow;
mod spoof;
mod stealth;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tries;

use std::{
    hash::Hash,
    net::{IpAddr, Ipv4Addr},
};

pub use arp::ArpClaim;
pub(super) use arp::{dhcp_spoof, router_spoof};
pub(super) use dns::DnsContext;
pub(super) use insist::Standing;
use lru::LruCache;
pub(super) use scan::is_traceroute;
use tidegate_common::{
    device::{DeviceKey, DeviceWindow},
    flow::{FlowRecord, progress},
    parse::{proto, tcp_flag},
};

use super::{config::RuleConfig, contact::Contact, finding::Finding, technique::Technique};
use crate::{identity::DnsMessage, learn::Subject};

pub(super) const SECOND_NS: u64 = 1_000_000_000;
pub(super) const MILLI_NS: u64 = 1_000_000;

/// All rules with their trackers.
pub(super) struct Rules {
    config: RuleConfig,
    scans: scan::Scans,
    slow_scans: slow::SlowScans,
    amplification: amplify::Amplification,
    spoofing: spoof::Spoofing,
    lateral: lateral::LateralMovement,
    stealth: stealth::StealthScans,
    insistence: insist::Insistence,
    floods: flood::Floods,
    brute: brute::BruteForce,
    arp: arp::ArpSpoofing,
    dns: dns::Dns,
}

/// How a conversation came out, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The other end took part.
    Answered,
    /// The other end refused.
    Refused,
    /// Nothing is known yet, or nobody answered.
    Open,
}

/// How much of what a flow did since it was last looked at came after its subject was last released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// All of the flow.
    Whole,
    /// The flow is older, but not what is new in it.
    Rest,
    /// Some of it may be older.
    Nothing,
}

/// The outcome that a record shows.
pub(super) fn outcome(protocol: u8, record: &FlowRecord) -> Outcome {
    match protocol {
        proto::TCP if record.progress & progress::ESTABLISHED != 0 => Outcome::Answered,
        // A connection whose beginning nobody saw is one if both ends talk in it.
        proto::TCP if record.progress & progress::SYN == 0 && record.inward.payload_bytes > 0 => {
            Outcome::Answered
        }
        proto::TCP if record.progress & progress::RESET != 0 => Outcome::Refused,
        proto::TCP => Outcome::Open,
        _ if record.inward.packets > 0 => Outcome::Answered,
        _ => Outcome::Open,
    }
}

/// Whether an end of a TCP connection has said that it is over: what merely falls silent may go on.
pub(super) const fn has_finished(record: &FlowRecord) -> bool {
    record.progress & (progress::FIN_OUT | progress::FIN_IN | progress::RESET) != 0
}

/// Whether the first packet tries to find something out or to begin something, rather than continue what nobody saw begin.
pub(super) const fn is_attempt(protocol: u8, record: &FlowRecord) -> bool {
    match protocol {
        // SYN, and the NULL, FIN and XMAS probes; ACK and RST belong to a conversation.
        proto::TCP => record.out.packets > 0 && record.out.tcp_flags & (tcp_flag::ACK | tcp_flag::RST) == 0,
        proto::ICMP => record.icmp_type == 8,
        proto::ICMPV6 => record.icmp_type == 128,
        _ => record.out.packets > 0,
    }
}

/// A new finding of a rule.
pub(super) fn finding(
    contact: &Contact<'_>,
    technique: Technique,
    rule: &'static str,
    score: f64,
    first_ns: u64,
    detail: String,
) -> Finding {
    Finding {
        subject: contact.subject,
        victim: Some(contact.victim),
        technique,
        rule: Some(rule),
        score,
        // Rules are not calibrated: how far a rule's confidence lets normal traffic through is an estimate.
        p_value: (1.0 - score).powi(4),
        first_ns,
        at_ns: contact.now_ns,
        detail,
        notes: Vec::new(),
    }
}

/// `7 s` or `0.3 s`.
pub(super) fn seconds(from_ns: u64, to_ns: u64) -> String {
    let tenths = to_ns.saturating_sub(from_ns).div_ceil(SECOND_NS / 10).max(1);
    if tenths.is_multiple_of(10) {
        format!("{} s", tenths / 10)
    } else {
        format!("{}.{} s", tenths / 10, tenths % 10)
    }
}

impl Rules {
    pub(super) fn new(config: RuleConfig) -> Self {
        Self {
            scans: scan::Scans::new(),
            slow_scans: slow::SlowScans::new(),
            amplification: amplify::Amplification::new(),
            spoofing: spoof::Spoofing::new(),
            lateral: lateral::LateralMovement::new(),
            stealth: stealth::StealthScans::new(),
            insistence: insist::Insistence::new(),
            floods: flood::Floods::new(),
            brute: brute::BruteForce::new(),
            arp: arp::ArpSpoofing::new(),
            dns: dns::Dns::new(),
            config,
        }
    }

    pub(super) const fn config(&self) -> &RuleConfig {
        &self.config
    }

    pub(super) fn set_config(&mut self, config: RuleConfig) {
        self.config = config;
    }

    /// A flow's first packet.
    pub(super) fn started(&mut self, contact: &Contact<'_>, standing: Standing, found: &mut Vec<Finding>) {
        if is_attempt(contact.protocol, contact.record) {
            self.insistence.started(&self.config, contact, standing, found);
            self.scans.attempt(&self.config, contact, found);
            self.slow_scans.attempt(&self.config, contact, found);
        }
        self.stealth.started(&self.config, contact, found);
        if contact.record.out.packets > 0 {
            self.floods.started(&self.config, contact, found);
            self.spoofing.started(&self.config, contact, found);
        }
        self.amplification.carried(&self.config, contact, &Progress::default(), found);
    }

    /// A flow as it stands later; `before` is what it was when it was last looked at. Of a flow that began before its subject was
    /// released, only rates since then count.
    pub(super) fn continued(
        &mut self,
        contact: &Contact<'_>,
        before: &Progress,
        ended: bool,
        (since, standing): (Since, Standing),
        found: &mut Vec<Finding>,
    ) {
        if since == Since::Nothing {
            return;
        }
        flood::Floods::continued(&self.config, contact, before, found);
        self.amplification.carried(&self.config, contact, before, found);
        if since == Since::Rest {
            return;
        }
        let outcome = outcome(contact.protocol, contact.record);
        if outcome != Outcome::Open {
            self.scans.outcome(&self.config, contact, outcome, found);
            self.slow_scans.outcome(contact, outcome);
            self.spoofing.outcome(contact, outcome);
        }
        if outcome == Outcome::Refused {
            self.stealth.refused(&self.config, contact, found);
        }
        if outcome == Outcome::Answered && !before.answered {
            self.floods.completed(contact);
        }
        brute::dialogue(&self.config, contact, before, found);
        self.insistence.continued(&self.config, contact, ended, standing, found);
        if ended && outcome == Outcome::Answered {
            self.brute.ended(&self.config, contact, standing, found);
        }
    }

    /// A flow to an address that is not one host's.
    pub(super) fn to_everybody(&self, contact: &Contact<'_>, before: &Progress, found: &mut Vec<Finding>) {
        if is_link_wide(contact.victim) {
            flood::Floods::to_everybody(&self.config, contact, before, found);
        }
    }

    /// A device with a baseline was answered by another one that the baseline does not know.
    pub(super) fn met(&mut self, contact: &Contact<'_>) -> Option<Finding> {
        self.lateral.met(&self.config, contact)
    }

    /// A device's window, whole or growing.
    pub(super) fn window(
        &mut self,
        device: DeviceKey,
        window: &DeviceWindow,
        now_ns: u64,
    ) -> Option<Finding> {
        scan::arp_sweep(&self.config, device, window, now_ns)
    }

    /// A device claims an address that another one holds.
    pub(super) fn arp_claim(&mut self, claim: &ArpClaim, now_ns: u64) -> Option<Finding> {
        self.arp.claim(&self.config, claim, now_ns)
    }

    /// A device asks a resolver, or is answered.
    pub(super) fn dns(&mut self, message: &DnsMessage, context: DnsContext, now_ns: u64) -> Option<Finding> {
        self.dns.message(&self.config, message, context, now_ns)
    }

    /// Forgets what is counted of some subjects.
    pub(super) fn forget(&mut self, about: impl Fn(&Subject) -> bool) {
        self.scans.forget(&about);
        self.slow_scans.forget(&about);
        self.amplification.forget(&about);
        self.spoofing.forget(&about);
        self.lateral.forget(&about);
        self.stealth.forget(&about);
        self.insistence.forget(&about);
        self.floods.forget(&about);
        self.brute.forget(&about);
        self.arp.forget(&about);
        self.dns.forget(&about);
    }

    /// What becomes true by waiting.
    pub(super) fn tick(&mut self, now_ns: u64, found: &mut Vec<Finding>) {
        self.scans.tick(&self.config, now_ns, found);
        self.slow_scans.expire(&self.config, now_ns);
        self.floods.tick(&self.config, now_ns, found);
        self.brute.expire(now_ns);
        self.insistence.expire(now_ns);
    }
}

/// Removes the entries whose keys are meant.
pub(super) fn forget<K: Copy + Eq + Hash, V>(entries: &mut LruCache<K, V>, meant: impl Fn(&K) -> bool) {
    let over: Vec<K> = entries.iter().map(|(key, _)| *key).filter(meant).collect();
    for key in over {
        entries.pop(&key);
    }
}

/// Counters of a flow when it was last looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) packets_out: u64,
    pub(super) packets_in: u64,
    pub(super) bytes_out: u64,
    pub(super) bytes_in: u64,
    pub(super) at_ns: u64,
    pub(super) answered: bool,
}

impl Progress {
    pub(super) fn of(contact: &Contact<'_>) -> Self {
        let FlowRecord { out, inward, .. } = contact.record;
        Self {
            packets_out: out.packets,
            packets_in: inward.packets,
            bytes_out: out.bytes,
            bytes_in: inward.bytes,
            at_ns: contact.record.last_ns(),
            answered: outcome(contact.protocol, contact.record) == Outcome::Answered,
        }
    }
}

/// The technique of finding out what is there, from outside or from inside.
pub(super) const fn discovery(subject: &Subject) -> Technique {
    match subject {
        Subject::Remote(_) => Technique::ACTIVE_SCANNING,
        Subject::Device(_) => Technique::NETWORK_SERVICE_DISCOVERY,
    }
}

/// Services of which one client honestly asks many hosts or often, each time from a new port, over UDP.
pub(super) const fn is_chatty(protocol: u8, port: u16) -> bool {
    protocol == proto::UDP
        && matches!(port, 53 | 67 | 68 | 123 | 443 | 853 | 1900 | 3478..=3481 | 5353 | 5355 | 19302..=19309)
}

/// Whether an address is one of the local networks' (RFC 1918, 3927, 4193, 4291).
pub const fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// Whether an address is everybody's on a link: broadcast and link-local groups, not the groups that media are sent to (RFC 5771).
const fn is_link_wide(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_broadcast(v4) || matches!(v4.octets(), [224, 0, 0, _]),
        IpAddr::V6(v6) => matches!(v6.segments()[0], 0xff01 | 0xff02),
    }
}

/// The limited broadcast address, or that of a private network (RFC 919), whose mask a flow does not tell: of all masks in use, those of 24
/// bits and of fewer end in 255.
const fn is_broadcast(address: Ipv4Addr) -> bool {
    address.is_broadcast() || (address.is_private() && address.octets()[3] == 255)
}

/// Whether an address is one host's.
pub(super) fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_multicast() || is_broadcast(v4) || v4.is_unspecified()),
        IpAddr::V6(v6) => !(v6.is_multicast() || v6.is_unspecified()),
    }
}
