//! From finding to verdict: rules and scores, policy, allowlist and the state of the device's baseline. Pure.
//!
//! - A remote host is blocked by its address; a device is isolated, at a level that fits the technique.
//! - A rule with enough confidence acts whether or not the device has a baseline: what a scan or a flood is does not
//!   depend on the device. The model acts only on a device with a baseline, and only on strong collected evidence.
//! - Whatever the allowlist protects is only observed, and the decision says so. In monitor mode the action is kept and
//!   marked as held back: the kernel then counts what it would have dropped.
//!
//! It does not look anything up, repeat, escalate or cap: that is `enforce`'s.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, reason = "a failing test should stop at once")
)]

mod config;

use std::{net::IpAddr, time::Duration};

pub use config::{Response, ResponseConfig};
use serde::Serialize;
use tidegate_common::verdict::{Action, Level, Mode, Reason};

use crate::{
    enforce::Target,
    identity::Mac,
    learn::{Finding, Nature, Subject, Technique},
};

/// Whether the device a finding is about has a baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// Not a device, or one never seen.
    None,
    /// Traffic is still being collected.
    Learning,
    /// Models are trained and calibrated.
    Ready,
}

/// All that a decision depends on besides the finding.
pub struct Context<'a> {
    /// What the kernel does with verdicts.
    pub mode: Mode,
    /// Baseline of the finding's subject.
    pub baseline: Baseline,
    /// Why a target may not be touched (allowlist, gateway's own, operator), if it may not.
    pub protected: &'a dyn Fn(&Target) -> Option<String>,
    /// The operator's settings.
    pub response: &'a ResponseConfig,
}

/// What is to be done about a finding.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What it is done to.
    pub target: Target,
    /// What is done.
    pub action: Action,
    /// How far a device is isolated; `None` for other actions.
    pub level: Option<Level>,
    /// What asked for it.
    pub reason: Reason,
    /// How long it lasts the first time.
    pub ttl: Duration,
    /// The evidence.
    pub finding: Finding,
    /// What is done and why, in plain words.
    pub explanation: String,
    /// Why it has no effect on traffic although the finding would warrant it.
    pub held_back: Option<String>,
}

impl Decision {
    /// Whether a verdict is to be installed (in monitor mode the kernel only counts it).
    pub fn acts(&self) -> bool {
        self.action != Action::Observe
    }
}

/// What is to be done about `finding`.
pub fn decide(finding: Finding, context: &Context<'_>) -> Decision {
    let target = target_of(&finding.subject);
    let reason = if finding.rule.is_some() { Reason::Rule } else { Reason::Anomaly };
    let (wanted, level) = wanted(&finding, context.response);
    let mut held_back = hold(&finding, &target, context);
    let (action, level) = if held_back.is_some() { (Action::Observe, None) } else { (wanted, level) };
    let ttl = match action {
        Action::Isolate => context.response.isolate_for(),
        _ => context.response.block_for(),
    };
    if action != Action::Observe && context.mode != Mode::Enforce {
        held_back = Some("monitor mode: what would be dropped is only counted".to_owned());
    }
    let explanation = explain(&finding, action, level, ttl, held_back.as_deref());
    Decision { target, action, level, reason, ttl, finding, explanation, held_back }
}

/// The target that stands for a subject in the kernel tables.
pub fn target_of(subject: &Subject) -> Target {
    match subject {
        Subject::Remote(addr) => Target::Address(addr.to_canonical()),
        Subject::Device(device) => Target::Device(Mac(device.mac)),
    }
}

fn wanted(finding: &Finding, response: &ResponseConfig) -> (Action, Option<Level>) {
    let ordered = response.techniques.get(finding.technique.id).copied();
    let own = || own_level(finding, response);
    match (finding.subject, ordered) {
        (_, Some(Response::Observe)) => (Action::Observe, None),
        (Subject::Remote(_), Some(Response::RateLimit)) => (Action::RateLimit, None),
        (Subject::Remote(_), _) => (Action::Block, None),
        (Subject::Device(_), ordered) => {
            (Action::Isolate, Some(ordered.and_then(Response::level).unwrap_or_else(own)))
        }
    }
}

/// How far a device is cut off for this technique when the operator says nothing.
fn own_level(finding: &Finding, response: &ResponseConfig) -> Level {
    match finding.technique {
        // What is bad about these is whom the device talks to; its cloud and its clock are no part of it.
        Technique::COMMAND_AND_CONTROL | Technique::EXFILTRATION | Technique::UNUSUAL => Level::CloudOnly,
        // They harm by the ARP, ND, DHCP and DNS that every weaker level lets through.
        Technique::ARP_POISONING
        | Technique::DHCP_SPOOFING
        | Technique::ROUTER_SPOOFING
        | Technique::DNS_TUNNEL
        | Technique::GENERATED_DOMAINS
        | Technique::SERVICE_FLOOD => Level::Full,
        _ if finding.score >= response.full_confidence => Level::Full,
        _ => Level::DhcpDnsOnly,
    }
}

fn hold(finding: &Finding, target: &Target, context: &Context<'_>) -> Option<String> {
    if let Subject::Remote(addr) = finding.subject
        && !is_one_host(addr)
    {
        return Some("no single host to block: the sources are forged or many".to_owned());
    }
    if let Some(why) = (context.protected)(target) {
        return Some(format!("{target} is protected: {why}"));
    }
    if finding.nature() == Nature::Anomaly {
        return Some("it is a change, and no threat by itself".to_owned());
    }
    let response = context.response;
    if response.techniques.get(finding.technique.id) == Some(&Response::Observe) {
        return Some(format!("the configuration says to observe {}", finding.technique.id));
    }
    if finding.rule.is_some() {
        let low = finding.score < response.min_confidence;
        return low.then(|| {
            format!("confidence {:.2} is below the limit of {:.2}", finding.score, response.min_confidence)
        });
    }
    match context.baseline {
        Baseline::Ready if finding.p_value < response.model_p => None,
        Baseline::Ready => Some(format!(
            "no rule fired, and the model's evidence (p = {:.1e}) is weaker than {:.0e}",
            finding.p_value, response.model_p
        )),
        Baseline::Learning | Baseline::None => {
            Some("no rule fired, and the device has no baseline of its own yet".to_owned())
        }
    }
}

fn is_one_host(addr: IpAddr) -> bool {
    let broadcast = matches!(addr, IpAddr::V4(v4) if v4.is_broadcast());
    !(addr.is_unspecified() || addr.is_multicast() || addr.is_loopback() || broadcast)
}

fn explain(
    finding: &Finding,
    action: Action,
    level: Option<Level>,
    ttl: Duration,
    held: Option<&str>,
) -> String {
    let Finding { subject, technique, detail, .. } = finding;
    let minutes = ttl.as_secs().div_ceil(60);
    let is = if held.is_some() { "would be" } else { "is" };
    let what = match (action, level) {
        (Action::Block, _) => format!("{subject} {is} blocked for {minutes} min"),
        (Action::RateLimit, _) => format!("{subject} {is} limited to a packet rate for {minutes} min"),
        (Action::Isolate, Some(level)) => {
            format!("device {subject} {is} isolated ({}) for {minutes} min", level_name(level))
        }
        _ => format!("{subject} is only observed"),
    };
    let mut text = format!("{what}: {} ({}). {detail}", technique.name, technique.id);
    if !text.ends_with('.') {
        text.push('.');
    }
    if let Some(held) = held {
        text.push_str(" Held back: ");
        text.push_str(held);
        text.push('.');
    }
    text
}

/// The glossary's word for a level.
pub const fn level_name(level: Level) -> &'static str {
    match level {
        Level::Observe => "observe",
        Level::RateLimit => "rate-limit",
        Level::CloudOnly => "cloud-only",
        Level::DhcpDnsOnly => "dhcp-dns-only",
        Level::Full => "full",
    }
}

#[cfg(test)]
mod tests;
