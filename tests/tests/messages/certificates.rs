//! Clients with certificates: whose are taken, and what a revocation does.

use std::{
    fs,
    process::{Command, Output},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;
use tidegate::messages::{Reason, read};
use tidegate_tests::wait_for;

use super::setup::{PATIENCE, Setup};

/// An authority whose certificate and clients' certificates are files.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn create(name: &str, directory: &TempDir) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(directory.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key) }
    }

    /// Files `NAME.pem` and `NAME.key` of a certificate for 127.0.0.1 or a client called so.
    fn issue(&self, name: &str, serial: u64, until: i32, directory: &TempDir) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(directory.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(directory.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn revoke(&self, serials: &[u64], directory: &std::path::Path) {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(serials.len() as u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap();
        fs::write(directory.join("revoked.pem"), list.pem().unwrap()).unwrap();
    }
}

/// A guard that takes clients of one authority, and another authority beside it.
fn setup(name: &str) -> Option<(Setup, Authority)> {
    let directory = tempfile::tempdir().unwrap();
    let (ours, foreign) = (Authority::create("ours", &directory), Authority::create("foreign", &directory));
    for (name, serial, until) in [("server", 1, 2100), ("lamp", 2, 2100), ("pump", 3, 2100), ("old", 4, 2021)]
    {
        ours.issue(name, serial, until, &directory);
    }
    foreign.issue("stranger", 2, 2100, &directory);
    ours.revoke(&[], directory.path());
    let file = |name: &str| directory.path().join(name).display().to_string();
    let keys = format!(
        "messages.certificate = \"{}\"\nmessages.key = \"{}\"\nmessages.client_ca = \"{}\"\nmessages.revoked = \"{}\"\n",
        file("server.pem"),
        file("server.key"),
        file("ours.pem"),
        file("revoked.pem")
    );
    Setup::start_with_tls(name, directory, &keys).map(|setup| (setup, ours))
}

/// A client of mosquitto with the certificate `name`, or none.
fn client(setup: &Setup, program: &str, name: &str, arguments: &[&str]) -> Command {
    let file = |name: String| setup.directory.path().join(name);
    let mut command = Command::new(program);
    command.args(["-h", "127.0.0.1", "-p", &setup.tls.unwrap().port().to_string(), "-q", "1"]);
    command.arg("--cafile").arg(file("ours.pem".to_owned())).args(arguments);
    if !name.is_empty() {
        command.arg("--cert").arg(file(format!("{name}.pem"))).arg("--key").arg(file(format!("{name}.key")));
    }
    command
}

fn publish(setup: &Setup, name: &str, topic: &str) -> Output {
    client(setup, "mosquitto_pub", name, &["-i", "x", "-t", topic, "-m", "1"]).output().unwrap()
}

#[test]
fn only_certificates_of_the_authority_are_taken() {
    let Some((setup, _)) = setup("certificates") else { return };
    assert!(publish(&setup, "lamp", "u/lamp/x").status.success());
    assert_eq!(read(&setup.counters.published), 1);
    for name in ["stranger", "old", ""] {
        assert!(!publish(&setup, name, "u/lamp/x").status.success(), "{name}");
    }
    assert_eq!(setup.counters.refused(Reason::Tls), 3);
    // The name in the certificate counts, not one that the client gives itself.
    publish(&setup, "lamp", "u/pump/x");
    assert_eq!((read(&setup.counters.published), setup.counters.refused(Reason::PublishTopic)), (1, 1));
}

#[test]
fn a_revocation_cuts_the_live_connection_and_bars_the_next() {
    let Some((setup, authority)) = setup("revocation") else { return };
    let mut lamp = client(&setup, "mosquitto_sub", "lamp", &["-i", "l", "-t", "u/lamp/#", "-d"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut pump = client(&setup, "mosquitto_sub", "pump", &["-i", "p", "-t", "u/pump/#"]).spawn().unwrap();
    let sessions = |count| wait_for(PATIENCE, || (read(&setup.counters.sessions) == count).then_some(()));
    assert!(sessions(2).is_some());
    authority.revoke(&[2], setup.directory.path());
    assert!(sessions(1).is_some(), "the live connection is cut");
    assert_eq!(setup.counters.refused(Reason::Revoked), 1);
    assert!(!publish(&setup, "lamp", "u/lamp/x").status.success());
    assert!(publish(&setup, "pump", "u/pump/x").status.success());
    for client in [&mut lamp, &mut pump] {
        client.kill().unwrap();
        client.wait().unwrap();
    }
}
