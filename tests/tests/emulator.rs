//! The gateway and AWS end to end, AWS being the emulator in a network namespace: it is provisioned, reports, follows, and undone.
//!
//! `cargo xtask cloud-test` installs the emulator and runs these; what they ask AWS themselves they ask with its own SDK.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]
#![allow(clippy::print_stdout, reason = "lines for the task that runs the tests")]

mod cloud_side;
mod common;
#[path = "cloud_side/renewal.rs"]
mod renewal;

use std::{fs, net::Ipv4Addr, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use cloud_side::Aws;
use common::guarded;
use serde_json::{Value, json};
use tidegate_tests::{
    agent,
    emulator::{Emulator, MQTT_PORT},
    netns::{self, Netns},
    topology::{ATTACKER, CLOUD},
    wait_for,
    web::{WebServer, authority, run},
};

/// A link that failed a few times waits up to half a minute before the next try.
const LATER: Duration = Duration::from_secs(90);
const RULE: &str = "tidegate_reports";

/// A namespace with nothing but the emulator.
fn alone(name: &str) -> (Netns, Emulator, tempfile::TempDir) {
    netns::sweep();
    let prefix = format!("tg-{}-{name}", std::process::id());
    let netns = Netns::create(&prefix, "aws").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let program = Emulator::installed().expect("cargo xtask cloud-test names the emulator");
    let emulator = Emulator::launch(&program, &netns, Ipv4Addr::LOCALHOST.into(), directory.path()).unwrap();
    (netns, emulator, directory)
}

fn tidegate(netns: &Netns, emulator: &Emulator, arguments: &[&str]) -> (bool, String) {
    let binary = agent::built().expect("cargo xtask cloud-test builds the agent");
    let mut command = netns.command(&binary.display().to_string());
    let output = command.args(arguments).envs(emulator.environment()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// Names of the calls in an answer.
fn calls(said: &str) -> Vec<String> {
    let done: Value = serde_json::from_str(said).unwrap_or_else(|_| panic!("{said}"));
    let names = done["calls"].as_array().unwrap().iter();
    names.map(|call| call["call"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_gateway_is_provisioned_once_with_few_rights_and_undone() {
    let (netns, emulator, directory) = alone("p");
    let place = directory.path();
    let config = place.join("tidegate.toml");
    let (certificate, key) = (place.join("cloud.crt"), place.join("cloud.key"));
    let text = format!(
        "[gateway]\nname = \"gate\"\n[cloud]\ncertificate = {certificate:?}\nkey = {key:?}\nrule = \"{RULE}\"\n"
    );
    fs::write(&config, text).unwrap();
    let file = config.display().to_string();
    let ask = |arguments: &[&str]| {
        let all = [arguments, &["-c", &file, "-o", "json"]].concat();
        let (ok, said) = tidegate(&netns, &emulator, &all);
        assert!(ok, "{said}");
        calls(&said)
    };
    let aws = Aws::new(&netns, &emulator);

    let named = ask(&["provision", "--dry-run"]);
    assert_eq!(aws.iot(async |iot| iot.list_things().send().await.unwrap().things().len()), 0);
    assert!(!key.exists(), "a dry run makes no key");
    let made = ask(&["provision"]);
    assert_eq!(made, named);
    assert_eq!(made.len(), 8, "{made:?}");
    assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
    assert_eq!(ask(&["provision"]), Vec::<String>::new(), "running twice");
    let ids = aws.iot(async |iot| {
        let listed = iot.list_certificates().send().await.unwrap();
        listed.certificates().iter().filter_map(|row| row.certificate_id.clone()).collect::<Vec<_>>()
    });
    assert_eq!(ids.len(), 1);
    let hash =
        run(place, "openssl", &["x509", "-in", "cloud.crt", "-outform", "der", "-out", "der"]).unwrap();
    assert_eq!(hash, "");
    assert!(run(place, "sha256sum", &["der"]).unwrap().starts_with(&ids[0]), "AWS knows it by its hash");
    let document = aws.iot(async |iot| {
        let policy = iot.get_policy().policy_name("tidegate-gateway").send().await.unwrap();
        policy.policy_document.unwrap()
    });
    assert!(document.contains("client/${iot:Connection.Thing.ThingName}") && !document.contains("\"*\""));
    let thing = aws.iot(async |iot| iot.describe_thing().thing_name("gate").send().await.unwrap());
    assert_eq!(thing.thing_type_name(), Some("tidegate-gateway"));

    // A broader policy than ours is narrowed again.
    let wide = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]});
    for _ in 0..4 {
        aws.iot(async |iot| {
            let request = iot.create_policy_version().policy_name("tidegate-gateway").set_as_default(true);
            request.policy_document(wide.to_string()).send().await.unwrap()
        });
    }
    assert_eq!(ask(&["provision"]), ["DeletePolicyVersion", "CreatePolicyVersion"]);

    let going = ask(&["deprovision", "--dry-run"]);
    assert_eq!(ask(&["deprovision"]), going);
    assert_eq!(
        going,
        ["UpdateCertificate", "DetachPolicy", "DetachThingPrincipal", "DeleteCertificate", "DeleteThing"]
    );
    assert_eq!(ask(&["deprovision"]), Vec::<String>::new());
    assert_eq!(aws.iot(async |iot| iot.list_things().send().await.unwrap().things().len()), 0);
    assert_eq!(aws.iot(async |iot| iot.list_certificates().send().await.unwrap().certificates().len()), 0);
    let again = ask(&["provision"]);
    assert!(again.contains(&"CreateCertificateFromCsr".to_owned()), "{again:?}");

    drop(emulator);
    let nowhere = alone_without_aws(&netns, &file);
    assert!(nowhere.contains("hint:") && nowhere.contains("GetCallerIdentity"), "{nowhere}");
    let secrets = fs::read_to_string(&key).unwrap();
    assert!(!nowhere.contains(secrets.lines().nth(1).unwrap()));
    println!("CLOUD {} calls, none the second time; 5 to undo", made.len());
}

/// What `provision` says when nobody answers.
fn alone_without_aws(netns: &Netns, file: &str) -> String {
    let binary = agent::built().unwrap().display().to_string();
    let mut command = netns.command(&binary);
    command.args(["provision", "-c", file]).envs([
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "a"),
    ]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

fn is_online(net: &common::Guarded) -> bool {
    !net.tidegate(&["status"])["problems"].to_string().contains("the cloud is not reached")
}

#[test]
fn the_daemon_reports_through_a_rule_follows_the_shadow_and_outlives_a_cut() {
    let name = "emulator::the_daemon_reports_through_a_rule_follows_the_shadow_and_outlives_a_cut";
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let program = Emulator::installed().expect("cargo xtask cloud-test names the emulator");
    let Some(net) = guarded(name, |settings| {
        let file = |name: &str| format!("\"{}/{name}\"", place.display());
        settings.keys.extend([
            ("gateway.name", "\"gate\"".to_owned()),
            ("policy.keys", file("fleet.pub")),
            ("policy.fleet", "\"lab\"".to_owned()),
            ("cloud.enabled", "true".to_owned()),
            ("cloud.endpoint", format!("\"{CLOUD}\"")),
            ("cloud.port", MQTT_PORT.to_string()),
            ("cloud.ca", file("ca.pem")),
            ("cloud.certificate", file("cloud.crt")),
            ("cloud.key", file("cloud.key")),
            ("cloud.heartbeat", "\"30s\"".to_owned()),
            ("cloud.policy_origins", format!("[\"https://{CLOUD}:8443/policies/\"]")),
            ("cloud.policy_ca", file("web-ca.pem")),
        ]);
    }) else {
        return;
    };
    let (internet, gateway) = (&net.topology.internet, &net.topology.gateway);
    let mut emulator = Emulator::launch(&program, internet, CLOUD.into(), place).unwrap();
    let aws = Aws::new(gateway, &emulator);
    fs::write(place.join("ca.pem"), emulator.authority(internet).unwrap()).unwrap();
    let queue = aws.queue("reports");
    let role = emulator.role(internet, "rules", "sqs:SendMessage").unwrap();
    aws.rule(RULE, "SELECT * FROM 'tidegate/+/+'", &queue, &role);

    // The daemon runs already; once its certificate is there, it finds the cloud.
    let config = net.topology.directory().join("tidegate.toml").display().to_string();
    let (ok, said) = tidegate(gateway, &emulator, &["provision", "-c", &config, "-o", "json"]);
    assert!(ok, "{said}");
    let mut inbox = aws.inbox(&queue);
    let beat = inbox.until(LATER, |report| {
        report["body"]["kind"] == "heartbeat" || report["body"].get("enforcing").is_some()
    });
    assert_eq!(beat["gateway"], "gate", "{beat}");
    assert!(is_online(&net));
    let (camera, attacker) = (net.device("camera"), &net.topology.attacker);
    net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--ttl", "10m"]);
    let of_block = |report: &Value| report["body"]["target"] == ATTACKER.to_string();
    let block = inbox.until(LATER, of_block);
    assert_eq!(block["body"]["in_force"], true, "{block}");

    // A policy that the shadow names comes over https, takes effect, and is answered in the shadow.
    authority(place, "web", &CLOUD.to_string()).unwrap();
    let binary = agent::built().unwrap().display().to_string();
    run(place, &binary, &["policy", "keygen", "--output", "fleet"]).unwrap();
    fs::create_dir(place.join("policies")).unwrap();
    for version in [3, 5] {
        let document = format!(
            "version = {version}\nfleet = \"lab\"\nnot_before = \"2020-01-01T00:00:00Z\"\nexpires = \"2200-01-01T00:00:00Z\"\n\
             [settings]\nsensitivity = \"low\"\n"
        );
        fs::write(place.join("policy.toml"), document).unwrap();
        let sealed = format!("policies/{version}");
        run(place, &binary, &["policy", "sign", "policy.toml", "--key", "fleet.key", "--output", &sealed])
            .unwrap();
    }
    let web = WebServer::start(internet, place, 8_443).unwrap();
    let policy = |version: u64| {
        let file = if version == 5 { "policies/5" } else { "policies/3" };
        let hash = run(place, "sha256sum", &[file]).unwrap().split_whitespace().next().unwrap().to_owned();
        json!({ "version": version, "sha256": hash, "url": format!("https://{CLOUD}:8443/policies/{version}") })
    };
    let desired = |version: u64| json!({ "state": { "desired": { "policy": policy(version) } } });
    aws.update_shadow("gate", &desired(3));
    let reported = aws.shadow_until("gate", LATER, |reported| reported["wanted"] == 3);
    assert_eq!(
        (&reported["version"], &reported["refused"]),
        (&json!(3), &Value::Null),
        "{reported}\n{}",
        web.said()
    );
    assert_eq!(net.tidegate(&["policy", "show"])["author"], "fleet");
    // One that is not there.
    aws.update_shadow("gate", &desired(4));
    let reported = aws.shadow_until("gate", LATER, |reported| reported["wanted"] == 4);
    assert_eq!((&reported["version"], &reported["refused"]), (&json!(3), &json!("failed")), "{reported}");
    // A job brings the next one, another is too old, and one is about something else.
    aws.job("to-5", "gate", &json!({ "policy": policy(5) }));
    assert_eq!(aws.job_ended("to-5", "gate", LATER), "SUCCEEDED");
    assert_eq!(net.tidegate(&["policy", "show"])["version"], 5);
    aws.job("back-to-3", "gate", &json!({ "policy": policy(3) }));
    assert_eq!(aws.job_ended("back-to-3", "gate", LATER), "REJECTED");
    aws.job("reboot", "gate", &json!({ "operation": "reboot" }));
    assert_eq!(aws.job_ended("reboot", "gate", LATER), "REJECTED");
    assert_eq!(net.tidegate(&["policy", "show"])["version"], 5);

    // Cut and restored: orders hold meanwhile, and what waited comes in order.
    emulator.stop();
    assert!(wait_for(LATER, || (!is_online(&net)).then_some(())).is_some(), "nobody notices");
    net.tidegate(&["blocks", "delete", &ATTACKER.to_string()]);
    assert!(net.reaches(attacker, camera.address), "orders without the cloud");
    let turns = 5;
    for _ in 0..turns {
        net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--ttl", "10m"]);
        net.tidegate(&["blocks", "delete", &ATTACKER.to_string()]);
    }
    emulator.start(internet).unwrap();
    let mut inbox = aws.inbox(&queue);
    let expected = 2 * turns + 1;
    let mut blocks = Vec::new();
    while blocks.len() < expected {
        let report = inbox.until(LATER, |report| {
            of_block(report) && !blocks.iter().any(|known: &Value| known["id"] == report["id"])
        });
        blocks.push(report);
    }
    let states: Vec<bool> = blocks.iter().map(|report| report["body"]["in_force"] == true).collect();
    let wanted: Vec<bool> = (0..expected).map(|turn| turn % 2 == 1).collect();
    assert_eq!(states, wanted, "what waited tells what happened, in order");
    let sequences = inbox.sequences();
    assert!(sequences.is_sorted(), "they arrived in the order of the outbox: {sequences:?}");
    assert!(wait_for(LATER, || is_online(&net).then_some(())).is_some());
    println!("CLOUD {expected} reports of the cut arrived in order");
}

#[test]
fn numbers_reach_cloudwatch_and_what_is_wrong_is_an_alarm() {
    let name = "emulator::numbers_reach_cloudwatch_and_what_is_wrong_is_an_alarm";
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let program = Emulator::installed().expect("cargo xtask cloud-test names the emulator");
    let Some(net) = guarded(name, |settings| {
        settings.environment = Emulator::environment_at(CLOUD.into()).to_vec();
        settings.keys.extend([
            ("gateway.name", "\"gate\"".to_owned()),
            ("cloudwatch.enabled", "true".to_owned()),
            ("cloudwatch.interval", "\"2s\"".to_owned()),
            ("cloudwatch.high_resolution", "true".to_owned()),
            // Nobody is there: a gateway that has a problem.
            ("cloud.enabled", "true".to_owned()),
            ("cloud.endpoint", format!("\"{CLOUD}\"")),
            ("cloud.certificate", "\"/nonexistent/cloud.crt\"".to_owned()),
        ]);
    }) else {
        return;
    };
    let emulator = Emulator::launch(&program, &net.topology.internet, CLOUD.into(), place).unwrap();
    let config = net.topology.directory().join("tidegate.toml").display().to_string();
    let ask = |net: &common::Guarded, arguments: &[&str]| -> Value {
        let all = [arguments, &["-c", &config, "-o", "json"]].concat();
        let (ok, said) = tidegate(&net.topology.gateway, &emulator, &all);
        assert!(ok, "{said}");
        serde_json::from_str(&said).unwrap()
    };
    net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--ttl", "10m"]);
    assert!(net.is_cut(&net.topology.attacker, net.device("camera").address));

    // The daemon began before CloudWatch was there: what it read meanwhile is kept.
    let aws = Aws::new(&net.topology.gateway, &emulator);
    let sum = |aws: &Aws, metric: &str| aws.sum_of(metric, "gate");
    assert!(
        wait_for(LATER, || (sum(&aws, "PacketsDropped") > 0.0).then_some(())).is_some(),
        "no drops are told"
    );
    assert!(sum(&aws, "Heartbeat") >= 2.0);
    assert!(aws.metrics().len() >= 13, "{:?}", aws.metrics());

    let named = calls(&ask(&net, &["alarms", "apply", "--period", "10", "--dry-run"]).to_string());
    assert_eq!(ask(&net, &["alarms", "list"])["alarms"], json!([]));
    let made = calls(&ask(&net, &["alarms", "apply", "--period", "10"]).to_string());
    assert_eq!(made, named);
    assert_eq!(made.len(), 9);
    ask(&net, &["alarms", "apply", "--period", "10"]);
    let state = |net: &common::Guarded, alarm: &str| {
        let listed = ask(net, &["alarms", "list"]);
        let alarms = listed["alarms"].as_array().unwrap().clone();
        assert_eq!(alarms.len(), 8, "{alarms:?}");
        let found = alarms.iter().find(|row| row["name"] == format!("tidegate-gate-{alarm}")).unwrap();
        found["state"].as_str().unwrap().to_owned()
    };
    let becomes = |net: &common::Guarded, alarm: &str, wanted: &str| {
        let reached = wait_for(LATER, || (state(net, alarm) == wanted).then_some(()));
        assert!(reached.is_some(), "{alarm} is {}, not {wanted}", state(net, alarm));
    };
    becomes(&net, "heartbeat", "OK");
    let began = std::time::Instant::now();
    becomes(&net, "problems", "ALARM");
    becomes(&net, "health", "ALARM");
    let took = began.elapsed();
    // The emulator judges only what comes; that silence is bad is CloudWatch's part, and that it is told so is ours.
    assert_eq!(aws.missing_is("tidegate-gate-heartbeat"), "breaching");
    assert_eq!(aws.missing_is("tidegate-gate-problems"), "notBreaching");
    ask(&net, &["alarms", "delete"]);
    assert_eq!(ask(&net, &["alarms", "list"])["alarms"], json!([]));
    println!(
        "CLOUD a degraded gateway was an alarm after {:.1} s; silence is set to be one",
        took.as_secs_f64()
    );
}

#[test]
fn a_certificate_with_another_name_is_kept_out() {
    let (netns, emulator, directory) = alone("k");
    let place = directory.path();
    for name in ["gate", "other"] {
        let file = place.join(format!("{name}.toml"));
        let (certificate, key) = (place.join(format!("{name}.crt")), place.join(format!("{name}.key")));
        let text =
            format!("[gateway]\nname = {name:?}\n[cloud]\ncertificate = {certificate:?}\nkey = {key:?}\n");
        fs::write(&file, text).unwrap();
        let (ok, said) = tidegate(&netns, &emulator, &["provision", "-c", &file.display().to_string()]);
        assert!(ok, "{said}");
    }
    fs::write(place.join("ca.pem"), emulator.authority(&netns).unwrap()).unwrap();
    let publish = |as_whom: &str, topic: &str| publishes(&netns, place, "127.0.0.1", "gate", as_whom, topic);
    assert!(publish("gate", "tidegate/gate/presence"), "under its own name");
    assert!(!publish("gate", "tidegate/other/presence"), "another's topic");
    assert!(!publish("other", "tidegate/other/presence"), "another's client id");
    println!("CLOUD own name taken, another's topic and client id refused");
}

/// Whether the broker at `host` lets a client with the certificate of `holder` and the client id `id` publish on `topic`.
fn publishes(netns: &Netns, place: &Path, host: &str, holder: &str, id: &str, topic: &str) -> bool {
    let file = |name: &str| place.join(name).display().to_string();
    let mut command = netns.command("mosquitto_pub");
    command.args(["-h", host, "-p", &MQTT_PORT.to_string(), "-i", id, "-q", "1", "-t", topic, "-m", "{}"]);
    command.args(["--cafile", &file("ca.pem"), "--cert", &file(&format!("{holder}.crt"))]);
    command.args(["--key", &file(&format!("{holder}.key"))]);
    let output = std::process::Command::new("timeout")
        .arg("10")
        .arg(command.get_program())
        .args(command.get_args())
        .output();
    output.unwrap().status.success()
}
