//! Who is on the protected side: devices, their addresses and names, and which device an address belongs to.
//!
//! Bounded in every direction; what was used least recently goes first. Time is an argument, on the kernel clock. An address belongs to
//! one device at a time. A lease moves it, so does a long silence of its holder; a claim against one that is there is a conflict.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::IpAddr,
};

use tidegate_common::{
    device::DeviceKey,
    event::SampleEvent,
    flow::{FlowKey, FlowRecord, FlowSide, Sender},
    maps::DEVICE_CAPACITY,
};

use super::{
    device::{Contest, Device, IdentityEvent, NameSource},
    mac::Mac,
    names::Names,
    sample::{self, Claim, Reading},
    vendor::Vendors,
};
use crate::enforce::Now;

/// Addresses remembered of one device; a host with privacy addresses uses about ten.
const ADDRESSES: usize = 16;
/// Contradictions remembered of one device.
const CONFLICTS: usize = 8;
/// Things remembered that one device says about itself.
const SAYINGS: usize = 16;
/// Whoever was silent for so long may have lost the address to someone else.
const SILENCE_NS: u64 = 300_000_000_000;
/// The same conflict counts as repeated before.
pub(super) const REPEAT_NS: u64 = 300_000_000_000;

/// An address and who has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holding {
    pub(super) device: DeviceKey,
    since_ns: u64,
    pub(super) last_ns: u64,
    /// Only seen as a source or asked for: anyone with a claim may have it.
    weak: bool,
}

impl Holding {
    /// Whether the device said that the address is its own, and used it lately.
    const fn is_firm(&self, now_ns: u64) -> bool {
        !self.weak && now_ns.saturating_sub(self.last_ns) < SILENCE_NS
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    /// On the kernel clock, but it may lie before the machine started.
    pub(super) first_ns: i64,
    pub(super) last_ns: u64,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) name: Option<(NameSource, String)>,
    pub(super) says: BTreeSet<String>,
    pub(super) conflicts: VecDeque<String>,
    /// Address and when a conflict over it was last told.
    pub(super) told: VecDeque<(IpAddr, u64)>,
}

/// The devices.
#[derive(Debug)]
pub struct Registry {
    pub(super) devices: HashMap<DeviceKey, Entry>,
    pub(super) holdings: HashMap<IpAddr, Holding>,
    pub(super) own: Vec<IpAddr>,
    /// When the gateway itself last gave a lease.
    pub(super) served_ns: Option<u64>,
    /// When the gateway itself last announced itself as an IPv6 router.
    pub(super) announced_ns: Option<u64>,
    pub(super) vendors: Vendors,
    /// What the devices' peers are called.
    pub names: Names,
    capacity: usize,
}

impl Registry {
    /// An empty registry with as much room as the kernel's device table.
    pub fn new(vendors: Vendors) -> Self {
        Self::with_capacity(vendors, DEVICE_CAPACITY as usize)
    }

    /// An empty registry with room for `capacity` devices.
    pub fn with_capacity(vendors: Vendors, capacity: usize) -> Self {
        Self {
            devices: HashMap::new(),
            holdings: HashMap::new(),
            own: Vec::new(),
            served_ns: None,
            announced_ns: None,
            vendors,
            names: Names::default(),
            capacity: capacity.max(1),
        }
    }

    /// Tells the registry the gateway's own addresses: no device may claim them.
    pub fn set_own(&mut self, addresses: &[IpAddr]) {
        self.own = addresses.iter().map(IpAddr::to_canonical).collect();
        for address in self.own.clone() {
            self.drop_holding(address);
        }
    }

    /// Takes over a device that an earlier run knew.
    pub fn restore(&mut self, ifindex: u32, known: &Device, now: Now) {
        let key = DeviceKey::new(known.mac.0, ifindex);
        let last_ns = now.kernel_ns.saturating_sub(now.since(known.last_seen).as_nanos() as u64);
        self.see(key, last_ns, &mut Vec::new());
        let first_ns = now.kernel_ns as i64 - now.since(known.first_seen).as_nanos() as i64;
        if let Some(entry) = self.devices.get_mut(&key) {
            entry.first_ns = entry.first_ns.min(first_ns);
            entry.conflicts = known.conflicts.iter().rev().take(CONFLICTS).rev().cloned().collect();
            entry.says = known.says.iter().take(SAYINGS).cloned().collect();
            if let Some(name) = &known.name {
                entry.name = Some((known.name_source.unwrap_or(NameSource::Service), name.clone()));
            }
        }
        for address in known.addresses.iter().rev() {
            self.claim_weakly(*address, key, last_ns, &mut Vec::new());
        }
    }

    /// Learns from a sampled frame.
    pub fn observe_sample(&mut self, sample: &SampleEvent, now_ns: u64) -> Vec<IdentityEvent> {
        let mut events = Vec::new();
        let Some(Reading { device, claims }) = sample::read(sample) else { return events };
        // A server behind a port may name anyone; only the gateway's own word makes a device known.
        let leased_elsewhere = |claim: &Claim| matches!(claim, Claim::Leased { by_gateway: false, .. });
        if claims.iter().any(leased_elsewhere) && !self.devices.contains_key(&device) {
            return events;
        }
        self.see(device, now_ns, &mut events);
        for claim in claims {
            match claim {
                Claim::Uses(ip) => self.claim(ip, device, None, now_ns, &mut events),
                Claim::Tells { ip, to } => self.claim(ip, device, Some(to), now_ns, &mut events),
                Claim::Asks(ip) => self.claim_weakly(ip, device, now_ns, &mut events),
                Claim::Leased { ip, by_gateway } => self.lease(ip, device, by_gateway, now_ns, &mut events),
                Claim::Released(ip) => self.release(ip, device),
                Claim::Says(text) => self.note(device, text),
                Claim::Named(name, source) => self.rename(device, name, source, &mut events),
            }
        }
        events
    }

    /// Learns from a flow: which device sends from which address. A flow never moves an address, because it is easily forged.
    pub fn observe_flow(&mut self, key: &FlowKey, record: &FlowRecord, now_ns: u64) -> Vec<IdentityEvent> {
        let mut events = Vec::new();
        let initiator = record.initiator();
        let responder = if initiator == Sender::A { Sender::B } else { Sender::A };
        for (side, sender) in [(&record.out, initiator), (&record.inward, responder)] {
            let FlowSide { packets, src_mac, point, .. } = *side;
            if packets == 0 || !point.is_ingress() || !Mac(src_mac).is_device() {
                continue;
            }
            let device = DeviceKey::new(src_mac, point.ifindex());
            self.see(device, side.last_ns.min(now_ns), &mut events);
            let (address, ..) = key.seen_from(sender);
            let known = sample::usable(address.octets()).filter(|ip| self.resolve(*ip) == Some(device));
            if let Some(ip) = known.or_else(|| sample::local(address)) {
                self.claim_weakly(ip, device, side.last_ns.min(now_ns), &mut events);
                self.confirm(ip, device, if sender == initiator { &record.inward } else { &record.out });
            }
        }
        events
    }

    /// A row of the kernel's device table: the device sent something at `last_ns`.
    pub fn observe_device(&mut self, device: DeviceKey, last_ns: u64) -> Vec<IdentityEvent> {
        let mut events = Vec::new();
        if Mac(device.mac).is_device() {
            self.see(device, last_ns, &mut events);
        }
        events
    }

    /// An operator names a device; whether it is known.
    pub fn set_name(&mut self, device: DeviceKey, name: &str) -> bool {
        let Some(name) = sample::clean(name.as_bytes()) else { return false };
        let Some(entry) = self.devices.get_mut(&device) else { return false };
        entry.name = Some((NameSource::Operator, name));
        true
    }

    /// Forgets a device; whether it was known.
    pub fn forget(&mut self, device: DeviceKey) -> bool {
        let Some(entry) = self.devices.remove(&device) else { return false };
        for address in entry.addresses {
            self.holdings.remove(&address);
        }
        true
    }

    /// Makes the device known and notes when it was there.
    fn see(&mut self, device: DeviceKey, at_ns: u64, events: &mut Vec<IdentityEvent>) {
        if let Some(entry) = self.devices.get_mut(&device) {
            entry.last_ns = entry.last_ns.max(at_ns);
            return;
        }
        if self.devices.len() >= self.capacity
            && let Some(oldest) =
                self.devices.iter().min_by_key(|(_, entry)| entry.last_ns).map(|(key, _)| *key)
        {
            self.forget(oldest);
            events.push(IdentityEvent::Forgotten { device: oldest });
        }
        self.devices.insert(
            device,
            Entry {
                first_ns: at_ns as i64,
                last_ns: at_ns,
                addresses: Vec::new(),
                name: None,
                says: BTreeSet::new(),
                conflicts: VecDeque::new(),
                told: VecDeque::new(),
            },
        );
        events.push(IdentityEvent::New { device });
    }

    /// The device says that it has the address, to `told` if that was an answer.
    fn claim(
        &mut self,
        ip: IpAddr,
        device: DeviceKey,
        told: Option<IpAddr>,
        now_ns: u64,
        events: &mut Vec<IdentityEvent>,
    ) {
        if self.own.contains(&ip) {
            self.conflict(ip, None, device, Contest { told, ..Contest::default() }, now_ns, events);
            return;
        }
        match self.holdings.get(&ip).copied() {
            Some(held) if held.device.mac != device.mac && held.is_firm(now_ns) => {
                let contest = Contest {
                    told,
                    held_since_ns: held.since_ns,
                    used_ns: held.last_ns,
                    heard_ns: self.devices.get(&held.device).map_or(0, |entry| entry.last_ns),
                    repeated: false,
                };
                self.conflict(ip, Some(held.device), device, contest, now_ns, events);
            }
            _ => self.hold(ip, device, now_ns, false, events),
        }
    }

    /// What was sent to the address left by the device's own port: a source may be forged, a delivery may not.
    fn confirm(&mut self, ip: IpAddr, device: DeviceKey, delivered: &FlowSide) {
        let there = delivered.packets > 0
            && !delivered.point.is_ingress()
            && delivered.point.ifindex() == device.ifindex;
        if let Some(held) = self.holdings.get_mut(&ip).filter(|held| there && held.device == device) {
            held.weak = false;
        }
    }

    fn claim_weakly(&mut self, ip: IpAddr, device: DeviceKey, now_ns: u64, events: &mut Vec<IdentityEvent>) {
        match self.holdings.get_mut(&ip) {
            Some(held) if held.device == device => held.last_ns = held.last_ns.max(now_ns),
            Some(_) => {}
            None if self.own.contains(&ip) => {}
            // Forged sources must not push out what is known.
            None if self.devices.get(&device).is_some_and(|entry| entry.addresses.len() >= ADDRESSES) => {}
            None => self.hold(ip, device, now_ns, true, events),
        }
    }

    /// A lease is a reason to move an address, unless it comes from behind a port and the one who has it is still there.
    fn lease(
        &mut self,
        ip: IpAddr,
        device: DeviceKey,
        by_gateway: bool,
        now_ns: u64,
        events: &mut Vec<IdentityEvent>,
    ) {
        if by_gateway && !self.own.contains(&ip) {
            self.hold(ip, device, now_ns, false, events);
        } else {
            self.claim(ip, device, None, now_ns, events);
        }
    }

    fn release(&mut self, ip: IpAddr, device: DeviceKey) {
        if self.resolve(ip) == Some(device) {
            self.drop_holding(ip);
        }
    }

    fn hold(
        &mut self,
        ip: IpAddr,
        device: DeviceKey,
        now_ns: u64,
        weak: bool,
        events: &mut Vec<IdentityEvent>,
    ) {
        let before = self.holdings.get(&ip).copied();
        if let Some(held) = before.filter(|held| held.device == device) {
            let last_ns = held.last_ns.max(now_ns);
            self.holdings.insert(ip, Holding { last_ns, weak: weak && held.weak, ..held });
            return;
        }
        let Some(entry) = self.devices.get(&device) else { return };
        if entry.addresses.len() >= ADDRESSES
            && let Some(oldest) = self.addresses(device).last().copied()
        {
            self.drop_holding(oldest);
        }
        self.drop_holding(ip);
        self.holdings.insert(ip, Holding { device, since_ns: now_ns, last_ns: now_ns, weak });
        if let Some(entry) = self.devices.get_mut(&device) {
            entry.addresses.push(ip);
        }
        match before {
            Some(held) if held.device.mac != device.mac => {
                events.push(IdentityEvent::Moved { ip, from: held.device, to: device });
            }
            _ => events.push(IdentityEvent::Address { device, ip }),
        }
    }

    fn drop_holding(&mut self, ip: IpAddr) {
        if let Some(held) = self.holdings.remove(&ip)
            && let Some(entry) = self.devices.get_mut(&held.device)
        {
            entry.addresses.retain(|known| *known != ip);
        }
    }

    fn conflict(
        &mut self,
        ip: IpAddr,
        old: Option<DeviceKey>,
        new: DeviceKey,
        mut contest: Contest,
        now_ns: u64,
        events: &mut Vec<IdentityEvent>,
    ) {
        let Some(entry) = self.devices.get_mut(&new) else { return };
        let recent = |(told, at_ns): &(IpAddr, u64)| *told == ip && now_ns.saturating_sub(*at_ns) < REPEAT_NS;
        contest.repeated = entry.told.iter().any(recent);
        if contest.repeated {
            events.push(IdentityEvent::Conflict { ip, old, new, contest });
            return;
        }
        entry.told.retain(|(told, _)| *told != ip);
        push_bounded(&mut entry.told, (ip, now_ns));
        let owner = old.map_or_else(|| "the gateway".to_owned(), |device| Mac(device.mac).to_string());
        push_bounded(&mut entry.conflicts, format!("claims {ip}, which is {owner}'s"));
        events.push(IdentityEvent::Conflict { ip, old, new, contest });
    }

    fn note(&mut self, device: DeviceKey, text: String) {
        if let Some(entry) = self.devices.get_mut(&device).filter(|entry| entry.says.len() < SAYINGS) {
            entry.says.insert(text);
        }
    }

    fn rename(
        &mut self,
        device: DeviceKey,
        name: String,
        source: NameSource,
        events: &mut Vec<IdentityEvent>,
    ) {
        let Some(entry) = self.devices.get_mut(&device) else { return };
        let better = entry.name.as_ref().is_none_or(|(known, text)| source >= *known && *text != name);
        if better {
            entry.name = Some((source, name.clone()));
            events.push(IdentityEvent::Name { device, name });
        }
    }
}

fn push_bounded<V>(queue: &mut VecDeque<V>, value: V) {
    if queue.len() >= CONFLICTS {
        queue.pop_front();
    }
    queue.push_back(value);
}
