//! Orders, and the way from an order to a record and a kernel entry. Pure.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use jiff::Timestamp;
use tidegate_common::verdict::{Action, Level, Reason, Verdict};

use crate::decide::Decision;

use super::{
    names,
    record::{Author, Enforcement, Now, Refusal, State},
    target::Target,
};

/// A verdict somebody wants.
#[derive(Debug, Clone)]
pub struct Order {
    /// On what.
    pub target: Target,
    /// What is to happen. On a device, a block is a full isolation.
    pub action: Action,
    /// How far, for an isolation.
    pub level: Option<Level>,
    /// Why.
    pub reason: Reason,
    /// Who asks.
    pub author: Author,
    /// For how long. `None`: the configured length for the detector, for ever for an operator.
    pub ttl: Option<Duration>,
    /// Packets a second, for a rate limit; `None` takes the configured rate.
    pub rate_pps: Option<u32>,
    /// The behaviour rule that fired.
    pub rule: Option<String>,
    /// MITRE technique id.
    pub technique: Option<String>,
    /// Incident the verdict answers.
    pub incident: Option<String>,
    /// In plain language, for people.
    pub explanation: String,
    /// Other names of the same host: a device's addresses, or an address's device. Refused when one of them is never-block.
    pub aliases: Vec<Target>,
}

impl Order {
    /// An operator's order of `action` on `target`, for ever unless `ttl` says otherwise.
    pub fn by_operator(
        who: impl Into<String>,
        target: Target,
        action: Action,
        ttl: Option<Duration>,
        explanation: impl Into<String>,
    ) -> Self {
        Self {
            target,
            action,
            level: None,
            reason: Reason::Operator,
            author: Author::Operator(who.into()),
            ttl,
            rate_pps: None,
            rule: None,
            technique: None,
            incident: None,
            explanation: explanation.into(),
            aliases: Vec::new(),
        }
    }

    /// What the detector decided, as the answer to `incident`. `aliases` are the host's other names.
    pub fn from_decision(decision: &Decision, incident: Option<String>, aliases: Vec<Target>) -> Self {
        let finding = &decision.finding;
        Self {
            target: decision.target,
            action: decision.action,
            level: decision.level,
            reason: decision.reason,
            author: Author::Automatic,
            ttl: Some(decision.ttl),
            rate_pps: None,
            rule: finding.rule.map(str::to_owned),
            technique: Some(finding.technique.id.to_owned()),
            incident,
            explanation: decision.explanation.clone(),
            aliases,
        }
    }

    /// The same order at an isolation level.
    #[must_use]
    pub fn at_level(mut self, level: Level) -> Self {
        self.level = Some(level);
        self
    }
}

/// Wider prefixes are mistakes: IPv4, IPv6.
pub(super) const WIDEST: [u8; 2] = [8, 16];

/// What happens to a target, in the form its table takes. Ordered by strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    pub(super) action: Action,
    pub(super) level: Option<Level>,
}

impl Shape {
    /// The shape of `order`, or what is wrong with it. A device knows isolation alone.
    pub(super) fn of(order: &Order, target: &Target) -> Result<Self, Refusal> {
        let invalid = |cause| Err(Refusal::Invalid { target: *target, cause });
        if let Some(cause) = senseless(target) {
            return invalid(cause);
        }
        if order.ttl.is_some_and(|ttl| ttl.is_zero()) {
            return invalid("a verdict must last longer than nothing");
        }
        if order.rate_pps == Some(0) {
            return invalid("a rate of 0 packets a second drops everything: use a block instead");
        }
        let isolate = |level| Ok(Self { action: Action::Isolate, level: Some(level) });
        match (target, order.action, order.level) {
            (_, Action::NeverBlock, _) => invalid("use `tidegate allow add` for never-block entries"),
            (Target::Device(_), Action::Isolate, Some(level)) => isolate(level),
            (Target::Device(_), Action::Isolate, None) => {
                invalid("an isolation needs a level: observe, rate-limit, cloud-only, dhcp-dns-only or full")
            }
            (Target::Device(_), Action::Block, _) => isolate(Level::Full),
            (Target::Device(_), Action::RateLimit, _) => isolate(Level::RateLimit),
            (Target::Device(_), Action::Observe, _) => isolate(Level::Observe),
            (_, Action::Isolate, _) => {
                invalid("only a device can be isolated: block the address, or name the device")
            }
            (_, action, _) => Ok(Self { action, level: None }),
        }
    }

    /// Whether packets may be dropped.
    pub(super) const fn cuts(self) -> bool {
        match self.action {
            Action::Observe | Action::NeverBlock => false,
            Action::RateLimit | Action::Block => true,
            Action::Isolate => !matches!(self.level, None | Some(Level::Observe)),
        }
    }
}

fn senseless(target: &Target) -> Option<&'static str> {
    match target {
        Target::Address(address) if !is_host(*address) => {
            Some("no single host has this address: name a unicast address")
        }
        Target::Device(mac) if !mac.is_device() => {
            Some("no device sends from this hardware address: name a unicast address")
        }
        Target::Prefix(net) if is_too_wide(net) => {
            Some("this prefix is too wide: at least /8 for IPv4 and /16 for IPv6")
        }
        _ => None,
    }
}

pub(super) fn is_too_wide(net: &IpNet) -> bool {
    net.prefix_len() < WIDEST[usize::from(net.addr().is_ipv6())]
}

pub(super) fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast)
}

/// The record of `order`.
#[allow(clippy::too_many_arguments, reason = "a constructor: every argument is a field")]
pub(super) fn record(
    order: Order,
    target: Target,
    shape: Shape,
    rate_pps: u32,
    id: String,
    state: State,
    strikes: u32,
    expires_at: Option<Timestamp>,
    now: Now,
) -> Enforcement {
    let limits = shape.action == Action::RateLimit || shape.level == Some(Level::RateLimit);
    Enforcement {
        id,
        target,
        action: shape.action,
        level: shape.level,
        reason: order.reason,
        author: order.author,
        rule: order.rule,
        technique: order.technique,
        incident: order.incident,
        explanation: order.explanation,
        rate_pps: if limits { rate_pps } else { 0 },
        strikes,
        state,
        installed_at: now.wall,
        expires_at,
        ended_at: None,
        ended_because: None,
        hits: 0,
        hit_bytes: 0,
        last_hit_at: None,
    }
}

/// The kernel entry of `record`. A rate limit starts with one second's worth of packets.
pub(super) fn verdict(record: &Enforcement, expires_ns: u64, now_ns: u64) -> Verdict {
    Verdict {
        expires_ns,
        refilled_ns: now_ns,
        tokens_milli: u64::from(record.rate_pps) * 1_000,
        rate_pps: record.rate_pps,
        burst: record.rate_pps,
        rule: record.rule.as_deref().map_or(0, names::rule_id),
        action: record.action as u8,
        level: record.level.map_or(0, |level| level as u8),
        reason: record.reason as u8,
        ..Verdict::default()
    }
}

/// Takes the kernel's counts over into the record.
pub(super) fn add_hits(record: &mut Enforcement, verdict: Option<&Verdict>, now: Now) {
    let Some(verdict) = verdict.filter(|verdict| verdict.hits > 0) else { return };
    record.hits = verdict.hits;
    record.hit_bytes = verdict.hit_bytes;
    let ago = std::time::Duration::from_nanos(now.kernel_ns.saturating_sub(verdict.last_hit_ns));
    record.last_hit_at =
        jiff::SignedDuration::try_from(ago).ok().and_then(|ago| now.wall.checked_sub(ago).ok());
}

/// Whether two entries ask for the same; what the kernel changes by itself is left out.
pub(super) fn same(a: &Verdict, b: &Verdict) -> bool {
    a.expires_ns == b.expires_ns && a.profile == b.profile && alike(a, b)
}

/// Whether two entries ask for the same, expiry and profile left out.
pub(super) fn alike(a: &Verdict, b: &Verdict) -> bool {
    (a.rate_pps, a.burst, a.rule, a.roles, a.action, a.level, a.reason)
        == (b.rate_pps, b.burst, b.rule, b.roles, b.action, b.level, b.reason)
}
