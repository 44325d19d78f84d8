//! Which policy is in force, and whether another may take its place.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{
    document::Document,
    envelope::open,
    keys::{KeyId, TrustAnchors},
};
use crate::{config::Config, enforce::Target};

/// How far the gateway's clock may be behind the author's.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// Why a policy was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// More bytes than a policy may have.
    TooLarge,
    /// No envelope, or no document in it that this version can read.
    Malformed,
    /// There is no signature.
    Unsigned,
    /// The signature is of another kind.
    Algorithm,
    /// Nobody trusts the signer.
    UnknownKey,
    /// The signature does not fit.
    WrongSignature,
    /// It is for another fleet.
    WrongFleet,
    /// It is for other gateways.
    WrongGateway,
    /// Its time has not come, or the gateway's clock is slow.
    NotYetValid,
    /// Its time is over, or the gateway's clock is fast.
    Expired,
    /// Its version is not above every one before.
    NotNewer,
    /// What it asks for cannot be done here.
    Unusable,
    /// No trust anchors can be read.
    NoKeys,
    /// It could not be stored, fetched or put in force.
    Failed,
}

impl Reason {
    /// The word in metrics, reports and the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "too-large",
            Self::Malformed => "malformed",
            Self::Unsigned => "unsigned",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown-key",
            Self::WrongSignature => "wrong-signature",
            Self::WrongFleet => "wrong-fleet",
            Self::WrongGateway => "wrong-gateway",
            Self::NotYetValid => "not-yet-valid",
            Self::Expired => "expired",
            Self::NotNewer => "not-newer",
            Self::Unusable => "unusable",
            Self::NoKeys => "no-keys",
            Self::Failed => "failed",
        }
    }

    /// What the operator can do.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::TooLarge => "leave out what the configuration file can say",
            Self::Malformed => "seal it with `tidegate policy sign` of this version",
            Self::Unsigned => "sign it: `tidegate policy sign FILE --key KEY --output SEALED`",
            Self::Algorithm | Self::UnknownKey | Self::WrongSignature => {
                "sign it with a key whose public half stands in the file named by policy.keys"
            }
            Self::WrongFleet | Self::WrongGateway => {
                "compare it with gateway.name and policy.fleet in the configuration"
            }
            Self::NotYetValid | Self::Expired => "check the gateway's clock, then the dates of the policy",
            Self::NotNewer => "give it a version above every one before and sign it again",
            Self::Unusable => "correct the document, give it a new version and sign it again",
            Self::NoKeys => "name a file of public keys in policy.keys; only its owner may write it",
            Self::Failed => "the daemon's log says more: journalctl -u tidegate",
        }
    }
}

/// A policy was refused; the one before stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refused {
    /// Why, as a word.
    pub reason: Reason,
    /// Which version it was, if that could be read from a good signature.
    pub version: Option<u64>,
    /// Why, in plain words.
    pub detail: String,
}

impl Refused {
    /// A refusal of something without a version.
    pub const fn new(reason: Reason, detail: String) -> Self {
        Self { reason, version: None, detail }
    }

    /// The same of a version.
    #[must_use]
    pub fn of(self, version: u64) -> Self {
        Self { version: Some(version), ..self }
    }
}

/// Whom policies must be for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The fleet.
    pub fleet: String,
    /// This gateway.
    pub gateway: String,
}

/// What a policy is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Whose signatures count.
    pub anchors: &'a TrustAnchors,
    /// Whom it must be for.
    pub identity: &'a Identity,
    /// What it lies over.
    pub base: &'a Config,
    /// What time it is.
    pub now: Timestamp,
}

/// A policy that may be put in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// What it says.
    pub document: Document,
    /// Whose signature it bears.
    pub key: KeyId,
    /// The settings with it in force.
    pub config: Config,
}

/// A policy in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// What it says.
    pub document: Document,
    /// Whose signature it bears.
    pub key: KeyId,
    /// Who put it in force.
    pub who: String,
    /// Since when.
    pub since: Timestamp,
}

/// The policy in force and what led to it.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    in_force: Option<Held>,
    highest: u64,
    refused: BTreeMap<Reason, u64>,
}

impl Policies {
    /// Nothing in force; no version up to `highest` will be taken.
    pub fn new(highest: u64) -> Self {
        Self { highest, ..Self::default() }
    }

    /// The policy in force.
    pub const fn in_force(&self) -> Option<&Held> {
        self.in_force.as_ref()
    }

    /// The highest version that was ever in force.
    pub const fn highest(&self) -> u64 {
        self.highest
    }

    /// Refusals so far, by reason.
    pub const fn refused(&self) -> &BTreeMap<Reason, u64> {
        &self.refused
    }

    /// Counts a refusal.
    pub fn refuse(&mut self, refused: &Refused) {
        *self.refused.entry(refused.reason).or_default() += 1;
    }

    /// The settings: `base`, with the policy in force over it. One that no longer fits over a changed file has no effect.
    pub fn over(&self, base: &Config) -> Result<Config, Refused> {
        self.in_force.as_ref().map_or_else(|| Ok(base.clone()), |held| held.document.over(base))
    }

    /// Whether the policy in `bytes` may take the place of the one in force. Counts and changes nothing.
    pub fn judge(
        &self,
        bytes: &[u8],
        terms: &Terms<'_>,
        protected: &dyn Fn(&Target) -> Option<String>,
    ) -> Result<Accepted, Refused> {
        let (document, key) = open(bytes, terms.anchors)?;
        fits(&document, terms.identity, terms.now)?;
        let version = document.version;
        if version <= self.highest {
            let detail = format!("version {version} is not newer than {}, which was in force", self.highest);
            return Err(Refused::new(Reason::NotNewer, detail).of(version));
        }
        let config = document.over(terms.base)?;
        for wanted in &document.settings.isolation {
            if let Some(why) = protected(&Target::Device(wanted.device)) {
                return Err(document.unusable(&format!("{} is protected: {why}", wanted.device)));
            }
        }
        Ok(Accepted { document, key, config })
    }

    /// Takes up a policy of an earlier run, which had been in force then: its signature, owner and time are verified again.
    pub fn resume(
        &mut self,
        bytes: &[u8],
        terms: &Terms<'_>,
        who: String,
        since: Timestamp,
    ) -> Result<Config, Refused> {
        let (document, key) = open(bytes, terms.anchors)?;
        fits(&document, terms.identity, terms.now)?;
        let config = document.over(terms.base)?;
        self.adopt(Held { document, key, who, since });
        Ok(config)
    }

    /// Puts a policy in force, in name.
    pub fn adopt(&mut self, held: Held) {
        self.highest = self.highest.max(held.document.version);
        self.in_force = Some(held);
    }

    /// Puts none in force; the one that was.
    pub fn drop_in_force(&mut self) -> Option<Held> {
        self.in_force.take()
    }

    /// Whether the time of the policy in force is over.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.in_force.as_ref().is_some_and(|held| held.document.expires <= now)
    }
}

/// Whether a document is for this gateway and this time.
fn fits(document: &Document, identity: &Identity, now: Timestamp) -> Result<(), Refused> {
    let version = document.version;
    let refuse = |reason, detail| Err(Refused::new(reason, detail).of(version));
    if document.fleet != identity.fleet {
        let detail =
            format!("policy {version} is for fleet {:?}, this is {:?}", document.fleet, identity.fleet);
        return refuse(Reason::WrongFleet, detail);
    }
    if !document.gateways.is_empty() && !document.gateways.contains(&identity.gateway) {
        let detail = format!("policy {version} is for other gateways than {:?}", identity.gateway);
        return refuse(Reason::WrongGateway, detail);
    }
    if now.saturating_add(SKEW).is_ok_and(|later| later < document.not_before) {
        let detail = format!("policy {version} is valid from {} on, and it is {now}", document.not_before);
        return refuse(Reason::NotYetValid, detail);
    }
    if document.expires <= now || document.expires <= document.not_before {
        let detail = format!("policy {version} was valid until {}, and it is {now}", document.expires);
        return refuse(Reason::Expired, detail);
    }
    Ok(())
}
