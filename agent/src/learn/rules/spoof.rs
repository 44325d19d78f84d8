//! Forged sources: one hardware address begins flows from many unrelated IPv4 addresses, and nobody is there to go on with them; or
//! hardware addresses are made up as well.
//!
//! Whoever answers for many unrelated addresses is a router; what it forwards is not its own, and it is left alone. Nobody sends
//! from a group address, so whoever makes up hardware addresses betrays itself with every other one, and never by name.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroUsize,
};

use lru::LruCache;
use tidegate_common::device::DeviceKey;

use super::{Contact, Outcome, SECOND_NS, finding, seconds};
use crate::{
    identity::Mac,
    learn::{Finding, RuleConfig, Subject, Technique},
};

const MAX_DEVICES: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
const WINDOW_NS: u64 = 60 * SECOND_NS;
/// Unrelated addresses (prefixes of 16 bits) that one answers for and is a router.
const ROUTER_PREFIXES: usize = 3;
const MAX_PREFIXES: usize = 256;
/// Different group addresses that began flows within [`IMPOSSIBLE_WINDOW_NS`]; a damaged frame is not a series.
const IMPOSSIBLE: usize = 8;
const IMPOSSIBLE_WINDOW_NS: u64 = 10 * SECOND_NS;
/// How often the same is found again: a flood begins many flows between two reports, and each finding is a text.
const PAUSE_NS: u64 = SECOND_NS;

#[derive(Default)]
struct Sender {
    /// Prefixes it began flows from, and when first in this window.
    begun: VecDeque<(u16, u64)>,
    /// Prefixes for which it took part in conversations.
    spoke_for: Vec<u16>,
    found_ns: Option<u64>,
}

pub(super) struct Spoofing {
    senders: LruCache<DeviceKey, Sender>,
    /// Hardware addresses that no device can have, and when they began a flow.
    impossible: VecDeque<(Mac, u64)>,
    impossible_found_ns: Option<u64>,
}

/// Whether it is time to find something again that was last found at `found_ns`; then it is noted as found.
fn is_due(found_ns: &mut Option<u64>, now_ns: u64) -> bool {
    let due = found_ns.is_none_or(|at_ns| now_ns.saturating_sub(at_ns) >= PAUSE_NS);
    if due {
        *found_ns = Some(now_ns);
    }
    due
}

impl Spoofing {
    pub(super) fn new() -> Self {
        Self { senders: LruCache::new(MAX_DEVICES), impossible: VecDeque::new(), impossible_found_ns: None }
    }

    pub(super) fn started(&mut self, config: &RuleConfig, contact: &Contact<'_>, found: &mut Vec<Finding>) {
        let mac = Mac(contact.record.out.src_mac);
        if mac.is_multicast() {
            found.extend(self.made_up(mac, contact));
        }
        let (Some(device), Some(prefix)) = (contact.ends.initiator, prefix(contact.source)) else { return };
        let sender = self.senders.get_or_insert_mut(device, Sender::default);
        if sender.spoke_for.len() >= ROUTER_PREFIXES {
            return;
        }
        while sender.begun.front().is_some_and(|(_, at_ns)| contact.now_ns.saturating_sub(*at_ns) > WINDOW_NS)
        {
            sender.begun.pop_front();
        }
        if sender.begun.len() < MAX_PREFIXES && !sender.begun.iter().any(|(known, _)| *known == prefix) {
            sender.begun.push_back((prefix, contact.now_ns));
        }
        if sender.begun.len() >= config.forged_sources as usize
            && is_due(&mut sender.found_ns, contact.now_ns)
        {
            let first_ns = sender.begun.front().map_or(contact.now_ns, |(_, at_ns)| *at_ns);
            let detail = format!(
                "flows begun from {} unrelated source addresses in {}, none of which is known to be its own",
                sender.begun.len(),
                seconds(first_ns, contact.now_ns)
            );
            found.push(finding(contact, Technique::FORGED_SOURCES, "forged_sources", 0.88, first_ns, detail));
        }
    }

    fn made_up(&mut self, mac: Mac, contact: &Contact<'_>) -> Option<Finding> {
        let is_old = |at_ns: u64| contact.now_ns.saturating_sub(at_ns) > IMPOSSIBLE_WINDOW_NS;
        while self.impossible.front().is_some_and(|(_, at_ns)| is_old(*at_ns)) {
            self.impossible.pop_front();
        }
        if self.impossible.len() < IMPOSSIBLE && !self.impossible.iter().any(|(known, _)| *known == mac) {
            self.impossible.push_back((mac, contact.now_ns));
        }
        let first_ns = self.impossible.front().filter(|_| self.impossible.len() == IMPOSSIBLE)?.1;
        if !is_due(&mut self.impossible_found_ns, contact.now_ns) {
            return None;
        }
        let detail = format!(
            "frames from {IMPOSSIBLE} hardware addresses that no device can have, {mac} the last, in {}",
            seconds(first_ns, contact.now_ns)
        );
        let many = Subject::Remote(Ipv4Addr::UNSPECIFIED.into());
        let made_up = finding(contact, Technique::FORGED_SOURCES, "forged_hardware", 0.9, first_ns, detail);
        Some(Finding { subject: many, ..made_up })
    }

    /// A conversation came about: both ends are there.
    pub(super) fn outcome(&mut self, contact: &Contact<'_>, outcome: Outcome) {
        if outcome != Outcome::Answered {
            return;
        }
        let ends = [(contact.ends.initiator, contact.source), (contact.ends.responder, contact.victim)];
        for (device, address) in ends {
            let (Some(device), Some(prefix)) = (device, prefix(address)) else { continue };
            let sender = self.senders.get_or_insert_mut(device, Sender::default);
            if sender.spoke_for.len() < ROUTER_PREFIXES && !sender.spoke_for.contains(&prefix) {
                sender.spoke_for.push(prefix);
            }
        }
    }

    pub(super) fn forget(&mut self, about: &impl Fn(&Subject) -> bool) {
        for (device, sender) in &mut self.senders {
            if about(&Subject::Device(*device)) {
                sender.begun.clear();
                sender.found_ns = None;
            }
        }
    }
}

const fn prefix(address: IpAddr) -> Option<u16> {
    match address {
        IpAddr::V4(v4) if !v4.is_unspecified() => Some((v4.to_bits() >> 16) as u16),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use tidegate_common::{
        flow::{FlowKey, FlowRecord},
        parse::Packet,
    };

    use super::{
        super::testing::{caught_within, honest},
        *,
    };
    use crate::learn::{
        FlowEnds,
        testing::{End, MS, S, Script, device, inside, outside},
    };

    fn made_up(number: u8) -> End {
        End(Ipv4Addr::new(10, number, 3, 4), 40_000)
    }

    #[test]
    fn a_device_that_makes_up_its_sources() {
        let mut script = Script::default();
        for number in 1..60u8 {
            script.udp(u64::from(number) * 500 * MS, made_up(number), outside(9, 53), 40);
        }
        let found = caught_within(&mut script, "forged_sources", Subject::Device(device(66)), 13 * S);
        assert_eq!(found.technique.id, "T1498");
    }

    /// The first finding while the hardware addresses of `macs`, by their first and last byte, begin a flow each, half a second apart.
    fn told_of(macs: impl IntoIterator<Item = (u8, u8)>) -> Option<Finding> {
        let mut spoofing = Spoofing::new();
        let config = RuleConfig::default();
        let mut found = Vec::new();
        for (nth, (first, last)) in macs.into_iter().enumerate() {
            let mut record = FlowRecord::zeroed();
            (record.out.packets, record.out.src_mac) = (1, [first, 0, 0, 0, 0, last]);
            let (key, _) = FlowKey::of(&Packet::default());
            let contact = Contact::new(&key, &record, FlowEnds::default(), nth as u64 * S / 2);
            spoofing.started(&config, &contact, &mut found);
        }
        found.into_iter().find(|finding| finding.rule == Some("forged_hardware"))
    }

    #[test]
    fn hardware_addresses_that_no_device_can_have_betray_that_they_are_made_up() {
        let found = told_of((0..16).map(|nth| (nth, nth))).unwrap();
        assert_eq!((found.subject, found.at_ns), (Subject::Remote([0, 0, 0, 0].into()), 15 * S / 2));
        assert_eq!(told_of((0..90).map(|nth| (1, nth % 7))), None, "the same few again and again");
        assert_eq!(told_of((0..90).map(|nth| (nth * 2, nth))), None, "any device may have them");
        assert_eq!(told_of((0..90).map(|nth| (u8::from(nth % 3 == 0), nth))), None, "one now and then");
    }

    #[test]
    fn a_router_forwards_what_others_send() {
        let mut script = Script::default();
        for number in 1..5u8 {
            script.tcp(0, (made_up(number), outside(9, 8_000)), (8, 90), (8, 90), MS, false);
        }
        for number in 5..90u8 {
            script.udp(S + u64::from(number) * 500 * MS, made_up(number), outside(9, 40_000), 90);
        }
        honest(&mut script, 60 * S);
    }

    #[test]
    fn a_device_with_a_few_networks_is_honest() {
        let mut script = Script::default();
        for step in 0..400u32 {
            script.udp(u64::from(step) * 100 * MS, made_up((step % 5) as u8 + 1), outside(9, 5_000), 40);
            script.ask(u64::from(step) * 100 * MS, inside(7, 5_000), outside(9, 5_000), 40);
        }
        honest(&mut script, 60 * S);
    }
}
