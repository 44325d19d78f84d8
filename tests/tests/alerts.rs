//! Alerts of Suricata beside a running gateway, end to end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may stop at once")]

mod common;

use std::{fs, io::Write as _, path::Path};

use common::{SOON, guarded};
use serde_json::json;
use tidegate_tests::{
    topology::{ATTACKER, CLOUD},
    wait_for,
};

fn append(path: &Path, line: &str) {
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    writeln!(file, "{line}").unwrap();
}

fn alert(source: std::net::Ipv4Addr, severity: u8, signature: &str) -> String {
    json!({
        "timestamp": "2026-01-01T00:00:00.000000+0000",
        "event_type": "alert",
        "src_ip": source.to_string(),
        "src_port": 40_000,
        "dest_ip": CLOUD.to_string(),
        "dest_port": 80,
        "proto": "TCP",
        "alert": { "signature_id": 2_000_001, "signature": signature, "severity": severity },
    })
    .to_string()
}

#[test]
fn an_alert_becomes_evidence_about_the_device_and_blocks_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("suricata.json");
    append(&log, &alert(ATTACKER, 1, "before the gateway ran"));
    let name = "alerts::an_alert_becomes_evidence_about_the_device_and_blocks_nobody";
    let Some(net) = guarded(name, |settings| {
        settings.keys.push(("inputs.eve_alerts", format!("\"{}\"", log.display())));
    }) else {
        return;
    };
    let recorder = net.device("recorder");
    assert!(net.reaches(&recorder.netns, CLOUD));
    let incidents = || net.agent.list(&["incidents", "list"], "incidents").unwrap();
    // The file is followed from its end once the agent has looked at it.
    let seen = wait_for(SOON * 3, || {
        append(&log, &alert(recorder.address, 1, "ET EXPLOIT from inside"));
        incidents().into_iter().find(|incident| incident["subject"] == recorder.mac)
    });
    let incident = seen.expect("an incident about the recorder");
    assert_eq!(incident["technique"]["id"], "reported");
    assert!(incident["summary"].as_str().unwrap().contains("ET EXPLOIT from inside"), "{incident}");

    fs::rename(&log, directory.path().join("suricata.json.1")).unwrap();
    append(&log, "{ this is no event \"alert\"");
    append(&log, &alert(ATTACKER, 3, "ET INFO after a rotation"));
    let about_attacker = wait_for(SOON * 3, || {
        incidents().into_iter().find(|incident| incident["subject"] == ATTACKER.to_string())
    });
    let summary = about_attacker.expect("an incident about the attacker")["summary"].to_string();
    assert!(summary.contains("after a rotation") && !summary.contains("before"), "{summary}");
    assert_eq!(net.agent.list(&["blocks", "list"], "blocks").unwrap().len(), 0);
    assert!(net.reaches(&recorder.netns, CLOUD));
}
