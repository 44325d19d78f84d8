//! A device that is held to a description, end to end.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use std::{fs, path::PathBuf};

use common::{Conversation, Guarded, SOON, guarded};
use serde_json::{Value, json};
use tidegate_tests::{
    device::{ask_time, get, resolve},
    topology::{ATTACKER, CLOUD},
    wait_for,
};

/// A description that allows web requests to the cloud by its name, and nothing else.
fn description(net: &Guarded) -> PathBuf {
    let list = |name: &str, end: &str, port: &str| {
        json!({
            "name": name,
            "type": "ipv4-acl-type",
            "aces": { "ace": [{
                "name": "cloud",
                "matches": {
                    "ipv4": { (format!("ietf-acldns:{end}-dnsname")): "cloud.test", "protocol": 6 },
                    "tcp": {
                        "ietf-mud:direction-initiated": "from-device",
                        (port): { "operator": "eq", "port": 80 },
                    },
                },
                "actions": { "forwarding": "accept" },
            }] },
        })
    };
    let policy = |name: &str| json!({ "access-lists": { "access-list": [{ "name": name }] } });
    let document = json!({
        "ietf-mud:mud": {
            "mud-version": 1,
            "mud-url": "https://maker.example/recorder",
            "last-update": "2026-01-28T11:20:51+01:00",
            "is-supported": true,
            "systeminfo": "a recorder",
            "from-device-policy": policy("from"),
            "to-device-policy": policy("to"),
        },
        "ietf-access-control-list:acls": {
            "acl": [list("from", "dst", "destination-port"), list("to", "src", "source-port")],
        },
    });
    let path = net.topology.directory().join("recorder.json");
    fs::write(&path, document.to_string()).unwrap();
    path
}

fn counter(net: &Guarded, name: &str) -> u64 {
    net.tidegate(&["status"])["counters"][name].as_u64().unwrap()
}

/// Whether the device reaches its cloud; the name may still have to be resolved.
fn reaches_cloud(net: &Guarded) -> bool {
    let recorder = net.device("recorder");
    wait_for(SOON, || recorder.netns.enter(|| get((CLOUD, 80).into())).ok()).is_some()
}

fn is_held(net: &Guarded, when: &str) {
    let (recorder, camera) = (net.device("recorder"), net.device("camera"));
    assert!(reaches_cloud(net), "its cloud, {when}");
    recorder.netns.enter(|| resolve("cloud.test")).unwrap();
    recorder.netns.enter(ask_time).unwrap();
    assert!(net.is_cut(&recorder.netns, ATTACKER), "elsewhere, {when}");
    assert!(net.is_cut(&recorder.netns, camera.address), "a neighbour, {when}");
    assert!(recorder.netns.enter(|| get((CLOUD, 8_080).into())).is_err(), "another port, {when}");
    assert!(net.is_cut(&camera.netns, recorder.address), "from a neighbour, {when}");
    assert!(net.reaches(&camera.netns, ATTACKER), "another device, {when}");
}

#[test]
fn a_device_keeps_its_service_and_loses_the_rest() {
    let name = "profile::a_device_keeps_its_service_and_loses_the_rest";
    let Some(mut net) = guarded(name, |_| {}) else { return };
    let mac = net.device("recorder").mac;
    let path = description(&net).display().to_string();
    assert!(reaches_cloud(&net) && net.reaches(&net.device("recorder").netns, ATTACKER), "before");
    let mut talk = Conversation::begin(&net.device("recorder").netns, net.device("camera").address);
    assert_eq!(counter(&net, "dropped_profile"), 0);

    let applied = net.tidegate(&["devices", "mud", mac, "--apply", &path]);
    assert_eq!(applied["url"], "https://maker.example/recorder");
    is_held(&net, "applied");
    assert!(!talk.goes_on(), "an established flow that the description does not list");
    assert!(counter(&net, "dropped_profile") > 0);
    assert_eq!(net.tidegate(&["status"])["unaccounted"], 0);
    let shown = net.tidegate(&["devices", "mud", mac, "--applied"]);
    assert!(shown["refused"].as_u64().unwrap() > 0);
    assert_eq!(shown["names"]["cloud.test"], json!([CLOUD]));

    // A level beside it only makes things stricter, and its end does not end the profile.
    net.tidegate(&["devices", "isolate", mac, "--level", "full", "--ttl", "10m"]);
    assert!(net.is_cut(&net.device("recorder").netns, CLOUD));
    net.tidegate(&["devices", "release", mac]);
    is_held(&net, "after an isolation");

    net.agent.kill();
    let recorder = net.device("recorder");
    assert!(net.is_cut(&recorder.netns, ATTACKER), "with the agent dead");
    recorder.netns.enter(|| get((CLOUD, 80).into())).unwrap();
    net.agent.restart(&net.topology).unwrap();
    is_held(&net, "after a restart");

    net.tidegate(&["devices", "mud", mac, "--remove"]);
    assert!(net.reaches(&net.device("recorder").netns, ATTACKER), "after the end");
    let again = net.agent.ask(&["devices", "mud", mac, "--applied"]);
    assert!(again.is_err(), "{again:?}");
}

#[test]
fn monitor_mode_counts_and_drops_nothing() {
    let name = "profile::monitor_mode_counts_and_drops_nothing";
    let Some(net) = guarded(name, |settings| settings.mode = "monitor") else { return };
    let recorder = net.device("recorder");
    assert!(net.reaches(&recorder.netns, ATTACKER));
    let path = description(&net).display().to_string();
    net.tidegate(&["devices", "mud", recorder.mac, "--apply", &path]);
    assert!(net.reaches(&recorder.netns, ATTACKER));
    assert!(counter(&net, "would_drop") > 0);
    assert_eq!(counter(&net, "dropped_profile"), 0);
}

#[test]
fn what_a_device_does_becomes_its_description() {
    let name = "profile::what_a_device_does_becomes_its_description";
    let Some(net) = guarded(name, |settings| {
        settings.keys.push(("kernel.idle_timeout", "\"10s\"".to_owned()));
    }) else {
        return;
    };
    let recorder = net.device("recorder");
    for _ in 0..3 {
        recorder.netns.enter(|| resolve("cloud.test")).unwrap();
        assert!(reaches_cloud(&net));
    }
    let sees_cloud = |document: &Value| {
        let lists = document["ietf-access-control-list:acls"]["acl"].as_array().unwrap().clone();
        let entries = lists.iter().flat_map(|list| list["aces"]["ace"].as_array().unwrap().clone());
        entries.into_iter().any(|ace| {
            ace["matches"]["tcp"]["destination-port"]["port"] == 80
                && ace["matches"]["tcp"]["ietf-mud:direction-initiated"] == "from-device"
                && ace["matches"]["ipv4"]["ietf-acldns:dst-dnsname"] == "cloud.test"
        })
    };
    let found = wait_for(SOON * 4, || {
        net.agent.ask(&["devices", "mud", recorder.mac]).ok().filter(|document| sees_cloud(document))
    });
    let document = found.unwrap_or_else(|| {
        panic!("no description of it: {:?}", net.agent.ask(&["devices", "mud", recorder.mac]))
    });
    let path = net.topology.directory().join("own.json");
    fs::write(&path, document.to_string()).unwrap();
    net.tidegate(&["devices", "mud", recorder.mac, "--apply", &path.display().to_string()]);
    assert!(reaches_cloud(&net), "it may go on with what it did");
    assert!(net.is_cut(&recorder.netns, net.device("plug").address), "and begin nothing new");
}
