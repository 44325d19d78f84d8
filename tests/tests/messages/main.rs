//! The MQTT guard in front of a real mosquitto, with real clients, on loopback.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may stop at once")]

mod certificates;
mod commands;
#[path = "../common/mod.rs"]
mod common;
mod gateway;
mod hostile;
mod setup;
mod telemetry;

use std::{process::Command, time::Duration};

use setup::{PATIENCE, Setup, hello};
use tidegate::messages::{Reason, Report, read};
use tidegate_tests::{mqtt::Hello, wait_for};

#[test]
fn what_is_granted_is_delivered_and_what_is_not_is_refused() {
    let Some(setup) = Setup::start("granted", "") else { return };
    let mut lamp = setup.client("lamp");
    let mut pump = setup.client("pump");
    assert_eq!(lamp.subscribe("news/#").unwrap(), 1);
    pump.publish("news/today", b"rain").unwrap();
    assert_eq!(lamp.receive().unwrap(), ("news/today".to_owned(), b"rain".to_vec()));
    for filter in ["#", "d/pump/#", "+/lamp/x", "$SYS/#", "$share/g/d/pump/x"] {
        assert_eq!(lamp.subscribe(filter).unwrap(), 0x80, "{filter}");
    }
    assert_eq!(pump.subscribe("d/pump/#").unwrap(), 1);
    // Version 3.1.1 acknowledges what it refuses; what matters is that it does not arrive.
    lamp.publish("d/pump/off", b"forged").unwrap();
    pump.publish("d/pump/self", b"mine").unwrap();
    assert_eq!(pump.receive().unwrap().1, b"mine");
    assert_eq!(setup.counters.refused(Reason::PublishTopic), 1);
    assert_eq!(setup.counters.refused(Reason::SubscribeTopic), 5);
    assert_eq!(read(&setup.counters.published), 2);
}

#[test]
fn refused_filters_are_answered_beside_granted_ones() {
    let Some(setup) = Setup::start("filters", "") else { return };
    let output =
        setup.clients("mosquitto_sub", &["-i", "lamp", "-t", "d/pump/#", "-t", "news/#", "-E", "-d"]);
    assert!(output.contains("Subscribed (mid: 1): 128, 0"), "{output}");
}

#[test]
fn version_5_is_spoken_with_its_properties() {
    let Some(setup) = Setup::start("version5", "") else { return };
    let mut listener = Command::new("mosquitto_sub")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &setup.port(),
            "-V",
            "5",
            "-i",
            "lamp",
            "-t",
            "news/#",
            "-C",
            "1",
            "-W",
            "10",
        ])
        .args(["-F", "%t %P %p", "-q", "1"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    assert!(wait_for(PATIENCE, || (read(&setup.counters.sessions) == 1).then_some(())).is_some());
    std::thread::sleep(Duration::from_millis(300));
    let properties =
        ["-D", "publish", "user-property", "unit", "C", "-D", "publish", "content-type", "text/plain"];
    let publish = ["-V", "5", "-i", "pump", "-t", "news/today", "-m", "21", "-q", "1"];
    setup.clients("mosquitto_pub", &[&publish[..], &properties[..]].concat());
    let mut said = String::new();
    std::io::Read::read_to_string(listener.stdout.as_mut().unwrap(), &mut said).unwrap();
    assert!(listener.wait().unwrap().success());
    assert_eq!(said.trim(), "news/today unit:C 21");
    let refused = setup
        .clients("mosquitto_pub", &["-V", "5", "-i", "pump", "-t", "d/lamp/x", "-m", "1", "-q", "1", "-d"]);
    assert!(refused.contains("135") || refused.contains("Not authorized"), "{refused}");
}

#[test]
fn retained_messages_and_sessions_outlive_the_broker() {
    let Some(mut setup) = Setup::start("outlive", "") else { return };
    let stay = Hello { client_id: "lamp", persistent: true, ..Hello::default() };
    let mut lamp = setup.open(&stay).unwrap();
    lamp.subscribe("news/#").unwrap();
    lamp.send(&[0xe0, 0]).unwrap();
    drop(lamp);
    let mut pump = setup.client("pump");
    pump.retain("d/pump/state", b"on").unwrap();
    pump.publish("news/missed", b"while away").unwrap();
    setup.restart();
    let mut lamp = setup.open(&stay).unwrap();
    assert_eq!(lamp.receive().unwrap(), ("news/missed".to_owned(), b"while away".to_vec()));
    let mut pump = setup.client("pump");
    pump.subscribe("d/pump/state").unwrap();
    assert_eq!(pump.receive().unwrap(), ("d/pump/state".to_owned(), b"on".to_vec()));
}

#[test]
fn a_broker_that_dies_is_started_again() {
    let Some(setup) = Setup::start("dies", "") else { return };
    let mut lamp = setup.client("lamp");
    lamp.publish("d/lamp/x", b"before").unwrap();
    setup.kill_broker();
    assert!(lamp.is_closed());
    // The guard itself waits for the broker, so that a client may come at once.
    let mut lamp = setup.client("lamp");
    lamp.publish("d/lamp/x", b"after").unwrap();
    assert_eq!(read(&setup.counters.broker_restarts), 1);
}

#[test]
fn an_orphaned_broker_makes_room_for_the_next() {
    let Some(mut setup) = Setup::start("orphan", "") else { return };
    drop(setup.client("lamp"));
    let orphan = setup.orphan_broker();
    setup.restart();
    setup.client("lamp").publish("d/lamp/x", b"on").unwrap();
    // Whoever has ended has no command line, though its number may not be free yet.
    let line = std::fs::read(format!("/proc/{orphan}/cmdline")).unwrap_or_default();
    assert!(line.is_empty());
}

#[test]
fn a_will_is_published_when_it_may_be() {
    let Some(setup) = Setup::start("will", "") else { return };
    let mut pump = setup.client("pump");
    pump.subscribe("news/#").unwrap();
    let with = |topic| Hello { will: Some((topic, b"gone")), ..hello("lamp") };
    drop(setup.open(&with("news/lamp")).unwrap());
    assert_eq!(pump.receive().unwrap(), ("news/lamp".to_owned(), b"gone".to_vec()));
    assert!(setup.open(&with("d/pump/off")).is_err());
    assert_eq!(setup.counters.refused(Reason::Will), 1);
}

#[test]
fn nobody_takes_the_session_of_another_identity() {
    let Some(setup) = Setup::start_with_users("identity", "") else { return };
    let login = |name| Hello { client_id: "same", login: Some((name, name)), ..Hello::default() };
    let mut lamp = setup.open(&login("lamp")).unwrap();
    let _pump = setup.open(&login("pump")).unwrap();
    lamp.publish("u/lamp/x", b"still there").unwrap();
    let _again = setup.open(&login("lamp")).unwrap();
    assert!(lamp.is_closed(), "the same identity takes its own session over");
}

#[test]
fn wrong_passwords_are_refused_counted_and_reported() {
    let Some(mut setup) = Setup::start_with_users("passwords", "") else { return };
    for (name, password) in [("lamp", "wrong"), ("nobody", "x"), ("lamp", "")] {
        let wrong = Hello { client_id: "x", login: Some((name, password)), ..Hello::default() };
        let error = setup.open(&wrong).unwrap_err().to_string();
        assert!(error.contains("[0, 4]"), "{error}");
    }
    assert!(setup.open(&hello("x")).is_err(), "without a password");
    for _ in 0..8 {
        let _ = setup.open(&Hello { client_id: "x", login: Some(("lamp", "guess")), ..Hello::default() });
    }
    let Some(Report::Abuse(abuse)) = setup.report() else { panic!("no report") };
    assert_eq!((abuse.reason, abuse.meaning.technique.id), (Reason::Credentials, "T1110"));
    let right = Hello { client_id: "x", login: Some(("lamp", "lamp")), ..Hello::default() };
    assert!(setup.open(&right).is_err(), "whoever guesses has to wait");
    assert!(setup.counters.refused(Reason::LockedOut) > 0);
}

#[test]
fn a_changed_password_cuts_the_session_that_used_the_old_one() {
    let Some(setup) = Setup::start_with_users("changed", "") else { return };
    let login = |name| Hello { client_id: "x", login: Some((name, name)), ..Hello::default() };
    let mut lamp = setup.open(&login("lamp")).unwrap();
    let mut pump = setup.open(&login("pump")).unwrap();
    setup.set_password("lamp", "other");
    assert!(lamp.is_closed());
    pump.publish("u/pump/x", b"untouched").unwrap();
    assert!(setup.open(&login("lamp")).is_err());
}

#[test]
fn a_bound_identity_comes_from_its_device_alone() {
    let Some(mut setup) = Setup::start_with_users("bound", "") else { return };
    let (home, other) = ("02:00:00:00:00:01".parse().unwrap(), "02:00:00:00:00:02".parse().unwrap());
    let login = Hello { client_id: "x", login: Some(("lamp", "lamp")), ..Hello::default() };
    setup.order(|orders| {
        orders.bindings.insert("lamp".to_owned(), home);
        orders.addresses.insert([127, 0, 0, 1].into(), other);
    });
    assert!(setup.open(&login).is_err());
    let Some(Report::Abuse(abuse)) = setup.report() else { panic!("no report") };
    assert_eq!((abuse.reason, abuse.identity.as_deref()), (Reason::WrongDevice, Some("lamp")));
    setup.order(|orders| {
        orders.addresses.insert([127, 0, 0, 1].into(), home);
    });
    setup.open(&login).unwrap().publish("u/lamp/x", b"home").unwrap();
}

#[test]
fn a_device_that_is_cut_off_is_cut_here_too() {
    let Some(setup) = Setup::start("cut-off", "") else { return };
    let mut lamp = setup.client("lamp");
    setup.order(|orders| {
        orders.cut_devices.insert("02:00:00:00:00:01".parse().unwrap());
        orders.addresses.insert([127, 0, 0, 1].into(), "02:00:00:00:00:01".parse().unwrap());
    });
    assert!(lamp.is_closed());
    assert!(setup.open(&hello("lamp")).is_err());
    setup.order(|orders| orders.cut_devices.clear());
    setup.client("lamp").publish("d/lamp/x", b"back").unwrap();
}

#[test]
fn narrower_rules_cut_whoever_they_concern_and_hold_for_kept_subscriptions() {
    let Some(setup) = Setup::start("narrower", "") else { return };
    let stay = Hello { client_id: "lamp", persistent: true, ..Hello::default() };
    let mut lamp = setup.open(&stay).unwrap();
    lamp.subscribe("news/#").unwrap();
    setup.order(|orders| orders.rules[0].subscribe.retain(|filter| filter != "news/#"));
    assert!(lamp.is_closed());
    let mut lamp = setup.open(&stay).unwrap();
    let mut pump = setup.client("pump");
    pump.publish("news/secret", b"no").unwrap();
    lamp.subscribe("d/lamp/#").unwrap();
    lamp.publish("d/lamp/x", b"yes").unwrap();
    assert_eq!(lamp.receive().unwrap().1, b"yes");
    assert_eq!(setup.counters.refused(Reason::Delivery), 1);
}
