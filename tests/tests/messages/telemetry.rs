//! Telemetry on its way through the guard: learned, judged, batched, remembered.

use std::{net::SocketAddr, thread::sleep, time::Duration};

use tidegate::messages::{
    Reason, Report, read,
    telemetry::{Sign, Stored},
};
use tidegate_tests::{mqtt::Client, topology::GATEWAY, wait_for};

use super::{
    common::guarded,
    setup::{PATIENCE, Setup, hello},
};

const KEYS: &str = r#"
telemetry.topics = ["d/+/t"]
telemetry.learning_period = "1s"
telemetry.learning_messages = 50
telemetry.forward_every = "1s"
cloud.enabled = true
"#;

/// What the lamp measures at its `step`-th message.
fn measured(step: u32) -> String {
    let wave = f64::from(step * 7 % 11) / 10.0;
    format!(r#"{{"t":{:.1},"h":{:.1}}}"#, 20.0 + wave, 50.0 - wave)
}

/// Says what is normal until it is learned.
fn teach(lamp: &mut Client) {
    for step in 0..90 {
        lamp.publish("d/lamp/t", measured(step).as_bytes()).unwrap();
        sleep(Duration::from_millis(15));
    }
}

#[test]
fn normal_telemetry_is_delivered_and_a_spike_is_delivered_told_and_marked() {
    let Some(mut setup) = Setup::start("telemetry", KEYS) else { return };
    let mut lamp = setup.client("lamp");
    lamp.subscribe("d/lamp/t").unwrap();
    teach(&mut lamp);
    for step in 0..90 {
        assert_eq!(lamp.receive().unwrap().1, measured(step).as_bytes());
    }
    lamp.publish("d/lamp/t", br#"{"t":900.5,"h":50.0}"#).unwrap();
    assert_eq!(lamp.receive().unwrap().1, br#"{"t":900.5,"h":50.0}"#);
    let (mut alarm, mut marked, mut summed) = (None, None, 0);
    while alarm.is_none() || marked.is_none() {
        match setup.report().expect("the spike is told") {
            Report::Odd(odd) => alarm = Some(odd),
            Report::Measured(report) => {
                assert_eq!((report.device.as_str(), report.topic.as_str()), ("lamp", "d/lamp/t"));
                assert_eq!(report.fields, ["t", "h"]);
                summed += report.summaries[0].count;
                assert!(report.summaries[0].max < 30.0, "what is odd spoils no summary");
                marked = report.measurements.into_iter().find(|measurement| measurement.mark.is_some());
            }
            other => panic!("{other:?}"),
        }
    }
    let alarm = alarm.unwrap();
    assert_eq!((alarm.sign, alarm.field.as_deref(), alarm.device.as_str()), (Sign::Spike, Some("t"), "lamp"));
    assert_eq!((alarm.identity.as_str(), alarm.is_refused), ("anonymous", false));
    let marked = marked.unwrap();
    assert_eq!((marked.values[0], marked.mark.unwrap().sign.as_str()), (Some(900.5), "spike"));
    assert_eq!(summed, 90);
    assert_eq!(read(setup.counters.telemetry.odd(Sign::Spike)), 1);
}

#[test]
fn what_was_learned_is_recalled_and_what_does_not_fit_is_refused_when_so_configured() {
    let keys = format!("{KEYS}telemetry.anomalous = \"refuse\"\n");
    let Some(mut setup) = Setup::start("telemetry-refused", &keys) else { return };
    let mut lamp = setup.client("lamp");
    teach(&mut lamp);
    assert!(wait_for(PATIENCE, || (read(&setup.counters.telemetry.messages) == 90).then_some(())).is_some());
    drop(lamp);
    setup.end();
    let mut learned: Vec<Stored> = Vec::new();
    while let Some(report) = setup.report_at_once() {
        if let Report::Learned(stored) = report {
            learned.push(*stored);
        }
    }
    assert_eq!(learned.iter().map(|stored| stored.topic.as_str()).collect::<Vec<_>>(), ["d/lamp/t"]);
    setup.learned = learned;
    setup.restart();
    let mut lamp = setup.client("lamp");
    lamp.subscribe("d/lamp/t").unwrap();
    lamp.publish("d/lamp/t", br#"{"t":900.5,"h":50.0}"#).unwrap();
    lamp.publish("d/lamp/t", measured(1).as_bytes()).unwrap();
    assert_eq!(lamp.receive().unwrap().1, measured(1).as_bytes(), "the spike ended at the guard");
    assert_eq!(setup.counters.refused(Reason::Telemetry), 1);
    for payload in [&b"\xa1\x61"[..], b"{\"t\":", b"", &[0x81; 2_000]] {
        lamp.publish("d/lamp/t", payload).unwrap();
    }
    assert!(wait_for(PATIENCE, || (setup.counters.refused(Reason::Telemetry) == 5).then_some(())).is_some());
    assert_eq!(read(&setup.counters.telemetry.unreadable), 4);
}

#[test]
fn a_spike_becomes_an_incident_of_the_device_that_sent_it() {
    let port = 2884;
    let name = "messages::a_spike_becomes_an_incident_of_the_device_that_sent_it";
    let net = guarded(name, |settings| {
        settings.keys.extend([
            ("messages.listen", format!("\"{GATEWAY}:{port}\"")),
            ("messages.anonymous", "true".to_owned()),
            ("messages.rules", "[{ who = \"*\", publish = [\"d/%c/#\"], subscribe = [] }]".to_owned()),
            ("telemetry.topics", "[\"d/+/t\"]".to_owned()),
            ("telemetry.learning_period", "\"1s\"".to_owned()),
            ("telemetry.learning_messages", "50".to_owned()),
            ("telemetry.forward_every", "\"1s\"".to_owned()),
            ("cloud.enabled", "true".to_owned()),
        ]);
    });
    let Some(net) = net else { return };
    let camera = net.device("camera");
    let address = SocketAddr::from((GATEWAY, port));
    let mut client =
        camera.netns.enter(|| Client::open(address, &hello("camera"), Duration::from_secs(5))).unwrap();
    for step in 0..90 {
        client.publish("d/camera/t", measured(step).as_bytes()).unwrap();
        sleep(Duration::from_millis(15));
    }
    client.publish("d/camera/t", b"{\"t\":900.5,\"h\":50.0}").unwrap();
    let incident = wait_for(PATIENCE, || {
        let incidents = net.tidegate(&["incidents", "list"])["incidents"].clone();
        incidents.as_array()?.iter().find(|incident| incident["technique"]["id"] == "T0856").cloned()
    });
    let incident = incident.expect("an incident");
    assert_eq!(incident["subject"], camera.mac, "{incident}");
    assert!(incident["summary"].as_str().unwrap().contains("900.5"), "{incident}");
    let telemetry = net.tidegate(&["status"])["messages"]["telemetry"].clone();
    assert_eq!(
        (telemetry["odd"]["spike"].as_u64(), telemetry["judged_topics"].as_u64()),
        (Some(1), Some(1)),
        "{telemetry}"
    );
}
