//! The registry of AWS IoT Core through its SDK: what is there, and the calls of a plan, one for one.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_iot::{
    Client,
    types::{CertificateStatus, ThingTypeProperties},
};
use serde_json::Value;
use tokio::time::sleep;

use super::{Call, Issued, Known, Principal, Registry, Seen, Wish};
use crate::fleet::aws::AwsError;

/// Detaching takes a while to be known everywhere at AWS; until then deleting is refused.
const TRIES: u32 = 8;
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// The registry.
#[derive(Debug)]
pub struct Aws {
    iot: Client,
    sts: aws_sdk_sts::Client,
    region: String,
}

/// Nothing if AWS says that there is no such thing.
fn present<T>(answer: Result<T, AwsError>) -> Result<Option<T>, AwsError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_absence() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends a request; its error bears the name of the call.
macro_rules! ask {
    ($name:literal, $request:expr) => {
        $request.send().await.map_err(|error| AwsError::new($name, &error))
    };
}

impl Aws {
    /// The registry that `config` reaches.
    pub fn new(config: &SdkConfig) -> Self {
        Self {
            iot: Client::new(config),
            sts: aws_sdk_sts::Client::new(config),
            region: config.region().map(ToString::to_string).unwrap_or_default(),
        }
    }

    /// `arn:PARTITION:iot:REGION:ACCOUNT` of whoever asks.
    async fn scope(&self) -> Result<String, AwsError> {
        const CALL: &str = "sts:GetCallerIdentity";
        let caller = ask!("sts:GetCallerIdentity", self.sts.get_caller_identity())?;
        let partition = caller.arn().and_then(|arn| arn.split(':').nth(1)).unwrap_or("aws");
        let account = caller.account().ok_or_else(|| AwsError::incomplete(CALL))?;
        Ok(format!("arn:{partition}:iot:{}:{account}", self.region))
    }

    async fn policies_of(&self, arn: &str) -> Result<Vec<String>, AwsError> {
        let mut pages = self.iot.list_attached_policies().target(arn).into_paginator().items().send();
        let mut names = Vec::new();
        while let Some(policy) = pages.next().await {
            let policy = policy.map_err(|error| AwsError::new("iot:ListAttachedPolicies", &error))?;
            names.extend(policy.policy_name().map(ToOwned::to_owned));
        }
        Ok(names)
    }

    async fn known(&self, id: &str) -> Result<Option<Known>, AwsError> {
        let request = self.iot.describe_certificate().certificate_id(id);
        let described = present(ask!("iot:DescribeCertificate", request))?;
        let description = described.and_then(|answer| answer.certificate_description);
        Ok(description.map(|description| Known {
            id: id.to_owned(),
            arn: description.certificate_arn().unwrap_or_default().to_owned(),
            status: description.status().map(|status| status.as_str().to_owned()).unwrap_or_default(),
        }))
    }

    async fn principal(&self, id: &str, arn: &str, thing: &str) -> Result<Principal, AwsError> {
        let things = ask!("iot:ListPrincipalThings", self.iot.list_principal_things().principal(arn))?;
        Ok(Principal {
            id: id.to_owned(),
            arn: arn.to_owned(),
            policies: self.policies_of(arn).await?,
            shared: things.things().iter().any(|other| other != thing),
        })
    }

    async fn principals_of(&self, thing: &str) -> Result<Option<Vec<String>>, AwsError> {
        let mut pages = self.iot.list_thing_principals().thing_name(thing).into_paginator().items().send();
        let mut arns = Vec::new();
        while let Some(principal) = pages.next().await {
            match present(principal.map_err(|error| AwsError::new("iot:ListThingPrincipals", &error)))? {
                Some(arn) => arns.push(arn),
                None => return Ok(None),
            }
        }
        Ok(Some(arns))
    }

    async fn versions_of(&self, policy: &str) -> Result<Vec<String>, AwsError> {
        let listed = ask!("iot:ListPolicyVersions", self.iot.list_policy_versions().policy_name(policy))?;
        let mut old: Vec<_> =
            listed.policy_versions().iter().filter(|version| !version.is_default_version()).collect();
        old.sort_by_key(|version| version.create_date().map(aws_sdk_iot::primitives::DateTime::secs));
        Ok(old.into_iter().filter_map(|version| version.version_id()).map(ToOwned::to_owned).collect())
    }
}

impl Registry for Aws {
    async fn see(&self, wish: &Wish, certificate: Option<&str>) -> Result<Seen, AwsError> {
        let iot = &self.iot;
        let scope = self.scope().await?;
        let endpoint = ask!("iot:DescribeEndpoint", iot.describe_endpoint().endpoint_type("iot:Data-ATS"))?;
        let thing_type = iot.describe_thing_type().thing_type_name(&wish.thing_type);
        let group = iot.describe_thing_group().thing_group_name(&wish.group);
        let thing =
            present(ask!("iot:DescribeThing", iot.describe_thing().thing_name(&wish.thing)))?.is_some();
        let mut seen = Seen {
            scope,
            endpoint: endpoint.endpoint_address().unwrap_or_default().to_owned(),
            thing_type: present(ask!("iot:DescribeThingType", thing_type))?.is_some(),
            group: present(ask!("iot:DescribeThingGroup", group))?.is_some(),
            thing,
            ..Seen::default()
        };
        if thing {
            let groups = ask!(
                "iot:ListThingGroupsForThing",
                iot.list_thing_groups_for_thing().thing_name(&wish.thing)
            )?;
            seen.in_group =
                groups.thing_groups().iter().any(|group| group.group_name() == Some(wish.group.as_str()));
        }
        let policy = present(ask!("iot:GetPolicy", iot.get_policy().policy_name(&wish.policy)))?;
        if let Some(policy) = policy {
            let document = policy.policy_document().unwrap_or_default();
            seen.policy = Some(serde_json::from_str(document).unwrap_or(Value::Null));
            seen.old_versions = self.versions_of(&wish.policy).await?;
        }
        let Some(id) = certificate else { return Ok(seen) };
        let Some(known) = self.known(id).await? else { return Ok(seen) };
        seen.policy_attached = self.policies_of(&known.arn).await?.contains(&wish.policy);
        seen.thing_attached =
            thing && self.principals_of(&wish.thing).await?.is_some_and(|arns| arns.contains(&known.arn));
        seen.certificate = Some(known);
        Ok(seen)
    }

    async fn principals(&self, thing: &str) -> Result<Option<Vec<Principal>>, AwsError> {
        if present(ask!("iot:DescribeThing", self.iot.describe_thing().thing_name(thing)))?.is_none() {
            return Ok(None);
        }
        let Some(arns) = self.principals_of(thing).await? else { return Ok(None) };
        let mut principals = Vec::new();
        for arn in arns {
            let Some((_, id)) = arn.split_once(":cert/") else { continue };
            principals.push(self.principal(id, &arn, thing).await?);
        }
        Ok(Some(principals))
    }

    async fn certificate(&self, id: &str, thing: &str) -> Result<Option<(Known, Principal)>, AwsError> {
        let Some(known) = self.known(id).await? else { return Ok(None) };
        let principal = self.principal(id, &known.arn, thing).await?;
        Ok(Some((known, principal)))
    }

    async fn make(&self, call: &Call) -> Result<(), AwsError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.make_once(call).await {
                Err(error) if tries < TRIES && error.code.as_deref() == Some("DeleteConflictException") => {
                    sleep(BETWEEN_TRIES).await;
                }
                // A repeat after a cut connection finds that it was done.
                Err(error) if tries > 1 && error.is_absence() => return Ok(()),
                done => return done,
            }
        }
    }

    async fn sign(&self, csr: &str) -> Result<Issued, AwsError> {
        const CALL: &str = "iot:CreateCertificateFromCsr";
        let request =
            self.iot.create_certificate_from_csr().certificate_signing_request(csr).set_as_active(true);
        let signed = ask!("iot:CreateCertificateFromCsr", request)?;
        let (Some(arn), Some(pem)) = (signed.certificate_arn, signed.certificate_pem) else {
            return Err(AwsError::incomplete(CALL));
        };
        Ok(Issued { arn, pem })
    }
}

impl Aws {
    async fn make_once(&self, call: &Call) -> Result<(), AwsError> {
        let iot = &self.iot;
        match call {
            Call::CreateThingType { name } => {
                let about = ThingTypeProperties::builder().thing_type_description("Tidegate gateway").build();
                let request = iot.create_thing_type().thing_type_name(name).thing_type_properties(about);
                ask!("iot:CreateThingType", request).map(drop)
            }
            Call::CreateThingGroup { name } => {
                ask!("iot:CreateThingGroup", iot.create_thing_group().thing_group_name(name)).map(drop)
            }
            Call::CreateThing { name, thing_type } => {
                let request = iot.create_thing().thing_name(name).thing_type_name(thing_type);
                ask!("iot:CreateThing", request).map(drop)
            }
            Call::AddThingToThingGroup { thing, group } => {
                let request = iot.add_thing_to_thing_group().thing_name(thing).thing_group_name(group);
                ask!("iot:AddThingToThingGroup", request).map(drop)
            }
            Call::CreatePolicy { name, document } => {
                let request = iot.create_policy().policy_name(name).policy_document(document.to_string());
                ask!("iot:CreatePolicy", request).map(drop)
            }
            Call::DeletePolicyVersion { name, version } => {
                let request = iot.delete_policy_version().policy_name(name).policy_version_id(version);
                ask!("iot:DeletePolicyVersion", request).map(drop)
            }
            Call::CreatePolicyVersion { name, document } => {
                let request = iot.create_policy_version().policy_name(name).set_as_default(true);
                ask!("iot:CreatePolicyVersion", request.policy_document(document.to_string())).map(drop)
            }
            Call::CreateCertificateFromCsr { .. } => {
                Err(AwsError::incomplete("iot:CreateCertificateFromCsr"))
            }
            Call::AttachPolicy { name, certificate } => {
                let request = iot.attach_policy().policy_name(name).set_target(certificate.clone());
                ask!("iot:AttachPolicy", request).map(drop)
            }
            Call::AttachThingPrincipal { thing, certificate } => {
                let request = iot.attach_thing_principal().thing_name(thing);
                ask!("iot:AttachThingPrincipal", request.set_principal(certificate.clone())).map(drop)
            }
            Call::DetachThingPrincipal { thing, certificate } => {
                let request = iot.detach_thing_principal().thing_name(thing).principal(certificate);
                ask!("iot:DetachThingPrincipal", request).map(drop)
            }
            Call::DetachPolicy { name, certificate } => {
                ask!("iot:DetachPolicy", iot.detach_policy().policy_name(name).target(certificate)).map(drop)
            }
            Call::UpdateCertificate { id, status } => {
                let status = CertificateStatus::from(*status);
                let request = iot.update_certificate().certificate_id(id).new_status(status);
                ask!("iot:UpdateCertificate", request).map(drop)
            }
            Call::DeleteCertificate { id } => {
                ask!("iot:DeleteCertificate", iot.delete_certificate().certificate_id(id)).map(drop)
            }
            Call::DeleteThing { name } => {
                ask!("iot:DeleteThing", iot.delete_thing().thing_name(name)).map(drop)
            }
        }
    }
}
