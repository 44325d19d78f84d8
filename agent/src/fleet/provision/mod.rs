//! Makes this gateway a thing of AWS IoT Core, and undoes it: thing, type, group, certificate, least-privilege policy.
//!
//! [`plan`] and [`farewell`] are pure: they compare what is there with what is wished and name the calls that are missing, so running
//! twice does nothing the second time, and a run that was cut off is finished by the next. The private key is made here and never leaves
//! its file. `registry` speaks to AWS, `identity` keeps the files, `policy` writes the policy, `claim` is the way over MQTT, `renewal` replaces a
//! certificate before its end and `proof` sees that the new one is let in first.
//! Nothing here runs in the daemon.

pub mod claim;
pub mod identity;
pub mod policy;
pub mod proof;
pub mod registry;
pub mod renewal;
#[cfg(test)]
mod renewal_tests;
#[cfg(test)]
mod tests;

use serde::Serialize;
use serde_json::Value;

use self::identity::{Files, IdentityError};
use super::{aws::AwsError, role::RoleError};

/// It could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// AWS said no, or nothing.
    #[error(transparent)]
    Aws(#[from] AwsError),
    /// A file.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Somebody switched the gateway's certificate off.
    #[error("certificate {id} of this gateway is {status} at AWS")]
    Inactive {
        /// The certificate.
        id: String,
        /// Its state.
        status: String,
    },
    /// The claim was not granted.
    #[error("{0}")]
    Claim(String),
    /// There is nothing that could be renewed.
    #[error("there is no certificate to renew")]
    Absent,
    /// AWS does not know the gateway's certificate.
    #[error("certificate {0} of this gateway is unknown at AWS")]
    Unknown(String),
    /// The gateway's certificate was given no credentials.
    #[error("the role alias gives no credentials: {0}")]
    Role(#[from] RoleError),
    /// The new certificate was not let in.
    #[error("the new certificate is not let in, and the one before stays: {0}")]
    Unproven(String),
}

impl ProvisionError {
    /// What to do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Aws(error) => error.hint,
            Self::Identity(error) => error.hint(),
            Self::Inactive { .. } => {
                "find out why; then activate it there, or move certificate and key away for new ones"
            }
            Self::Absent => "`tidegate provision` gets the first one",
            Self::Unknown(_) => {
                "was it made in another account or region? `tidegate provision` gets one that is known"
            }
            Self::Role(_) => {
                "is the certificate active, may it do iot:AssumeRoleWithCertificate on the alias, does the role trust \
                 credentials.iot.amazonaws.com, and are cloudwatch.role_alias and credentials_endpoint right?"
            }
            Self::Unproven(_) => {
                "what was begun is kept and the next run goes on from there; do the policies at AWS let this thing connect?"
            }
            Self::Claim(_) => {
                "are template, claim certificate and endpoint right, and is the template enabled?"
            }
        }
    }
}

/// What the gateway should be at AWS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Thing; also the client id.
    pub thing: String,
    /// Its type.
    pub thing_type: String,
    /// Its group.
    pub group: String,
    /// Policy of its certificate.
    pub policy: String,
    /// Rule that takes reports.
    pub rule: String,
    /// Role alias that its certificate may have credentials of.
    pub role_alias: Option<String>,
}

/// A certificate as AWS knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// SHA-256 of the certificate, in hex.
    pub id: String,
    /// Name of the resource.
    pub arn: String,
    /// `ACTIVE` or why not.
    pub status: String,
}

/// What is there already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Partition, region and account, as in `arn:aws:iot:eu-central-1:123456789012`.
    pub scope: String,
    /// Host name that devices connect to.
    pub endpoint: String,
    /// The type exists.
    pub thing_type: bool,
    /// The group exists.
    pub group: bool,
    /// The thing exists.
    pub thing: bool,
    /// It is in the group.
    pub in_group: bool,
    /// The policy's document in force.
    pub policy: Option<Value>,
    /// Its versions that are not in force, the oldest first, and whether there is no room for another.
    pub old_versions: Vec<String>,
    /// The certificate in the gateway's file.
    pub certificate: Option<Known>,
    /// The policy is attached to it.
    pub policy_attached: bool,
    /// It is attached to the thing.
    pub thing_attached: bool,
}

/// A certificate of a thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Its id.
    pub id: String,
    /// Name of the resource.
    pub arn: String,
    /// Policies attached to it.
    pub policies: Vec<String>,
    /// Other things use it as well.
    pub shared: bool,
}

/// A call that changes something at AWS; its name is that of the right in IAM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "call")]
#[allow(missing_docs, reason = "the fields are the parameters that AWS documents")]
pub enum Call {
    CreateThingType { name: String },
    CreateThingGroup { name: String },
    CreateThing { name: String, thing_type: String },
    AddThingToThingGroup { thing: String, group: String },
    CreatePolicy { name: String, document: Value },
    DeletePolicyVersion { name: String, version: String },
    CreatePolicyVersion { name: String, document: Value },
    CreateCertificateFromCsr { common_name: String },
    AttachPolicy { name: String, certificate: Option<String> },
    AttachThingPrincipal { thing: String, certificate: Option<String> },
    DetachThingPrincipal { thing: String, certificate: String },
    DetachPolicy { name: String, certificate: String },
    UpdateCertificate { id: String, status: &'static str },
    DeleteCertificate { id: String },
    DeleteThing { name: String },
}

/// A certificate just made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// Name of the resource.
    pub arn: String,
    /// The certificate.
    pub pem: String,
}

/// The registry of things, as far as a gateway needs it.
#[allow(async_fn_in_trait, reason = "only used on the thread of the command line")]
pub trait Registry {
    /// What is there of `wish`; `certificate` is the id of the one in the gateway's file.
    async fn see(&self, wish: &Wish, certificate: Option<&str>) -> Result<Seen, AwsError>;
    /// The thing's certificates; nothing if there is no such thing.
    async fn principals(&self, thing: &str) -> Result<Option<Vec<Principal>>, AwsError>;
    /// A certificate with what `thing` has to do with it; nothing if it is unknown.
    async fn certificate(&self, id: &str, thing: &str) -> Result<Option<(Known, Principal)>, AwsError>;
    /// Makes a call that needs no request for a certificate.
    async fn make(&self, call: &Call) -> Result<(), AwsError>;
    /// Has a request signed.
    async fn sign(&self, csr: &str) -> Result<Issued, AwsError>;
}

/// What was done, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The thing.
    pub thing: String,
    /// Host name to connect to.
    pub endpoint: Option<String>,
    /// Id of the gateway's certificate.
    pub certificate: Option<String>,
    /// Whether anything was done at all.
    pub dry_run: bool,
    /// The calls, in order.
    pub calls: Vec<Call>,
}

/// The calls that are missing between what is seen and what is wished.
pub fn plan(wish: &Wish, seen: &Seen) -> Vec<Call> {
    let mut calls = Vec::new();
    if !seen.thing_type {
        calls.push(Call::CreateThingType { name: wish.thing_type.clone() });
    }
    if !seen.group {
        calls.push(Call::CreateThingGroup { name: wish.group.clone() });
    }
    if !seen.thing {
        calls.push(Call::CreateThing { name: wish.thing.clone(), thing_type: wish.thing_type.clone() });
    }
    if !seen.in_group {
        calls.push(Call::AddThingToThingGroup { thing: wish.thing.clone(), group: wish.group.clone() });
    }
    let document = policy::document(&seen.scope, &wish.rule, wish.role_alias.as_deref());
    match &seen.policy {
        None => calls.push(Call::CreatePolicy { name: wish.policy.clone(), document }),
        Some(present) if *present != document => {
            // AWS keeps five versions.
            if let Some(version) = seen.old_versions.first().filter(|_| seen.old_versions.len() >= 4) {
                let version = version.clone();
                calls.push(Call::DeletePolicyVersion { name: wish.policy.clone(), version });
            }
            calls.push(Call::CreatePolicyVersion { name: wish.policy.clone(), document });
        }
        Some(_) => {}
    }
    let certificate = seen.certificate.as_ref().map(|known| known.arn.clone());
    if certificate.is_none() {
        calls.push(Call::CreateCertificateFromCsr { common_name: wish.thing.clone() });
    }
    if !seen.policy_attached {
        calls.push(Call::AttachPolicy { name: wish.policy.clone(), certificate: certificate.clone() });
    }
    if !seen.thing_attached {
        calls.push(Call::AttachThingPrincipal { thing: wish.thing.clone(), certificate });
    }
    calls
}

/// The calls that undo a thing with its certificates. Type, group and policy are the fleet's and stay; a certificate that other
/// things use stays as well.
pub fn farewell(thing: &str, principals: &[Principal]) -> Vec<Call> {
    let mut calls = retire(thing, principals);
    calls.push(Call::DeleteThing { name: thing.to_owned() });
    calls
}

/// The calls that remove certificates from a thing, the one that ends their use first.
fn retire(thing: &str, principals: &[Principal]) -> Vec<Call> {
    let mut calls = Vec::new();
    for principal in principals {
        let certificate = || principal.arn.clone();
        let detach = Call::DetachThingPrincipal { thing: thing.to_owned(), certificate: certificate() };
        if principal.shared {
            calls.push(detach);
            continue;
        }
        calls.push(Call::UpdateCertificate { id: principal.id.clone(), status: "INACTIVE" });
        let policies = principal.policies.iter().cloned();
        calls.extend(policies.map(|name| Call::DetachPolicy { name, certificate: certificate() }));
        calls.push(detach);
        calls.push(Call::DeleteCertificate { id: principal.id.clone() });
    }
    calls
}

/// Does what is missing, or only names it.
pub async fn provision(
    registry: &impl Registry,
    wish: &Wish,
    files: &Files,
    dry_run: bool,
) -> Result<Outcome, ProvisionError> {
    if !dry_run {
        files.settle()?;
    }
    let id = files.certificate_id()?;
    let seen = registry.see(wish, id.as_deref()).await?;
    check_active(seen.certificate.as_ref())?;
    let calls = plan(wish, &seen);
    if !dry_run {
        let mut issued = None;
        for call in &calls {
            match call {
                Call::CreateCertificateFromCsr { common_name } => {
                    let signed = registry.sign(&files.request(common_name)?).await?;
                    files.keep_certificate(&signed.pem)?;
                    issued = Some(signed.arn);
                }
                call => registry.make(&with_certificate(call, issued.as_deref())).await?,
            }
        }
    }
    Ok(Outcome {
        thing: wish.thing.clone(),
        endpoint: Some(seen.endpoint),
        certificate: if dry_run { id } else { files.certificate_id()? },
        dry_run,
        calls,
    })
}

/// Somebody who switched a certificate off did not want another one to take its place.
fn check_active(known: Option<&Known>) -> Result<(), ProvisionError> {
    match known.filter(|known| known.status != "ACTIVE") {
        Some(Known { id, status, .. }) => {
            Err(ProvisionError::Inactive { id: id.clone(), status: status.clone() })
        }
        None => Ok(()),
    }
}

/// `call` with the certificate that was issued meanwhile.
fn with_certificate(call: &Call, issued: Option<&str>) -> Call {
    let issued = || issued.map(ToOwned::to_owned);
    match call.clone() {
        Call::AttachPolicy { name, certificate } => {
            Call::AttachPolicy { name, certificate: certificate.or_else(issued) }
        }
        Call::AttachThingPrincipal { thing, certificate } => {
            Call::AttachThingPrincipal { thing, certificate: certificate.or_else(issued) }
        }
        other => other,
    }
}

/// Undoes a thing, or only names the calls. The gateway's files stay; their certificate is worth nothing afterwards.
pub async fn deprovision(
    registry: &impl Registry,
    thing: &str,
    dry_run: bool,
) -> Result<Outcome, ProvisionError> {
    let calls = match registry.principals(thing).await? {
        Some(principals) => farewell(thing, &principals),
        None => Vec::new(),
    };
    if !dry_run {
        for call in &calls {
            registry.make(call).await?;
        }
    }
    Ok(Outcome { thing: thing.to_owned(), endpoint: None, certificate: None, dry_run, calls })
}
