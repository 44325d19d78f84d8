//! Floods: more new flows, or more packets in one flow, than anything honest sends without being answered.
//!
//! Rates are judged over half seconds that have ended, so that answers have had time to arrive, except when a half second
//! holds several times the limit; a flood that is over by then is judged by the next tick. Packet rates inside a flow come
//! from the difference between two reports of it.

use std::{net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use tidegate_common::{device::Sketch, flow::FlowRecord, parse::proto, pod::Addr};

use super::{Contact, Progress, SECOND_NS, finding, forget, is_chatty};
use crate::learn::{Finding, RuleConfig, Subject, Technique};

const MAX_PAIRS: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();
const MAX_VICTIMS: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
const SLOT_NS: u64 = SECOND_NS / 2;
/// A single half second with this many times the limit needs no waiting for answers.
const AT_ONCE: u32 = 4;
/// Honest clients of a chatty service may be this many times as busy.
const CHATTY_FACTOR: u32 = 10;
/// Different sources (sketch bits) from which on nobody in particular is to blame.
const MANY_SOURCES: u32 = 48;
/// Mean IP length of a UDP packet, below which a stream of them is no media: header and 172 bytes.
const SMALL_PACKET: u64 = 200;
/// Packets between two reports from which a rate can be told.
const MIN_PACKETS: u64 = 50;
/// The same for packets to everybody.
const MIN_TO_EVERYBODY: u64 = 400;
const FORGET_NS: u64 = 60 * SECOND_NS;
/// A pair that begun nothing for so long needs no judging.
const RECENT_NS: u64 = 2 * SECOND_NS;
/// Confidence of the flood rules.
const SURE: f64 = 0.95;

/// New flows by half second: the running one and the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    slot: u64,
    current: Slot,
    previous: Slot,
    first_ns: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    begun: u32,
    completed: u32,
    sources: Sketch,
}

impl Rate {
    fn roll(&mut self, now_ns: u64) {
        let slot = now_ns / SLOT_NS;
        if slot != self.slot {
            self.previous = if slot == self.slot + 1 { self.current } else { Slot::default() };
            self.current = Slot::default();
            if self.previous.begun == 0 {
                self.first_ns = now_ns;
            }
            self.slot = slot;
        }
    }

    fn begin(&mut self, now_ns: u64, source: IpAddr) {
        if self.first_ns == 0 {
            self.first_ns = now_ns;
        }
        self.roll(now_ns);
        self.current.begun = self.current.begun.saturating_add(1);
        self.current.sources.add(mix(source));
    }

    /// New flows a second when there are `limit` of them and too few came about.
    fn unanswered_above(&self, limit: u32, share: f64) -> Option<u32> {
        let few = |completed: u32, begun: u32| f64::from(completed) <= share * f64::from(begun);
        let Self { current, previous, .. } = self;
        if current.begun >= limit / 2 * AT_ONCE && few(current.completed, current.begun) {
            return Some(current.begun.saturating_mul(2));
        }
        let completed = previous.completed.saturating_add(current.completed);
        (previous.begun >= limit.div_ceil(2) && few(completed, previous.begun))
            .then(|| previous.begun.saturating_mul(2))
    }

    fn is_old(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.slot * SLOT_NS) > FORGET_NS
    }
}

/// Source, victim, protocol and, for TCP, port.
type Pair = (Subject, IpAddr, u8, u16);

pub(super) struct Floods {
    /// New flows.
    pairs: LruCache<Pair, Rate>,
    /// New flows from outside by victim and protocol.
    victims: LruCache<(IpAddr, u8), Rate>,
}

impl Floods {
    pub(super) fn new() -> Self {
        Self { pairs: LruCache::new(MAX_PAIRS), victims: LruCache::new(MAX_VICTIMS) }
    }

    pub(super) fn forget(&mut self, about: &impl Fn(&Subject) -> bool) {
        forget(&mut self.pairs, |(subject, ..)| about(subject));
    }

    /// Packets to everybody in the network, faster than any announcement comes.
    pub(super) fn to_everybody(
        config: &RuleConfig,
        contact: &Contact<'_>,
        before: &Progress,
        found: &mut Vec<Finding>,
    ) {
        let packets = contact.record.out.packets.saturating_sub(before.packets_out);
        let from_ns = if before.at_ns == 0 { contact.record.first_ns() } else { before.at_ns };
        let took_ns = contact.record.last_ns().saturating_sub(from_ns).max(1);
        let rate = u128::from(packets) * u128::from(SECOND_NS) / u128::from(took_ns);
        if packets < MIN_TO_EVERYBODY || rate < u128::from(config.broadcast_flood_pps) {
            return;
        }
        let detail = format!(
            "{packets} {} packets to {}, which is everybody, at about {rate} a second",
            name(contact.protocol),
            place(contact.port, contact.victim)
        );
        found.push(finding(contact, Technique::NETWORK_FLOOD, "broadcast_flood", 0.9, from_ns, detail));
    }

    pub(super) fn started(&mut self, config: &RuleConfig, contact: &Contact<'_>, found: &mut Vec<Finding>) {
        let now_ns = contact.now_ns;
        let pair = self.pairs.get_or_insert_mut(pair_key(contact), Rate::default);
        pair.begin(now_ns, contact.source);
        found.extend(of_pair(config, pair_key(contact), contact.port, pair, now_ns));
        if let Subject::Remote(_) = contact.subject {
            let victim = self.victims.get_or_insert_mut((contact.victim, contact.protocol), Rate::default);
            victim.begin(now_ns, contact.source);
            found.extend(distributed(config, contact, victim));
        }
    }

    /// A flow turned out to be a conversation.
    pub(super) fn completed(&mut self, contact: &Contact<'_>) {
        let count = |rate: &mut Rate| {
            rate.roll(contact.now_ns);
            rate.current.completed = rate.current.completed.saturating_add(1);
        };
        self.pairs.peek_mut(&pair_key(contact)).map(count);
        self.victims.peek_mut(&(contact.victim, contact.protocol)).map(count);
    }

    /// Packet rates inside one flow.
    pub(super) fn continued(
        config: &RuleConfig,
        contact: &Contact<'_>,
        before: &Progress,
        found: &mut Vec<Finding>,
    ) {
        let FlowRecord { out, inward, .. } = contact.record;
        let packets = out.packets.saturating_sub(before.packets_out);
        let answers = inward.packets.saturating_sub(before.packets_in);
        let from_ns = if before.at_ns == 0 { contact.record.first_ns() } else { before.at_ns };
        let took_ns = contact.record.last_ns().saturating_sub(from_ns).max(1);
        let rate = u128::from(packets) * u128::from(SECOND_NS) / u128::from(took_ns);
        let above = |limit: u32| rate >= u128::from(limit);
        let unanswered = answers as f64 <= config.flood_answered_share * packets as f64;
        let small = out.bytes.saturating_sub(before.bytes_out) / packets.max(1) < SMALL_PACKET;
        let syns = u64::from(out.flag_counts()[1]);
        if matches!(contact.protocol, proto::ICMP | proto::ICMPV6)
            && answers >= MIN_PACKETS
            && answers > packets
        {
            found.extend(answering(config, contact, answers, from_ns, took_ns));
        }
        if packets < MIN_PACKETS {
            return;
        }
        let is_flood = match contact.protocol {
            proto::ICMP | proto::ICMPV6 => above(config.icmp_flood_pps),
            // SYN after SYN within one flow: the flags are counted over its first 65,535 packets.
            proto::TCP => {
                syns >= MIN_PACKETS && syns * 2 >= out.packets.min(65_535) && above(config.syn_flood_per_s)
            }
            _ => unanswered && (small && above(config.udp_flood_pps) || above(config.udp_flood_any_size_pps)),
        };
        if is_flood {
            let (technique, rule, _) = kind(contact.protocol);
            let detail = format!(
                "{packets} {} packets to {} in one flow at about {rate} a second, {answers} packets back",
                name(contact.protocol),
                place(contact.port, contact.victim)
            );
            found.push(finding(contact, technique, rule, SURE, from_ns, detail));
        }
    }

    /// Judges what was the last of a flood; forgets what is over.
    pub(super) fn tick(&mut self, config: &RuleConfig, now_ns: u64, found: &mut Vec<Finding>) {
        for (pair, rate) in &self.pairs {
            // The most recently touched stand first.
            if now_ns.saturating_sub(rate.slot * SLOT_NS) > RECENT_NS {
                break;
            }
            // What began less than half a second ago may still be answered.
            if rate.slot + 1 < now_ns / SLOT_NS {
                let mut ended = *rate;
                (ended.previous, ended.current) = (rate.current, Slot::default());
                found.extend(of_pair(config, *pair, pair.3, &ended, now_ns));
            }
        }
        while self.pairs.peek_lru().is_some_and(|(_, rate)| rate.is_old(now_ns)) {
            self.pairs.pop_lru();
        }
        while self.victims.peek_lru().is_some_and(|(_, rate)| rate.is_old(now_ns)) {
            self.victims.pop_lru();
        }
    }
}

fn distributed(config: &RuleConfig, contact: &Contact<'_>, victim: &Rate) -> Option<Finding> {
    let sources = victim.previous.sources.ones().max(victim.current.sources.ones());
    if sources < MANY_SOURCES {
        return None;
    }
    let rate = victim.unanswered_above(config.distributed_flood_per_s, config.flood_answered_share)?;
    let (technique, _, what) = kind(contact.protocol);
    let detail =
        format!("about {rate} {what} a second to {} from many sources, few completed", contact.victim);
    let many = Subject::Remote(IpAddr::from([0, 0, 0, 0]));
    Some(Finding {
        subject: many,
        ..finding(contact, technique, "distributed_flood", 0.9, victim.first_ns, detail)
    })
}

/// A flood of ICMP by the end that was heard second, as neighbour discovery begins in either direction.
fn answering(
    config: &RuleConfig,
    contact: &Contact<'_>,
    packets: u64,
    from_ns: u64,
    took_ns: u64,
) -> Option<Finding> {
    let rate = u128::from(packets) * u128::from(SECOND_NS) / u128::from(took_ns);
    if rate < u128::from(config.icmp_flood_pps) {
        return None;
    }
    let detail = format!(
        "{packets} ICMP packets to {} in one flow at about {rate} a second, which asked for few of them",
        contact.source
    );
    let found = finding(contact, Technique::NETWORK_FLOOD, "icmp_flood", SURE, from_ns, detail);
    let subject = contact.ends.responder.map_or(Subject::Remote(contact.victim), Subject::Device);
    Some(Finding { subject, victim: Some(contact.source), ..found })
}

fn of_pair(config: &RuleConfig, pair: Pair, port: u16, rate: &Rate, now_ns: u64) -> Option<Finding> {
    let (subject, victim, protocol, _) = pair;
    let limit = match protocol {
        proto::TCP => config.syn_flood_per_s,
        _ if is_chatty(protocol, port) => config.udp_flood_flows_per_s.saturating_mul(CHATTY_FACTOR),
        _ => config.udp_flood_flows_per_s,
    };
    let per_second = rate.unanswered_above(limit, config.flood_answered_share)?;
    let (technique, rule, what) = kind(protocol);
    Some(Finding {
        subject,
        victim: Some(victim),
        technique,
        rule: Some(rule),
        score: SURE,
        p_value: (1.0_f64 - SURE).powi(4),
        first_ns: rate.first_ns,
        at_ns: now_ns,
        detail: format!(
            "about {per_second} {what} a second to {}, {} of them completed",
            place(port, victim),
            rate.previous.completed + rate.current.completed
        ),
        notes: Vec::new(),
    })
}

const fn pair_key(contact: &Contact<'_>) -> Pair {
    let port = if contact.protocol == proto::TCP || is_chatty(contact.protocol, contact.port) {
        contact.port
    } else {
        0
    };
    (contact.subject, contact.victim, contact.protocol, port)
}

const fn kind(protocol: u8) -> (Technique, &'static str, &'static str) {
    match protocol {
        proto::TCP => (Technique::SYN_FLOOD, "syn_flood", "new TCP connections"),
        proto::UDP => (Technique::NETWORK_FLOOD, "udp_flood", "new UDP flows"),
        proto::ICMP | proto::ICMPV6 => (Technique::NETWORK_FLOOD, "icmp_flood", "new ICMP flows"),
        _ => (Technique::NETWORK_FLOOD, "packet_flood", "new flows"),
    }
}

const fn name(protocol: u8) -> &'static str {
    match protocol {
        proto::TCP => "TCP SYN",
        proto::UDP => "UDP",
        proto::ICMP | proto::ICMPV6 => "ICMP",
        _ => "IP",
    }
}

fn place(port: u16, victim: IpAddr) -> String {
    if port == 0 { victim.to_string() } else { std::net::SocketAddr::new(victim, port).to_string() }
}

fn mix(source: IpAddr) -> u32 {
    match source {
        IpAddr::V4(v4) => Addr::v4(v4.octets()).mix(),
        IpAddr::V6(v6) => Addr::v6(v6.octets()).mix(),
    }
}
