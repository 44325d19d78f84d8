//! Password guessing: one source, one login service, short conversation after short conversation.
//!
//! Only conversations that came about, in which both ends spoke, count: a client that reconnects after an outage is
//! refused or unanswered and does not look alike. Web and MQTT clients honestly reconnect more, so more attempts, of like
//! size, are asked of them. A long dialogue of short lines with a login service may be guesses inside one connection, or an
//! honest session: it is reported and no more.

use std::{collections::VecDeque, net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use tidegate_common::{flow::FlowRecord, parse::proto};

use super::{Contact, Progress, SECOND_NS, finding, forget, seconds};
use crate::learn::{Finding, RuleConfig, Subject, Technique};

const MAX_SERVICES: NonZeroUsize = NonZeroUsize::new(2_048).unwrap();
const MAX_ATTEMPTS: usize = 128;
const FAST_NS: u64 = 2 * SECOND_NS;
const LOGIN_NS: u64 = 20 * SECOND_NS;
const WEB_NS: u64 = 10 * SECOND_NS;
/// An attempt takes no longer than the patience of a login prompt.
const LONGEST_NS: u64 = 60 * SECOND_NS;
/// A web or MQTT attempt is smaller than a login's: this share of its packets.
const WEB_PACKETS_SHARE: u64 = 3;

#[derive(Clone, Copy, Debug)]
struct Attempt {
    at_ns: u64,
    payload_out: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Login(&'static str),
    Web(&'static str),
}

pub(super) struct BruteForce {
    services: LruCache<(Subject, IpAddr, u16), VecDeque<Attempt>>,
}

impl BruteForce {
    pub(super) fn new() -> Self {
        Self { services: LruCache::new(MAX_SERVICES) }
    }

    pub(super) fn forget(&mut self, about: &impl Fn(&Subject) -> bool) {
        forget(&mut self.services, |(subject, ..)| about(subject));
    }

    pub(super) fn ended(&mut self, config: &RuleConfig, contact: &Contact<'_>, found: &mut Vec<Finding>) {
        let (proto::TCP, Some(service)) = (contact.protocol, service(contact.port)) else { return };
        let FlowRecord { out, inward, .. } = contact.record;
        let most = match service {
            Service::Login(_) => config.attempt_packets,
            Service::Web(_) => config.attempt_packets / WEB_PACKETS_SHARE,
        };
        let short = contact.record.packets() <= most
            && contact.record.last_ns().saturating_sub(contact.record.first_ns()) <= LONGEST_NS;
        if !short || out.payload_bytes == 0 || inward.payload_bytes == 0 {
            return;
        }
        let attempts =
            self.services.get_or_insert_mut((contact.subject, contact.victim, contact.port), VecDeque::new);
        if attempts.len() == MAX_ATTEMPTS {
            attempts.pop_front();
        }
        attempts.push_back(Attempt { at_ns: contact.now_ns, payload_out: out.payload_bytes });
        let name = match service {
            Service::Login(name) | Service::Web(name) => name,
        };
        let judged = match service {
            Service::Login(_) => within(attempts, contact.now_ns, FAST_NS, config.login_attempts_fast)
                .or_else(|| within(attempts, contact.now_ns, LOGIN_NS, config.login_attempts)),
            Service::Web(_) => within(attempts, contact.now_ns, WEB_NS, config.web_attempts)
                .filter(|(count, _)| are_alike(attempts.iter().rev().take(*count))),
        };
        if let Some((count, first_ns)) = judged {
            let detail = format!(
                "{count} short connections to {name} on {} port {} in {}",
                contact.victim,
                contact.port,
                seconds(first_ns, contact.now_ns)
            );
            found.push(finding(contact, Technique::BRUTE_FORCE, "brute_force", 0.92, first_ns, detail));
        }
    }

    pub(super) fn expire(&mut self, now_ns: u64) {
        let old = |attempts: &VecDeque<Attempt>| {
            attempts.back().is_none_or(|last| now_ns.saturating_sub(last.at_ns) > LONGEST_NS)
        };
        while self.services.peek_lru().is_some_and(|(_, attempts)| old(attempts)) {
            self.services.pop_lru();
        }
    }
}

/// Line after line from both ends of one connection to a service that asks for passwords in clear text.
pub(super) fn dialogue(
    config: &RuleConfig,
    contact: &Contact<'_>,
    before: &Progress,
    found: &mut Vec<Finding>,
) {
    /// Mean payload of a packet, bare acknowledgements included: a name or password, and the refusal with a new prompt.
    const LINE: std::ops::RangeInclusive<u64> = 3..=96;
    if contact.protocol != proto::TCP || !matches!(contact.port, 21 | 23 | 110 | 143 | 2323) {
        return;
    }
    let FlowRecord { out, inward, .. } = contact.record;
    let sent = out.packets.saturating_sub(before.packets_out);
    let took_ns = contact.record.last_ns().saturating_sub(before.at_ns.max(contact.record.first_ns()));
    let lines = |packets: u64, payload: u64| packets > 0 && LINE.contains(&(payload / packets));
    let is_dialogue = lines(out.packets, out.payload_bytes) && lines(inward.packets, inward.payload_bytes);
    let quick = sent.saturating_mul(SECOND_NS) >= took_ns.max(1);
    if sent > 0 && is_dialogue && quick && out.packets >= u64::from(config.login_lines) {
        let first_ns = contact.record.first_ns();
        let detail = format!(
            "{} short lines to port {} of {} within one connection in {}, each answered by another",
            out.packets,
            contact.port,
            contact.victim,
            seconds(first_ns, contact.now_ns)
        );
        found.push(finding(contact, Technique::BRUTE_FORCE, "login_dialogue", 0.45, first_ns, detail));
    }
}

/// Attempts of the last `window_ns` and the first of them, when there are `enough`.
fn within(attempts: &VecDeque<Attempt>, now_ns: u64, window_ns: u64, enough: u32) -> Option<(usize, u64)> {
    let from_ns = now_ns.saturating_sub(window_ns);
    let recent = attempts.iter().rev().take_while(|attempt| attempt.at_ns >= from_ns);
    let (count, first_ns) = recent.fold((0, now_ns), |(count, _), attempt| (count + 1, attempt.at_ns));
    (count >= enough as usize).then_some((count, first_ns))
}

/// Passwords differ by a few bytes; pages and uploads by far more.
fn are_alike<'a>(attempts: impl Iterator<Item = &'a Attempt>) -> bool {
    let (low, high) = attempts.fold((u64::MAX, 0), |(low, high), attempt| {
        (low.min(attempt.payload_out), high.max(attempt.payload_out))
    });
    high <= low.saturating_mul(2).saturating_add(64)
}

const fn service(port: u16) -> Option<Service> {
    Some(match port {
        21 => Service::Login("FTP"),
        22 | 2222 => Service::Login("SSH"),
        23 | 2323 => Service::Login("Telnet"),
        110 | 143 | 993 | 995 => Service::Login("mail"),
        3389 => Service::Login("RDP"),
        5900 => Service::Login("VNC"),
        80 | 8000 | 8080 | 8081 | 8888 => Service::Web("HTTP"),
        443 | 8443 => Service::Web("HTTPS"),
        1883 | 8883 => Service::Web("MQTT"),
        554 | 8554 => Service::Web("RTSP"),
        _ => return None,
    })
}
