//! A maker's service that moves, and what only pretends to be one.

use std::net::Ipv4Addr;

use super::*;
use crate::{
    identity::DnsAnswer,
    learn::{
        BaselineState, Phase,
        finding::Nature,
        learner::tests::{SENSOR, minute, quick},
        testing::{S, Script, Sim, device, inside, outside},
    },
};

const TRUSTED: Resolver = Resolver { trusted: true, device: None };
const OTHER: Resolver = Resolver { trusted: false, device: None };

fn answer(name: &str, number: u32, ttl: u32) -> DnsMessage {
    DnsMessage {
        device: device(SENSOR),
        client: Ipv4Addr::new(10, 0, 0, SENSOR).into(),
        client_port: 40_000,
        resolver: Ipv4Addr::new(10, 0, 0, 1).into(),
        id: 1,
        name: name.to_owned(),
        name_len: 20,
        qtype: 1,
        length: 60,
        answer: Some(DnsAnswer { rcode: 0, addresses: vec![(outside(number, 0).0.into(), ttl)] }),
    }
}

/// A sensor with a baseline that used vendor.com while it was learned.
fn learned() -> Sim {
    let mut sim = Sim::with(quick());
    let at = sim.now;
    assert!(sim.learner.observe_dns(&answer("mqtt.vendor.com", 1, 60), TRUSTED, at).is_empty());
    let mut script = Script::default();
    (0..22).for_each(|n| minute(&mut script, n));
    sim.play(&mut script, 1_380 * S);
    assert_eq!(sim.learner.phase(device(SENSOR)), Some(Phase::Ready));
    sim
}

/// Contacts every five seconds with a host outside.
fn contacts(sim: &mut Sim, number: u32) -> Vec<Finding> {
    let mut script = Script::default();
    for contact in 0..20_u16 {
        let from = inside(SENSOR, 30_000 + contact);
        script.tcp(
            u64::from(contact) * 5 * S,
            (from, outside(number, 443)),
            (3, 100),
            (3, 100),
            S / 50,
            true,
        );
    }
    sim.play(&mut script, 120 * S)
        .into_iter()
        .map(|(_, finding)| finding)
        .filter(|found| found.rule.is_some())
        .collect()
}

#[test]
fn another_address_of_a_domain_always_used_is_a_change_and_no_beacon() {
    let mut sim = learned();
    let at = sim.now;
    assert!(sim.learner.observe_dns(&answer("eu2.vendor.com", 500, 60), TRUSTED, at).is_empty());
    let [found] = contacts(&mut sim, 500).try_into().unwrap();
    assert_eq!((found.technique, found.nature()), (Technique::CHANGE, Nature::Anomaly));
    assert!(found.detail.contains("eu2.vendor.com"), "{}", found.detail);
}

#[test]
fn nothing_else_vouches_for_an_address() {
    for (what, name, resolver, ttl_over) in [
        ("another domain", "vendor.com.evil.net", TRUSTED, false),
        ("a resolver of its own choice", "eu2.vendor.com", OTHER, false),
        ("an answer of long ago", "eu2.vendor.com", TRUSTED, true),
    ] {
        let mut sim = learned();
        let at = sim.now;
        sim.learner.observe_dns(&answer(name, 500, 60), resolver, at);
        if ttl_over {
            sim.now += 700 * S;
        }
        let found = contacts(&mut sim, 500);
        assert!(found.iter().any(|found| found.rule == Some("beacon")), "{what}: {found:#?}");
        assert!(found.iter().all(|found| found.technique != Technique::CHANGE), "{what}: {found:#?}");
    }
}

#[test]
fn what_is_asked_after_learning_makes_no_domain_usual() {
    let mut sim = learned();
    let at = sim.now;
    sim.learner.observe_dns(&answer("new.other.com", 500, 60), TRUSTED, at);
    sim.learner.observe_dns(&answer("new.other.com", 500, 60), TRUSTED, at);
    assert!(contacts(&mut sim, 500).iter().any(|found| found.rule == Some("beacon")));
}

#[test]
fn domains_are_stored_with_the_baseline() {
    let sim = learned();
    let state = sim.learner.export(device(SENSOR), sim.now).unwrap();
    assert_eq!(state.domains, ["vendor.com"]);
    let text = serde_json::to_string(&state).unwrap();
    let mut other = Sim::with(quick());
    other.learner.import(&serde_json::from_str::<BaselineState>(&text).unwrap(), other.now).unwrap();
    let at = other.now;
    other.learner.observe_dns(&answer("eu2.vendor.com", 500, 60), TRUSTED, at);
    let found = contacts(&mut other, 500);
    assert!(found.iter().all(|found| found.rule != Some("beacon")), "{found:#?}");
    let old = text.replace("\"domains\":[\"vendor.com\"],", "");
    assert!(old != text && serde_json::from_str::<BaselineState>(&old).unwrap().domains.is_empty());
}
