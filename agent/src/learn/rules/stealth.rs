//! Stealth scans: TCP segments that begin with flags with which no connection begins, sent to tell open from closed ports.
//!
//! Without SYN, ACK or RST (none at all, FIN, FIN-PSH-URG), or with SYN beside FIN or RST, a first segment is no stack's own
//! doing (RFC 9293), so a few to different ports or hosts are evidence however slowly they come and whatever is answered. A first
//! segment with ACK or RST may be a late one of a connection that nobody saw begin; towards many services of one host, each of which
//! refuses it, it is a probe for what a firewall lets through.

use std::{net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use tidegate_common::parse::{proto, tcp_flag};

use super::{Contact, Outcome, SECOND_NS, discovery, finding, forget, seconds, tries::Tries};
use crate::learn::{Finding, RuleConfig, Subject};

const MAX_SOURCES: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
const WINDOW_NS: u64 = 60 * SECOND_NS;

pub(super) struct StealthScans {
    probes: LruCache<Subject, Tries<(IpAddr, u16)>>,
    /// Ports of a host that refused what continues no connection.
    strays: LruCache<(Subject, IpAddr), Tries<u16>>,
}

impl StealthScans {
    pub(super) fn new() -> Self {
        Self { probes: LruCache::new(MAX_SOURCES), strays: LruCache::new(MAX_SOURCES) }
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

    /// A flow that was refused.
    pub(super) fn refused(&mut self, config: &RuleConfig, contact: &Contact<'_>, found: &mut Vec<Finding>) {
        let flags = contact.record.out.tcp_flags;
        // From a service to its clients' ports come late segments.
        let is_stray = flags & tcp_flag::SYN == 0 && contact.source_port > contact.port;
        if contact.protocol != proto::TCP || !is_stray || contact.record.inward.payload_bytes > 0 {
            return;
        }
        let strays = self.strays.get_or_insert_mut((contact.subject, contact.victim), Tries::new);
        let room = config.vertical_ports as usize * 4;
        strays.note(contact.port, contact.now_ns, WINDOW_NS, WINDOW_NS, room);
        strays.settle(contact.port, Outcome::Refused);
        let tally = strays.since(contact.now_ns.saturating_sub(WINDOW_NS), contact.now_ns, 0);
        if tally.tried >= config.vertical_ports {
            let detail = format!(
                "{} ports of {} tried in {} with segments of no connection, all refused, last {flags:#04x} to port {}",
                tally.tried,
                contact.victim,
                seconds(tally.first_ns, contact.now_ns),
                contact.port
            );
            let technique = discovery(&contact.subject);
            found.push(finding(contact, technique, "stealth_scan", 0.9, tally.first_ns, detail));
        }
    }

    pub(super) fn forget(&mut self, about: &impl Fn(&Subject) -> bool) {
        forget(&mut self.probes, about);
        forget(&mut self.strays, |(subject, _)| about(subject));
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
    fn what_continues_no_connection_to_many_services_of_a_host_is_a_stealth_scan() {
        for flags in [ACK, FIN | ACK] {
            let mut script = Script::default();
            for port in 0..100u16 {
                let (from, to) = (outside(7, 40_000), inside(7, 20 + port));
                let at = u64::from(port) * S / 50;
                script.packet(at, from, to, proto::TCP, flags, 0);
                script.packet(at + S / 1_000, to, from, proto::TCP, RST, 0);
            }
            let remote = Subject::Remote(outside(7, 0).0.into());
            caught_within(&mut script, "stealth_scan", remote, S);
        }
    }

    #[test]
    fn late_segments_to_a_host_that_forgot_its_connections_are_honest() {
        let mut script = Script::default();
        for port in 0..100u16 {
            let (server, client) = (outside(7, 443), inside(7, 40_000 + port));
            let at = u64::from(port) * S / 50;
            script.packet(at, server, client, proto::TCP, ACK, 200);
            script.packet(at + S / 1_000, client, server, proto::TCP, RST, 0);
            let (client, server) = (inside(8, 40_000 + port), outside(8, 443));
            script.packet(at, client, server, proto::TCP, FIN | ACK, 0);
            script.packet(at + S / 1_000, server, client, proto::TCP, RST, 0);
        }
        honest(&mut script, 60 * S);
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
