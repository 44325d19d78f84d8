//! Patient scans: hosts or ports that stayed silent, counted over tens of minutes with a weight that halves again and again.
//!
//! Only services that are worth a scan count, and the web only within the local networks or from outside: a client whose line
//! is down tries many web servers, and peer-to-peer programs try many hosts on ports of their own.

use std::{net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use tidegate_common::parse::proto;

use super::{Contact, Outcome, SECOND_NS, discovery, finding, forget, is_local, seconds, tries::Tries};
use crate::learn::{Finding, RuleConfig, Subject};

const MAX_SOURCES: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
/// Targets remembered of one source, as many times the limit.
const ROOM_FACTOR: u32 = 4;
/// How long an answer may take before a try counts as failed.
const GRACE_NS: u64 = 3 * SECOND_NS;
/// After so many half-lives a try weighs next to nothing and may be forgotten.
const HALF_LIVES: u64 = 4;

pub(super) struct SlowScans {
    /// Hosts tried by source and port.
    hosts: LruCache<(Subject, u16), Tries<IpAddr>>,
    /// Ports tried by source and victim.
    ports: LruCache<(Subject, IpAddr), Tries<u16>>,
}

impl SlowScans {
    pub(super) fn new() -> Self {
        Self { hosts: LruCache::new(MAX_SOURCES), ports: LruCache::new(MAX_SOURCES) }
    }

    pub(super) fn attempt(&mut self, config: &RuleConfig, contact: &Contact<'_>, found: &mut Vec<Finding>) {
        if contact.protocol != proto::TCP {
            return;
        }
        let now_ns = contact.now_ns;
        let half_life_ns = u64::from(config.patient_scan_half_life_s) * SECOND_NS;
        let memory_ns = half_life_ns * HALF_LIVES;
        if is_worth_a_scan(contact) {
            let capacity = (config.patient_scan_hosts * ROOM_FACTOR) as usize;
            let tries = self.hosts.get_or_insert_mut((contact.subject, contact.port), Tries::new);
            tries.note(contact.victim, now_ns, memory_ns, memory_ns, capacity);
            let (failed, answered, first_ns) = tries.weigh(now_ns, half_life_ns, GRACE_NS);
            if failed >= f64::from(config.patient_scan_hosts) && answered <= failed {
                let detail = format!(
                    "hosts tried on TCP port {} one after the other over {}, with the weight of {failed:.0} recent ones \
                     that did not answer or refused",
                    contact.port,
                    seconds(first_ns, now_ns)
                );
                let rule = "patient_horizontal_scan";
                found.push(finding(contact, discovery(&contact.subject), rule, 0.85, first_ns, detail));
            }
        }
        let capacity = (config.patient_scan_ports * ROOM_FACTOR) as usize;
        let tries = self.ports.get_or_insert_mut((contact.subject, contact.victim), Tries::new);
        tries.note(contact.port, now_ns, memory_ns, memory_ns, capacity);
        let (failed, answered, first_ns) = tries.weigh(now_ns, half_life_ns, GRACE_NS);
        if failed >= f64::from(config.patient_scan_ports) && answered <= failed {
            let detail = format!(
                "ports of {} tried one after the other over {}, with the weight of {failed:.0} recent ones that did not \
                 answer or refused",
                contact.victim,
                seconds(first_ns, now_ns)
            );
            let rule = "patient_vertical_scan";
            found.push(finding(contact, discovery(&contact.subject), rule, 0.85, first_ns, detail));
        }
    }

    pub(super) fn outcome(&mut self, contact: &Contact<'_>, outcome: Outcome) {
        if contact.protocol != proto::TCP {
            return;
        }
        if let Some(tries) = self.hosts.peek_mut(&(contact.subject, contact.port)) {
            tries.settle(contact.victim, outcome);
        }
        if let Some(tries) = self.ports.peek_mut(&(contact.subject, contact.victim)) {
            tries.settle(contact.port, outcome);
        }
    }

    pub(super) fn forget(&mut self, about: &impl Fn(&Subject) -> bool) {
        forget(&mut self.hosts, |(subject, _)| about(subject));
        forget(&mut self.ports, |(subject, _)| about(subject));
    }

    /// Forgets what is over.
    pub(super) fn expire(&mut self, config: &RuleConfig, now_ns: u64) {
        let memory_ns = u64::from(config.patient_scan_half_life_s) * SECOND_NS * HALF_LIVES;
        let old = |last_ns: u64| now_ns.saturating_sub(last_ns) > memory_ns;
        while self.hosts.peek_lru().is_some_and(|(_, tries)| old(tries.last_ns())) {
            self.hosts.pop_lru();
        }
        while self.ports.peek_lru().is_some_and(|(_, tries)| old(tries.last_ns())) {
            self.ports.pop_lru();
        }
    }
}

fn is_worth_a_scan(contact: &Contact<'_>) -> bool {
    match contact.port {
        80 | 443 | 8080 | 8443 => matches!(contact.subject, Subject::Remote(_)) || is_local(contact.victim),
        1..=1_023 => true,
        port => matches!(
            port,
            1_433
                | 1_883
                | 2_222
                | 2_323
                | 3_306
                | 3_389
                | 5_432
                | 5_555
                | 5_900
                | 6_379
                | 7_547
                | 8_291
                | 8_883
                | 9_200
                | 23_231
                | 27_017
                | 37_215
                | 52_869
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{caught_within, honest};
    use crate::learn::{
        Subject,
        testing::{S, Script, device, inside, outside},
    };

    #[test]
    fn a_host_every_twenty_seconds_is_a_scan_in_the_end() {
        let mut script = Script::default();
        for host in 0..120u32 {
            script.syn(u64::from(host) * 20 * S, inside(66, 40_000 + host as u16), outside(host * 77, 23));
        }
        let found =
            caught_within(&mut script, "patient_horizontal_scan", Subject::Device(device(66)), 900 * S);
        assert_eq!(found.technique.id, "T1046");
    }

    #[test]
    fn a_port_every_ten_seconds_is_a_scan_in_the_end() {
        let mut script = Script::default();
        for port in 1..200u16 {
            script.refused(u64::from(port) * 10 * S, outside(7, 40_000), inside(7, port));
        }
        let remote = Subject::Remote(outside(7, 0).0.into());
        caught_within(&mut script, "patient_vertical_scan", remote, 900 * S);
    }

    #[test]
    fn dead_servers_tried_for_ever_and_an_outage_are_no_scan() {
        let mut script = Script::default();
        for step in 0..600u32 {
            // The same eight servers of a vendor that closed down.
            script.syn(u64::from(step) * 5 * S, inside(7, 40_000 + step as u16), outside(step % 8, 8_883));
            // A browser without a line.
            script.syn(u64::from(step) * 5 * S, inside(8, 40_000 + step as u16), outside(step * 9, 443));
            // Peer-to-peer.
            script.syn(u64::from(step) * 5 * S, inside(9, 40_000 + step as u16), outside(step * 9, 6_881));
        }
        honest(&mut script, 3_100 * S);
    }

    #[test]
    fn a_client_of_many_services_that_answer_is_no_scan() {
        let mut script = Script::default();
        for host in 0..150u32 {
            let ends = (inside(7, 40_000 + host as u16), outside(host, 22));
            script.tcp(u64::from(host) * 20 * S, ends, (10, 100), (10, 300), S / 10, true);
        }
        honest(&mut script, 3_100 * S);
    }
}
