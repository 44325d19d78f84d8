//! Renewals against a registry in memory: nothing when there is time, the new one before the old one goes, and whatever a cut leaves works.

#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{cell::Cell, collections::BTreeSet, fs};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::{
    identity::Files,
    proof::Proof,
    renewal::{Due, Renewal},
    tests::{Fake, SCOPE, files, wait, wish},
    *,
};
use crate::fleet::tls::{TlsFiles, mutual};

/// A broker that lets in what is told in advance, and what AWS would.
struct Door<'a> {
    registry: &'a Fake,
    is_open: Cell<bool>,
}

impl Proof for Door<'_> {
    async fn is_let_in(&self, tls: &TlsFiles) -> Result<(), String> {
        let is_known = works(self.registry, tls);
        if self.is_open.get() && is_known { Ok(()) } else { Err("closed".to_owned()) }
    }
}

/// Whether a connection with these files would come about: key and certificate fit, and AWS lets the certificate be the thing.
fn works(registry: &Fake, tls: &TlsFiles) -> bool {
    if mutual(&TlsFiles { ca: Some(tls.certificate.clone()), ..tls.clone() }).is_err() {
        return false;
    }
    let files = Files { certificate: tls.certificate.clone(), key: tls.key.clone() };
    let id = files.certificate_id().unwrap().unwrap();
    let model = registry.model.borrow();
    model.certificates.get(&id).is_some_and(|(_, status, policies, things)| {
        *status == "ACTIVE" && policies == &["tidegate-gateway", "more"] && things == &["gate"]
    })
}

/// A provisioned gateway, with a policy of its owner's beside ours.
fn gateway() -> (tempfile::TempDir, TlsFiles, Fake) {
    let (directory, Files { certificate, key }) = files();
    let registry = Fake::new(Seen::default());
    let pair = Files { certificate: certificate.clone(), key: key.clone() };
    wait(provision(&registry, &wish(), &pair, false)).unwrap();
    for row in registry.model.borrow_mut().certificates.values_mut() {
        row.2.push("more".to_owned());
    }
    registry.model.borrow_mut().calls = 0;
    (directory, TlsFiles { ca: None, certificate, key }, registry)
}

fn renewal<'a>(registry: &'a Fake, tls: &TlsFiles, before: Timestamp) -> Renewal<Door<'a>> {
    let proof = Door { registry, is_open: Cell::new(true) };
    Renewal { thing: "gate".to_owned(), tls: tls.clone(), before, proof }
}

/// Whatever is due, as the command does it.
fn run(renewal: &Renewal<Door<'_>>, dry_run: bool) -> Result<Vec<Call>, ProvisionError> {
    let mut calls = Vec::new();
    for due in Due::ALL {
        if renewal.is_due(due, dry_run)? {
            calls.extend(wait(renewal.serve(due, renewal.proof.registry, dry_run))?);
        }
    }
    Ok(calls)
}

/// A moment after the end of the certificate.
fn late(renewal: &Renewal<Door<'_>>) -> Timestamp {
    renewal.files().ends().unwrap().unwrap() + SignedDuration::from_secs(1)
}

fn names(calls: &[Call]) -> Vec<String> {
    let name = |call| serde_json::to_value(call).unwrap()["call"].as_str().unwrap().to_owned();
    calls.iter().map(name).collect()
}

#[test]
fn with_time_left_nobody_is_asked_and_before_the_end_the_new_one_takes_over() {
    let (_directory, tls, registry) = gateway();
    let mut renewal = renewal(&registry, &tls, Timestamp::now());
    let key = fs::read(&tls.key).unwrap();
    let first = renewal.files().certificate_id().unwrap().unwrap();
    assert_eq!(run(&renewal, false).unwrap(), []);
    assert_eq!(registry.model.borrow().calls, 0);

    renewal.before = late(&renewal);
    let named = run(&renewal, true).unwrap();
    assert_eq!((registry.model.borrow().calls, fs::read(&tls.key).unwrap()), (0, key.clone()));
    assert!(!renewal.files().next().key.exists());
    let done = run(&renewal, false).unwrap();
    assert_eq!(named, done);
    let new = "CreateCertificateFromCsr AttachPolicy AttachPolicy AttachThingPrincipal";
    let old = "UpdateCertificate DetachPolicy DetachPolicy DetachThingPrincipal DeleteCertificate";
    assert_eq!(names(&done).join(" "), format!("{new} {old}"));
    assert_ne!(fs::read(&tls.key).unwrap(), key, "a new key");
    assert!(works(&registry, &tls));
    let model = registry.model.borrow();
    assert_eq!(model.certificates.len(), 1);
    assert!(!model.certificates.contains_key(&first));
    let left: Vec<_> = fs::read_dir(tls.key.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_certificate_that_is_not_let_in_changes_nothing_and_is_tried_again() {
    let (_directory, tls, registry) = gateway();
    let mut renewal = renewal(&registry, &tls, Timestamp::now());
    renewal.before = late(&renewal);
    renewal.proof.is_open.set(false);
    let before = (fs::read(&tls.key).unwrap(), fs::read(&tls.certificate).unwrap());
    for _ in 0..3 {
        let refused = run(&renewal, false);
        assert!(matches!(refused, Err(ProvisionError::Unproven(_))), "{refused:?}");
    }
    assert_eq!(before, (fs::read(&tls.key).unwrap(), fs::read(&tls.certificate).unwrap()));
    assert!(works(&registry, &tls));
    assert_eq!(registry.model.borrow().certificates.len(), 2, "the one that waits is used again");
    renewal.proof.is_open.set(true);
    assert!(!names(&run(&renewal, false).unwrap()).contains(&"CreateCertificateFromCsr".to_owned()));
    assert!(works(&registry, &tls));
    assert_eq!(registry.model.borrow().certificates.len(), 1);
}

#[test]
fn one_that_waits_and_was_removed_at_aws_is_asked_for_again() {
    let (_directory, tls, registry) = gateway();
    let mut renewal = renewal(&registry, &tls, Timestamp::now());
    renewal.before = late(&renewal);
    renewal.proof.is_open.set(false);
    run(&renewal, false).unwrap_err();
    let waiting = renewal.files().next().certificate_id().unwrap().unwrap();
    registry.model.borrow_mut().certificates.remove(&waiting);
    renewal.proof.is_open.set(true);
    assert!(matches!(run(&renewal, false), Err(ProvisionError::Aws(_))));
    assert!(works(&registry, &tls));
    run(&renewal, false).unwrap();
    assert!(works(&registry, &tls));
}

#[test]
fn what_is_switched_off_unknown_or_absent_is_not_replaced() {
    let (_directory, tls, registry) = gateway();
    let mut renewal = renewal(&registry, &tls, Timestamp::now());
    renewal.before = late(&renewal);
    for row in registry.model.borrow_mut().certificates.values_mut() {
        row.1 = "REVOKED";
    }
    assert!(matches!(run(&renewal, false), Err(ProvisionError::Inactive { .. })));
    registry.model.borrow_mut().certificates.clear();
    assert!(matches!(run(&renewal, false), Err(ProvisionError::Unknown(_))));
    fs::remove_file(&tls.certificate).unwrap();
    assert!(matches!(run(&renewal, false), Err(ProvisionError::Absent)));
    assert_eq!(registry.model.borrow().calls, 0);
}

#[test]
fn a_certificate_that_others_use_stays_with_them() {
    let (_directory, tls, registry) = gateway();
    let mut renewal = renewal(&registry, &tls, Timestamp::now());
    let first = renewal.files().certificate_id().unwrap().unwrap();
    registry.model.borrow_mut().certificates.get_mut(&first).unwrap().3.push("other".to_owned());
    renewal.before = late(&renewal);
    run(&renewal, false).unwrap();
    let model = registry.model.borrow();
    let (_, status, policies, things) = &model.certificates[&first];
    assert_eq!((*status, policies.len(), things.as_slice()), ("ACTIVE", 2, &["other".to_owned()][..]));
}

#[test]
fn a_certificate_that_ended_needs_nobody_to_be_told() {
    let (_directory, tls, registry) = gateway();
    let renewal = renewal(&registry, &tls, Timestamp::now());
    let ended = renewal.files().old();
    ended.request("gate").unwrap();
    let key = rcgen::KeyPair::from_pem(&fs::read_to_string(&ended.key).unwrap()).unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    ended.write_certificate(&params.self_signed(&key).unwrap().pem()).unwrap();
    assert_eq!(run(&renewal, false).unwrap(), []);
    assert!(!ended.key.exists() && !ended.certificate.exists());
}

/// The rights that the operations guide lists for the role are those of the calls.
#[test]
fn the_guide_lists_the_rights_that_a_renewal_needs() {
    let (_directory, tls, registry) = gateway();
    let mut renewal = renewal(&registry, &tls, Timestamp::now());
    renewal.before = late(&renewal);
    let reads = ["DescribeCertificate", "ListAttachedPolicies", "ListPrincipalThings"].map(ToOwned::to_owned);
    let needed: BTreeSet<String> = names(&run(&renewal, true).unwrap())
        .into_iter()
        .chain(reads)
        .map(|name| format!("iot:{name}"))
        .collect();
    let guide = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md")).unwrap();
    let blocks = guide.split("```json").skip(1).filter_map(|rest| rest.split("```").next());
    let policy = blocks.clone().find(|block| block.contains("credentials-iot:AwsCertificateId")).unwrap();
    let policy: serde_json::Value = serde_json::from_str(policy).unwrap();
    let mut given = BTreeSet::new();
    for statement in policy["Statement"].as_array().unwrap() {
        assert_eq!(statement["Effect"], "Allow");
        given.extend(
            statement["Action"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()),
        );
        let is_own = |name: &serde_json::Value| {
            ["iot:UpdateCertificate", "iot:DeleteCertificate", "iot:DetachPolicy"]
                .contains(&name.as_str().unwrap())
        };
        if statement["Action"].as_array().unwrap().iter().any(is_own) {
            let resource = statement["Resource"].as_str().unwrap();
            assert!(
                resource.starts_with("arn:aws:iot:")
                    && resource.ends_with(":cert/${credentials-iot:AwsCertificateId}")
            );
        }
    }
    assert_eq!(given, needed);
    assert!(SCOPE.starts_with("arn:aws:iot:"));
}

proptest! {
    /// Cut off at any call, the gateway has a certificate that works, and the next run leaves exactly one.
    #[test]
    fn a_cut_anywhere_leaves_a_certificate_that_works(cuts in prop::collection::vec(0usize..10, 0..4)) {
        let (_directory, tls, mut registry) = gateway();
        let first = Files { certificate: tls.certificate.clone(), key: tls.key.clone() }.ends().unwrap().unwrap();
        let before = first + SignedDuration::from_secs(1);
        for cut in cuts {
            let spent = registry.model.borrow().calls;
            registry.patience = spent + cut;
            let _ = run(&renewal(&registry, &tls, before), false);
            prop_assert!(works(&registry, &tls), "after a cut at {}", cut);
            registry.patience = usize::MAX;
        }
        run(&renewal(&registry, &tls, before), false).unwrap();
        prop_assert!(works(&registry, &tls));
        let held = registry.model.borrow().certificates.values().filter(|(_, status, ..)| *status == "ACTIVE").count();
        prop_assert_eq!(held, 1, "one certificate in force");
        let renewal = renewal(&registry, &tls, Timestamp::now());
        prop_assert!(!renewal.files().old().certificate.exists() && !renewal.files().next().key.exists());
    }
}
