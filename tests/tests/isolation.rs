//! Isolation of a device, level by level, end to end.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use std::{fmt, thread, time::Duration};

use common::{Conversation, Guarded, guarded};
use tidegate_tests::{
    device::{ask_time, get, resolve},
    topology::{ATTACKER, CLOUD},
};

/// What a device can still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Abilities {
    resolver: bool,
    time: bool,
    cloud: bool,
    elsewhere: bool,
    neighbour: bool,
}

impl fmt::Display for Abilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

const ALL: Abilities =
    Abilities { resolver: true, time: true, cloud: true, elsewhere: true, neighbour: true };
const NONE: Abilities =
    Abilities { resolver: false, time: false, cloud: false, elsewhere: false, neighbour: false };

fn abilities(net: &Guarded) -> Abilities {
    let recorder = net.device("recorder");
    let inside = |work: fn() -> anyhow::Result<()>| recorder.netns.enter(work).is_ok();
    Abilities {
        resolver: inside(|| resolve("cloud.test")),
        time: inside(ask_time),
        cloud: inside(|| get((CLOUD, 80).into())),
        elsewhere: net.topology.reaches(&recorder.netns, ATTACKER),
        neighbour: net.topology.reaches(&recorder.netns, net.device("camera").address),
    }
}

fn at_level(name: &str, level: &str, expected: Abilities) {
    let Some(net) = guarded(name, |_| {}) else { return };
    assert_eq!(abilities(&net), ALL, "before");
    let mac = net.device("recorder").mac;
    let mut talk = Conversation::begin(&net.device("recorder").netns, net.device("camera").address);
    net.tidegate(&["devices", "isolate", mac, "--level", level, "--ttl", "10m"]);
    assert_eq!(abilities(&net), expected, "at level {level}");
    assert_eq!(talk.goes_on(), expected.neighbour, "an established flow to a neighbour at level {level}");
    assert!(net.reaches(&net.device("camera").netns, CLOUD), "another device at level {level}");
    net.tidegate(&["devices", "release", mac]);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(abilities(&net), ALL, "after release from level {level}");
}

#[test]
fn observe_drops_nothing() {
    at_level("isolation::observe_drops_nothing", "observe", ALL);
}

#[test]
fn rate_limit_leaves_modest_use() {
    at_level("isolation::rate_limit_leaves_modest_use", "rate-limit", ALL);
}

#[test]
fn cloud_only_leaves_resolver_time_and_cloud() {
    let left = Abilities { elsewhere: false, neighbour: false, ..ALL };
    at_level("isolation::cloud_only_leaves_resolver_time_and_cloud", "cloud-only", left);
}

#[test]
fn dhcp_dns_only_leaves_the_resolver() {
    at_level(
        "isolation::dhcp_dns_only_leaves_the_resolver",
        "dhcp-dns-only",
        Abilities { resolver: true, ..NONE },
    );
}

#[test]
fn full_leaves_nothing() {
    at_level("isolation::full_leaves_nothing", "full", NONE);
}

#[test]
fn an_operators_entry_wins_over_full_isolation() {
    let name = "isolation::an_operators_entry_wins_over_full_isolation";
    let Some(net) = guarded(name, |settings| {
        settings.keys.push(("never_block.addresses", format!("[\"{ATTACKER}\"]")));
    }) else {
        return;
    };
    let recorder = net.device("recorder");
    let mut talk = Conversation::begin(&recorder.netns, ATTACKER);
    net.tidegate(&["devices", "isolate", recorder.mac, "--level", "full", "--ttl", "10m"]);
    assert!(talk.goes_on(), "to the operator's entry");
    assert!(net.is_cut(&recorder.netns, net.device("camera").address), "to everyone else");
}

#[test]
fn a_protected_device_cannot_be_isolated() {
    let Some(net) = guarded("isolation::a_protected_device_cannot_be_isolated", |_| {}) else { return };
    let recorder = net.device("recorder");
    assert!(net.reaches(&recorder.netns, CLOUD));
    net.tidegate(&["allow", "add", recorder.mac]);
    assert!(net.agent.ask(&["devices", "isolate", recorder.mac, "--level", "full"]).is_err());
    assert_eq!(abilities(&net), ALL);
}
