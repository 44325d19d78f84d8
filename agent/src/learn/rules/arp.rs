//! ARP spoofing: a device claims an address that another one holds, and the other one is still there; or claims the gateway's.
//!
//! Who held the address before the quarrel is its owner and may answer back without being blamed. An address that moves is no
//! quarrel: then the one who had it no longer uses it. So a claim counts as a contradiction only when the owner used the
//! address since the claimant's last one; and as a lesson when the claimant tells the same host again and again, as nobody
//! has to who is asked now and then, while something is still heard of the owner.

use std::{net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use tidegate_common::device::DeviceKey;

use super::SECOND_NS;
use crate::{
    identity::{Contest, DhcpServer, Mac, RouterClaim, RouterSaying},
    learn::{Finding, RuleConfig, Subject, Technique},
};

const MAX_ADDRESSES: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
const MAX_CLAIMANTS: usize = 8;
/// Hosts told by one claimant that are told apart.
const MAX_TOLD: usize = 16;
const WINDOW_NS: u64 = 60 * SECOND_NS;
/// Who has an address for less may have been faster than its owner.
const STANDING_NS: u64 = 60 * SECOND_NS;
/// Claims in a burst, as announcements are, count once.
const BURST_NS: u64 = SECOND_NS;
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
    /// How the claim stands to the holder.
    pub contest: Contest,
}

struct Quarrel {
    owner: Mac,
    last_ns: u64,
    claims: Vec<Claims>,
}

struct Claims {
    claimant: DeviceKey,
    count: u32,
    /// Claims since whose predecessor the owner had used the address.
    contradictions: u32,
    told: Vec<Told>,
    first_ns: u64,
    last_ns: u64,
}

/// A host that the claimant told that it has the address.
struct Told {
    host: IpAddr,
    count: u32,
    last_ns: u64,
}

pub(super) struct ArpSpoofing {
    quarrels: LruCache<IpAddr, Quarrel>,
}

impl ArpSpoofing {
    pub(super) fn new() -> Self {
        Self { quarrels: LruCache::new(MAX_ADDRESSES) }
    }

    pub(super) fn forget(&mut self, about: &impl Fn(&Subject) -> bool) {
        for (_, quarrel) in &mut self.quarrels {
            quarrel.claims.retain(|claims| !about(&Subject::Device(claims.claimant)));
        }
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
            *claims = Claims::new(claim.claimant, now_ns);
        }
        let lessons = claims.add(&claim.contest, now_ns);
        let owner_is_there = claim.contest.heard_ns > claims.first_ns;
        let sustained = owner_is_there && lessons >= config.arp_lessons;
        if !(claim.of_gateway || claims.contradictions >= config.arp_claims || sustained) {
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
                "{} claimed {}, an address of {whose}, {times} by {}",
                Mac(claim.claimant.mac),
                claim.address,
                if claim.address.is_ipv4() { "ARP" } else { "neighbour discovery" }
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
            self.claims.push(Claims::new(claimant, now_ns));
            self.claims.len() - 1
        });
        &mut self.claims[index]
    }
}

impl Claims {
    const fn new(claimant: DeviceKey, now_ns: u64) -> Self {
        Self { claimant, count: 0, contradictions: 0, told: Vec::new(), first_ns: now_ns, last_ns: now_ns }
    }

    /// Counts one more; how often the host that was told now was told by now.
    fn add(&mut self, contest: &Contest, now_ns: u64) -> u32 {
        let established = contest.used_ns.saturating_sub(contest.held_since_ns) >= STANDING_NS;
        if self.count > 0 && established && contest.used_ns > self.last_ns {
            self.contradictions += 1;
        }
        self.count += 1;
        self.last_ns = now_ns;
        let Some(host) = contest.told else { return 0 };
        if let Some(told) = self.told.iter_mut().find(|told| told.host == host) {
            if now_ns.saturating_sub(told.last_ns) >= BURST_NS {
                told.count += 1;
                told.last_ns = now_ns;
            }
            return told.count;
        }
        if self.told.len() == MAX_TOLD {
            self.told.remove(0);
        }
        self.told.push(Told { host, count: 1, last_ns: now_ns });
        1
    }
}

/// Leases from a device in a network where the gateway gives them: one is enough, as nobody gives one by accident.
pub(in crate::learn) fn dhcp_spoof(rival: &DhcpServer, now_ns: u64) -> Finding {
    let DhcpServer { device, client } = *rival;
    Finding {
        subject: Subject::Device(device),
        victim: None,
        technique: Technique::DHCP_SPOOFING,
        rule: Some("dhcp_spoof"),
        score: 0.9,
        p_value: 1e-5,
        first_ns: now_ns,
        at_ns: now_ns,
        detail: format!("{} offered {client} a lease, which is the gateway's to give", Mac(device.mac)),
        notes: Vec::new(),
    }
}

/// An IPv6 router beside the gateway: one announcement is enough where the gateway announces itself. Where it does not, the network may
/// have another router on purpose. Nobody takes another's announcement back by accident.
pub(in crate::learn) fn router_spoof(claim: &RouterClaim, now_ns: u64) -> Finding {
    let speaker = Mac(claim.device.mac);
    let (victim, score, detail) = match claim.says {
        RouterSaying::Leads { lifetime_s, beside_gateway } => {
            let whose = if beside_gateway { "which the gateway is" } else { "which the gateway does not do" };
            let detail =
                format!("{speaker} announced itself as the default IPv6 router for {lifetime_s} s, {whose}");
            (None, if beside_gateway { 0.9 } else { 0.45 }, detail)
        }
        RouterSaying::Withdraws { router, owner } => {
            let whose = owner.map_or_else(|| "the gateway".to_owned(), |mac| mac.to_string());
            let detail = format!(
                "{speaker} said in the name of {router}, which is {whose}, that it is no router any more"
            );
            (Some(router), 0.9, detail)
        }
    };
    Finding {
        subject: Subject::Device(claim.device),
        victim,
        technique: Technique::ROUTER_SPOOFING,
        rule: Some("router_spoof"),
        score,
        p_value: 1e-5,
        first_ns: now_ns,
        at_ns: now_ns,
        detail,
        notes: Vec::new(),
    }
}

#[cfg(test)]
#[path = "arp_tests.rs"]
mod tests;
