//! Fan-out: many ports of one host (vertical), many hosts on one port (horizontal), many addresses asked for by ARP.
//!
//! An attempt counts once per port or host. Vertical scans are told at once; horizontal ones only from attempts that were
//! refused or stayed unanswered for the grace, because a browser opens many connections before the first is answered.

use std::{net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use tidegate_common::{
    device::{DeviceKey, DeviceWindow},
    parse::proto,
};

use super::{
    Contact, MILLI_NS, Outcome, SECOND_NS, amplify::amplifier, discovery, finding, forget, is_chatty,
    seconds, tries::Tries,
};
use crate::learn::{Finding, RuleConfig, Subject, Technique};

const MAX_PAIRS: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();
const MAX_SERVICES: NonZeroUsize = NonZeroUsize::new(2_048).unwrap();
/// Entries without news for this long are forgotten.
const FORGET_NS: u64 = 600 * SECOND_NS;
/// Probable replies to conversations nobody saw begin must be this many times as many.
const REPLY_FACTOR: u32 = 4;
/// Confidence in tries over UDP that may be those of a peer among peers or of a game looking for servers.
const DOUBTFUL_SCORE: f64 = 0.55;
/// How long an answer may take before a try to a host counts as failed.
const GRACE_NS: u64 = 700 * MILLI_NS;

pub(super) struct Scans {
    /// Ports tried by source and victim; the flag tells probable replies.
    ports: LruCache<(Subject, IpAddr, bool), Tries<(u8, u16)>>,
    /// Hosts tried by source, protocol and port.
    hosts: LruCache<(Subject, u8, u16), Tries<IpAddr>>,
}

impl Scans {
    pub(super) fn new() -> Self {
        Self { ports: LruCache::new(MAX_PAIRS), hosts: LruCache::new(MAX_SERVICES) }
    }

    pub(super) fn attempt(&mut self, config: &RuleConfig, contact: &Contact<'_>, found: &mut Vec<Finding>) {
        let now_ns = contact.now_ns;
        let window_ns = u64::from(config.scan_window_s) * SECOND_NS;
        let slow_ns = u64::from(config.slow_scan_window_s) * SECOND_NS;
        if contact.protocol != proto::ICMP && contact.protocol != proto::ICMPV6 && !is_traceroute(contact) {
            let reply = is_probable_reply(contact);
            let factor = if reply { REPLY_FACTOR } else { 1 };
            let capacity = config.vertical_ports.max(config.slow_vertical_ports) * factor + 4;
            let key = (contact.subject, contact.victim, reply);
            let tries = self.ports.get_or_insert_mut(key, Tries::new);
            tries.note((contact.protocol, contact.port), now_ns, slow_ns, window_ns, capacity as usize);
            found.extend(vertical(config, contact, tries, factor));
        }
        if !is_probable_reply(contact) {
            let limit = host_limit(config, contact.protocol, contact.port);
            let tries =
                self.hosts.get_or_insert_mut((contact.subject, contact.protocol, contact.port), Tries::new);
            tries.note(contact.victim, now_ns, window_ns, window_ns, limit as usize * 2 + 16);
            if tries.len() >= limit as usize {
                let last = contact.victim;
                found.extend(horizontal(
                    config,
                    contact.subject,
                    contact.protocol,
                    contact.port,
                    Some(last),
                    tries,
                    now_ns,
                ));
            }
        }
    }

    pub(super) fn outcome(
        &mut self,
        config: &RuleConfig,
        contact: &Contact<'_>,
        outcome: Outcome,
        found: &mut Vec<Finding>,
    ) {
        let reply = is_probable_reply(contact);
        let factor = if reply { REPLY_FACTOR } else { 1 };
        if let Some(tries) = self.ports.peek_mut(&(contact.subject, contact.victim, reply)) {
            tries.settle((contact.protocol, contact.port), outcome);
            if outcome == Outcome::Refused {
                found.extend(vertical(config, contact, tries, factor));
            }
        }
        if let Some(tries) = self.hosts.peek_mut(&(contact.subject, contact.protocol, contact.port)) {
            tries.settle(contact.victim, outcome);
        }
    }

    pub(super) fn forget(&mut self, about: &impl Fn(&Subject) -> bool) {
        forget(&mut self.ports, |(subject, ..)| about(subject));
        forget(&mut self.hosts, |(subject, ..)| about(subject));
    }

    /// Attempts that stayed unanswered for the grace by now; and forgets what is over.
    pub(super) fn tick(&mut self, config: &RuleConfig, now_ns: u64, found: &mut Vec<Finding>) {
        let window_ns = u64::from(config.scan_window_s) * SECOND_NS;
        for ((subject, protocol, port), tries) in &self.hosts {
            if now_ns.saturating_sub(tries.last_ns()) > window_ns {
                // The most recently touched stand first.
                break;
            }
            found.extend(horizontal(config, *subject, *protocol, *port, None, tries, now_ns));
        }
        let old = |last_ns: u64| now_ns.saturating_sub(last_ns) > FORGET_NS;
        while self.ports.peek_lru().is_some_and(|(_, tries)| old(tries.last_ns())) {
            self.ports.pop_lru();
        }
        while self.hosts.peek_lru().is_some_and(|(_, tries)| old(tries.last_ns())) {
            self.hosts.pop_lru();
        }
    }
}

fn vertical(
    config: &RuleConfig,
    contact: &Contact<'_>,
    tries: &Tries<(u8, u16)>,
    factor: u32,
) -> Option<Finding> {
    let now_ns = contact.now_ns;
    let silent = match contact.subject {
        Subject::Remote(_) => (config.silent_vertical_ports * 2).div_ceil(3),
        Subject::Device(_) => config.silent_vertical_ports,
    } * factor;
    if tries.len() as u32 >= silent {
        let from_ns = now_ns.saturating_sub(u64::from(config.silent_scan_window_s) * SECOND_NS);
        let tally = tries.since(from_ns, now_ns, GRACE_NS);
        if tally.failed >= silent && tally.answered == 0 {
            let detail = format!(
                "{} different ports of {} tried in {}, and none answered",
                tally.tried,
                contact.victim,
                seconds(tally.first_ns, now_ns)
            );
            let rule = "vertical_scan";
            return Some(finding(contact, discovery(&contact.subject), rule, 0.9, tally.first_ns, detail));
        }
    }
    let rates = [
        (config.vertical_ports, config.scan_window_s, "vertical_scan", 0.95),
        (config.slow_vertical_ports, config.slow_scan_window_s, "slow_vertical_scan", 0.85),
    ];
    for (ports, window_s, rule, score) in rates {
        if (tries.len() as u32) < ports * factor {
            continue;
        }
        let tally = tries.since(now_ns.saturating_sub(u64::from(window_s) * SECOND_NS), now_ns, 0);
        if tally.tried >= ports * factor && !tally.mostly_answered(config.scan_answered_share) {
            let detail = format!(
                "{} different ports of {} tried in {}, {} unanswered or refused",
                tally.tried,
                contact.victim,
                seconds(tally.first_ns, now_ns),
                tally.failed
            );
            return Some(finding(contact, discovery(&contact.subject), rule, score, tally.first_ns, detail));
        }
    }
    None
}

fn horizontal(
    config: &RuleConfig,
    subject: Subject,
    protocol: u8,
    port: u16,
    victim: Option<IpAddr>,
    tries: &Tries<IpAddr>,
    now_ns: u64,
) -> Option<Finding> {
    let limit = host_limit(config, protocol, port);
    let from_ns = now_ns.saturating_sub(u64::from(config.scan_window_s) * SECOND_NS);
    let tally = tries.since(from_ns, now_ns, GRACE_NS);
    if tally.failed < limit || tally.mostly_answered(config.scan_answered_share) {
        return None;
    }
    let took = seconds(tally.first_ns, now_ns);
    let (technique, what) = match (protocol, subject) {
        (proto::ICMP | proto::ICMPV6, Subject::Device(_)) => {
            (Technique::REMOTE_SYSTEM_DISCOVERY, "with ICMP echo".to_owned())
        }
        (proto::ICMP | proto::ICMPV6, Subject::Remote(_)) => {
            (Technique::ACTIVE_SCANNING, "with ICMP echo".to_owned())
        }
        _ => (discovery(&subject), format!("on {} port {port}{}", protocol_name(protocol), service(port))),
    };
    let detail = format!(
        "{} different hosts tried {what} in {took}, {} unanswered or refused",
        tally.tried, tally.failed
    );
    let score = match protocol {
        proto::TCP if is_worm_port(protocol, port) => 0.97,
        // That somebody answered is known with a flow's next report, which of a question and its answer comes when both are long over.
        proto::UDP if port >= 1_024 && amplifier(port).is_none() => DOUBTFUL_SCORE,
        _ => 0.92,
    };
    Some(Finding {
        subject,
        victim,
        technique,
        rule: Some("horizontal_scan"),
        score,
        p_value: (1.0_f64 - score).powi(4),
        first_ns: tally.first_ns,
        at_ns: now_ns,
        detail,
        notes: Vec::new(),
    })
}

/// A device that asks for many addresses by ARP.
pub(super) fn arp_sweep(
    config: &RuleConfig,
    device: DeviceKey,
    window: &DeviceWindow,
    now_ns: u64,
) -> Option<Finding> {
    let targets = window.arp_targets.ones();
    (targets >= config.arp_sweep_targets && window.arp_requests >= config.arp_sweep_targets).then(|| {
        Finding {
            subject: Subject::Device(device),
            victim: None,
            technique: Technique::REMOTE_SYSTEM_DISCOVERY,
            rule: Some("arp_sweep"),
            // Honest tools that draw a map of the network do the same.
            score: 0.7,
            p_value: 0.01,
            first_ns: now_ns,
            at_ns: now_ns,
            detail: format!(
                "about {targets} different addresses asked for by {} ARP requests within one window",
                window.arp_requests
            ),
            notes: Vec::new(),
        }
    })
}

fn host_limit(config: &RuleConfig, protocol: u8, port: u16) -> u32 {
    match protocol {
        proto::TCP if is_worm_port(protocol, port) => config.horizontal_hosts_worm,
        // A page is put together from dozens of hosts, some of them gone; a monitor pings all it watches.
        proto::TCP if matches!(port, 80 | 443) => config.horizontal_hosts * 2,
        proto::ICMP | proto::ICMPV6 => config.horizontal_hosts * 2,
        proto::UDP if is_chatty(protocol, port) => config.horizontal_hosts_chatty,
        _ => config.horizontal_hosts,
    }
}

/// Ports by which IoT worms spread (Mirai and its offspring): SSH, Telnet, SMB, RDP, TR-069, ADB, router services.
const fn is_worm_port(protocol: u8, port: u16) -> bool {
    protocol == proto::TCP
        && matches!(
            port,
            22 | 23 | 26 | 445 | 2222 | 2323 | 3389 | 5555 | 7547 | 8291 | 23231 | 37215 | 52869
        )
}

/// A UDP packet from a service port to an ephemeral one answers something nobody saw, or a multicast question.
const fn is_probable_reply(contact: &Contact<'_>) -> bool {
    let from_service = contact.source_port < 1_024 || is_chatty(contact.protocol, contact.source_port);
    let is_lease = matches!((contact.source_port, contact.port), (67, 68));
    contact.protocol == proto::UDP && (is_lease || (from_service && contact.port >= 1_024))
}

/// The ports that traceroute counts up (its manual page: 33434 and following).
pub(in crate::learn) const fn is_traceroute(contact: &Contact<'_>) -> bool {
    contact.protocol == proto::UDP && matches!(contact.port, 33_434..=33_626)
}

const fn protocol_name(protocol: u8) -> &'static str {
    match protocol {
        proto::TCP => "TCP",
        proto::UDP => "UDP",
        _ => "IP",
    }
}

const fn service(port: u16) -> &'static str {
    match port {
        22 | 2222 => " (SSH)",
        23 | 26 | 2323 => " (Telnet)",
        445 => " (SMB)",
        3389 => " (RDP)",
        5555 => " (ADB)",
        7547 => " (TR-069)",
        _ => "",
    }
}
