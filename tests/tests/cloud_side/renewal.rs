//! A certificate is renewed under a running daemon, with nothing but its own credentials.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tidegate_tests::{
    agent,
    emulator::{ACCOUNT, Emulator, MQTT_PORT, REGION},
    netns::Netns,
    topology::{ATTACKER, CLOUD},
    wait_for,
    web::{WebServer, authority, run},
};

use super::{LATER, RULE, calls, cloud_side::Aws, common::guarded, is_online, publishes, tidegate};

/// Port of what stands in for AWS IoT's credential provider.
const CREDENTIALS_PORT: u16 = 8_444;

/// Runs `provision` with no credentials of its own: nothing, or only where AWS is.
fn renew(netns: &Netns, emulator: &Emulator, config: &str, within: &str) -> (bool, String) {
    let mut command = netns.command(&agent::built().unwrap().display().to_string());
    command.args(["provision", "-c", config, "-o", "json", "--renew-within", within]).envs([
        ("AWS_ENDPOINT_URL", emulator.url().as_str()),
        ("AWS_REGION", REGION),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ]);
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// What the credential provider answers from now on.
fn provider_says(place: &Path, answer: &str) {
    let directory = place.join("role-aliases/gateways");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("credentials"), answer).unwrap();
}

#[test]
fn a_certificate_is_renewed_with_its_own_credentials_under_a_running_daemon() {
    let name = "emulator::a_certificate_is_renewed_with_its_own_credentials_under_a_running_daemon";
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let program = Emulator::installed().expect("cargo xtask cloud-test names the emulator");
    let Some(net) = guarded(name, |settings| {
        let file = |name: &str| format!("\"{}/{name}\"", place.display());
        settings.keys.extend([
            ("gateway.name", "\"gate\"".to_owned()),
            ("cloud.enabled", "true".to_owned()),
            ("cloud.endpoint", format!("\"{CLOUD}\"")),
            ("cloud.port", MQTT_PORT.to_string()),
            ("cloud.ca", file("ca.pem")),
            ("cloud.certificate", file("cloud.crt")),
            ("cloud.key", file("cloud.key")),
            ("cloudwatch.role_alias", "\"gateways\"".to_owned()),
            ("cloudwatch.credentials_endpoint", format!("\"{CLOUD}:{CREDENTIALS_PORT}\"")),
        ]);
    }) else {
        return;
    };
    let (internet, gateway) = (&net.topology.internet, &net.topology.gateway);
    let emulator = Emulator::launch(&program, internet, CLOUD.into(), place).unwrap();
    let aws = Aws::new(gateway, &emulator);
    authority(place, "web", &CLOUD.to_string()).unwrap();
    let devices = emulator.authority(internet).unwrap();
    fs::write(place.join("devices.pem"), &devices).unwrap();
    let trusted = devices + &fs::read_to_string(place.join("web-ca.pem")).unwrap();
    fs::write(place.join("ca.pem"), trusted).unwrap();
    let provider = WebServer::for_known(internet, place, CREDENTIALS_PORT, "devices.pem").unwrap();
    let queue = aws.queue("reports");
    let role = emulator.role(internet, "rules", "sqs:SendMessage").unwrap();
    aws.rule(RULE, "SELECT * FROM 'tidegate/+/+'", &queue, &role);
    let config = net.topology.directory().join("tidegate.toml").display().to_string();
    let (ok, said) = tidegate(gateway, &emulator, &["provision", "-c", &config, "-o", "json"]);
    assert!(ok, "{said}");
    let document = aws.iot(async |iot| {
        let policy = iot.get_policy().policy_name("tidegate-gateway").send().await.unwrap();
        policy.policy_document.unwrap()
    });
    assert!(document.contains("iot:AssumeRoleWithCertificate"), "{document}");
    assert!(wait_for(LATER, || is_online(&net).then_some(())).is_some(), "{}", net.agent.said());
    let pair = || ["cloud.crt", "cloud.key"].map(|name| fs::read(place.join(name)).unwrap());
    let certificates = || {
        aws.iot(async |iot| {
            let listed = iot.list_certificates().send().await.unwrap();
            listed.certificates().iter().filter_map(|row| row.certificate_id.clone()).collect::<Vec<_>>()
        })
    };
    let (first, known) = (pair(), certificates());

    // Far from its end: nobody is asked, not even for credentials.
    let (ok, said) = renew(gateway, &emulator, &config, "30d");
    assert!(ok, "{said}");
    assert_eq!(calls(&said), Vec::<String>::new());

    // Near its end, and the role is refused.
    provider_says(place, "HTTP/1.0 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    let (ok, said) = renew(gateway, &emulator, &config, "20000d");
    assert!(!ok && said.contains("role alias") && said.contains("403"), "{said}");
    assert!(said.contains("hint:") && said.contains("iot:AssumeRoleWithCertificate"), "{said}");
    assert_eq!((pair(), certificates()), (first.clone(), known.clone()), "nothing changed");
    assert!(is_online(&net));

    // The role is given.
    let given =
        json!({ "credentials": { "accessKeyId": ACCOUNT, "secretAccessKey": "test", "sessionToken": "token",
        "expiration": "2100-01-01T00:00:00Z" } })
        .to_string();
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", given.len());
    provider_says(place, &format!("{head}{given}"));
    let began = std::time::Instant::now();
    let (ok, said) = renew(gateway, &emulator, &config, "20000d");
    assert!(ok, "{said}\n{}\n{}", provider.said(), emulator.said());
    let took = began.elapsed();
    let made = calls(&said);
    assert_eq!(
        made,
        [
            "CreateCertificateFromCsr",
            "AttachPolicy",
            "AttachThingPrincipal",
            "UpdateCertificate",
            "DetachPolicy",
            "DetachThingPrincipal",
            "DeleteCertificate"
        ]
    );
    let second = pair();
    assert!(second[0] != first[0] && second[1] != first[1]);
    run(place, "openssl", &["x509", "-in", "cloud.crt", "-outform", "der", "-out", "der"]).unwrap();
    let ids = certificates();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert!(run(place, "sha256sum", &["der"]).unwrap().starts_with(&ids[0]) && ids != known);
    for left in ["cloud.key.new", "cloud.crt.new", "cloud.key.old", "cloud.crt.old"] {
        assert!(!place.join(left).exists(), "{left}");
    }

    // The daemon goes on without a restart: the certificate before is no more, so whatever it connects with from here on is the new one.
    let connects =
        || net.agent.answer(&["events", "-n", "200"]).unwrap().matches("the cloud is reached").count();
    let before = connects();
    for (name, bytes) in ["old.crt", "old.key"].into_iter().zip(&first) {
        fs::write(place.join(name), bytes).unwrap();
    }
    let host = CLOUD.to_string();
    let publish = |holder: &str| publishes(gateway, place, &host, holder, "gate", "tidegate/gate/presence");
    // The daemon has the same name and may put this client out before it is done, as this client does the daemon: it is tried again.
    assert!(wait_for(LATER, || publish("cloud").then_some(())).is_some(), "{}", emulator.said());
    for _ in 0..5 {
        assert!(!publish("old"), "a certificate that is no more");
    }
    assert!(wait_for(LATER, || (connects() > before).then_some(())).is_some(), "{}", net.agent.said());
    assert!(wait_for(LATER, || is_online(&net).then_some(())).is_some(), "{}", net.agent.said());
    net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--ttl", "10m"]);
    let mut inbox = aws.inbox(&queue);
    let block = inbox.until(LATER, |report: &Value| report["body"]["target"] == ATTACKER.to_string());
    assert_eq!(block["body"]["in_force"], true, "{block}");
    println!(
        "CLOUD renewed in {:.1} s by {} calls; refused credentials changed nothing",
        took.as_secs_f64(),
        made.len()
    );
}
