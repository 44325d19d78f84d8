//! DNS used for something else than finding hosts: tunnels, generated domains, floods of names that do not exist.
//!
//! A tunnel must put what it carries into names, and a name that was asked before carries nothing: so distinct names below one registered
//! domain count, by their length and by how little they look like words. Below a domain that the device used while it was learned, four
//! times as many are asked for. The device that asks is to blame, never the resolver; a device that answers others asks in their
//! name, so what it does is only reported. Sampling is bounded, so counts are from below.

use std::{
    collections::{HashSet, VecDeque},
    hash::BuildHasher as _,
    num::NonZeroUsize,
};

use foldhash::quality::FixedState;
use lru::LruCache;
use tidegate_common::device::DeviceKey;

use super::SECOND_NS;
use crate::{
    identity::{DnsMessage, registered},
    learn::{Finding, RuleConfig, Subject, Technique, bounded::bounded},
};

const MAX_DEVICES: NonZeroUsize = NonZeroUsize::new(512).unwrap();
/// Domains watched for each device, the one that stands for all of them included.
const MAX_DOMAINS: NonZeroUsize = NonZeroUsize::new(32).unwrap();
/// Names remembered below each domain.
const MAX_NAMES: usize = 256;
/// Names that do not exist remembered of each device.
const MAX_FAILURES: usize = 512;
const FAST_NS: u64 = 60 * SECOND_NS;
const SLOW_NS: u64 = 600 * SECOND_NS;
const FAILURES_NS: u64 = 300 * SECOND_NS;
const FLOOD_NS: u64 = 10 * SECOND_NS;
/// How many times more a domain of the baseline may do, and all domains together.
const BENEFIT: u32 = 4;
/// How long a device that answered others counts as a resolver.
const RESOLVER_NS: u64 = 3_600 * SECOND_NS;
/// Confidence in what may be honest, as what a resolver does in others' name: below that of a threat.
const DOUBTFUL_SCORE: f64 = 0.45;
/// Shortest mean length of names below a domain that carry something slowly.
const SLOW_BYTES: u32 = 8;

/// A name asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    hash: u64,
    at_ns: u64,
    /// Characters below the registered domain, dots not counted.
    bytes: u32,
    /// Bits a character.
    entropy: f32,
    /// A record type that brings more than addresses.
    is_data: bool,
}

/// A name that does not exist.
#[derive(Clone, Copy, Debug)]
struct Failed {
    name: u64,
    /// The registered domain, where anyone could have registered it.
    domain: Option<u64>,
    is_generated: bool,
    at_ns: u64,
}

struct Client {
    domains: LruCache<Box<str>, VecDeque<Asked>>,
    failures: VecDeque<Failed>,
    resolver_ns: Option<u64>,
}

/// What is known of the message beside its content.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::learn) struct DnsContext {
    /// The registered domain belongs to the device's baseline.
    pub(in crate::learn) is_usual: bool,
    /// The resolver is a device.
    pub(in crate::learn) resolver: Option<DeviceKey>,
}

pub(super) struct Dns {
    clients: LruCache<DeviceKey, Client>,
}

impl Dns {
    pub(super) fn new() -> Self {
        Self { clients: LruCache::new(MAX_DEVICES) }
    }

    pub(super) fn forget(&mut self, about: &impl Fn(&Subject) -> bool) {
        super::forget(&mut self.clients, |device| about(&Subject::Device(*device)));
    }

    pub(super) fn message(
        &mut self,
        config: &RuleConfig,
        message: &DnsMessage,
        context: DnsContext,
        now_ns: u64,
    ) -> Option<Finding> {
        let fresh = || Client { domains: bounded(MAX_DOMAINS), failures: VecDeque::new(), resolver_ns: None };
        if message.answer.is_some()
            && let Some(resolver) = context.resolver
        {
            self.clients.get_or_insert_mut(resolver, fresh).resolver_ns = Some(now_ns);
        }
        let client = self.clients.get_or_insert_mut(message.device, fresh);
        let finding = if message.answer.is_none() {
            client.asks(config, message, context, now_ns)
        } else if message.is_nxdomain() {
            client.failed(config, message, context, now_ns)
        } else {
            None
        };
        let answers_others = client.resolver_ns.is_some_and(|at| now_ns.saturating_sub(at) < RESOLVER_NS);
        finding.map(|finding| if answers_others { for_others(finding) } else { finding })
    }
}

/// What a resolver among the devices does, somebody else may have asked for.
fn for_others(finding: Finding) -> Finding {
    let detail = format!("{}; it answers other devices, one of which may be behind it", finding.detail);
    Finding { score: finding.score.min(DOUBTFUL_SCORE), detail, ..finding }
}

impl Client {
    fn asks(
        &mut self,
        config: &RuleConfig,
        message: &DnsMessage,
        context: DnsContext,
        now_ns: u64,
    ) -> Option<Finding> {
        /// CNAME, NULL, MX, TXT, KEY, SRV, the private range that tunnels use.
        const DATA: [u16; 7] = [5, 10, 15, 16, 25, 33, 65_399];
        let domain = registered(&message.name)?.domain;
        let below = message.name.get(..message.name.len().checked_sub(domain.len() + 1)?)?;
        let asked = Asked {
            hash: hash(&message.name),
            at_ns: now_ns,
            bytes: below.bytes().filter(|byte| *byte != b'.').count() as u32,
            entropy: entropy(below),
            is_data: DATA.contains(&message.qtype),
        };
        let benefit = if context.is_usual { BENEFIT } else { 1 };
        let own =
            tunnels(self.domains.get_or_insert_mut(domain.into(), VecDeque::new), asked, config, benefit);
        // A tunnel through many domains is one, too.
        let all = (!context.is_usual).then(|| self.domains.get_or_insert_mut("".into(), VecDeque::new));
        let all = all.and_then(|names| tunnels(names, asked, config, BENEFIT));
        let (tunnel, below) = match (own, all) {
            (Some(tunnel), _) => (tunnel, domain),
            (None, Some(tunnel)) => (tunnel, "many domains"),
            (None, None) => return None,
        };
        let Tunnel { names, bytes, entropy, data, first_ns } = tunnel;
        let score = if tunnel.is_sure(config) { 0.92 } else { DOUBTFUL_SCORE };
        let detail = format!(
            "{names} different names below {below} in {}, {:.0} characters and {entropy:.1} bits a character each, {data} of them \
             for records that hold data: {bytes} bytes carried in names",
            super::seconds(first_ns, now_ns),
            f64::from(bytes) / f64::from(names.max(1)),
        );
        Some(finding(message, Technique::DNS_TUNNEL, "dns_tunnel", score, first_ns, now_ns, detail))
    }

    fn failed(
        &mut self,
        config: &RuleConfig,
        message: &DnsMessage,
        context: DnsContext,
        now_ns: u64,
    ) -> Option<Finding> {
        let domain = registered(&message.name).filter(|registered| registered.known);
        if self.failures.len() == MAX_FAILURES {
            self.failures.pop_front();
        }
        self.failures.push_back(Failed {
            name: hash(&message.name),
            domain: domain.map(|registered| hash(registered.domain)),
            is_generated: domain.is_some_and(|registered| is_generated(label(registered.domain))),
            at_ns: now_ns,
        });
        while self.failures.front().is_some_and(|old| now_ns.saturating_sub(old.at_ns) > FAILURES_NS) {
            self.failures.pop_front();
        }
        self.flood(config, message, now_ns)
            .or_else(|| self.generated(config, message, now_ns))
            .or_else(|| self.guessed(config, message, context, now_ns))
    }

    fn flood(&self, config: &RuleConfig, message: &DnsMessage, now_ns: u64) -> Option<Finding> {
        let recent =
            self.failures.iter().rev().take_while(|failed| now_ns.saturating_sub(failed.at_ns) <= FLOOD_NS);
        let recent: Vec<&Failed> = recent.collect();
        // One name asked again and again is a fault, and no flood.
        let distinct = recent.iter().map(|failed| failed.name).collect::<HashSet<_>>().len();
        if distinct < config.nxdomain_flood as usize {
            return None;
        }
        let first_ns = recent.last().map_or(now_ns, |failed| failed.at_ns);
        let detail = format!(
            "{distinct} different names that do not exist asked of {} in {}",
            message.resolver,
            super::seconds(first_ns, now_ns)
        );
        Some(finding(message, Technique::SERVICE_FLOOD, "nxdomain_flood", 0.9, first_ns, now_ns, detail))
    }

    /// Name after name below one domain: generated ones that somebody who owns the domain would answer, or the load of its servers.
    fn guessed(
        &self,
        config: &RuleConfig,
        message: &DnsMessage,
        context: DnsContext,
        now_ns: u64,
    ) -> Option<Finding> {
        let Failed { domain: Some(domain), at_ns, .. } = *self.failures.back()? else { return None };
        let benefit = if context.is_usual { BENEFIT } else { 1 };
        let below = self
            .failures
            .iter()
            .filter(|failed| failed.domain == Some(domain) && at_ns.saturating_sub(failed.at_ns) <= FAST_NS);
        let mut first_ns = at_ns;
        let names: HashSet<u64> = below
            .map(|failed| {
                first_ns = first_ns.min(failed.at_ns);
                failed.name
            })
            .collect();
        if names.len() < config.absent_names.saturating_mul(benefit) as usize {
            return None;
        }
        let detail = format!(
            "{} different names below one domain that do not exist in {}, {} the last",
            names.len(),
            super::seconds(first_ns, now_ns),
            message.name
        );
        // A device that was set up wrongly may look for what is not there.
        let technique = Technique::DYNAMIC_RESOLUTION;
        Some(finding(message, technique, "absent_names", DOUBTFUL_SCORE, first_ns, now_ns, detail))
    }

    fn generated(&self, config: &RuleConfig, message: &DnsMessage, now_ns: u64) -> Option<Finding> {
        let (mut domains, mut generated) = (HashSet::new(), 0_u32);
        for failed in &self.failures {
            if let Some(domain) = failed.domain
                && domains.insert(domain)
            {
                generated += u32::from(failed.is_generated);
            }
        }
        // Words count half: some generators use them, and so do typing errors.
        let weight = f64::from(generated) + (domains.len() as f64 - f64::from(generated)) / 2.0;
        if weight < f64::from(config.generated_domains) {
            return None;
        }
        let first_ns = self.failures.front().map_or(now_ns, |failed| failed.at_ns);
        let detail = format!(
            "{} different domains that do not exist in {}, {generated} of them like no word, {} the last",
            domains.len(),
            super::seconds(first_ns, now_ns),
            message.name
        );
        // Where a resolver refuses what it blocks, words are missing, too.
        let score = if f64::from(generated) >= 0.6 * domains.len() as f64 { 0.9 } else { DOUBTFUL_SCORE };
        Some(finding(
            message,
            Technique::GENERATED_DOMAINS,
            "generated_domains",
            score,
            first_ns,
            now_ns,
            detail,
        ))
    }
}

/// What a tunnel carried.
struct Tunnel {
    names: u32,
    bytes: u32,
    entropy: f64,
    data: u32,
    first_ns: u64,
}

impl Tunnel {
    /// Long names, or answers that hold data. Short ones slowly may as well be a block list's or a search list's, asked for addresses.
    fn is_sure(&self, config: &RuleConfig) -> bool {
        self.holds_data() || self.bytes >= config.dns_tunnel_bytes * self.names
    }

    fn holds_data(&self) -> bool {
        self.data * 2 >= self.names
    }
}

/// Notes a name; the tunnel that it shows.
fn tunnels(names: &mut VecDeque<Asked>, asked: Asked, config: &RuleConfig, benefit: u32) -> Option<Tunnel> {
    if asked.bytes == 0 || names.iter().any(|known| known.hash == asked.hash) {
        return None;
    }
    while names.len() >= MAX_NAMES
        || names.front().is_some_and(|old| asked.at_ns.saturating_sub(old.at_ns) > SLOW_NS)
    {
        names.pop_front();
    }
    names.push_back(asked);
    let enough = |wanted: u32, tunnel: &Tunnel| {
        // Records that hold data are what the other direction needs.
        let wanted = if tunnel.holds_data() { wanted / 2 } else { wanted };
        tunnel.names >= (wanted * benefit).min(MAX_NAMES as u32)
            && tunnel.entropy >= config.dns_tunnel_entropy
    };
    let fast = tally(names, asked.at_ns.saturating_sub(FAST_NS));

    if enough(config.dns_tunnel_names, &fast) && fast.bytes >= config.dns_tunnel_bytes * fast.names {
        return Some(fast);
    }
    let slow = tally(names, 0);
    (enough(config.dns_tunnel_slow_names, &slow) && slow.bytes >= SLOW_BYTES * slow.names).then_some(slow)
}

fn tally(names: &VecDeque<Asked>, from_ns: u64) -> Tunnel {
    let mut tunnel = Tunnel { names: 0, bytes: 0, entropy: 0.0, data: 0, first_ns: u64::MAX };
    for asked in names.iter().filter(|asked| asked.at_ns >= from_ns) {
        tunnel.names += 1;
        tunnel.bytes += asked.bytes;
        tunnel.data += u32::from(asked.is_data);
        tunnel.entropy += f64::from(asked.entropy);
        tunnel.first_ns = tunnel.first_ns.min(asked.at_ns);
    }
    tunnel.entropy /= f64::from(tunnel.names.max(1));
    tunnel
}

fn finding(
    message: &DnsMessage,
    technique: Technique,
    rule: &'static str,
    score: f64,
    first_ns: u64,
    now_ns: u64,
    detail: String,
) -> Finding {
    Finding {
        subject: Subject::Device(message.device),
        victim: Some(message.resolver),
        technique,
        rule: Some(rule),
        score,
        p_value: (1.0 - score).powi(4),
        first_ns,
        at_ns: now_ns,
        detail,
        notes: Vec::new(),
    }
}

/// Shannon's entropy of a text's characters, in bits a character; dots do not count.
fn entropy(text: &str) -> f32 {
    let mut counts = [0_u32; 256];
    let mut total = 0_u32;
    for byte in text.bytes().filter(|byte| *byte != b'.') {
        counts[usize::from(byte)] += 1;
        total += 1;
    }
    let share = |count: &u32| *count as f32 / total.max(1) as f32;
    counts.iter().filter(|count| **count > 0).map(share).map(|share| -share * share.log2()).sum()
}

/// The label that somebody chose when the domain was registered.
fn label(domain: &str) -> &str {
    domain.split('.').next().unwrap_or(domain)
}

/// Whether a label looks like no word: more consonants in a row than languages have, or digits strewn among letters.
fn is_generated(label: &str) -> bool {
    const FEWEST: usize = 7;
    const CONSONANTS: u32 = 5;
    const CHANGES: u32 = 3;
    const BITS: f32 = 3.6;
    let (mut row, mut longest, mut changes, mut before) = (0_u32, 0, 0_u32, None);
    for byte in label.bytes() {
        let is_consonant =
            byte.is_ascii_alphabetic() && !matches!(byte, b'a' | b'e' | b'i' | b'o' | b'u' | b'y');
        row = if is_consonant { row + 1 } else { 0 };
        longest = longest.max(row);
        let digit = byte.is_ascii_digit();
        changes += u32::from(before.is_some_and(|before| before != digit));
        before = Some(digit);
    }
    label.len() >= FEWEST && (longest >= CONSONANTS || changes >= CHANGES || entropy(label) >= BITS)
}

fn hash(text: &str) -> u64 {
    FixedState::with_seed(0).hash_one(text)
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
