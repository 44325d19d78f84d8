//! Stealth scans: TCP segments that begin with flags with which no connection begins, sent to tell open from closed ports.
//!
//! Without SYN, ACK or RST (none at all, FIN, FIN-PSH-URG), or with SYN beside FIN or RST, a first segment is no stack's own
//! doing (RFC 9293), so a few to different ports or hosts are evidence however slowly they come and whatever is answered.

use std::{net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use tidegate_common::parse::{proto, tcp_flag};

use super::{Contact, Outcome, SECOND_NS, discovery, finding, forget, seconds, tries::Tries};
use crate::learn::{Finding, RuleConfig, Subject};

const MAX_SOURCES: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
const WINDOW_NS: u64 = 60 * SECOND_NS;

pub(super) struct StealthScans {
    probes: LruCache<Subject, Tries<(IpAddr, u16)>>,
}

impl StealthScans {
    pub(super) fn new() -> Self {
        Self { probes: LruCache::new(MAX_SOURCES) }
    }

    pub(super) fn started(&mut self, config: &RuleConfig, contact: &Contact<'_>, found: &mut Vec<Finding>) {
        let flags = contact.record.out.tcp_flags;
        if contact.protocol != proto::TCP || contact.record.out.packets == 0 || begins_a_connection(flags) {
            return;
        }
        let probes = self.probes.get_or_insert_mut(contact.subject, Tries::new);
        let room = config.stealth_probes as usize * 4;
        probes.note((contact.victim, contact.port), contact.now_ns, WINDOW_NS, WINDOW_NS, room);
        probes.settle((contact.victim, contact.port), Outcome::Refused);
        let tally = probes.since(contact.now_ns.saturating_sub(WINDOW_NS), contact.now_ns, 0);
        if tally.tried >= config.stealth_probes {
            let detail = format!(
                "{} ports or hosts tried in {} with TCP flags that no connection begins with, last {flags:#04x} to {} port {}",
                tally.tried,
                seconds(tally.first_ns, contact.now_ns),
                contact.victim,
                contact.port
            );
            let technique = discovery(&contact.subject);
            found.push(finding(contact, technique, "stealth_scan", 0.92, tally.first_ns, detail));
        }
    }

    pub(super) fn forget(&mut self, about: &impl Fn(&Subject) -> bool) {
        forget(&mut self.probes, about);
    }
}

/// Whether a first segment with these flags may be of a connection: its beginning, or something from its middle.
const fn begins_a_connection(flags: u8) -> bool {
    const ODD_BESIDE_SYN: u8 = tcp_flag::FIN | tcp_flag::RST;
    if flags & tcp_flag::SYN != 0 {
        return flags & ODD_BESIDE_SYN == 0;
    }
    flags & (tcp_flag::ACK | tcp_flag::RST) != 0
}

#[cfg(test)]
mod tests {
    use tidegate_common::parse::proto;

    use super::super::testing::{caught_within, honest};
    use crate::learn::{
        Subject,
        testing::{ACK, FIN, RST, S, SYN, Script, inside, outside},
    };

    #[test]
    fn a_probe_a_second_is_a_stealth_scan() {
        for flags in [0, FIN, FIN | 0x28, SYN | FIN] {
            let mut script = Script::default();
            for port in 0..20u16 {
                let to = inside(7, 2_000 + port);
                script.packet(u64::from(port) * S, outside(7, 40_000 + port), to, proto::TCP, flags, 0);
            }
            let remote = Subject::Remote(outside(7, 0).0.into());
            caught_within(&mut script, "stealth_scan", remote, 3 * S);
        }
    }

    #[test]
    fn ends_of_connections_nobody_saw_begin_are_honest() {
        let mut script = Script::default();
        for port in 0..40u16 {
            let flags = [FIN | ACK, RST, RST | ACK, ACK][usize::from(port % 4)];
            script.packet(
                u64::from(port) * S,
                outside(u32::from(port), 443),
                inside(7, 40_000 + port),
                proto::TCP,
                flags,
                0,
            );
        }
        honest(&mut script, 60 * S);
    }
}
