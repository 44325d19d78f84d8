//! Plans against a registry in memory: complete, idempotent, and finished by the next run wherever one was cut off.

#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{cell::RefCell, collections::BTreeMap};

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::runtime::Builder;

use super::*;

pub(super) const SCOPE: &str = "arn:aws:iot:eu-central-1:123456789012";

/// A certificate: name of the resource, status, policies, things.
pub(super) type Row = (String, &'static str, Vec<String>, Vec<String>);

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) seen: Seen,
    /// Certificates by id.
    pub(super) certificates: BTreeMap<String, Row>,
    pub(super) calls: usize,
}

/// Fails every call after `patience` calls.
pub(super) struct Fake {
    pub(super) model: RefCell<Model>,
    pub(super) patience: usize,
    authority: Issuer<'static, KeyPair>,
}

impl Fake {
    pub(super) fn new(seen: Seen) -> Self {
        let model = Model { seen: Seen { scope: SCOPE.to_owned(), ..seen }, ..Model::default() };
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = Issuer::new(params, KeyPair::generate().unwrap());
        Self { model: RefCell::new(model), patience: usize::MAX, authority }
    }

    fn spend(&self) -> Result<(), AwsError> {
        let mut model = self.model.borrow_mut();
        model.calls += 1;
        if model.calls > self.patience { Err(AwsError::incomplete("iot:Any")) } else { Ok(()) }
    }

    fn known_of(model: &Model, arn: Option<&String>) -> Result<String, AwsError> {
        let found = model.certificates.iter().find(|(_, (known, ..))| Some(known) == arn);
        let absent = AwsError {
            code: Some("ResourceNotFoundException".to_owned()),
            ..AwsError::incomplete("iot:Any")
        };
        found.map(|(id, _)| id.clone()).ok_or(absent)
    }

    fn id_of(model: &Model, arn: Option<&String>) -> String {
        Self::known_of(model, arn).unwrap()
    }
}

fn principal(id: &str, (arn, _, policies, things): &Row) -> Principal {
    Principal { id: id.to_owned(), arn: arn.clone(), policies: policies.clone(), shared: things.len() > 1 }
}

impl Registry for Fake {
    async fn see(&self, _: &Wish, certificate: Option<&str>) -> Result<Seen, AwsError> {
        let model = self.model.borrow();
        let known = certificate.and_then(|id| Some((id, model.certificates.get(id)?)));
        Ok(Seen {
            certificate: known.map(|(id, (arn, status, ..))| Known {
                id: id.to_owned(),
                arn: arn.clone(),
                status: (*status).to_owned(),
            }),
            policy_attached: known.is_some_and(|(_, (_, _, policies, _))| !policies.is_empty()),
            thing_attached: known.is_some_and(|(_, (_, _, _, things))| !things.is_empty()),
            ..model.seen.clone()
        })
    }

    async fn principals(&self, thing: &str) -> Result<Option<Vec<Principal>>, AwsError> {
        let model = self.model.borrow();
        let of =
            |(id, row): (&String, &Row)| row.3.iter().any(|name| name == thing).then(|| principal(id, row));
        Ok(model.seen.thing.then(|| model.certificates.iter().filter_map(of).collect()))
    }

    async fn certificate(&self, id: &str, _: &str) -> Result<Option<(Known, Principal)>, AwsError> {
        let model = self.model.borrow();
        let of = |row: &Row| {
            let known = Known { id: id.to_owned(), arn: row.0.clone(), status: row.1.to_owned() };
            (known, principal(id, row))
        };
        Ok(model.certificates.get(id).map(of))
    }

    async fn make(&self, call: &Call) -> Result<(), AwsError> {
        self.spend()?;
        let mut model = self.model.borrow_mut();
        match call.clone() {
            Call::CreateThingType { .. } => assert!(!std::mem::replace(&mut model.seen.thing_type, true)),
            Call::CreateThingGroup { .. } => assert!(!std::mem::replace(&mut model.seen.group, true)),
            Call::CreateThing { .. } => {
                assert!(model.seen.thing_type && !model.seen.thing);
                model.seen.thing = true;
            }
            Call::AddThingToThingGroup { .. } => {
                assert!(model.seen.thing && model.seen.group);
                model.seen.in_group = true;
            }
            Call::CreatePolicy { document, .. } => assert!(model.seen.policy.replace(document).is_none()),
            Call::DeletePolicyVersion { version, .. } => {
                model.seen.old_versions.retain(|old| *old != version);
            }
            Call::CreatePolicyVersion { document, .. } => {
                model.seen.old_versions.push("v".to_owned());
                assert!(model.seen.old_versions.len() < 5, "AWS keeps five versions");
                assert!(model.seen.policy.replace(document).is_some());
            }
            Call::AttachPolicy { name, certificate } => {
                let id = Self::known_of(&model, certificate.as_ref())?;
                let policies = &mut model.certificates.get_mut(&id).unwrap().2;
                policies.retain(|known| *known != name);
                policies.push(name);
            }
            Call::AttachThingPrincipal { thing, certificate } => {
                let id = Self::known_of(&model, certificate.as_ref())?;
                let things = &mut model.certificates.get_mut(&id).unwrap().3;
                things.retain(|known| *known != thing);
                things.push(thing);
            }
            Call::DetachThingPrincipal { thing, certificate } => {
                let id = Self::id_of(&model, Some(&certificate));
                model.certificates.get_mut(&id).unwrap().3.retain(|name| *name != thing);
            }
            Call::DetachPolicy { name, certificate } => {
                let id = Self::id_of(&model, Some(&certificate));
                model.certificates.get_mut(&id).unwrap().2.retain(|policy| *policy != name);
            }
            Call::UpdateCertificate { id, status } => model.certificates.get_mut(&id).unwrap().1 = status,
            Call::DeleteCertificate { id } => {
                let (_, status, policies, things) = model.certificates.remove(&id).unwrap();
                assert!(status == "INACTIVE" && policies.is_empty() && things.is_empty(), "AWS would refuse");
            }
            Call::DeleteThing { .. } => {
                assert!(model.certificates.values().all(|(.., things)| !things.contains(&"gate".to_owned())));
                (model.seen.thing, model.seen.in_group) = (false, false);
            }
            Call::CreateCertificateFromCsr { .. } => unreachable!("is signed"),
        }
        Ok(())
    }

    async fn sign(&self, csr: &str) -> Result<Issued, AwsError> {
        self.spend()?;
        let request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        let signed = request.signed_by(&self.authority).unwrap();
        let id = crate::fleet::shadow::hash(signed.der());
        let arn = format!("{SCOPE}:cert/{id}");
        let row = (arn.clone(), "ACTIVE", Vec::new(), Vec::new());
        self.model.borrow_mut().certificates.insert(id, row);
        Ok(Issued { arn, pem: signed.pem() })
    }
}

pub(super) fn wish() -> Wish {
    Wish {
        thing: "gate".to_owned(),
        thing_type: "tidegate-gateway".to_owned(),
        group: "tidegate".to_owned(),
        policy: "tidegate-gateway".to_owned(),
        rule: "tidegate_reports".to_owned(),
        role_alias: None,
    }
}

pub(super) fn files() -> (tempfile::TempDir, Files) {
    let directory = tempfile::tempdir().unwrap();
    let files =
        Files { certificate: directory.path().join("cloud.crt"), key: directory.path().join("cloud.key") };
    (directory, files)
}

pub(super) fn wait<T>(work: impl Future<Output = T>) -> T {
    Builder::new_current_thread().build().unwrap().block_on(work)
}

fn seen() -> impl Strategy<Value = Seen> {
    let policy = prop_oneof![
        Just(None),
        Just(Some(json!({ "Version": "2012-10-17", "Statement": [] }))),
        Just(Some(policy::document(SCOPE, "tidegate_reports", None))),
    ];
    (any::<[bool; 3]>(), policy, 0usize..5).prop_map(|([thing_type, group, in_group], policy, old)| Seen {
        thing_type,
        group,
        thing: thing_type && group && in_group,
        in_group: thing_type && group && in_group,
        old_versions: (0..if policy.is_some() { old } else { 0 }).map(|old| format!("{old}")).collect(),
        policy,
        ..Seen::default()
    })
}

proptest! {
    #[test]
    fn a_run_completes_and_a_second_does_nothing_wherever_the_first_was_cut(seen in seen(), cut in 0usize..12) {
        let (_directory, files) = files();
        let mut registry = Fake::new(seen);
        registry.patience = cut;
        let first = wait(provision(&registry, &wish(), &files, false));
        registry.patience = usize::MAX;
        let second = wait(provision(&registry, &wish(), &files, false)).unwrap();
        prop_assert!(first.is_err() || second.calls.is_empty());
        let third = wait(provision(&registry, &wish(), &files, false)).unwrap();
        prop_assert_eq!(third.calls, vec![]);
        let model = registry.model.borrow();
        prop_assert_eq!(model.certificates.len(), 1);
        let (arn, status, policies, things) = model.certificates.values().next().unwrap();
        prop_assert_eq!((*status, policies.len(), things.len()), ("ACTIVE", 1, 1));
        prop_assert!(arn.ends_with(&third.certificate.unwrap()));
        prop_assert!(model.seen.in_group);
    }

    #[test]
    fn a_dry_run_names_the_calls_and_does_nothing(seen in seen()) {
        let (_directory, files) = files();
        let registry = Fake::new(seen);
        let dry = wait(provision(&registry, &wish(), &files, true)).unwrap();
        prop_assert_eq!(registry.model.borrow().calls, 0);
        prop_assert!(!files.key.exists() && !files.certificate.exists());
        let wet = wait(provision(&registry, &wish(), &files, false)).unwrap();
        prop_assert_eq!(dry.calls, wet.calls);
    }
}

#[test]
fn a_thing_goes_with_its_certificates_and_leaves_what_others_use() {
    let (_directory, files) = files();
    let registry = Fake::new(Seen::default());
    wait(provision(&registry, &wish(), &files, false)).unwrap();
    let shared =
        (format!("{SCOPE}:cert/shared"), "ACTIVE", vec![], vec!["gate".to_owned(), "other".to_owned()]);
    registry.model.borrow_mut().certificates.insert("shared".to_owned(), shared);
    let named = wait(deprovision(&registry, "gate", true)).unwrap();
    let done = wait(deprovision(&registry, "gate", false)).unwrap();
    assert_eq!(named.calls, done.calls);
    let model = registry.model.borrow();
    assert!(!model.seen.thing && model.seen.group && model.seen.policy.is_some());
    assert_eq!(model.certificates.keys().collect::<Vec<_>>(), ["shared"]);
    assert_eq!(model.certificates["shared"].3, ["other"]);
    drop(model);
    assert_eq!(wait(deprovision(&registry, "gate", false)).unwrap().calls, []);
    // The file's certificate is unknown now: the next run asks for another with the same key.
    let key = std::fs::read(&files.key).unwrap();
    wait(provision(&registry, &wish(), &files, false)).unwrap();
    assert_eq!(std::fs::read(&files.key).unwrap(), key);
}

#[test]
fn a_certificate_that_was_switched_off_is_not_replaced() {
    let (_directory, files) = files();
    let registry = Fake::new(Seen::default());
    wait(provision(&registry, &wish(), &files, false)).unwrap();
    for row in registry.model.borrow_mut().certificates.values_mut() {
        row.1 = "REVOKED";
    }
    let refused = wait(provision(&registry, &wish(), &files, false));
    assert!(matches!(refused, Err(ProvisionError::Inactive { ref status, .. }) if status == "REVOKED"));
}
