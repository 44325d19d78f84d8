//! The detector: takes what the kernel measured, keeps what is normal for each device, and says what is not.
//!
//! Flow events feed the rules at once and, once reported a second time, the models. Windows feed the window models when they
//! end. Everything is bounded: devices, flows, destinations and reports give way to newer ones. A device about which a rule
//! fires while it is learning starts over, so that an attack never becomes normal.

use std::{collections::HashSet, hash::BuildHasher as _, net::IpAddr, num::NonZeroUsize};

use foldhash::fast::FixedState;
use lru::LruCache;
use tidegate_common::{
    device::{DeviceKey, DeviceWindow},
    event::{FlowCause, FlowEvent},
    feature::{FeatureVector, flow_features},
    flow::{FlowKey, FlowRecord},
};

use super::{
    baseline::Baseline,
    config::{LearnConfig, RuleConfig},
    contact::{Contact, FlowEnds},
    destinations::{Destinations, exfiltration},
    device::{Device, Phase},
    evidence,
    finding::{Finding, Subject},
    fleet,
    forest::GrowthError,
    inbound::Inbound,
    keeping::admit,
    lines::{self, Lines},
    model::ModelKind,
    naming, peers,
    reporting::{Report, Signs},
    rules::{self, ArpClaim, Progress, Rules, Since, Standing, is_attempt, is_host},
    services::{Service, services},
    window::window_features,
};
use crate::identity::{DhcpServer, RouterClaim};

const MAX_FLOWS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
const MAX_REPORTS: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();
/// New services that wait to be looked at.
const MAX_FRESH: usize = 256;
/// Packets from which on a flow to everybody is followed.
const LOUD: u64 = 64;

/// The detector.
pub struct Learner {
    pub(super) config: LearnConfig,
    pub(super) rules: Rules,
    fleet: Baseline,
    pub(super) devices: LruCache<DeviceKey, Device>,
    flows: LruCache<FlowKey, (Progress, bool)>,
    pub(super) destinations: Destinations,
    pub(super) inbound: Inbound,
    pub(super) lines: Lines,
    pub(super) reported: LruCache<Report, u64>,
    pub(super) signs: Signs,
    /// When subjects were last let go: what they began before is no evidence.
    pub(super) released: LruCache<Subject, u64>,
    own: HashSet<IpAddr>,
    pub(super) renewed: Vec<DeviceKey>,
    pub(super) fresh_services: Vec<(DeviceKey, Service)>,
}

impl Learner {
    /// A detector that has seen nothing. Training the fleet's default takes some tens of milliseconds.
    pub fn new(config: LearnConfig, rules: RuleConfig) -> Result<Self, GrowthError> {
        let devices = NonZeroUsize::new(config.max_devices as usize).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            rules: Rules::new(rules),
            fleet: fleet::baseline(config.seed)?,
            devices: LruCache::new(devices),
            flows: LruCache::new(MAX_FLOWS),
            destinations: Destinations::new(),
            inbound: Inbound::new(),
            lines: Lines::new(),
            reported: LruCache::new(MAX_REPORTS),
            signs: Signs::new(),
            released: LruCache::new(MAX_REPORTS),
            own: HashSet::new(),
            renewed: Vec::new(),
            fresh_services: Vec::new(),
            config,
        })
    }

    /// New settings, for what is seen from now on.
    pub fn reconfigure(&mut self, config: LearnConfig, rules: RuleConfig) {
        if let Some(most) = NonZeroUsize::new(config.max_devices as usize) {
            self.devices.resize(most);
        }
        self.config = config;
        self.rules.set_config(rules);
    }

    /// The gateway's own addresses: they attack nobody and are no destination of an exfiltration.
    pub fn set_own_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.own = addresses.into_iter().collect();
    }

    /// A flow that the kernel reports. `ends` as of [`FlowEnds::of`], with what the registry knows besides.
    pub fn observe_flow(&mut self, event: &FlowEvent, ends: FlowEnds) -> Vec<Finding> {
        let contact = Contact::new(&event.key, &event.record, ends, event.header.time_ns);
        let mut found = Vec::new();
        match FlowCause::from_code(event.cause) {
            Some(FlowCause::Start) => self.started(&contact, &mut found),
            cause => {
                self.continued(&event.key, &contact, cause == Some(FlowCause::Closed), &mut found);
                self.talked(&event.key, &contact, cause == Some(FlowCause::ActiveTimeout), &mut found);
            }
        }
        if event.cause == FlowCause::Cut as u8 {
            found.extend(self.cut(&event.key, &contact));
        }
        self.report(found, event.header.time_ns)
    }

    /// A flow that the agent took from the table because it was idle.
    pub fn observe_swept(
        &mut self,
        key: &FlowKey,
        record: &FlowRecord,
        ends: FlowEnds,
        now_ns: u64,
    ) -> Vec<Finding> {
        // What the flow did happened when it was last heard, not when it was swept.
        let contact = Contact::new(key, record, ends, record.last_ns());
        let mut found = Vec::new();
        self.continued(key, &contact, true, &mut found);
        self.flows.pop(key);
        self.report(found, now_ns)
    }

    /// A device's window as it stands now, merged over the CPUs. Call it for both windows of the record, the older epoch
    /// first, every second or so: a window is learned and judged when a newer one is seen.
    pub fn observe_window(&mut self, device: DeviceKey, window: &DeviceWindow, now_ns: u64) -> Vec<Finding> {
        let mut found = Vec::new();
        let Some(state) = admit(&mut self.devices, &self.config, device, now_ns) else { return found };
        if !state.is_spent(window.epoch) {
            found.extend(self.rules.window(device, window, now_ns));
        }
        if let Some(ended) = state.next_window(window).filter(|ended| !state.is_spent(ended.epoch)) {
            state.last_ns = now_ns;
            let vector = window_features(&ended);
            if state.phase == Phase::Learning {
                state.collect_window(&self.config, &vector);
            }
            let finding = evidence::window(&self.config, device, state, &vector, now_ns);
            found.extend(finding.map(|finding| self.explained(finding, device, ModelKind::Window, &vector)));
        }
        self.report(found, now_ns)
    }

    /// A device claims by ARP an address that another one holds.
    pub fn observe_arp_claim(&mut self, claim: &ArpClaim, now_ns: u64) -> Vec<Finding> {
        let found = self.rules.arp_claim(claim, now_ns).into_iter().collect();
        self.report(found, now_ns)
    }

    /// A device answers as a DHCP server where the gateway does.
    pub fn observe_dhcp_server(&mut self, rival: &DhcpServer, now_ns: u64) -> Vec<Finding> {
        self.report(vec![rules::dhcp_spoof(rival, now_ns)], now_ns)
    }

    /// A device speaks where routers do.
    pub fn observe_router(&mut self, claim: &RouterClaim, now_ns: u64) -> Vec<Finding> {
        self.report(vec![rules::router_spoof(claim, now_ns)], now_ns)
    }

    /// What becomes true by waiting; and trains at most one device. Call it every second or so.
    pub fn tick(&mut self, now_ns: u64) -> Vec<Finding> {
        let mut found = Vec::new();
        self.rules.tick(now_ns, &mut found);
        self.inbound.tick(self.rules.config(), now_ns, &mut found);
        self.train_one(now_ns);
        self.follow(now_ns, &mut found);
        self.report(found, now_ns)
    }

    fn started(&mut self, contact: &Contact<'_>, found: &mut Vec<Finding>) {
        let is_new =
            self.since_release(&contact.subject, contact.record, &Progress::default()) == Since::Whole;
        if !is_host(contact.victim) || self.own.contains(&contact.source) || !is_new {
            return;
        }
        let standing = self.standing(contact);
        self.rules.started(contact, standing, found);
        let Some(device) = contact.ends.initiator else { return self.knocked(contact) };
        let Some(state) = admit(&mut self.devices, &self.config, device, contact.now_ns) else { return };
        if contact.ends.responder.is_some()
            || self.own.contains(&contact.victim)
            || !is_attempt(contact.protocol, contact.record)
        {
            return;
        }
        self.inbound.outward(device, contact);
        self.destinations.started(device, contact);
        match state.phase {
            Phase::Learning => _ = state.known.put(contact.victim, ()),
            Phase::Ready if state.known.get(&contact.victim).is_none() => {
                found.extend(naming::moved(state, contact).or_else(|| {
                    self.destinations.beacon(self.rules.config(), device, contact, state.past())
                }));
            }
            Phase::Ready => {}
        }
    }

    fn continued(&mut self, key: &FlowKey, contact: &Contact<'_>, ended: bool, found: &mut Vec<Finding>) {
        for (device, service) in services(contact, &self.own) {
            let Some(state) = admit(&mut self.devices, &self.config, device, contact.now_ns) else {
                continue;
            };
            let is_new = state.services.met(service, state.phase, contact.now_ns);
            if is_new && self.fresh_services.len() < MAX_FRESH {
                self.fresh_services.push((device, service));
            }
        }
        if self.own.contains(&contact.source) {
            return;
        }
        let (before, ended_before) = self.flows.get(key).copied().unwrap_or_default();
        let ends_now = ended && !ended_before;
        let since = self.since_release(&contact.subject, contact.record, &before);
        if !is_host(contact.victim) {
            if since != Since::Nothing && contact.record.out.packets >= LOUD {
                self.rules.to_everybody(contact, &before, found);
                self.flows.put(*key, (Progress::of(contact), ended || ended_before));
            }
            return;
        }
        let standing = self.standing(contact);
        self.rules.continued(contact, &before, ends_now, (since, standing), found);
        self.carried(contact, &before, found);
        self.flows.put(*key, (Progress::of(contact), ended || ended_before));
        let Some(device) = contact.ends.initiator else {
            return self.inbound.continued(self.rules.config(), contact, ended, found);
        };
        let Some(state) = admit(&mut self.devices, &self.config, device, contact.now_ns) else { return };
        state.last_ns = contact.now_ns;
        found.extend(peers::met(&mut self.rules, state, &self.own, contact, &before));
        // A flow that ended was judged then; what the sweep finds of it later is the same flow.
        if ended_before && ended || since != Since::Whole {
            return;
        }
        let vector = flow_features(key, contact.record);
        if state.phase == Phase::Learning {
            state.collect_flow(&self.config, &vector);
        }
        let id = FixedState::default().hash_one((key, contact.record.first_ns()));
        let finding = evidence::flow(&self.config, &self.fleet, device, state, (id, &vector), contact);
        found.extend(finding.map(|finding| self.explained(finding, device, ModelKind::Flow, &vector)));
    }

    /// A device with a baseline goes on to talk to a host outside; `kept_open` when there was no other reason to tell it.
    fn talked(&mut self, key: &FlowKey, contact: &Contact<'_>, kept_open: bool, found: &mut Vec<Finding>) {
        let (Some(device), None) = (contact.ends.initiator, contact.ends.responder) else { return };
        let Some(state) = self.devices.peek(&device) else { return };
        let since = self.since_release(&contact.subject, contact.record, &Progress::default());
        let is_outside = is_host(contact.victim) && !self.own.contains(&contact.victim);
        if state.phase != Phase::Ready || !is_outside || since != Since::Whole {
            return;
        }
        let is_usual = |port| state.services.are_used_outside(contact.protocol, port);
        found.extend(lines::chat(contact, is_usual));
        if kept_open && !(state.known.contains(&contact.victim) && is_usual(contact.port)) {
            found.extend(self.lines.kept_open(self.rules.config(), key, contact, state.past()));
        }
    }

    /// Somebody outside turns to a device with a baseline.
    fn knocked(&mut self, contact: &Contact<'_>) {
        let state = contact.ends.responder.and_then(|device| Some((device, self.devices.peek(&device)?)));
        if let Some((device, state)) = state
            && state.phase == Phase::Ready
            && self.inbound.is_uninvited(device, contact, &state.services)
        {
            self.inbound.knock(contact);
        }
    }

    /// What is known of the two ends of a flow.
    fn standing(&self, contact: &Contact<'_>) -> Standing {
        if self.is_used(contact) {
            return Standing::Used;
        }
        match contact.subject {
            Subject::Remote(source) if self.inbound.has_met(&source) => Standing::Known,
            Subject::Remote(_) => Standing::New,
            Subject::Device(device) => match self.devices.peek(&device) {
                Some(state) if state.phase == Phase::Ready && state.known.contains(&contact.victim) => {
                    let (protocol, port) = (contact.protocol, contact.port);
                    let is_device = contact.ends.responder.is_some();
                    // What a known host was never asked for is judged as what a new device does: reported.
                    if is_device || state.services.are_used_outside(protocol, port) {
                        Standing::Known
                    } else {
                        Standing::Unlearned
                    }
                }
                Some(state) if state.phase == Phase::Ready => {
                    let is_outside = contact.ends.responder.is_none();
                    if is_outside && state.services.are_used_widely(contact.protocol, contact.port) {
                        Standing::Unlearned
                    } else {
                        Standing::New
                    }
                }
                _ => Standing::Unlearned,
            },
        }
    }

    /// Whether the baseline of a device at either end knows of the service.
    fn is_used(&self, contact: &Contact<'_>) -> bool {
        let knows = |device: Option<DeviceKey>, peer, by_device| {
            device.and_then(|device| self.devices.peek(&device)).is_some_and(|state| {
                state.phase == Phase::Ready
                    && state.services.are_known(peer, contact.protocol, contact.port, by_device)
            })
        };
        knows(contact.ends.initiator, contact.victim, true)
            || knows(contact.ends.responder, contact.source, false)
    }

    /// The kernel cut a flow of a device by the device's own model.
    fn cut(&self, key: &FlowKey, contact: &Contact<'_>) -> Option<Finding> {
        let device = contact.ends.initiator?;
        let baseline = self.devices.peek(&device)?.baseline.as_ref()?;
        let vector = flow_features(key, contact.record);
        let finding = evidence::cut(device, contact, baseline.flows.judge(&vector));
        Some(self.explained(finding, device, ModelKind::Flow, &vector))
    }

    /// The finding with the features that it rests on, unless it is going to be dropped anyway.
    fn explained(
        &self,
        mut finding: Finding,
        device: DeviceKey,
        kind: ModelKind,
        vector: &FeatureVector,
    ) -> Finding {
        if self.is_news(&finding, finding.at_ns) {
            let own = self.devices.peek(&device).and_then(|state| state.baseline.as_ref());
            evidence::explain(&mut finding, kind, vector, own.unwrap_or(&self.fleet));
        }
        finding
    }

    /// Bytes between a device and a host outside, whoever began.
    fn carried(&mut self, contact: &Contact<'_>, before: &Progress, found: &mut Vec<Finding>) {
        let (device, outside, sent, received) = match (contact.ends.initiator, contact.ends.responder) {
            (Some(device), None) => {
                let FlowRecord { out, inward, .. } = contact.record;
                (
                    device,
                    contact.victim,
                    out.bytes - before.bytes_out.min(out.bytes),
                    inward.bytes - before.bytes_in.min(inward.bytes),
                )
            }
            (None, Some(device)) => {
                let FlowRecord { out, inward, .. } = contact.record;
                (
                    device,
                    contact.source,
                    inward.bytes - before.bytes_in.min(inward.bytes),
                    out.bytes - before.bytes_out.min(out.bytes),
                )
            }
            _ => return,
        };
        // A sweep that finds nothing new is no traffic.
        let since = self.since_release(&Subject::Device(device), contact.record, before);
        if self.own.contains(&outside) || sent + received == 0 || since == Since::Nothing {
            return;
        }
        let Some(state) = admit(&mut self.devices, &self.config, device, contact.now_ns) else { return };
        let volume = self.destinations.carried(device, outside, sent, received, contact.now_ns);
        if state.phase == Phase::Learning {
            state.known.put(outside, ());
            state.largest_upload = state.largest_upload.max(volume.0);
        } else if state.known.get(&outside).is_none() {
            let config = self.rules.config();
            let before = (state.past(), state.largest_upload);
            found.extend(exfiltration(config, contact, device, outside, volume, before));
            if contact.ends.initiator.is_some() {
                found.extend(Destinations::udp_beacon(config, contact, state.past()));
            }
        }
    }
}

#[cfg(test)]
#[path = "learner_tests.rs"]
pub(super) mod tests;
