//! Password guessing: one source, one login service, short conversation after short conversation.
//!
//! Only conversations that came about, in which both ends spoke, count: a client that reconnects after an outage is
//! refused or unanswered and does not look alike. Web and MQTT clients honestly reconnect more, so more attempts, of like
//! size, are asked of them, each answered by what may be the same short refusal: who is answered by contents fetches them. Where the
//! requests repeat, or the baseline knows the service to be used, attempts that are not very fast are doubtful. A long dialogue of short
//! lines with a login service may be guesses inside one connection, or an honest session: it is reported and no more.

use std::{collections::VecDeque, net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use tidegate_common::{flow::FlowRecord, parse::proto};

use super::{
    Contact, Progress, SECOND_NS, Standing, finding, forget, has_finished, seconds,
    series::{are_alike, are_refusals, are_repeated, different},
};
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
/// Confidence in a series that nothing honest explains, and in one that something may: that is no sign beside what `insist` says of
/// the same calls.
const SURE: f64 = 0.92;
const DOUBTFUL: f64 = 0.45;

#[derive(Clone, Copy, Debug)]
struct Attempt {
    at_ns: u64,
    payload_out: u64,
    payload_in: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
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

    pub(super) fn ended(
        &mut self,
        config: &RuleConfig,
        contact: &Contact<'_>,
        standing: Standing,
        found: &mut Vec<Finding>,
    ) {
        let (proto::TCP, Some(service)) = (contact.protocol, service(contact.port)) else { return };
        let FlowRecord { out, inward, .. } = contact.record;
        let most = match service {
            Service::Login(_) => config.attempt_packets,
            Service::Web(_) => config.attempt_packets / WEB_PACKETS_SHARE,
        };
        let short = contact.record.packets() <= most
            && contact.record.last_ns().saturating_sub(contact.record.first_ns()) <= LONGEST_NS;
        if !short || !has_finished(contact.record) || out.payload_bytes == 0 || inward.payload_bytes == 0 {
            return;
        }
        let attempts =
            self.services.get_or_insert_mut((contact.subject, contact.victim, contact.port), VecDeque::new);
        if attempts.len() == MAX_ATTEMPTS {
            attempts.pop_front();
        }
        attempts.push_back(Attempt {
            at_ns: contact.now_ns,
            payload_out: out.payload_bytes,
            payload_in: inward.payload_bytes,
        });
        let name = match service {
            Service::Login(name) | Service::Web(name) => name,
        };
        let Some(Series { count, first_ns, is_sure }) =
            judged(config, attempts, service, contact.now_ns, standing)
        else {
            return;
        };
        let detail = format!(
            "{count} short connections to {name} on {} port {} in {}",
            contact.victim,
            contact.port,
            seconds(first_ns, contact.now_ns)
        );
        let score = if is_sure { SURE } else { DOUBTFUL };
        found.push(finding(contact, Technique::BRUTE_FORCE, "brute_force", score, first_ns, detail));
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

/// Attempts that are enough to be told.
struct Series {
    count: usize,
    first_ns: u64,
    is_sure: bool,
}

/// What the latest attempts are together.
fn judged(
    config: &RuleConfig,
    attempts: &VecDeque<Attempt>,
    service: Service,
    now_ns: u64,
    standing: Standing,
) -> Option<Series> {
    let series = |count: usize| attempts.iter().rev().take(count);
    let requests = |count: usize| series(count).map(|attempt| attempt.payload_out);
    let is_used = standing == Standing::Used;
    match service {
        Service::Login(_) => within(attempts, now_ns, FAST_NS, config.login_attempts_fast)
            .map(|(count, first_ns)| Series { count, first_ns, is_sure: true })
            .or_else(|| {
                let (count, first_ns) = within(attempts, now_ns, LOGIN_NS, config.login_attempts)?;
                // A program that runs one command after the other sends the same each time.
                let is_sure = !is_used && different(requests(count)) > 1;
                Some(Series { count, first_ns, is_sure })
            }),
        Service::Web(_) => {
            let (count, first_ns) = within(attempts, now_ns, WEB_NS, config.web_attempts)?;
            let is_guessing =
                are_alike(requests(count)) && are_refusals(series(count).map(|attempt| attempt.payload_in));
            let is_fast = within(attempts, now_ns, FAST_NS, config.web_attempts).is_some();
            let is_sure = is_fast || !is_used && !are_repeated(requests(count));
            is_guessing.then_some(Series { count, first_ns, is_sure })
        }
    }
}

/// Attempts of the last `window_ns` and the first of them, when there are `enough`.
fn within(attempts: &VecDeque<Attempt>, now_ns: u64, window_ns: u64, enough: u32) -> Option<(usize, u64)> {
    let from_ns = now_ns.saturating_sub(window_ns);
    let recent = attempts.iter().rev().take_while(|attempt| attempt.at_ns >= from_ns);
    let (count, first_ns) = recent.fold((0, now_ns), |(count, _), attempt| (count + 1, attempt.at_ns));
    (count >= enough as usize).then_some((count, first_ns))
}

/// What is guessed at by whoever calls a port again and again.
pub(super) const fn service(port: u16) -> Option<Service> {
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

#[cfg(test)]
mod tests {
    use crate::learn::{
        Phase,
        learner::tests::quick,
        testing::{MS, S, Script, Sim, device, inside},
    };

    /// Calls of one service every `gap`: what each sends and gets.
    fn calls(gap: u64, port: u16, bytes: impl Fn(u32) -> (u32, u32)) -> Script {
        let mut script = Script::default();
        for call in 0..100u32 {
            let (sent, got) = bytes(call);
            let ends = (inside(66, 30_000 + call as u16), inside(7, port));
            script.tcp(
                u64::from(call) * gap,
                ends,
                (1, sent),
                (got.div_ceil(1_400), got.min(1_400)),
                MS,
                true,
            );
        }
        script
    }

    /// Scores of the rule.
    fn scores(script: &mut Script) -> Vec<f64> {
        let found = Sim::new().play(script, 40 * S);
        let of_rule = found.iter().filter(|(_, finding)| finding.rule == Some("brute_force"));
        of_rule.map(|(_, finding)| finding.score).collect()
    }

    #[test]
    fn who_is_answered_by_contents_guesses_nothing() {
        assert!(scores(&mut calls(200 * MS, 80, |call| (100 + call % 30, 18_000))).is_empty());
        assert!(scores(&mut calls(50 * MS, 80, |call| (100 + call % 30, 1_000 * (call % 9)))).is_empty());
        assert_eq!(scores(&mut calls(200 * MS, 80, |call| (100 + call % 30, 420))), [0.92]);
    }

    #[test]
    fn a_request_or_command_over_and_over_is_doubtful() {
        assert_eq!(scores(&mut calls(200 * MS, 80, |_| (140, 600))), [0.45]);
        assert_eq!(scores(&mut calls(20 * MS, 80, |_| (140, 600)))[..1], [0.92], "no poll is so fast");
        assert_eq!(scores(&mut calls(600 * MS, 22, |_| (900, 1_200))), [0.45]);
        assert_eq!(scores(&mut calls(600 * MS, 22, |call| (900 + call % 2 * 16, 1_200))), [0.92]);
    }

    #[test]
    fn connections_left_open_are_no_attempts() {
        let mut script = Script::default();
        for call in 0..45u32 {
            let ends = (inside(66, 30_000 + call as u16), inside(7, 443));
            script.tcp(u64::from(call) * 100 * MS, ends, (2, 260 + call), (2, 600), MS, false);
        }
        assert!(scores(&mut script).is_empty());
    }

    #[test]
    fn a_service_of_the_baseline_that_is_used_more_is_doubtful() {
        let mut sim = Sim::with(quick());
        let mut script = Script::default();
        for call in 0..140u32 {
            let ends = (inside(66, 20_000 + call as u16), inside(7, 80));
            script.tcp(u64::from(call) * 10 * S, ends, (1, 100 + call % 30), (1, 420), MS, true);
        }
        sim.play(&mut script, 1_400 * S);
        assert_eq!(sim.learner.phase(device(66)), Some(Phase::Ready));
        let mut script = calls(200 * MS, 80, |call| (100 + call % 30, 420));
        let found = sim.play(&mut script, 40 * S);
        let found = found.iter().find(|(_, finding)| finding.rule == Some("brute_force"));
        assert_eq!(found.map(|(_, finding)| finding.score), Some(0.45));
    }
}
