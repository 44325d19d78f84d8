//! A new certificate before the present one ends: issued, attached, proven to be let in, put in place; only then does the one before lose its use.
//!
//! What is due is known from the files alone, so a day without anything to do asks nobody. A run that was cut off anywhere leaves a pair that
//! works, and the next one goes on from there. The certificate replaced is kept aside until AWS was told: its own credentials retire it, so a
//! role needs no right to any other gateway's certificate.

use jiff::Timestamp;

use super::{
    Call, Principal, ProvisionError, Registry, check_active, identity::Files, proof::Proof, retire,
    with_certificate,
};
use crate::fleet::{aws::AwsError, tls::TlsFiles};

/// What is to be renewed, and how.
#[derive(Debug)]
pub struct Renewal<P> {
    /// The thing.
    pub thing: String,
    /// Certificate and key.
    pub tls: TlsFiles,
    /// A certificate that ends before this is replaced.
    pub before: Timestamp,
    /// What the new one has to prove itself to.
    pub proof: P,
}

/// Something that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// The certificate that was replaced is still in force at AWS.
    Retire,
    /// The certificate ends soon.
    Replace,
}

impl Due {
    /// All of it, in the order in which it is to be done.
    pub const ALL: [Self; 2] = [Self::Retire, Self::Replace];
}

impl<P: Proof> Renewal<P> {
    /// Where certificate and key are.
    pub fn files(&self) -> Files {
        Files { certificate: self.tls.certificate.clone(), key: self.tls.key.clone() }
    }

    /// Whose credentials `due` needs.
    pub fn pair(&self, due: Due) -> TlsFiles {
        match due {
            Due::Replace => self.tls.clone(),
            Due::Retire => self.showing(self.files().old()),
        }
    }

    fn showing(&self, files: Files) -> TlsFiles {
        TlsFiles { certificate: files.certificate, key: files.key, ca: self.tls.ca.clone() }
    }

    /// Whether there is anything to do. Without `dry_run` it tidies up what a run before left of its files.
    pub fn is_due(&self, due: Due, dry_run: bool) -> Result<bool, ProvisionError> {
        let files = self.files();
        if !dry_run {
            files.settle()?;
        }
        let (Some(id), Some(ends)) = (files.certificate_id()?, files.ends()?) else {
            return Err(ProvisionError::Absent);
        };
        match due {
            Due::Replace => Ok(ends < self.before),
            Due::Retire => {
                let old = files.old();
                let is_due = match old.ends()? {
                    Some(ends) if old.key.exists() => {
                        ends > Timestamp::now() && old.certificate_id()? != Some(id)
                    }
                    _ => false,
                };
                if !is_due && !dry_run {
                    old.remove()?;
                }
                Ok(is_due)
            }
        }
    }

    /// Does what is due, or only names the calls.
    pub async fn serve(
        &self,
        due: Due,
        registry: &impl Registry,
        dry_run: bool,
    ) -> Result<Vec<Call>, ProvisionError> {
        match due {
            Due::Retire => self.retire(registry, dry_run).await,
            Due::Replace => self.replace(registry, dry_run).await,
        }
    }

    async fn replace(&self, registry: &impl Registry, dry_run: bool) -> Result<Vec<Call>, ProvisionError> {
        let files = self.files();
        let id = files.certificate_id()?.ok_or(ProvisionError::Absent)?;
        let Some((known, before)) = registry.certificate(&id, &self.thing).await? else {
            return Err(ProvisionError::Unknown(id));
        };
        check_active(Some(&known))?;
        let next = files.next();
        // What a run before had issued is used; its name differs from the present one's by the id alone.
        let waiting = if next.key.exists() { next.certificate_id()? } else { None };
        let mut issued = waiting.as_ref().map(|next| known.arn.replace(&id, next));
        let calls = replacement(&self.thing, issued.as_deref(), &before.policies);
        if dry_run {
            return Ok(calls.into_iter().chain(retire(&self.thing, &[before])).collect());
        }
        for call in &calls {
            match call {
                Call::CreateCertificateFromCsr { common_name } => {
                    let signed = registry.sign(&next.request(common_name)?).await?;
                    next.write_certificate(&signed.pem)?;
                    issued = Some(signed.arn);
                }
                call => {
                    let made = registry.make(&with_certificate(call, issued.as_deref())).await;
                    if waiting.is_some() && made.as_ref().is_err_and(AwsError::is_absence) {
                        // Somebody removed it at AWS meanwhile: the next run asks for another with the same key.
                        next.remove_certificate()?;
                    }
                    made?;
                }
            }
        }
        self.proof.is_let_in(&self.showing(next)).await.map_err(ProvisionError::Unproven)?;
        files.exchange()?;
        let gone = self.tell(registry, &before).await?;
        Ok(calls.into_iter().chain(gone).collect())
    }

    async fn retire(&self, registry: &impl Registry, dry_run: bool) -> Result<Vec<Call>, ProvisionError> {
        let old = self.files().old();
        let id = old.certificate_id()?.ok_or(ProvisionError::Absent)?;
        let Some((_, before)) = registry.certificate(&id, &self.thing).await? else {
            if !dry_run {
                old.remove()?;
            }
            return Ok(Vec::new());
        };
        if dry_run {
            return Ok(retire(&self.thing, &[before]));
        }
        self.tell(registry, &before).await
    }

    /// Tells AWS that a certificate is not used any more.
    async fn tell(&self, registry: &impl Registry, before: &Principal) -> Result<Vec<Call>, ProvisionError> {
        let calls = retire(&self.thing, std::slice::from_ref(before));
        for (index, call) in calls.iter().enumerate() {
            registry.make(call).await?;
            if index == 0 {
                // From here on nobody can use it, its credentials included: what a cut leaves now is for whoever tidies up.
                self.files().old().remove()?;
            }
        }
        Ok(calls)
    }
}

/// The calls that give the thing another certificate with the same policies, up to the proof; `issued` is one that waits already.
fn replacement(thing: &str, issued: Option<&str>, policies: &[String]) -> Vec<Call> {
    let certificate = || issued.map(ToOwned::to_owned);
    let mut calls = Vec::new();
    if issued.is_none() {
        calls.push(Call::CreateCertificateFromCsr { common_name: thing.to_owned() });
    }
    let policies = policies.iter().cloned();
    calls.extend(policies.map(|name| Call::AttachPolicy { name, certificate: certificate() }));
    calls.push(Call::AttachThingPrincipal { thing: thing.to_owned(), certificate: certificate() });
    calls
}
