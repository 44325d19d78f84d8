//! ARP spoofing: a device claims an address that another one holds, again and again, or claims the gateway's at all.
//!
//! Who held the address before the quarrel is its owner and may answer back without being blamed. One change of an
//! address from one device to another is no quarrel: leases move.

use std::{net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use tidegate_common::device::DeviceKey;

use super::SECOND_NS;
use crate::{
    identity::Mac,
    learn::{Finding, RuleConfig, Subject, Technique},
};

const MAX_ADDRESSES: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
const MAX_CLAIMANTS: usize = 8;
const WINDOW_NS: u64 = 60 * SECOND_NS;
/// A quarrel that rested this long is over; who holds the address then is its owner.
const FORGET_NS: u64 = 900 * SECOND_NS;

/// A device says by ARP that it has an address which was another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpClaim {
    /// Who claims.
    pub claimant: DeviceKey,
    /// What it claims.
    pub address: IpAddr,
    /// Hardware address that held it until now.
    pub holder: Mac,
    /// Whether the address is one of the gateway's own: then a single claim is enough.
    pub of_gateway: bool,
}

struct Quarrel {
    owner: Mac,
    last_ns: u64,
    claims: Vec<Claims>,
}

struct Claims {
    claimant: DeviceKey,
    count: u32,
    first_ns: u64,
    last_ns: u64,
}

pub(super) struct ArpSpoofing {
    quarrels: LruCache<IpAddr, Quarrel>,
}

impl ArpSpoofing {
    pub(super) fn new() -> Self {
        Self { quarrels: LruCache::new(MAX_ADDRESSES) }
    }

    pub(super) fn claim(&mut self, config: &RuleConfig, claim: &ArpClaim, now_ns: u64) -> Option<Finding> {
        let fresh = || Quarrel { owner: claim.holder, last_ns: now_ns, claims: Vec::new() };
        let quarrel = self.quarrels.get_or_insert_mut(claim.address, fresh);
        if now_ns.saturating_sub(quarrel.last_ns) > FORGET_NS {
            *quarrel = fresh();
        }
        quarrel.last_ns = now_ns;
        if Mac(claim.claimant.mac) == quarrel.owner {
            return None;
        }
        let owner = quarrel.owner;
        let claims = quarrel.of(claim.claimant, now_ns);
        if now_ns.saturating_sub(claims.first_ns) > WINDOW_NS {
            *claims = Claims { claimant: claim.claimant, count: 0, first_ns: now_ns, last_ns: now_ns };
        }
        claims.count += 1;
        claims.last_ns = now_ns;
        if !claim.of_gateway && claims.count < config.arp_claims {
            return None;
        }
        let times = if claims.count == 1 { "once".to_owned() } else { format!("{} times", claims.count) };
        let whose = if claim.of_gateway { "the gateway".to_owned() } else { owner.to_string() };
        Some(Finding {
            subject: Subject::Device(claim.claimant),
            victim: Some(claim.address),
            technique: Technique::ARP_POISONING,
            rule: Some("arp_spoof"),
            score: if claim.of_gateway { 0.97 } else { 0.9 },
            p_value: 1e-5,
            first_ns: claims.first_ns,
            at_ns: now_ns,
            detail: format!(
                "{} claimed {}, an address of {whose}, {times} by ARP",
                Mac(claim.claimant.mac),
                claim.address
            ),
            notes: Vec::new(),
        })
    }
}

impl Quarrel {
    /// What `claimant` did in this quarrel; the longest silent one gives way.
    fn of(&mut self, claimant: DeviceKey, now_ns: u64) -> &mut Claims {
        let known = self.claims.iter().position(|claims| claims.claimant == claimant);
        let index = known.unwrap_or_else(|| {
            if self.claims.len() == MAX_CLAIMANTS {
                let oldest = (0..MAX_CLAIMANTS).min_by_key(|index| self.claims[*index].last_ns).unwrap_or(0);
                self.claims.swap_remove(oldest);
            }
            self.claims.push(Claims { claimant, count: 0, first_ns: now_ns, last_ns: now_ns });
            self.claims.len() - 1
        });
        &mut self.claims[index]
    }
}
