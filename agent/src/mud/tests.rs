//! Descriptions as makers write them, as Tidegate writes them, and as nobody should.

#![allow(clippy::unwrap_used, reason = "a failing test should stop at once")]

use std::net::IpAddr;

use jiff::Timestamp;
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};
use tidegate_common::{parse::proto, profile::may};

use super::*;
use crate::{
    enforce::{Profile, ProfileRule},
    learn::{Service, Whom},
};

/// A light bulb that reaches its cloud, listens to its controller on the local networks, and asks the time.
fn bulb() -> Value {
    let list =
        |name: &str, aces: Value| json!({ "name": name, "type": "ipv4-acl-type", "aces": { "ace": aces } });
    let accept = json!({ "forwarding": "accept" });
    let https = |port: &str, name: &str| {
        json!({
            "ipv4": { (format!("ietf-acldns:{name}-dnsname")): "bulb.example.com", "protocol": 6 },
            "tcp": { "ietf-mud:direction-initiated": "from-device", (port): { "operator": "eq", "port": 443 } },
        })
    };
    let control = |port: &str| {
        json!({
            "ietf-mud:mud": { "local-networks": [null] },
            "ipv4": { "protocol": 6 },
            "tcp": { "ietf-mud:direction-initiated": "to-device", (port): { "lower-port": 8_080, "upper-port": 8_081 } },
        })
    };
    json!({
        "ietf-mud:mud": {
            "mud-version": 1,
            "mud-url": "https://bulb.example.com/bulb2000",
            "last-update": "2026-01-28T11:20:51+01:00",
            "cache-validity": 48,
            "is-supported": true,
            "systeminfo": "The BMS Example Light Bulb",
            "from-device-policy": { "access-lists": { "access-list": [{ "name": "fr" }] } },
            "to-device-policy": { "access-lists": { "access-list": [{ "name": "to" }] } },
        },
        "ietf-access-control-list:acls": { "acl": [
            list("fr", json!([
                { "name": "c0", "matches": https("destination-port", "dst"), "actions": accept },
                { "name": "c1", "matches": control("source-port"), "actions": accept },
                { "name": "c2", "matches": { "ietf-mud:mud": { "controller": "urn:ietf:params:mud:ntp" } },
                  "actions": accept },
            ])),
            list("to", json!([
                { "name": "c0", "matches": https("source-port", "src"), "actions": accept },
                { "name": "c1", "matches": control("destination-port"), "actions": accept },
                { "name": "rest", "matches": {}, "actions": { "forwarding": "drop" } },
            ])),
        ] },
    })
}

fn rule(remote: &str, remote_port: u16, local_port: u16, may: u32) -> ProfileRule {
    ProfileRule { remote: remote.parse().unwrap(), protocol: proto::TCP, remote_port, local_port, may }
}

#[test]
fn a_makers_description_becomes_rules_in_both_directions() {
    let policy = read(bulb().to_string().as_bytes()).unwrap();
    assert_eq!(policy.systeminfo, "The BMS Example Light Bulb");
    assert_eq!(policy.names().into_iter().collect::<Vec<_>>(), ["bulb.example.com"]);
    let addresses = |_: &str| vec![[198, 51, 100, 7].into(), "2001:db8::7".parse().unwrap()];
    let Profile { rules } = policy.profile(&addresses);
    assert!(rules.contains(&rule("198.51.100.7/32", 443, 0, may::SEND | may::CONNECT)));
    assert!(rules.contains(&rule("198.51.100.7/32", 443, 0, may::RECEIVE)));
    assert!(rules.contains(&rule("192.168.0.0/16", 0, 8_081, may::SEND)));
    assert!(rules.contains(&rule("192.168.0.0/16", 0, 8_081, may::RECEIVE | may::ACCEPT)));
    assert!(rules.iter().all(|rule| rule.remote.addr().is_ipv4()), "the lists are of IPv4");
    let unknown = policy.profile(&|_| Vec::new());
    assert!(
        unknown.rules.iter().all(|rule| rule.remote_port == 0),
        "a name without addresses allows nothing"
    );
}

#[test]
fn everything_that_is_not_supported_is_told_at_once() {
    let mut document = bulb();
    let acls = &mut document["ietf-access-control-list:acls"]["acl"];
    acls[0]["aces"]["ace"][0]["matches"]["ipv4"]["dscp"] = json!(10);
    acls[0]["aces"]["ace"][1]["matches"]["ietf-mud:mud"] = json!({ "same-manufacturer": [null] });
    acls[0]["aces"]["ace"][2]["actions"]["forwarding"] = json!("reject");
    acls[1]["aces"]["ace"][1]["matches"]["tcp"]["destination-port"] =
        json!({ "lower-port": 1024, "upper-port": 9_000 });
    let error = read(document.to_string().as_bytes()).unwrap_err();
    assert_eq!(
        error.problems,
        [
            "entry `c0` of `fr`: match `ipv4/dscp` is not supported",
            "entry `c1` of `fr`: match `ietf-mud:mud/same-manufacturer` is not supported",
            "entry `c2` of `fr`: denying entries are not supported",
            "entry `c1` of `to`: the range 1024 to 9000 is too wide: name at most 64 ports, or none for all",
        ]
    );
}

#[test]
fn what_is_no_description_is_refused_with_the_reason() {
    for (text, reason) in [
        ("", "no JSON"),
        ("{}", "no `ietf-mud:mud` container"),
        (r#"{"ietf-mud:mud":{"mud-version":2,"mud-url":"https://x"}}"#, "`mud-version` is not 1"),
        (r#"{"ietf-mud:mud":{"mud-version":1,"mud-url":"http://x"}}"#, "no https URL"),
        (r#"{"ietf-mud:mud":{"mud-version":1,"mud-url":"https://x"}}"#, "allows nothing"),
    ] {
        let error = read(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

fn service(whom: Whom, peer: &str, protocol: u8, port: u16, by_device: bool) -> Service {
    Service { whom, peer: peer.parse().unwrap(), protocol, port, by_device }
}

fn written(services: &[Service]) -> Value {
    let name_of =
        |address: IpAddr| (address == IpAddr::from([198, 51, 100, 7])).then(|| "cloud.example".to_owned());
    let author = Author {
        url: "https://gateway.invalid/camera",
        systeminfo: "camera",
        at: Timestamp::from_second(1_800_000_000).unwrap(),
    };
    write(services, &name_of, author)
}

#[test]
fn a_baselines_description_names_hosts_and_keeps_directions() {
    let document = written(&[
        service(Whom::Remote, "198.51.100.7", proto::TCP, 443, true),
        service(Whom::Gateway, "10.0.0.1", proto::UDP, 53, true),
        service(Whom::Neighbour, "10.0.0.9", proto::TCP, 8_080, false),
        service(Whom::Group, "ff02::fb", proto::UDP, 5_353, true),
    ]);
    assert_eq!(document["ietf-mud:mud"]["last-update"], "2027-01-15T08:00:00+00:00");
    let acls = document["ietf-access-control-list:acls"]["acl"].as_array().unwrap();
    assert_eq!(acls.len(), 4, "two directions of two IP versions");
    let text = document.to_string();
    assert!(text.contains(r#""ietf-acldns:src-dnsname":"cloud.example""#), "{text}");
    assert!(text.contains(r#""controller":"urn:ietf:params:mud:dns""#), "{text}");
    let policy = read(text.as_bytes()).unwrap();
    let served: Vec<_> = policy.entries.iter().filter(|entry| entry.party == Party::Local).collect();
    assert_eq!(served.len(), 2);
    assert!(served.iter().all(|entry| entry.local_ports == [8_080] && entry.begun_by == Some(Side::Remote)));
}

#[test]
fn very_many_addresses_or_ports_are_all_of_them() {
    let hosts: Vec<Service> = (1..=20)
        .map(|host| service(Whom::Remote, &format!("203.0.113.{host}"), proto::TCP, 443, true))
        .chain((1..=40).map(|port| service(Whom::Remote, "192.0.2.1", proto::UDP, port, true)))
        .collect();
    let policy = read(written(&hosts).to_string().as_bytes()).unwrap();
    let parties: Vec<_> = policy.entries.iter().filter(|entry| entry.from == Side::Device).collect();
    assert_eq!(parties.len(), 2, "{parties:?}");
    assert!(parties.iter().any(|entry| entry.party == Party::Anyone && entry.remote_ports == [443]));
    assert!(parties.iter().any(|entry| entry.party != Party::Anyone && entry.remote_ports.is_empty()));
}

fn values() -> impl Strategy<Value = Value> {
    let words = select(vec![
        "ietf-mud:mud",
        "mud-version",
        "mud-url",
        "https://x",
        "from-device-policy",
        "access-lists",
        "access-list",
        "name",
        "fr",
        "ietf-access-control-list:acls",
        "acl",
        "type",
        "ipv4-acl-type",
        "aces",
        "ace",
        "matches",
        "ipv4",
        "protocol",
        "tcp",
        "destination-port",
        "operator",
        "port",
        "lower-port",
        "actions",
        "forwarding",
        "accept",
    ]);
    let leaf = prop_oneof![
        words.clone().prop_map(|word| json!(word)),
        any::<i64>().prop_map(|number| json!(number)),
        Just(json!(1)),
        Just(Value::Null),
        ".{0,12}".prop_map(|text| json!(text)),
    ];
    leaf.prop_recursive(8, 96, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Array),
            vec((words.clone(), inner), 0..6).prop_map(|fields| {
                Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_document_makes_the_reader_panic(value in values(), bytes in vec(any::<u8>(), 0..200)) {
        let _ = read(value.to_string().as_bytes());
        let _ = read(&bytes);
    }

    #[test]
    fn no_change_of_a_good_document_makes_the_reader_panic(at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = bulb().to_string().into_bytes();
        let place = at.index(bytes.len());
        bytes[place] = byte;
        let _ = read(&bytes);
    }

    #[test]
    fn what_is_written_is_read_again(
        services in vec(
            (
                select(vec![Whom::Gateway, Whom::Neighbour, Whom::Group, Whom::Remote]),
                any::<[u8; 16]>(),
                any::<bool>(),
                select(vec![proto::TCP, proto::UDP, proto::ICMP, proto::ICMPV6, 47]),
                any::<u16>(),
                any::<bool>(),
            ),
            1..60,
        )
    ) {
        let services: Vec<Service> = services
            .into_iter()
            .map(|(whom, octets, v4, protocol, port, by_device)| {
                let peer = if v4 { IpAddr::from([octets[0], octets[1], octets[2], octets[3]]) } else { octets.into() };
                let port = if matches!(protocol, proto::TCP | proto::UDP) { port.max(1) } else { 0 };
                Service { whom, peer, protocol, port, by_device }
            })
            .collect();
        let policy = read(written(&services).to_string().as_bytes());
        prop_assert!(policy.is_ok(), "{policy:?}");
    }
}
