//! Lateral movement: a device with a baseline gets answers from the admin services of devices it never spoke to.
//!
//! One new neighbour is no more than an anomaly, which is reported; several within minutes are not what an appliance does.

use std::{collections::VecDeque, net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use tidegate_common::parse::proto;

use super::{Contact, SECOND_NS, finding, forget, seconds};
use crate::learn::{Finding, RuleConfig, Subject, Technique};

const MAX_DEVICES: NonZeroUsize = NonZeroUsize::new(512).unwrap();
const MAX_PEERS: usize = 32;

struct Peer {
    address: IpAddr,
    at_ns: u64,
}

pub(super) struct LateralMovement {
    peers: LruCache<Subject, VecDeque<Peer>>,
}

impl LateralMovement {
    pub(super) fn new() -> Self {
        Self { peers: LruCache::new(MAX_DEVICES) }
    }

    /// The subject, a device with a baseline, was answered by a device that the baseline does not know.
    pub(super) fn met(&mut self, config: &RuleConfig, contact: &Contact<'_>) -> Option<Finding> {
        let name = admin_service(contact.port).filter(|_| contact.protocol == proto::TCP)?;
        let window_ns = u64::from(config.lateral_window_s) * SECOND_NS;
        let peers = self.peers.get_or_insert_mut(contact.subject, VecDeque::new);
        peers.retain(|peer| contact.now_ns.saturating_sub(peer.at_ns) <= window_ns);
        let address = contact.victim;
        if peers.len() < MAX_PEERS && !peers.iter().any(|peer| peer.address == address) {
            peers.push_back(Peer { address, at_ns: contact.now_ns });
        }
        let first_ns = peers.front().map_or(contact.now_ns, |peer| peer.at_ns);
        let many = peers.len() >= config.lateral_peers as usize;
        let detail = format!(
            "{name} of {address} answered, {} in {}, and the baseline knows none of them as a peer",
            match peers.len() {
                1 => "the first such device".to_owned(),
                count => format!("one of {count} such devices"),
            },
            seconds(first_ns, contact.now_ns)
        );
        let (rule, score) = if many { ("lateral_movement", 0.85) } else { ("new_admin_peer", 0.4) };
        Some(finding(contact, Technique::REMOTE_SERVICES, rule, score, first_ns, detail))
    }

    pub(super) fn forget(&mut self, about: &impl Fn(&Subject) -> bool) {
        forget(&mut self.peers, about);
    }
}

/// Services by which devices are run, or taken over.
const fn admin_service(port: u16) -> Option<&'static str> {
    Some(match port {
        21 => "FTP",
        22 | 2_222 => "SSH",
        23 | 2_323 => "Telnet",
        80 | 8_080 => "HTTP",
        443 | 8_443 => "HTTPS",
        135 | 139 | 445 => "SMB",
        502 => "Modbus",
        1_883 | 8_883 => "MQTT",
        3_389 => "RDP",
        5_555 => "ADB",
        5_900 => "VNC",
        _ => return None,
    })
}
