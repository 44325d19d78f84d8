//! The link against a real mosquitto that asks for certificates, in a network namespace of its own, with the loop played by the test.

#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::mpsc::Receiver};

use jiff::{SignedDuration, Timestamp};
use tidegate_wire::{Envelope, Heartbeat, Report};

use super::{
    jobs,
    link::{Order, Wanted},
    shadow::{Desired, Reported, hash, update},
    testing::{LONG, PORT, Program, World, incident, isolated, listen, prepare, say, settings},
    tls::{TlsError, TlsFiles, broker},
};
use crate::store::OutboxLimits;

#[test]
fn reports_arrive_in_order_and_whole_whatever_the_broker_does() {
    isolated("reports_arrive_in_order_and_whole_whatever_the_broker_does", |place| {
        let mut mosquitto = Program::broker(place);
        let (_observer, seen) = listen("$aws/rules/#", "observer");
        let mut world = World::start(settings(place, "ours.pem", "gw-1"), &place.join("tidegate.db"));
        world.write(60, "first");
        world.until("the first reports", |world| world.waiting() == 0);

        // Days without the cloud: nothing is lost and nothing waits for it.
        mosquitto.stop();
        world.until("noticing the cut", |world| !world.offline.is_empty());
        world.write(72, "while away");
        assert_eq!(world.waiting(), 72);
        mosquitto = Program::broker(place);
        world.until("the second reports", |world| world.waiting() == 0);

        // Cut in the middle of a drain, with a message that can never be sent among the others.
        world.write(100, "cut");
        world.write(1, &"x".repeat(130 << 10));
        world.write(100, "cut");
        world.until("the middle of the drain", |world| world.waiting() < 170);
        mosquitto.stop();
        mosquitto = Program::broker(place);
        world.until("the rest", |world| world.waiting() == 0);
        assert!(world.online >= 3, "{} connections", world.online);
        let dropped: u64 = world.store.outbox_tallies().unwrap().iter().map(|(_, tally)| tally.dropped).sum();
        assert_eq!(dropped, 1, "the one too large is counted");

        let mut expected: Vec<u64> = (1..=world.written).filter(|number| *number != 233).collect();
        expected.reverse();
        let mut known = std::collections::HashMap::new();
        while let Some(next) = expected.last().copied() {
            let (topic, payload) =
                seen.recv_timeout(LONG).unwrap_or_else(|_| panic!("report {next} is lost"));
            if topic.ends_with("probe") {
                continue;
            }
            assert_eq!(topic, "$aws/rules/reports/tidegate/gw-1/incident");
            let envelope: Envelope<Report> = serde_json::from_str(&payload).unwrap();
            let sequence = envelope.sequence.unwrap();
            if let Some(before) = known.get(&envelope.id) {
                assert_eq!(*before, payload, "the same id is the same message");
                continue;
            }
            assert_eq!(sequence, next, "in order");
            assert_eq!(envelope.id, format!("id-{sequence}"));
            known.insert(envelope.id.clone(), payload);
            expected.pop();
        }
        world.end();
        mosquitto.stop();
    });
}

/// A day without the cloud, with a report a minute: what finds room is told in order, and the least worth has made room.
#[test]
fn a_day_offline_is_drained_in_order_and_no_incident_is_lost() {
    isolated("a_day_offline_is_drained_in_order_and_no_incident_is_lost", |place| {
        let mut mosquitto = Program::broker(place);
        let (_observer, seen) = listen("$aws/rules/#", "observer");
        let mut world = World::start(settings(place, "ours.pem", "gw-1"), &place.join("tidegate.db"));
        world.until("the link", |world| world.online > 0);
        mosquitto.stop();
        world.until("noticing the cut", |world| !world.offline.is_empty());

        let begin = Timestamp::from_second(1_800_000_000).unwrap();
        let limits = OutboxLimits { rows: 1_000, bytes: 1 << 30 };
        let mut incidents = Vec::new();
        for minute in 0..24 * 60_u64 {
            let at = begin + SignedDuration::from_mins(minute as i64);
            assert!(world.enqueue(&heartbeat(minute), "", at, limits), "the newest heartbeat");
            if minute % 20 == 7 {
                let device = format!("02:00:00:00:00:0{}", minute % 3);
                assert!(world.enqueue(&incident(minute, &device, "while away"), &device, at, limits));
                incidents.push(format!("id-{}", world.written));
            }
        }
        assert_eq!(world.waiting(), limits.rows, "it is full");
        let dropped: u64 = world.store.outbox_tallies().unwrap().iter().map(|(_, tally)| tally.dropped).sum();
        assert_eq!(dropped, world.written - limits.rows, "what made room is counted");

        mosquitto = Program::broker(place);
        world.until("the day's reports", |world| world.waiting() == 0);
        let (mut last, mut arrived) = (0, Vec::new());
        while (arrived.len() as u64) < limits.rows {
            let (topic, payload) =
                seen.recv_timeout(LONG).unwrap_or_else(|_| panic!("only {} arrived", arrived.len()));
            if topic.ends_with("probe") {
                continue;
            }
            let envelope: Envelope<Report> = serde_json::from_str(&payload).unwrap();
            let sequence = envelope.sequence.unwrap();
            if sequence <= last {
                assert!(arrived.contains(&envelope.id), "{sequence} after {last}");
                continue;
            }
            last = sequence;
            arrived.push(envelope.id);
        }
        assert_eq!(last, world.written, "the newest came last");
        assert!(incidents.iter().all(|id| arrived.contains(id)), "every incident arrived");
        world.end();
        mosquitto.stop();
    });
}

fn heartbeat(minute: u64) -> Report {
    Report::Heartbeat(Heartbeat {
        version: "1".to_owned(),
        uptime_s: minute * 60,
        enforcing: true,
        problems: Vec::new(),
        devices: 6,
        blocks: 0,
        counters: std::collections::BTreeMap::new(),
    })
}

#[test]
fn strangers_are_refused_on_both_sides() {
    isolated("strangers_are_refused_on_both_sides", |place| {
        let _mosquitto = Program::broker(place);
        let mut world = World::start(settings(place, "other.pem", "gw-1"), &place.join("a.db"));
        world.write(1, "secret");
        world.until("a refusal", |world| !world.offline.is_empty());
        assert!(world.offline[0].contains("UnknownIssuer"), "{:?}", world.offline);
        assert_eq!((world.online, world.waiting()), (0, 1), "nothing was sent");
        world.end();

        let mut world = World::start(settings(place, "ours.pem", "stranger"), &place.join("b.db"));
        world.write(1, "secret");
        world.until("a refusal", |world| !world.offline.is_empty());
        assert_eq!((world.online, world.waiting()), (0, 1), "a broker that knows its gateways takes nothing");
        world.end();
    });
}

#[test]
fn a_new_certificate_on_the_disk_is_taken_up_without_a_word_lost() {
    isolated("a_new_certificate_on_the_disk_is_taken_up_without_a_word_lost", |place| {
        let _mosquitto = Program::broker(place);
        let (_presence, presence) = listen("tidegate/#", "presence");
        let mut world = World::start(settings(place, "ours.pem", "gw-1"), &place.join("tidegate.db"));
        world.write(20, "before");
        world.until("the first reports", |world| world.waiting() == 0);
        // A key without its certificate is not taken up, and the connection stays.
        fs::rename(place.join("gw-1.key"), place.join("old.key")).unwrap();
        fs::rename(place.join("next/gw-1.key"), place.join("gw-1.key")).unwrap();
        let since = std::time::Instant::now();
        world.until("a look at the files", |_| since.elapsed() > std::time::Duration::from_secs(7));
        world.write(1, "between");
        world.until("the report between", |world| world.waiting() == 0);
        assert_eq!((world.online, world.renewed), (1, 0));
        fs::rename(place.join("next/gw-1.crt"), place.join("gw-1.crt")).unwrap();
        world.until("the new certificate", |world| world.renewed == 1);
        world.write(20, "after");
        world.until("the reports after it", |world| world.waiting() == 0);
        assert_eq!((world.online, world.offline.len()), (2, 0));
        world.end();
        // It said goodbye: a last will would have told that the gateway is gone.
        let mut said = Vec::new();
        while said.iter().filter(|text| *text == r#"{"online":true}"#).count() < 2 {
            said.push(presence.recv_timeout(LONG).unwrap().1);
        }
        assert!(!said.contains(&r#"{"online":false}"#.to_owned()), "{said:?}");
    });
}

#[test]
fn the_shadow_is_heard_and_answered_and_presence_is_told() {
    isolated("the_shadow_is_heard_and_answered_and_presence_is_told", |place| {
        let _mosquitto = Program::broker(place);
        let (_shadow, updates) = listen("$aws/things/#", "shadow");
        let (_presence, presence) = listen("tidegate/#", "presence");
        let mut world = World::start(settings(place, "ours.pem", "gw-1"), &place.join("tidegate.db"));
        world.until("a connection", |world| world.online == 1);
        let next = |from: &Receiver<(String, String)>, ending: &str| loop {
            let (topic, payload) = from.recv_timeout(LONG).unwrap();
            if topic.ends_with(ending) {
                return payload;
            }
        };
        assert_eq!(next(&presence, "gw-1/presence"), r#"{"online":true}"#);
        assert_eq!(next(&updates, "policy/get"), "", "the shadow is asked for");

        fs::create_dir(place.join("policies")).unwrap();
        fs::write(place.join("policies/7"), b"sealed").unwrap();
        let url = format!("file://{}/policies/7", place.display());
        let sha256 = hash(b"sealed");
        let document = serde_json::json!({ "state": { "desired": { "policy": {
            "version": 7, "sha256": sha256, "url": url } } } });
        say("$aws/things/gw-1/shadow/name/policy/get/accepted", &document.to_string());
        world.until("the wish", |world| !world.desired.is_empty());
        let wish = world.desired[0].clone();
        world.order(Order::Fetch(Wanted { desired: wish.clone(), job: None }));
        let elsewhere = Desired { url: format!("file://{}/gw-1.key", place.display()), ..wish.clone() };
        world.order(Order::Fetch(Wanted { desired: elsewhere, job: Some("to-8".to_owned()) }));
        world.until("the fetches", |world| world.fetched.len() == 2);
        assert!(wish.is(world.fetched[0].as_ref().unwrap()));
        assert!(world.fetched[1].as_ref().unwrap_err().contains("policy_origins"), "{:?}", world.fetched[1]);

        say("$aws/things/gw-1/shadow/name/policy/update/delta", r#"{"state":{"policy":{"version":8}}}"#);
        assert_eq!(next(&updates, "policy/get"), "", "a delta asks for the whole");
        // A job about something else is rejected here; one about a policy is the loop's to end.
        let job = |document: serde_json::Value| {
            serde_json::json!({ "execution": { "jobId": "to-8", "jobDocument": document } }).to_string()
        };
        say("$aws/things/gw-1/jobs/notify-next", &job(serde_json::json!({ "operation": "reboot" })));
        assert!(next(&updates, "jobs/to-8/update").contains("REJECTED"));
        say("$aws/things/gw-1/jobs/notify-next", &job(document["state"]["desired"].clone()));
        world.until("the job's wish", |world| world.desired.len() == 2);
        world.order(Order::Job("to-8".to_owned(), jobs::update(jobs::Ending::Succeeded, Some(7), "")));
        assert!(next(&updates, "jobs/to-8/update").contains("SUCCEEDED"));
        let reported = Reported { version: Some(7), wanted: 7, refused: None, detail: None };
        world.order(Order::Shadow(update(&reported)));
        assert_eq!(next(&updates, "policy/update"), update(&reported));

        world.order(Order::Metrics(b"{}".to_vec()));
        assert_eq!(next(&updates, "defender/metrics/json"), "{}");
        let refused = r#"{"statusDetails":{"ErrorCode":"InvalidPayload","ErrorMessage":"no version"}}"#;
        say("$aws/things/gw-1/defender/metrics/json/rejected", refused);
        say("$aws/things/gw-1/defender/metrics/json/accepted", "{}");
        world.until("the answers", |world| world.metrics.len() == 2);
        assert_eq!(world.metrics, [Err("no version".to_owned()), Ok(())]);
        world.end();
        assert_eq!(next(&presence, "gw-1/presence"), r#"{"online":false}"#, "the last will");
    });
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    prepare(directory.path());
    let files = settings(directory.path(), "ours.pem", "gw-1").tls;
    assert!(broker(&files, PORT).unwrap().alpn_protocols.is_empty());
    assert_eq!(broker(&files, 443).unwrap().alpn_protocols, [b"x-amzn-mqtt-ca".to_vec()]);
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o640)).unwrap();
    let refused = broker(&files, PORT).unwrap_err();
    assert!(
        matches!(refused, TlsError::OpenKey(_)) && refused.to_string().contains("chmod 600"),
        "{refused}"
    );
    let key = fs::read_to_string(&files.key).unwrap();
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
    let swapped = TlsFiles { certificate: files.key.clone(), ..files.clone() };
    let error = broker(&swapped, PORT).unwrap_err().to_string();
    assert!(error.contains("certificate") && !error.contains(&key[40..60]), "{error}");
    let absent = TlsFiles { key: PathBuf::from("/nonexistent"), ..files };
    assert!(matches!(broker(&absent, PORT), Err(TlsError::Unreadable { .. })));
}
