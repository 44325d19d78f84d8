//! Quarrels over addresses: who is blamed, and who is not.

use std::net::IpAddr;

use super::*;
use crate::learn::{
    finding::Nature,
    testing::{S, Sim, device},
};

const INFECTED: u8 = 0x42;

fn claim(claimant: u8, holder: u8, contest: Contest) -> ArpClaim {
    let holder = Mac(device(holder).mac);
    ArpClaim {
        claimant: device(claimant),
        address: IpAddr::from([10, 0, 0, 1]),
        holder,
        of_gateway: false,
        contest,
    }
}

/// When the first of `claims`, each with its time in seconds, is blamed.
fn blamed(claims: impl IntoIterator<Item = (u64, ArpClaim)>) -> Option<(u64, Finding)> {
    let mut sim = Sim::new();
    claims.into_iter().find_map(|(at, claim)| {
        sim.learner.observe_arp_claim(&claim, at * S).pop().map(|finding| (at, finding))
    })
}

/// The holder has the address since the beginning, used it and was heard at these seconds.
fn contest(used: u64, heard: u64, told: Option<u8>) -> Contest {
    Contest {
        told: told.map(|last| IpAddr::from([10, 0, 0, last])),
        used_ns: used * S,
        heard_ns: heard * S,
        ..Contest::default()
    }
}

#[test]
fn who_claims_again_and_again_what_its_owner_uses_is_blamed_and_the_owner_is_not() {
    let quarrel = (100..130).step_by(2).flat_map(|at| {
        [
            (at, claim(INFECTED, 1, contest(at - 1, at - 1, None))),
            (at + 1, claim(1, INFECTED, contest(at, at, None))),
        ]
    });
    let (at, finding) = blamed(quarrel).unwrap();
    assert_eq!((finding.subject, finding.rule), (Subject::Device(device(INFECTED)), Some("arp_spoof")));
    assert_eq!(at, 104);
    assert_eq!(
        finding.detail,
        "02:00:00:00:00:42 claimed 10.0.0.1, an address of 02:00:00:00:00:01, 3 times by ARP"
    );
}

#[test]
fn who_tells_a_host_every_other_second_is_blamed_though_the_owner_says_little() {
    // As arpspoof does; the owner sent something once, to anyone, from any address.
    let lessons = (100..130).step_by(2).map(|at| (at, claim(INFECTED, 1, contest(40, 101, Some(7)))));
    let (at, finding) = blamed(lessons).unwrap();
    assert_eq!((at, finding.rule), (106, Some("arp_spoof")));
}

#[test]
fn an_address_that_moves_in_good_order_is_nobodys_fault() {
    let gone = |at, told| (at, claim(5, 6, contest(90, 90, told)));
    let replaced = (100..160).step_by(2).map(|at| gone(at, Some(7)));
    assert_eq!(blamed(replaced), None, "nothing is heard of the old network card");
    let heard = |at, told| (at, claim(5, 6, contest(90, at, told)));
    // Announcements, then answers to whoever asks: twice a minute each, as caches are refreshed.
    let moved = [100, 100, 102, 104].map(|at| heard(at, Some(1)));
    let asked = (105..220).filter(|at| at % 30 < 8).map(|at| heard(at, Some(10 + (at % 30) as u8)));
    assert_eq!(
        blamed(moved.into_iter().take(3).chain(asked)),
        None,
        "the old owner lives on with another address"
    );
    // Failover of a router's address: two bursts of announcements.
    let burst = [100, 100, 100, 100, 100, 105, 105, 105, 105, 105].map(|at| heard(at, Some(1)));
    assert_eq!(blamed(burst), None);
    let requests = (100..160).step_by(2).map(|at| heard(at, None));
    assert_eq!(blamed(requests), None, "requests from an address nobody uses any more");
}

#[test]
fn who_just_got_an_address_proves_nothing_by_using_it() {
    let fresh = |at: u64| Contest { held_since_ns: (at - 3) * S, ..contest(at - 1, at - 1, None) };
    assert_eq!(blamed((100..130).step_by(2).map(|at| (at, claim(1, INFECTED, fresh(at))))), None);
}

#[test]
fn one_claim_of_the_gateways_address_is_enough() {
    let of_gateway = ArpClaim { of_gateway: true, ..claim(INFECTED, 1, Contest::default()) };
    assert_eq!(Sim::new().learner.observe_arp_claim(&of_gateway, S).len(), 1);
}

#[test]
fn a_second_router_is_a_threat_beside_the_gateway_and_else_a_change() {
    let nature = |says| {
        let rival = RouterClaim { device: device(INFECTED), says };
        let [found] = Sim::new().learner.observe_router(&rival, S).try_into().unwrap();
        assert_eq!(
            (found.technique, found.subject),
            (Technique::ROUTER_SPOOFING, Subject::Device(device(INFECTED)))
        );
        found.nature()
    };
    let leads = |beside_gateway| RouterSaying::Leads { lifetime_s: 1_800, beside_gateway };
    assert_eq!((nature(leads(true)), nature(leads(false))), (Nature::Threat, Nature::Anomaly));
    let withdraws = RouterSaying::Withdraws { router: [10, 0, 0, 1].into(), owner: None };
    assert_eq!(nature(withdraws), Nature::Threat);
}
