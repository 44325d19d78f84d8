//! Commands through the guard to real subscribers: what arrives, what does not, and what arrives when it is released.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use tidegate::{
    messages::{
        Reason, Report,
        commands::{Command, Habit, Value, seal},
    },
    policy::{SigningKey, nonce},
};
use tidegate_tests::{mqtt::Client, topology::GATEWAY, wait_for};

use super::{
    common::guarded,
    setup::{PATIENCE, Setup, hello},
};

/// A signer whose public key is a file.
struct Signer {
    key: SigningKey,
    directory: TempDir,
}

impl Signer {
    fn new() -> Self {
        let key = SigningKey::parse(SigningKey::generate().unwrap().as_bytes()).unwrap();
        let signer = Self { key, directory: tempfile::tempdir().unwrap() };
        fs::write(signer.file(), signer.key.public_pem()).unwrap();
        signer
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("orders.pub")
    }

    /// A command to `lamp`, signed `ago` seconds before now.
    fn command(&self, verb: &str, level: f64, ago: i64) -> Vec<u8> {
        let issued = Timestamp::now() - SignedDuration::from_secs(ago);
        let command = Command {
            id: "order".to_owned(),
            device: "lamp".to_owned(),
            issued,
            expires: issued + SignedDuration::from_mins(5),
            nonce: nonce().unwrap(),
            verb: verb.to_owned(),
            params: Value::Map([("level".to_owned(), Value::Number(level))].into()),
        };
        seal(&command, &self.key).unwrap()
    }
}

const TOPIC: &str = "news/cmd/lamp/set";

#[test]
fn a_signed_command_arrives_once_and_an_unusual_one_when_it_is_released() {
    let signer = Signer::new();
    let keys = format!(
        "commands.topics = [\"news/cmd/+/#\"]\ncommands.keys = \"{}\"\ncommands.learn_after = 20\n",
        signer.file().display()
    );
    let Some(mut setup) = Setup::start("commands", &keys) else { return };
    let (mut lamp, mut hub) = (setup.client("lamp"), setup.client("hub"));
    lamp.subscribe("news/cmd/lamp/#").unwrap();
    let first = signer.command("set", 1.0, 0);
    hub.publish(TOPIC, &first).unwrap();
    assert_eq!(lamp.receive().unwrap(), (TOPIC.to_owned(), first.clone()));

    // None of these may arrive.
    let stranger = Signer::new();
    for (payload, topic, reason) in [
        (first, TOPIC, Reason::CommandReplayed),
        (br#"{"verb":"set"}"#.to_vec(), TOPIC, Reason::CommandUnsigned),
        (stranger.command("set", 1.0, 0), TOPIC, Reason::CommandKey),
        (signer.command("set", 1.0, 86_400), TOPIC, Reason::CommandExpired),
        (signer.command("set", 1.0, -86_400), TOPIC, Reason::CommandEarly),
        (signer.command("set", 1.0, 0), "news/cmd/pump/set", Reason::CommandDevice),
        (signer.command("set", 1.0, 0)[..50].to_vec(), TOPIC, Reason::CommandFormat),
    ] {
        hub.publish(topic, &payload).unwrap();
        assert_eq!(setup.counters.refused(reason), 1, "{reason:?}");
    }
    hub.retain(TOPIC, &signer.command("set", 1.0, 0)).unwrap();
    assert_eq!(setup.counters.refused(Reason::CommandRetained), 1);
    let will = tidegate_tests::mqtt::Hello { will: Some((TOPIC, b"off")), ..hello("dying") };
    assert!(setup.open(&will).is_err(), "a command as a will");

    // So many that a verb never seen is rarer than one in a hundred, and that bursts are nothing new.
    for number in 0..150 {
        let command = signer.command("set", f64::from(number % 10), 0);
        hub.publish(TOPIC, &command).unwrap();
        assert_eq!(lamp.receive().unwrap().1, command, "the next that arrives");
    }
    for (device, history) in setup.commands.tick(Timestamp::now()).due {
        setup.commands.learned(&device, Habit::learn(&history).unwrap());
    }
    let erase = signer.command("erase", 1.0, 0);
    hub.publish(TOPIC, &erase).unwrap();
    assert_eq!(setup.counters.refused(Reason::CommandHeld), 1);
    let held = std::iter::from_fn(|| setup.report()).find_map(|report| match report {
        Report::Command(notice) => notice.held,
        _ => None,
    });
    let id = held.expect("a report of the held command");
    // What comes after it is not behind it.
    let next = signer.command("set", 5.0, 0);
    hub.publish(TOPIC, &next).unwrap();
    let got = lamp.receive().unwrap_or_else(|error| {
        let reports: Vec<Report> = std::iter::from_fn(|| setup.report()).collect();
        panic!("{error:#}; reported meanwhile: {reports:?}")
    });
    assert_eq!(got.1, next);
    setup.commands.release(id).unwrap();
    assert_eq!(lamp.receive().unwrap(), (TOPIC.to_owned(), erase));
    assert_eq!(setup.report(), Some(Report::Released(id, None)));
    assert_eq!(setup.commands.tally().waiting, 0);
}

#[test]
fn version_5_is_told_why_in_words() {
    let signer = Signer::new();
    let keys =
        format!("commands.topics = [\"news/cmd/+/#\"]\ncommands.keys = \"{}\"\n", signer.file().display());
    let Some(setup) = Setup::start("words", &keys) else { return };
    let arguments = ["-V", "5", "-q", "1", "-i", "hub", "-t", TOPIC, "-m", "off", "-d"];
    let output = setup.clients("mosquitto_pub", &arguments);
    assert!(output.contains("RC:135"), "{output}");
    assert_eq!(setup.counters.refused(Reason::CommandUnsigned), 1);
}

#[test]
fn an_operator_releases_what_the_gateway_held() {
    let name = "messages::an_operator_releases_what_the_gateway_held";
    let signer = Signer::new();
    let net = guarded(name, |settings| {
        settings.keys.extend([
            ("messages.listen", format!("\"{GATEWAY}:2883\"")),
            ("messages.anonymous", "true".to_owned()),
            (
                "messages.rules",
                "[{ who = \"*\", publish = [\"cmd/#\"], subscribe = [\"cmd/#\"] }]".to_owned(),
            ),
            ("commands.topics", "[\"cmd/+/#\"]".to_owned()),
            ("commands.keys", format!("\"{}\"", signer.file().display())),
            ("commands.learn_after", "20".to_owned()),
            // Nothing can have been seen before the first start.
            ("commands.skew", "\"0s\"".to_owned()),
        ]);
    });
    let Some(mut net) = net else { return };
    let connect = |net: &super::common::Guarded, device: &str| {
        let address = SocketAddr::from((GATEWAY, 2883));
        let netns = &net.device(device).netns;
        netns.enter(|| Client::open(address, &hello(device), Duration::from_secs(5))).unwrap()
    };
    let (mut camera, mut hub) = (connect(&net, "camera"), connect(&net, "hub"));
    camera.subscribe("cmd/lamp/#").unwrap();
    let mut last = Vec::new();
    for number in 0..30 {
        last = signer.command("set", f64::from(number % 10), 0);
        hub.publish("cmd/lamp/set", &last).unwrap();
        assert_eq!(camera.receive().unwrap().1, last);
    }
    let known = || (net.tidegate(&["commands", "list"])["known"] == 1).then_some(());
    assert!(wait_for(PATIENCE, known).is_some(), "{}", net.tidegate(&["commands", "list"]));

    let erase = signer.command("erase", 1.0, 0);
    hub.publish("cmd/lamp/set", &erase).unwrap();
    let list = net.tidegate(&["commands", "list"]);
    let held = &list["waiting"][0];
    assert!(held["device"] == "lamp" && held["verb"] == "erase", "{list}");
    let id = held["id"].as_str().unwrap().to_owned();
    let incidents = || {
        let list = net.tidegate(&["incidents", "list"]);
        list["incidents"]
            .as_array()?
            .iter()
            .any(|incident| incident["technique"]["id"] == "T0855")
            .then_some(())
    };
    assert!(wait_for(PATIENCE, incidents).is_some(), "{}", net.tidegate(&["incidents", "list"]));
    assert_eq!(net.tidegate(&["commands", "show", &id])["id"], id.as_str());
    assert_eq!(net.tidegate(&["commands", "release", &id])["verb"], "erase");
    assert_eq!(camera.receive().unwrap().1, erase);
    assert!(net.agent.ask(&["commands", "release", &id]).is_err(), "it is gone");

    // After a kill the replayed ones stay out, the habit is known, and what waited waits.
    std::thread::sleep(Duration::from_secs(2));
    let waiting = |net: &super::common::Guarded| {
        let list = net.tidegate(&["commands", "list"])["waiting"].take();
        let pair = |held: &serde_json::Value| (held["id"].to_string(), held["verb"].to_string());
        list.as_array().unwrap().iter().map(pair).collect::<Vec<_>>()
    };
    let (wipe, format) = (signer.command("wipe", 1.0, 0), signer.command("format", 1.0, 0));
    hub.publish("cmd/lamp/set", &wipe).unwrap();
    hub.publish("cmd/lamp/set", &format).unwrap();
    let two = || Some(waiting(&net)).filter(|held| held.len() == 2);
    let before = wait_for(PATIENCE, two).unwrap_or_else(|| panic!("{:?}", waiting(&net)));
    net.agent.kill();
    net.agent.restart(&net.topology).unwrap();
    let (mut camera, mut hub) = (connect(&net, "camera"), connect(&net, "hub"));
    camera.subscribe("cmd/lamp/#").unwrap();
    hub.publish("cmd/lamp/set", &last).unwrap();
    hub.publish("cmd/lamp/set", &erase).unwrap();
    let status = net.tidegate(&["status"])["messages"].clone();
    assert_eq!(status["refused"]["command-replayed"], 2, "{status}");
    assert_eq!(waiting(&net), before);
    let [first, second] = [&before[0].0, &before[1].0].map(|id| id.trim_matches('"').to_owned());
    assert_eq!(net.tidegate(&["commands", "release", &first])["verb"], "wipe");
    assert_eq!(camera.receive().unwrap().1, wipe);
    assert_eq!(net.tidegate(&["commands", "drop", &second])["verb"], "format");

    // Neither comes back.
    net.agent.kill();
    net.agent.restart(&net.topology).unwrap();
    assert_eq!(waiting(&net), []);
}
