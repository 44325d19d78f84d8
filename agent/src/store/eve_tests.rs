//! The event log's words.

#![allow(clippy::unwrap_used, reason = "fixed times and addresses are valid")]

use serde_json::{Value, json};
use tidegate_common::{
    flow::{FlowKey, FlowRecord, progress},
    parse::proto,
    pod::Addr,
};

use super::eve::*;
use crate::enforce::Now;

fn now() -> Now {
    Now { kernel_ns: 90_000_000_000, wall: "2026-02-03T04:05:06.000789Z".parse().unwrap() }
}

#[test]
fn an_alert_reads_like_suricatas() {
    let found = Alert {
        tuple: Tuple {
            src: Some(("198.51.100.7".parse().unwrap(), 0)),
            dest: Some(("192.0.2.5".parse().unwrap(), 23)),
            proto: Some(proto::TCP),
        },
        in_iface: Some("lan0"),
        blocked: true,
        rule: "brute-force",
        signature: "40 failed logins in 10 s",
        category: "Brute Force",
        peer: None,
        severity: 1,
        tidegate: json!({"incident": "0A"}),
    };
    let event = alert(&found, now().wall);
    assert_eq!(event["timestamp"], "2026-02-03T04:05:06.000789+0000");
    assert_eq!(event["event_type"], "alert");
    assert_eq!((&event["src_ip"], &event["dest_port"]), (&json!("198.51.100.7"), &json!(23)));
    assert_eq!(event.get("src_port"), None, "many ports are no port");
    assert_eq!((&event["alert"]["action"], &event["proto"]), (&json!("blocked"), &json!("TCP")));
    assert!((1_000_000..2_000_000).contains(&event["alert"]["signature_id"].as_u64().unwrap()));
    assert_eq!(event["tidegate"]["incident"], "0A");
}

#[test]
fn a_flow_is_told_from_its_initiator() {
    let key = FlowKey {
        a: Addr::v4([192, 0, 2, 1]),
        b: Addr::v4([198, 51, 100, 1]),
        a_port: 443,
        b_port: 50_000,
        vlan: 7,
        proto: proto::TCP,
        ..FlowKey::default()
    };
    let mut record = FlowRecord { initiator_is_b: 1, progress: progress::RESET, ..FlowRecord::default() };
    record.out = tidegate_common::flow::FlowSide {
        packets: 3,
        bytes: 180,
        first_ns: 60_000_000_000,
        last_ns: 89_500_000_000,
        tcp_flags: 0x02,
        ..record.out
    };
    let event = flow(&key, &record, Some("lan0"), "closed", now());
    assert_eq!((&event["src_ip"], &event["src_port"]), (&json!("198.51.100.1"), &json!(50_000)));
    assert_eq!((&event["dest_ip"], &event["dest_port"]), (&json!("192.0.2.1"), &json!(443)));
    assert_eq!(event["flow"]["start"], "2026-02-03T04:04:36.000789+0000");
    assert_eq!((&event["flow"]["age"], &event["flow"]["state"]), (&json!(29), &json!("closed")));
    assert_eq!((&event["vlan"], &event["tcp"]["tcp_flags_ts"]), (&json!([7]), &json!("02")));
    assert!(event["flow_id"].as_u64().unwrap() < 1 << 53);
}

#[test]
fn own_events_keep_to_their_key() {
    let event = tidegate("verdict", json!({"target": "192.0.2.1"}), now().wall);
    assert_eq!(event["tidegate"], json!({"kind": "verdict", "target": "192.0.2.1"}));
    assert_eq!(tidegate("start", "1.0", now().wall)["tidegate"], json!({"kind": "start", "value": "1.0"}));
}

#[test]
fn trouble_is_counted_and_over_when_writing_works_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("eve.json");
    std::fs::create_dir(&path).unwrap();
    let mut log = EveLog::new(&path, 1 << 20, 2);
    assert!(!log.write(&stats(json!({"uptime": 1}), now().wall)));
    assert!(log.tally().trouble.is_some());
    std::fs::remove_dir(&path).unwrap();
    assert!(log.write(&stats(json!({"uptime": 2}), now().wall)));
    assert_eq!(*log.tally(), EveTally { written: 1, failed: 1, trouble: None });
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["stats"]["uptime"], 2);
}
