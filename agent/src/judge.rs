//! What follows from a finding: a decision, an order to the enforcer, an incident. The live loop and replay both go this way.
//!
//! It stores, logs and tells nobody: callers get a [`Judged`] and do with it what they have to. No clock is read.

use std::{collections::HashMap, fmt::Write as _, hash::BuildHasher, time::Duration};

use tidegate_common::{
    device::DeviceKey,
    event::SampleEvent,
    flow::{FlowKey, FlowRecord},
    verdict::{Action, Level, Mode},
};

use crate::{
    config::values::GatewayMode,
    decide::{self, Baseline, Context, Decision, ResponseConfig},
    enforce::{
        Author, EnforceError, Enforcement, Enforcer, Now, Order, Refusal, Report, Target, VerdictTable,
    },
    identity::{DnsMessage, IdentityEvent, Mac, NameOrigin, PeerName, Registry},
    kind::{self, Opinion, Traits},
    learn::{Alert, ArpClaim, Finding, FlowEnds, Learner, Phase, Resolver, Subject, address},
    replay::flowlog::LoggedAlert,
    store::{IdSource, Incident},
};

/// An incident without new evidence for this long is over.
const INCIDENT_QUIET: Duration = Duration::from_mins(10);

/// Everything a judgement looks at and changes.
pub struct Bench<'a, T> {
    /// When verdicts drop packets.
    pub mode: GatewayMode,
    /// What the operator wants done about findings.
    pub response: &'a ResponseConfig,
    /// Whose baseline exists.
    pub learner: &'a Learner,
    /// Who has which address.
    pub registry: &'a Registry,
    /// The writer of verdicts.
    pub enforcer: &'a mut Enforcer<T>,
    /// Who asks for what follows: the detector, or a neighbour.
    pub author: Author,
    /// Open incidents by subject and technique.
    pub incidents: &'a mut HashMap<String, Incident>,
    /// Makes the ids of incidents.
    pub ids: &'a mut IdSource,
}

/// What came of a finding.
#[derive(Debug)]
pub struct Judged {
    /// The decision.
    pub decision: Decision,
    /// The incident as it stands now.
    pub incident: Incident,
    /// Whether it was opened by this finding.
    pub is_new: bool,
    /// Whether the target is cut off from now on.
    pub blocked: bool,
    /// What the enforcer changed.
    pub report: Option<Report>,
    /// Why the enforcer did not do what was decided.
    pub refused: Option<EnforceError>,
}

impl<T: VerdictTable> Bench<'_, T> {
    /// Judges one finding.
    pub fn judge(&mut self, mut finding: Finding, now: Now) -> Judged {
        if let Some(peer) = peer_name(self.registry, &finding, now.kernel_ns)
            && !finding.detail.contains(&peer.name)
        {
            let by = match peer.origin {
                NameOrigin::Dns => "by DNS",
                NameOrigin::Tls => "as the device says in TLS",
            };
            // Writing to a string cannot fail.
            let _ = write!(finding.detail, "; {} is {} {by}", peer.address, peer.name);
        }
        let baseline = match finding.subject {
            Subject::Remote(_) => Baseline::None,
            Subject::Device(key) => match self.learner.phase(key) {
                Some(Phase::Ready) => Baseline::Ready,
                Some(Phase::Learning) => Baseline::Learning,
                None => Baseline::None,
            },
        };
        let armed = self.is_armed(&finding.subject, baseline);
        let mode = if armed && self.mode != GatewayMode::Monitor { Mode::Enforce } else { Mode::Monitor };
        let enforcer = &*self.enforcer;
        let protected = |target: &Target| {
            enforcer
                .protectors(target)
                .first()
                .map(|entry| format!("never-block entry {} of {}", entry.target, entry.author))
        };
        let context = Context { mode, baseline, protected: &protected, response: self.response };
        let decision = decide::decide(finding, &context);
        self.follow(decision, armed, now)
    }

    /// In auto mode nothing is cut by itself before there is a baseline: the device's own, or for a host outside any.
    fn is_armed(&self, subject: &Subject, baseline: Baseline) -> bool {
        match (self.mode, subject) {
            (GatewayMode::Enforce | GatewayMode::Monitor, _) => true,
            (GatewayMode::Auto, Subject::Device(_)) => baseline == Baseline::Ready,
            (GatewayMode::Auto, Subject::Remote(_)) => {
                self.learner.status().any(|device| device.phase == Phase::Ready)
            }
        }
    }

    /// Carries out a decision and keeps its incident.
    fn follow(&mut self, decision: Decision, armed: bool, now: Now) -> Judged {
        let finding = &decision.finding;
        let name = format!("{} {}", finding.subject, finding.technique.id);
        let known = self.incidents.remove(&name);
        let is_new = known.is_none();
        let mut incident = match known {
            Some(mut known) => {
                known.add(finding, now.wall);
                known
            }
            None => Incident::open(self.ids.next(now.wall), finding, now.wall),
        };
        incident.target = Some(decision.target);

        let (mut blocked, mut report, mut refused) = (false, None, None);
        let mut account = Account::of(&decision);
        if decision.acts() {
            match self.enforcer.apply(self.order(&decision, &incident.id, armed), now) {
                Ok(changed) => {
                    blocked = armed && self.mode != GatewayMode::Monitor;
                    report = Some(changed);
                }
                Err(EnforceError::Refused(Refusal::InForce { cuts, .. })) => {
                    blocked = cuts && self.mode != GatewayMode::Monitor;
                    if let Some(record) = self.enforcer.get(&decision.target).filter(|_| cuts) {
                        account.explanation = already(record, &decision.finding);
                        account.response.clone_from(&account.explanation);
                    }
                }
                Err(error) => {
                    account.held_back = Some(error.to_string());
                    account.response = format!("not enforced: {error}");
                    refused = Some(error);
                }
            }
        }
        // What an incident was answered with stays its account for as long as that is in force, whatever weaker comes after it.
        let is_answered = report.is_none()
            && self.enforcer.get(&decision.target).is_some_and(|record| {
                record.action != Action::Observe && record.incident.as_ref() == Some(&incident.id)
            });
        if !is_answered {
            incident.explanation = account.explanation;
            incident.response = account.response;
            incident.held_back = account.held_back;
        }
        self.incidents.insert(name, incident.clone());
        Judged { decision, incident, is_new, blocked, report, refused }
    }

    fn order(&self, decision: &Decision, incident: &str, armed: bool) -> Order {
        let (action, level) = match (armed, decision.level) {
            (true, level) => (decision.action, level),
            (false, Some(_)) => (decision.action, Some(Level::Observe)),
            (false, None) => (Action::Observe, None),
        };
        Order {
            target: decision.target,
            action,
            level,
            reason: decision.reason,
            author: self.author.clone(),
            ttl: Some(decision.ttl),
            rate_pps: None,
            rule: decision.finding.rule.map(str::to_owned),
            technique: Some(decision.finding.technique.id.to_owned()),
            incident: Some(incident.to_owned()),
            explanation: decision.explanation.clone(),
            aliases: aliases(self.registry, &decision.target),
        }
    }
}

/// What an incident says of what was done.
struct Account {
    explanation: String,
    response: String,
    held_back: Option<String>,
}

impl Account {
    fn of(decision: &Decision) -> Self {
        let Decision { explanation, held_back, .. } = decision;
        Self { explanation: explanation.clone(), response: explanation.clone(), held_back: held_back.clone() }
    }
}

/// Why nothing more is done about a finding whose target is under `record`.
fn already(record: &Enforcement, finding: &Finding) -> String {
    let is = match (record.action, record.level) {
        (Action::Isolate, Some(level)) => format!("isolated ({})", decide::level_name(level)),
        (Action::RateLimit, _) => "limited to a packet rate".to_owned(),
        _ => "blocked".to_owned(),
    };
    let by = match &record.incident {
        Some(incident) => format!("incident {incident}"),
        None => record.author.to_string(),
    };
    let Finding { subject, technique, detail, .. } = finding;
    format!("{subject} was already {is} by {by}: {} ({}). {detail}.", technique.name, technique.id)
}

/// What the victim of a device's finding is called.
pub fn peer_name(registry: &Registry, finding: &Finding, now_ns: u64) -> Option<PeerName> {
    let Subject::Device(device) = finding.subject else { return None };
    registry.names.of(device, finding.victim?, now_ns)
}

/// Who answered a DNS message; `named` are the resolvers that the configuration or the operator trusts.
pub fn resolver(registry: &Registry, named: bool, message: &DnsMessage) -> Resolver {
    Resolver {
        trusted: named || registry.is_own(message.resolver),
        device: registry.resolve(message.resolver),
    }
}

/// Takes the incidents that are over out of the open ones.
pub fn close_quiet<S: BuildHasher>(incidents: &mut HashMap<String, Incident, S>, now: Now) -> Vec<Incident> {
    let quiet = |incident: &Incident| now.since(incident.last_seen) > INCIDENT_QUIET;
    let mut closed: Vec<Incident> =
        incidents.extract_if(|_, incident| quiet(incident)).map(|(_, incident)| incident).collect();
    for incident in &mut closed {
        incident.open = false;
    }
    closed
}

/// What a sampled frame says about who is who: what it teaches, and what somebody has no business to say.
pub fn sampled(
    registry: &mut Registry,
    learner: &mut Learner,
    sample: &SampleEvent,
    now_ns: u64,
) -> (Vec<IdentityEvent>, Vec<Finding>) {
    let mut found = Vec::new();
    if let Some(rival) = registry.rival_server(sample, now_ns) {
        found.extend(learner.observe_dhcp_server(&rival, now_ns));
    }
    if let Some(claim) = registry.router_claim(sample, now_ns) {
        found.extend(learner.observe_router(&claim, now_ns));
    }
    let events = registry.observe_sample(sample, now_ns);
    for claim in events.iter().filter_map(arp_claim) {
        found.extend(learner.observe_arp_claim(&claim, now_ns));
    }
    (events, found)
}

/// The claim behind a conflict over an address.
fn arp_claim(event: &IdentityEvent) -> Option<ArpClaim> {
    let IdentityEvent::Conflict { ip, old, new, contest } = *event else { return None };
    Some(ArpClaim {
        claimant: new,
        address: ip,
        holder: old.map_or(Mac::default(), |old| Mac(old.mac)),
        of_gateway: old.is_none(),
        contest,
    })
}

/// Another detector's alert as evidence about whoever sent what its signature matched.
pub fn reported(registry: &Registry, alert: &LoggedAlert) -> Alert {
    Alert {
        subject: registry.resolve(alert.src).map_or(Subject::Remote(alert.src), Subject::Device),
        victim: alert.dst,
        severity: alert.severity,
        detail: format!("Suricata's signature {} matched: {}", alert.signature_id, alert.signature),
    }
}

/// What kind of device a device seems to be; `bytes` are those it sent and was sent.
pub fn kind_of(
    registry: &Registry,
    learner: &Learner,
    device: DeviceKey,
    bytes: (u64, u64),
    now: Now,
) -> Option<Opinion> {
    let known = registry.device(device, now)?;
    kind::classify(&Traits::of(&known, learner.services(device).unwrap_or_default(), bytes))
}

/// Looks at what devices with a baseline did for the first time: findings where devices of their kind do no such thing.
pub fn unlike_kinds(registry: &Registry, learner: &mut Learner, now: Now) -> Vec<Finding> {
    let mut found = Vec::new();
    for (device, service) in learner.take_fresh_services() {
        // Bytes speak for a kind as well, but what was just done is among them.
        let Some(opinion) = kind_of(registry, learner, device, (0, 0), now) else { continue };
        let Some(objection) = kind::objection(opinion.kind, &service) else { continue };
        let does = if service.by_device { "uses" } else { "offers" };
        let detail = format!(
            "it seems to be a {} ({:.0} %: {}) and {does} port {} with {}: {objection}",
            opinion.kind.name(),
            opinion.confidence * 100.0,
            opinion.reasons.join("; "),
            service.port,
            service.peer
        );
        found.extend(learner.observe_unlike_kind(device, service.peer, detail, now.kernel_ns));
    }
    found
}

/// Other names of the same host: a device's addresses, or the device that has an address.
pub fn aliases(registry: &Registry, target: &Target) -> Vec<Target> {
    match target {
        Target::Device(mac) => {
            let device = registry.find(&mac.to_string());
            device.map(|device| registry.addresses(device)).into_iter().flatten().map(Target::from).collect()
        }
        Target::Address(address) => {
            registry.resolve(*address).map(|device| Target::Device(Mac(device.mac))).into_iter().collect()
        }
        Target::Prefix(_) => Vec::new(),
    }
}

/// The devices at both ends of a flow: what the record says, and for the rest what the registry knows.
pub fn ends(registry: &Registry, key: &FlowKey, record: &FlowRecord) -> FlowEnds {
    let (source, _, destination, _) = key.seen_from(record.initiator());
    FlowEnds::of(record).or(registry.resolve(address(source)), registry.resolve(address(destination)))
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
