//! Forged sources: one hardware address begins flows from many unrelated IPv4 addresses, and nobody is there to go on with them.
//!
//! Whoever answers for many unrelated addresses is a router; what it forwards is not its own, and it is left alone.

use std::{collections::VecDeque, net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use tidegate_common::device::DeviceKey;

use super::{Contact, Outcome, SECOND_NS, finding, seconds};
use crate::learn::{Finding, RuleConfig, Subject, Technique};

const MAX_DEVICES: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
const WINDOW_NS: u64 = 60 * SECOND_NS;
/// Unrelated addresses (prefixes of 16 bits) that one answers for and is a router.
const ROUTER_PREFIXES: usize = 3;
const MAX_PREFIXES: usize = 256;

#[derive(Default)]
struct Sender {
    /// Prefixes it began flows from, and when first in this window.
    begun: VecDeque<(u16, u64)>,
    /// Prefixes for which it took part in conversations.
    spoke_for: Vec<u16>,
}

pub(super) struct Spoofing {
    senders: LruCache<DeviceKey, Sender>,
}

impl Spoofing {
    pub(super) fn new() -> Self {
        Self { senders: LruCache::new(MAX_DEVICES) }
    }

    pub(super) fn started(&mut self, config: &RuleConfig, contact: &Contact<'_>, found: &mut Vec<Finding>) {
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
        if sender.begun.len() >= config.forged_sources as usize {
            let first_ns = sender.begun.front().map_or(contact.now_ns, |(_, at_ns)| *at_ns);
            let detail = format!(
                "flows begun from {} unrelated source addresses in {}, none of which is known to be its own",
                sender.begun.len(),
                seconds(first_ns, contact.now_ns)
            );
            found.push(finding(contact, Technique::FORGED_SOURCES, "forged_sources", 0.88, first_ns, detail));
        }
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
    use std::net::Ipv4Addr;

    use super::super::testing::{caught_within, honest};
    use crate::learn::{
        Subject,
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
