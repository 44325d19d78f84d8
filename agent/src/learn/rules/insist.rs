//! Insistence: one source that calls one service again and again, whether it is let in, refused or left waiting.
//!
//! Three shapes: call after call that fails, as of a program that looks for the host that gives it orders; short calls of like
//! size, as of who guesses passwords slowly or keeps a service busy; and many calls held open with next to nothing said, which
//! starve a service. Sensors insist, too, on the hub they report to. So a device is only sure to do wrong with a destination
//! that its baseline does not know; of one that is still learned, a single sign is reported and no more.

use std::{collections::VecDeque, net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use tidegate_common::{flow::FlowRecord, parse::proto};

use super::{
    Contact, Outcome, SECOND_NS, brute, finding, forget, has_finished, is_local, outcome, seconds,
    series::{are_alike, are_refusals, are_repeated, different},
};
use crate::learn::{Finding, RuleConfig, Subject, Technique};

const MAX_SERVICES: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
/// Calls remembered of one source to one service.
const MAX_CALLS: usize = 128;
const FORGET_NS: u64 = 900 * SECOND_NS;
/// How long an answer may take before a call counts as failed: of one that goes on, the kernel says so every 30 s.
const GRACE_NS: u64 = 35 * SECOND_NS;
/// Share of failing calls that may be answered.
const FEW: f64 = 0.1;
/// A short call has at most so many packets in both directions and lasts no longer.
const SHORT_PACKETS: u64 = 60;
const SHORT_NS: u64 = 15 * SECOND_NS;
/// A call that is held open is at least so old and has at most so many packets a second.
const HELD_NS: u64 = 10 * SECOND_NS;
const IDLE_PACKETS_PER_S: u64 = 2;
/// Hosts called alike from which on it is a round.
const ROUND: usize = 3;
/// What a call brought is content if it is longer than the handshake of TLS, or so long and came when that was over.
const CONTENT: u64 = 6_000;
const LATE_CONTENT: u64 = 1_000;

/// What is known of the two ends of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::learn) enum Standing {
    /// The baseline knows the very service that one uses of the other.
    Used,
    /// They belong together: the baseline knows of it, or a device turned to this host before.
    Known,
    /// A host outside that no device turned to, or a device with a baseline that does not know the destination.
    New,
    /// A device without a baseline.
    Unlearned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Talking,
    Failed,
    Short,
    Long,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    begun_ns: u64,
    packets: u64,
    payload_out: u64,
    payload_in: u64,
    /// Answered with content.
    is_served: bool,
    state: State,
}

pub(super) struct Insistence {
    services: LruCache<(Subject, IpAddr, u16), VecDeque<Call>>,
}

/// A sign found.
struct Sign {
    technique: Technique,
    rule: &'static str,
    first_ns: u64,
    what: String,
    /// Something honest does the same.
    is_doubtful: bool,
}

impl Insistence {
    pub(super) fn new() -> Self {
        Self { services: LruCache::new(MAX_SERVICES) }
    }

    pub(super) fn started(
        &mut self,
        config: &RuleConfig,
        contact: &Contact<'_>,
        standing: Standing,
        found: &mut Vec<Finding>,
    ) {
        if contact.protocol != proto::TCP || matches!(standing, Standing::Used | Standing::Known) {
            return;
        }
        let key = (contact.subject, contact.victim, contact.port);
        let calls = self.services.get_or_insert_mut(key, VecDeque::new);
        if calls.len() == MAX_CALLS {
            calls.pop_front();
        }
        let begun_ns = contact.record.first_ns();
        calls.push_back(Call {
            begun_ns,
            packets: 1,
            payload_out: 0,
            payload_in: 0,
            is_served: false,
            state: State::Open,
        });
        self.judge(config, contact, standing, found);
    }

    pub(super) fn continued(
        &mut self,
        config: &RuleConfig,
        contact: &Contact<'_>,
        ended: bool,
        standing: Standing,
        found: &mut Vec<Finding>,
    ) {
        let key = (contact.subject, contact.victim, contact.port);
        if contact.protocol != proto::TCP || matches!(standing, Standing::Used | Standing::Known) {
            return;
        }
        let Some(calls) = self.services.get_mut(&key) else { return };
        let begun_ns = contact.record.first_ns();
        let Some(call) = calls.iter_mut().rev().find(|call| call.begun_ns == begun_ns) else { return };
        // What is reported of a call after its end changes nothing.
        if matches!(call.state, State::Failed | State::Short | State::Long) {
            return;
        }
        let ended = ended || contact.record.is_closed();
        let FlowRecord { out, inward, .. } = contact.record;
        let took_ns = contact.record.last_ns().saturating_sub(begun_ns);
        call.packets = contact.record.packets();
        call.payload_out = out.payload_bytes;
        call.payload_in = inward.payload_bytes;
        // A handshake makes a call be reported when it begins.
        let is_late = call.state == State::Open && took_ns >= HELD_NS && call.payload_in >= LATE_CONTENT;
        call.is_served |= is_late || call.payload_in >= CONTENT;
        call.state = match outcome(contact.protocol, contact.record) {
            Outcome::Answered if !ended => State::Talking,
            Outcome::Answered
                if has_finished(contact.record) && call.packets <= SHORT_PACKETS && took_ns <= SHORT_NS =>
            {
                State::Short
            }
            Outcome::Answered => State::Long,
            Outcome::Refused => State::Failed,
            Outcome::Open if ended => State::Failed,
            Outcome::Open => State::Open,
        };
        self.judge(config, contact, standing, found);
    }

    fn judge(
        &self,
        config: &RuleConfig,
        contact: &Contact<'_>,
        standing: Standing,
        found: &mut Vec<Finding>,
    ) {
        let Some(calls) = self.services.peek(&(contact.subject, contact.victim, contact.port)) else {
            return;
        };
        let repeated = alike(config, contact, calls).filter(|_| !self.is_round(config, contact));
        let signs = [failing(config, contact, calls), repeated, held(config, contact, calls)];
        for sign in signs.into_iter().flatten() {
            let took = seconds(sign.first_ns, contact.now_ns);
            let score = if standing == Standing::New && !sign.is_doubtful { 0.75 } else { 0.55 };
            let detail = format!("{} port {} of {} in {took}", sign.what, contact.port, contact.victim);
            found.push(finding(contact, sign.technique, sign.rule, score, sign.first_ns, detail));
        }
    }

    /// Whether the source calls the same service of several hosts as much: a hub that asks its devices, many users of popular
    /// sites.
    fn is_round(&self, config: &RuleConfig, contact: &Contact<'_>) -> bool {
        let as_much = config.alike_calls as usize / 2;
        let same = |key: &(Subject, IpAddr, u16)| key.0 == contact.subject && key.2 == contact.port;
        let busy = |calls: &VecDeque<Call>| {
            since(calls, contact.now_ns, config.alike_calls_window_s).count() >= as_much
        };
        self.services.iter().filter(|(key, calls)| same(key) && busy(calls)).count() >= ROUND
    }

    pub(super) fn forget(&mut self, about: &impl Fn(&Subject) -> bool) {
        forget(&mut self.services, |(subject, ..)| about(subject));
    }

    pub(super) fn expire(&mut self, now_ns: u64) {
        let old = |calls: &VecDeque<Call>| {
            calls.back().is_none_or(|last| now_ns.saturating_sub(last.begun_ns) > FORGET_NS)
        };
        while self.services.peek_lru().is_some_and(|(_, calls)| old(calls)) {
            self.services.pop_lru();
        }
    }
}

fn since(calls: &VecDeque<Call>, now_ns: u64, window_s: u32) -> impl Iterator<Item = &Call> {
    let from_ns = now_ns.saturating_sub(u64::from(window_s) * SECOND_NS);
    calls.iter().filter(move |call| call.begun_ns >= from_ns)
}

fn failing(config: &RuleConfig, contact: &Contact<'_>, calls: &VecDeque<Call>) -> Option<Sign> {
    let now_ns = contact.now_ns;
    let (mut failed, mut answered, mut first_ns) = (0_u32, 0_u32, now_ns);
    for call in since(calls, now_ns, config.failing_calls_window_s) {
        first_ns = first_ns.min(call.begun_ns);
        match call.state {
            State::Failed => failed += 1,
            State::Open if now_ns.saturating_sub(call.begun_ns) >= GRACE_NS => failed += 1,
            State::Open => {}
            State::Talking | State::Short | State::Long => answered += 1,
        }
    }
    let is_sign = failed >= config.failing_calls && f64::from(answered) <= FEW * f64::from(failed);
    let technique = match contact.subject {
        Subject::Device(_) => Technique::COMMAND_AND_CONTROL,
        Subject::Remote(_) => Technique::ACTIVE_SCANNING,
    };
    let what = format!("{failed} calls without an answer or refused by");
    // Who gives orders is outside; a neighbour that is called in vain is out of order.
    let is_doubtful = is_neighbour(contact);
    is_sign.then_some(Sign { technique, rule: "failing_calls", first_ns, what, is_doubtful })
}

const fn is_neighbour(contact: &Contact<'_>) -> bool {
    matches!(contact.subject, Subject::Device(_)) && is_local(contact.victim)
}

fn alike(config: &RuleConfig, contact: &Contact<'_>, calls: &VecDeque<Call>) -> Option<Sign> {
    let now_ns = contact.now_ns;
    let recent = || since(calls, now_ns, config.alike_calls_window_s);
    let short: Vec<&Call> =
        recent().filter(|call| call.state == State::Short && call.payload_out > 0).collect();
    let others = recent().filter(|call| matches!(call.state, State::Long | State::Failed)).count();
    if short.len() < config.alike_calls as usize || others * 4 > short.len() {
        return None;
    }
    let requests = || short.iter().map(|call| call.payload_out);
    if !are_alike(requests()) {
        return None;
    }
    let is_login =
        matches!(brute::service(contact.port), Some(brute::Service::Login(_) | brute::Service::Web("RTSP")));
    let is_web = matches!(contact.port, 80 | 443 | 8000 | 8008 | 8080 | 8081 | 8443 | 8888);
    let is_repeated = are_repeated(requests());
    if is_web && !is_repeated && !are_refusals(short.iter().map(|call| call.payload_in)) {
        return None;
    }
    let (technique, rule, why) = if is_login || is_web && !is_repeated {
        (Technique::BRUTE_FORCE, "patient_brute_force", "short calls with changing contents of like size to")
    } else if is_web || matches!(contact.port, 1883 | 8883) {
        (Technique::SERVICE_FLOOD, "service_flood", "short calls of like size to")
    } else {
        (Technique::COMMAND_AND_CONTROL, "insistent_calls", "short calls of like size to")
    };
    let first_ns = short.first().map_or(now_ns, |call| call.begun_ns);
    let what = format!("{} {why}", short.len());
    // A program that runs one command after the other sends the same each time; devices poll their neighbours.
    let is_doubtful =
        is_login && different(requests()) == 1 || rule == "service_flood" && is_neighbour(contact);
    Some(Sign { technique, rule, first_ns, what, is_doubtful })
}

fn held(config: &RuleConfig, contact: &Contact<'_>, calls: &VecDeque<Call>) -> Option<Sign> {
    let now_ns = contact.now_ns;
    let held = || {
        calls.iter().filter(|call| {
            let age_ns = now_ns.saturating_sub(call.begun_ns);
            let idle = call.packets.saturating_mul(SECOND_NS) <= age_ns.saturating_mul(IDLE_PACKETS_PER_S);
            let waits = matches!(call.state, State::Open | State::Talking) && !call.is_served;
            waits && age_ns >= HELD_NS && idle
        })
    };
    let count = held().count();
    // Calls that nobody answers are no load.
    let talks = calls.iter().any(|call| matches!(call.state, State::Talking | State::Short | State::Long));
    let first_ns = held().map(|call| call.begun_ns).min().unwrap_or(now_ns);
    let what = format!("{count} calls held open with next to nothing said to");
    (talks && count >= config.held_calls as usize).then_some(Sign {
        technique: Technique::SERVICE_FLOOD,
        rule: "held_calls",
        first_ns,
        what,
        is_doubtful: false,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{caught_within, honest};
    use crate::learn::{
        Finding, Subject,
        learner::tests::{SENSOR, learned},
        testing::{MS, S, Script, device, inside, outside},
    };

    fn weak(finding: &Finding) {
        assert!((0.5..0.6).contains(&finding.score), "{finding:?}");
    }

    #[test]
    fn calls_in_vain_are_a_sign() {
        let mut script = Script::default();
        for call in 0..120u64 {
            script.refused(call * 700 * MS, inside(66, 40_000 + call as u16), outside(500, 5_888));
        }
        weak(&caught_within(&mut script, "failing_calls", Subject::Device(device(66)), 25 * S));
    }

    #[test]
    fn a_stranger_that_guesses_a_password_every_two_seconds() {
        let mut script = Script::default();
        for call in 0..40u64 {
            let ends = (outside(7, 40_000 + call as u16), inside(7, 8_081));
            script.tcp(call * 2 * S, ends, (1, 373 + (call * 7 % 9) as u32), (1, 80), 10 * MS, true);
        }
        let remote = Subject::Remote(outside(7, 0).0.into());
        let found = caught_within(&mut script, "patient_brute_force", remote, 52 * S);
        assert!(found.technique.id == "T1110" && found.score >= 0.6, "{found:?}");
    }

    #[test]
    fn many_calls_held_open_are_a_sign() {
        let mut script = Script::default();
        for call in 0..60u64 {
            let ends = (inside(66, 40_000 + call as u16), inside(7, 8_080));
            script.tcp(call * 100 * MS, ends, (10, 20), (0, 0), 4 * S, true);
        }
        weak(&caught_within(&mut script, "held_calls", Subject::Device(device(66)), 35 * S));
    }

    #[test]
    fn sensors_that_report_every_few_seconds_and_a_browser_are_honest() {
        let mut script = Script::default();
        for call in 0..80u64 {
            let report = (inside(7, 40_000 + call as u16), inside(10, 8_080));
            script.tcp(call * 4 * S, report, (1, 270), (1, 80), 10 * MS, true);
            let page = (inside(8, 40_000 + call as u16), outside((call % 12) as u32, 443));
            script.tcp(
                call * 250 * MS,
                page,
                (9, 80 + (call * 131 % 900) as u32),
                (20, 1_200),
                20 * MS,
                true,
            );
        }
        honest(&mut script, 330 * S);
    }

    #[test]
    fn connections_kept_for_later_are_neither_short_nor_failed() {
        let mut script = Script::default();
        for call in 0..35u64 {
            let ends = (inside(66, 40_000 + call as u16), outside(9, 443));
            script.tcp(call * 100 * MS, ends, (1, 517), (1, 1_200), 10 * MS, false);
        }
        honest(&mut script, 100 * S);
    }

    #[test]
    fn calls_held_open_between_answers_starve_nobody() {
        for (answer, starves) in [(1_400, false), (0, true)] {
            let mut sim = learned();
            let mut script = Script::default();
            for call in 0..60u64 {
                let ends = (outside(7, 40_000 + call as u16), inside(7, 443));
                script.tcp(call * 800 * MS, ends, (5, 60), (5, answer), 11 * S, false);
            }
            let found = sim.play(&mut script, 50 * S);
            let held = found.iter().any(|(_, finding)| finding.rule == Some("held_calls"));
            assert_eq!(held, starves, "{found:#?}");
        }
    }

    #[test]
    fn a_neighbour_called_in_vain_is_out_of_order_and_gives_no_orders() {
        for (to, score) in [(inside(200, 9_100), 0.55), (outside(77, 9_100), 0.75)] {
            let mut script = Script::default();
            for call in 0..40u64 {
                script.refused(call * 7 * S, inside(SENSOR, 40_000 + call as u16), to);
            }
            let found = learned().play(&mut script, 300 * S);
            let failing = found.iter().find(|(_, finding)| finding.rule == Some("failing_calls"));
            assert_eq!(failing.map(|(_, finding)| finding.score), Some(score));
        }
    }

    #[test]
    fn a_stranger_that_reads_page_after_page_guesses_nothing() {
        let mut script = Script::default();
        for page in 0..60u64 {
            let ends = (outside(7, 40_000 + page as u16), inside(7, 443));
            let got = (3 + page as u32 % 8, 1_300);
            script.tcp(page * 400 * MS, ends, (1, 900 + (page * 7 % 400) as u32), got, 2 * MS, true);
        }
        honest(&mut script, 60 * S);
    }
}
