//! Provisioning by claim against a real broker, with the service's answers played by the test.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpStream,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tidegate_tests::{
    agent,
    netns::{self, Netns},
    process::Process,
    wait_for,
};

const CREATE: &str = "$aws/certificates/create-from-csr/json";
const PROVISION: &str = "$aws/provisioning-templates/gateways/provision/json";

fn run(directory: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// An authority, the broker's certificate, the claim's, and a broker that wants one.
fn broker(netns: &Netns, place: &Path) -> Process {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-x509"];
    let ca = ["req", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem"];
    run(place, "openssl", &[&ca[..], &key].concat());
    for (name, extension) in
        [("broker", "subjectAltName=IP:127.0.0.1"), ("claim", "subjectAltName=DNS:claim")]
    {
        let (file, secret, subject) = (format!("{name}.crt"), format!("{name}.key"), format!("/CN={name}"));
        let own = [
            "req", "-subj", &subject, "-keyout", &secret, "-out", &file, "-CA", "ca.pem", "-CAkey", "ca.key",
        ];
        let ends = ["-addext", extension, "-addext", "basicConstraints=critical,CA:FALSE"];
        run(place, "openssl", &[&own[..], &key, &ends].concat());
        fs::set_permissions(place.join(secret), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let shown = place.display();
    let text = format!(
        "per_listener_settings true\nuser root\nlistener 8883 127.0.0.1\ncafile {shown}/ca.pem\ncertfile {shown}/broker.crt\n\
         keyfile {shown}/broker.key\nrequire_certificate true\nuse_identity_as_username true\nlistener 1883 127.0.0.1\nallow_anonymous true\n"
    );
    fs::write(place.join("mosquitto.conf"), text).unwrap();
    let mut command = netns.command("mosquitto");
    let broker =
        Process::start(command.arg("-c").arg(place.join("mosquitto.conf")), &place.join("log")).unwrap();
    let listens = || netns.enter(|| Ok(TcpStream::connect("127.0.0.1:1883")?)).ok();
    assert!(wait_for(Duration::from_secs(20), listens).is_some(), "{}", broker.said());
    broker
}

/// Answers one message as the service would, from `answer(topic, payload)`; ends after `PROVISION` or a refusal.
fn service(
    netns: &Netns,
    place: &Path,
    answer: impl Fn(&Path, &str, &Value) -> (bool, Value) + Send + 'static,
) -> thread::JoinHandle<()> {
    let name = netns.name().to_owned();
    let place = place.to_owned();
    let ears = || {
        let mut ears = netns.command("mosquitto_sub");
        ears.args(["-h", "127.0.0.1", "-q", "1", "-c", "-i", "service", "-t", CREATE, "-t", PROVISION]);
        ears
    };
    // From here on the broker keeps what comes.
    assert!(ears().arg("-E").status().unwrap().success());
    let mut ears = ears().args(["-W", "60", "-F", "%t %p"]).stdout(Stdio::piped()).spawn().unwrap();
    thread::spawn(move || {
        let lines = BufReader::new(ears.stdout.take().unwrap()).lines();
        for line in lines.map_while(Result::ok) {
            let (topic, payload) = line.split_once(' ').unwrap();
            let (accepted, answer) = answer(&place, topic, &serde_json::from_str(payload).unwrap());
            let topic_of_answer = format!("{topic}/{}", if accepted { "accepted" } else { "rejected" });
            let entered = format!("--net=/run/netns/{name}");
            let arguments =
                [&entered, "mosquitto_pub", "-h", "127.0.0.1", "-q", "1", "-t", &topic_of_answer, "-m"];
            run(&place, "nsenter", &[&arguments[..], &[&answer.to_string()]].concat());
            if topic == PROVISION || !accepted {
                break;
            }
        }
        let _ = ears.kill();
        let _ = ears.wait();
    })
}

fn claim(netns: &Netns, place: &Path) -> std::process::Output {
    let binary = agent::built().unwrap().display().to_string();
    let mut command = netns.command(&binary);
    command.args(["provision", "-o", "json", "--template", "gateways", "--parameter", "SerialNumber=4711"]);
    command.arg("-c").arg(place.join("tidegate.toml"));
    command.arg("--claim-certificate").arg(place.join("claim.crt"));
    command.arg("--claim-key").arg(place.join("claim.key")).output().unwrap()
}

#[test]
fn a_claim_is_exchanged_for_an_own_certificate_whose_key_never_leaves() {
    let name = "provision::a_claim_is_exchanged_for_an_own_certificate_whose_key_never_leaves";
    let present =
        |program: &str| ["/usr/sbin", "/usr/bin"].iter().any(|dir| Path::new(dir).join(program).exists());
    if !tidegate_tests::is_root() || !["mosquitto", "mosquitto_sub", "openssl"].into_iter().all(present) {
        tidegate_tests::skipped(name, "needs root, mosquitto, its clients, and openssl");
        return;
    }
    if agent::built().is_none() {
        tidegate_tests::skipped(name, "the agent is not built; `cargo xtask test` builds it first");
        return;
    }
    let prefix = format!("tg-{}-claim", std::process::id());
    netns::sweep();
    let netns = Netns::create(&prefix, "iot").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let _broker = broker(&netns, place);
    let shown = place.display();
    let text = format!(
        "[gateway]\nname = \"gate-9\"\n[cloud]\nendpoint = \"127.0.0.1\"\nca = \"{shown}/ca.pem\"\n\
         certificate = \"{shown}/own/cloud.crt\"\nkey = \"{shown}/own/cloud.key\"\n"
    );
    fs::write(place.join("tidegate.toml"), text).unwrap();

    // Refused: nothing but the key is there afterwards, and why is said.
    let refusal = json!({ "statusCode": 403, "errorCode": "AccessDenied", "errorMessage": "not this one" });
    let refused = refusal.clone();
    let answering = service(&netns, place, move |_, _, _| (false, refused.clone()));
    let output = claim(&netns, place);
    answering.join().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && said.contains("not this one") && said.contains("hint:"),
        "{said}"
    );
    assert!(!place.join("own/cloud.crt").exists());

    let answering = service(&netns, place, |place, topic, asked| {
        if topic == CREATE {
            let request = asked["certificateSigningRequest"].as_str().unwrap();
            assert!(!asked.to_string().contains("PRIVATE"));
            fs::write(place.join("gate.csr"), request).unwrap();
            let sign = [
                "x509",
                "-req",
                "-in",
                "gate.csr",
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-days",
                "2",
            ];
            let pem = run(place, "openssl", &sign);
            (
                true,
                json!({ "certificateId": "1", "certificatePem": pem, "certificateOwnershipToken": "token" }),
            )
        } else {
            assert_eq!(asked["certificateOwnershipToken"], "token");
            assert_eq!(asked["parameters"], json!({ "SerialNumber": "4711", "ThingName": "gate-9" }));
            (true, json!({ "thingName": "gate-9", "deviceConfiguration": {} }))
        }
    });
    let output = claim(&netns, place);
    answering.join().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(done["thing"], "gate-9");
    assert_eq!(fs::metadata(place.join("own/cloud.key")).unwrap().mode() & 0o777, 0o600);
    let subject = run(place, "openssl", &["x509", "-in", "own/cloud.crt", "-noout", "-subject"]);
    assert!(subject.contains("gate-9"), "{subject}");
    let of = |arguments: &[&str]| run(place, "openssl", arguments);
    let (certified, own) = (
        of(&["x509", "-in", "own/cloud.crt", "-noout", "-pubkey"]),
        of(&["pkey", "-in", "own/cloud.key", "-pubout"]),
    );
    assert_eq!(certified, own, "certificate and key go together");

    // With a certificate there is nothing to claim, and nobody is asked.
    let again = claim(&netns, place);
    assert!(again.status.success());
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(again["certificate"], done["certificate"]);
}
