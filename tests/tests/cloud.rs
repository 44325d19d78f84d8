//! The daemon and the cloud, end to end: reports arrive, a policy named by the shadow takes effect and is answered, and a cloud that
//! is gone costs no enforcement.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use std::{fs, net::TcpStream, path::Path, process::Command, time::Duration};

use common::{Guarded, SOON, guarded};
use serde_json::{Value, json};
use tidegate_tests::{agent, process::Process, topology::ATTACKER, wait_for};

/// The link's longest wait after one failure is a second; mosquitto needs another to start.
const LATER: Duration = Duration::from_secs(20);
const SHADOW: &str = "$aws/things/gate/shadow/name/policy";

fn run(directory: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// An authority, the broker's certificate and the gateway's.
fn certify(directory: &Path) {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let ca = ["req", "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2"];
    run(directory, "openssl", &[&ca[..], &key].concat());
    for (name, host) in [("broker", "localhost"), ("gate", "gate")] {
        let files =
            [format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"), format!("{name}.ext")];
        let [private, request, signed, extension] = files.each_ref().map(String::as_str);
        fs::write(directory.join(extension), format!("subjectAltName=DNS:{host}\n")).unwrap();
        let subject = format!("/CN={name}");
        let ask = ["req", "-keyout", private, "-out", request, "-subj", &subject];
        run(directory, "openssl", &[&ask[..], &key].concat());
        let sign = ["x509", "-req", "-in", request, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
        run(
            directory,
            "openssl",
            &[&sign[..], &["-out", signed, "-days", "2", "-extfile", extension]].concat(),
        );
    }
    let shown = directory.display();
    let open = format!(
        "per_listener_settings true\nuser root\npersistence true\npersistence_location {shown}/\n\
         listener 1883 127.0.0.1\nallow_anonymous true\n"
    );
    let mutual = format!(
        "listener 8883 127.0.0.1\ncafile {shown}/ca.pem\ncertfile {shown}/broker.crt\nkeyfile {shown}/broker.key\n\
         require_certificate true\nuse_identity_as_username true\n"
    );
    fs::write(directory.join("open.conf"), &open).unwrap();
    fs::write(directory.join("mutual.conf"), open + &mutual).unwrap();
}

/// A broker that has begun to listen.
fn broker(net: &Guarded, directory: &Path, config: &str) -> Process {
    let mut command = net.topology.gateway.command("mosquitto");
    command.arg("-c").arg(directory.join(config));
    let broker = Process::start(&mut command, &directory.join("mosquitto.log")).unwrap();
    let listens = || net.topology.gateway.enter(|| Ok(TcpStream::connect("127.0.0.1:1883")?)).ok();
    assert!(wait_for(LATER, listens).is_some(), "{}", broker.said());
    broker
}

const LISTEN: [&str; 11] =
    ["-h", "127.0.0.1", "-q", "1", "-c", "-t", "$aws/#", "-t", "tidegate/#", "-F", "%t %p"];

/// Subscribes in the name of an observer, for whom the broker keeps everything from now on.
fn subscribe(net: &Guarded, name: &str) {
    let mut command = net.topology.gateway.command("mosquitto_sub");
    assert!(command.args(LISTEN).args(["-i", name, "-E"]).status().unwrap().success());
}

/// What was kept for an observer and what comes, as lines `TOPIC PAYLOAD` in its log.
fn observer(net: &Guarded, directory: &Path, name: &str) -> Process {
    let mut command = net.topology.gateway.command("mosquitto_sub");
    Process::start(command.args(LISTEN).args(["-i", name]), &directory.join(name)).unwrap()
}

/// The payload of the first line of `observer` whose topic ends in `topic` and whose payload is meant.
fn heard(observer: &Process, topic: &str, is_meant: impl Fn(&Value) -> bool) -> Value {
    let find = || {
        let said = observer.said();
        said.lines().filter_map(|line| line.split_once(' ')).find_map(|(heard, payload)| {
            let payload: Value = serde_json::from_str(payload).ok()?;
            (heard.ends_with(topic) && is_meant(&payload)).then_some(payload)
        })
    };
    wait_for(LATER, find).unwrap_or_else(|| panic!("nothing on {topic}:\n{}", observer.said()))
}

fn is_online(net: &Guarded) -> bool {
    let status = net.tidegate(&["status"]);
    !status["problems"].to_string().contains("the cloud is not reached")
}

#[test]
fn the_cloud_hears_reports_sends_policies_and_is_not_needed() {
    let name = "cloud::the_cloud_hears_reports_sends_policies_and_is_not_needed";
    let present =
        |program: &str| ["/usr/sbin", "/usr/bin"].iter().any(|dir| Path::new(dir).join(program).exists());
    if !["mosquitto", "mosquitto_sub", "openssl"].into_iter().all(present) {
        tidegate_tests::skipped(name, "needs mosquitto, its clients, and openssl");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    certify(place);
    let binary = agent::built();
    let Some(net) = guarded(name, |settings| {
        let file = |name: &str| format!("\"{}/{name}\"", place.display());
        settings.keys.extend([
            ("gateway.name", "\"gate\"".to_owned()),
            ("policy.keys", file("fleet.pub")),
            ("policy.fleet", "\"lab\"".to_owned()),
            ("cloud.enabled", "true".to_owned()),
            ("cloud.endpoint", "\"localhost\"".to_owned()),
            ("cloud.ca", file("ca.pem")),
            ("cloud.certificate", file("gate.crt")),
            ("cloud.key", file("gate.key")),
            ("cloud.defender", "\"json\"".to_owned()),
            ("cloud.policy_origins", format!("[\"file://{}/policies/\"]", place.display())),
        ]);
    }) else {
        return;
    };
    let mut mosquitto = broker(&net, place, "open.conf");
    subscribe(&net, "seen");
    subscribe(&net, "again");
    mosquitto.stop();
    let (camera, attacker) = (net.device("camera"), &net.topology.attacker);

    // There is no broker yet: a block holds, and what is reported waits.
    assert!(
        wait_for(LATER, || (!is_online(&net)).then_some(())).is_some(),
        "nobody says that the cloud is away"
    );
    net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--ttl", "10m"]);
    assert!(net.is_cut(attacker, camera.address), "enforcement without the cloud");
    mosquitto = broker(&net, place, "mutual.conf");
    let seen = observer(&net, place, "seen");
    let block =
        heard(&seen, "tidegate/gate/block", |report| report["body"]["target"] == ATTACKER.to_string());
    assert_eq!((&block["gateway"], &block["body"]["in_force"]), (&json!("gate"), &json!(true)), "{block}");
    heard(&seen, "tidegate/gate/presence", |presence| presence["online"] == true);
    heard(&seen, "tidegate/gate/heartbeat", |beat| beat["body"]["enforcing"] == true);
    let metrics =
        heard(&seen, "things/gate/defender/metrics/json", |report| report["header"]["version"] == "1.0");
    assert_eq!(metrics["custom_metrics"]["tidegate_Blocks"], json!([{ "number": 1 }]), "{metrics}");
    let resolver = json!({ "port": 53 });
    let ports = metrics["metrics"]["listening_udp_ports"]["ports"].as_array().cloned().unwrap_or_default();
    assert!(ports.contains(&resolver), "{metrics}");
    assert!(wait_for(SOON, || is_online(&net).then_some(())).is_some());

    // The fleet wants a policy: it is fetched, verified, put in force, and answered.
    let tidegate = binary.unwrap().display().to_string();
    run(place, &tidegate, &["policy", "keygen", "--output", "fleet"]);
    fs::create_dir(place.join("policies")).unwrap();
    let document = "version = 3\nfleet = \"lab\"\nnot_before = \"2020-01-01T00:00:00Z\"\nexpires = \"2200-01-01T00:00:00Z\"\n\
                    [settings]\nsensitivity = \"low\"\n";
    fs::write(place.join("three.toml"), document).unwrap();
    run(place, &tidegate, &["policy", "sign", "three.toml", "--key", "fleet.key", "--output", "policies/3"]);
    let hash = run(place, "sha256sum", &["policies/3"]);
    let want = |version: u64, url: String| {
        let hash = hash.split_whitespace().next().unwrap();
        let shadow = json!({ "state": { "desired": { "policy": { "version": version, "sha256": hash, "url": url } } } });
        let arguments = ["-h", "127.0.0.1", "-q", "1", "-t", &format!("{SHADOW}/get/accepted"), "-m"];
        let mut command = net.topology.gateway.command("mosquitto_pub");
        assert!(command.args(arguments).arg(shadow.to_string()).status().unwrap().success());
    };
    want(3, format!("file://{}/policies/3", place.display()));
    let reported = |update: &Value| update["state"]["reported"]["policy"].clone();
    heard(&seen, "policy/update", |update| reported(update)["version"] == 3);
    heard(&seen, "tidegate/gate/policy", |report| report["body"]["outcome"] == "applied");
    assert_eq!(net.tidegate(&["policy", "show"])["author"], "fleet");

    // One from elsewhere is not fetched, and one that is not what the shadow names is not taken.
    want(4, format!("file://{}/gate.key", place.display()));
    heard(&seen, "policy/update", |update| {
        reported(update)["wanted"] == 4 && reported(update)["refused"] == "failed"
    });
    fs::write(place.join("policies/5"), "something else").unwrap();
    want(5, format!("file://{}/policies/5", place.display()));
    heard(&seen, "policy/update", |update| {
        reported(update)["wanted"] == 5 && reported(update)["version"] == 3
    });
    assert_eq!(net.tidegate(&["policy", "show"])["refused"]["failed"], 2);

    // Cut and restored: nothing is lost and nothing waits.
    mosquitto.stop();
    net.tidegate(&["blocks", "delete", &ATTACKER.to_string()]);
    assert!(net.reaches(attacker, camera.address), "orders without the cloud");
    assert!(wait_for(LATER, || (!is_online(&net)).then_some(())).is_some());
    mosquitto = broker(&net, place, "mutual.conf");
    let again = observer(&net, place, "again");
    heard(&again, "tidegate/gate/block", |report| report["body"]["in_force"] == false);
    mosquitto.stop();
}
