//! Amplification: services over UDP that answer a small question with much, used against somebody who never asked.
//!
//! Out: a device answers a source many times more than it was asked; the source is forged and the victim of it. In: answers
//! arrive that no device asked for. Both are judged by bytes in a stretch of ten seconds.

use std::{net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use tidegate_common::{device::Sketch, parse::proto, pod::mix64};

use super::{Contact, Progress, SECOND_NS, finding, forget, seconds};
use crate::learn::{Finding, RuleConfig, Subject, Technique};

const MAX_PAIRS: NonZeroUsize = NonZeroUsize::new(2_048).unwrap();
const MAX_VICTIMS: NonZeroUsize = NonZeroUsize::new(512).unwrap();
const STRETCH_NS: u64 = 10 * SECOND_NS;
/// Different reflectors (sketch bits) from which on nobody in particular is to blame.
const MANY_REFLECTORS: u32 = 8;

#[derive(Clone, Copy, Debug, Default)]
struct Volume {
    begin_ns: u64,
    asked: u64,
    answered: u64,
    others: Sketch,
}

impl Volume {
    fn add(&mut self, now_ns: u64, asked: u64, answered: u64) {
        if self.begin_ns == 0 || now_ns.saturating_sub(self.begin_ns) > STRETCH_NS {
            *self = Self { begin_ns: now_ns, ..Self::default() };
        }
        self.asked = self.asked.saturating_add(asked);
        self.answered = self.answered.saturating_add(answered);
    }
}

pub(super) struct Amplification {
    /// By source, the other end, and the port of the service.
    pairs: LruCache<(Subject, IpAddr, u16), Volume>,
    /// Unasked answers by victim and port of the service.
    victims: LruCache<(IpAddr, u16), Volume>,
}

impl Amplification {
    pub(super) fn new() -> Self {
        Self { pairs: LruCache::new(MAX_PAIRS), victims: LruCache::new(MAX_VICTIMS) }
    }

    /// A flow as it stands; `before` is what was counted of it already.
    pub(super) fn carried(
        &mut self,
        config: &RuleConfig,
        contact: &Contact<'_>,
        before: &Progress,
        found: &mut Vec<Finding>,
    ) {
        let Subject::Remote(_) = contact.subject else { return };
        if contact.protocol != proto::UDP {
            return;
        }
        let asked = contact.record.out.bytes.saturating_sub(before.bytes_out);
        let answered = contact.record.inward.bytes.saturating_sub(before.bytes_in);
        let was_answered = contact.record.inward.packets > 0;
        if let Some(name) = amplifier(contact.port)
            && was_answered
        {
            let key = (contact.subject, contact.victim, contact.port);
            let volume = self.pairs.get_or_insert_mut(key, Volume::default);
            volume.add(contact.now_ns, asked, answered);
            let factor = volume.answered as f64 / volume.asked.max(1) as f64;
            if volume.answered >= config.amplified_bytes && factor >= config.amplification_factor {
                let detail = format!(
                    "{} kB answered to {} by the {name} of {} in {}, {factor:.0} times what was asked: the questions are \
                     most likely forged and {} the victim",
                    volume.answered / 1_000,
                    contact.source,
                    contact.victim,
                    seconds(volume.begin_ns, contact.now_ns),
                    contact.source
                );
                let technique = Technique::REFLECTION;
                found.push(finding(contact, technique, "amplification_out", 0.85, volume.begin_ns, detail));
            }
        } else if let Some(name) = amplifier(contact.source_port)
            && contact.port != contact.source_port
            && !was_answered
        {
            let key = (contact.subject, contact.victim, contact.source_port);
            let pair = self.pairs.get_or_insert_mut(key, Volume::default);
            pair.add(contact.now_ns, 0, asked);
            let alone = (pair.answered >= config.amplified_bytes).then_some(*pair);
            let key = (contact.victim, contact.source_port);
            let all = self.victims.get_or_insert_mut(key, Volume::default);
            all.add(contact.now_ns, 0, asked);
            all.others.add(hash(contact.source));
            let many = all.answered >= config.amplified_bytes && all.others.ones() >= MANY_REFLECTORS;
            let detail = |volume: &Volume, from: &str| {
                format!(
                    "{} kB of {name} answers{from} that {} never asked for in {}",
                    volume.answered / 1_000,
                    contact.victim,
                    seconds(volume.begin_ns, contact.now_ns)
                )
            };
            let technique = Technique::REFLECTION;
            if let Some(pair) = alone {
                let text = detail(&pair, "");
                found.push(finding(contact, technique, "amplification_in", 0.9, pair.begin_ns, text));
            } else if many {
                let text = detail(all, " from many hosts");
                let subject = Subject::Remote(IpAddr::from([0, 0, 0, 0]));
                let one = finding(contact, technique, "amplification_in", 0.9, all.begin_ns, text);
                found.push(Finding { subject, ..one });
            }
        }
    }

    pub(super) fn forget(&mut self, about: &impl Fn(&Subject) -> bool) {
        forget(&mut self.pairs, |(subject, ..)| about(subject));
    }
}

/// Services over UDP that have been used as amplifiers (US-CERT alert TA14-017A, and those found since). Where answers are sent is the
/// attacker's choice; only servers among themselves talk from the service's port to the same.
pub(super) const fn amplifier(port: u16) -> Option<&'static str> {
    Some(match port {
        17 => "QOTD",
        19 => "chargen",
        53 => "DNS",
        69 => "TFTP",
        111 => "portmap",
        123 => "NTP",
        137 => "NetBIOS",
        161 => "SNMP",
        389 => "CLDAP",
        520 => "RIP",
        1_434 => "MS SQL browser",
        1_900 => "SSDP",
        3_283 => "ARMS",
        3_702 => "WS-Discovery",
        5_353 => "mDNS",
        5_683 => "CoAP",
        11_211 => "memcached",
        37_810 => "DHCPDiscover",
        _ => return None,
    })
}

fn hash(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => mix64(u64::from(v4.to_bits())),
        IpAddr::V6(v6) => mix64((v6.to_bits() >> 64) as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{caught_within, honest};
    use crate::learn::{
        Subject,
        testing::{MS, S, Script, inside, outside},
    };

    #[test]
    fn a_device_used_as_an_amplifier() {
        for port in [53, 123, 1_900, 5_683] {
            let mut script = Script::default();
            for step in 0..2_000u64 {
                let (from, to) = (outside(7, 80), inside(7, port));
                script.udp(step * 2 * MS, from, to, 20);
                script.udp(step * 2 * MS + 1, to, from, 1_400);
            }
            let victim = Subject::Remote(outside(7, 0).0.into());
            let found = caught_within(&mut script, "amplification_out", victim, 2 * S);
            assert_eq!(found.technique.id, "T1498.002");
        }
    }

    #[test]
    fn answers_never_asked_for() {
        let mut script = Script::default();
        for step in 0..4_000u64 {
            script.udp(step * 2 * MS, outside((step % 100) as u32, 123), inside(7, 40_000), 440);
        }
        let many = Subject::Remote([0, 0, 0, 0].into());
        caught_within(&mut script, "amplification_in", many, 9 * S);
    }

    #[test]
    fn forged_questions_may_name_any_port() {
        for port in [53, 80, 443] {
            let mut script = Script::default();
            for step in 0..2_000u64 {
                script.udp(step * 2 * MS, outside(5, 11_211), inside(7, port), 1_400);
            }
            caught_within(&mut script, "amplification_in", Subject::Remote(outside(5, 0).0.into()), 9 * S);
        }
    }

    #[test]
    fn a_busy_resolver_and_big_answers_that_were_asked_for_are_honest() {
        let mut script = Script::default();
        for step in 0..1_000u64 {
            // A device that asks a lot and gets big answers.
            let (from, to) = (inside(7, 30_000 + step as u16), outside(1, 53));
            script.udp(step * 20 * MS, from, to, 40).udp(step * 20 * MS + MS, to, from, 1_200);
            // A resolver behind the gateway that strangers may ask.
            let (from, to) = (outside(step as u32, 40_000), inside(8, 53));
            script.udp(step * 20 * MS, from, to, 40).udp(step * 20 * MS + MS, to, from, 300);
            // Servers among themselves.
            script.udp(step * 20 * MS, outside(2, 53), inside(8, 53), 1_200);
        }
        honest(&mut script, 30 * S);
    }
}
