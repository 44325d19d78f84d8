//! Everything an operator can ask of the running daemon, as one closed set.

use std::{convert::Infallible, fmt, net::IpAddr, str::FromStr, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::{
    api::{
        metrics::Snapshot,
        view::{
            AllowCheckView, AllowView, BlockView, CommandsView, DeviceView, EventView, ExplainView,
            HeldCommandView, IncidentView, Incidents, ModelView, NeighboursView, PolicyCheckView, PolicyView,
            ProfileView, ReloadView, RoleWord, StatusView,
        },
    },
    config::{period::Period, values::IsolationLevel},
    enforce::Target,
    identity::Mac,
};

/// Where the answer to a request goes.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// A question or an order. The loop answers each one exactly once; dropping the reply is reported as an internal failure.
#[derive(Debug)]
#[expect(
    missing_docs,
    reason = "`reply` is the same in every variant; the rest is described by the order's type"
)]
pub enum Request {
    /// How the gateway is.
    Status { reply: Reply<StatusView> },
    /// Numbers for monitoring.
    Metrics { reply: Reply<Box<Snapshot>> },
    /// The configuration in force, as TOML, secrets left out.
    Config { reply: Reply<String> },
    /// Read the configuration file again, as SIGHUP does.
    Reload { operator: Operator, reply: Reply<ReloadView> },

    /// Every device known, last seen first.
    Devices { reply: Reply<Vec<DeviceView>> },
    /// One device.
    Device { device: DeviceRef, reply: Reply<DeviceView> },
    /// Isolate a device.
    Isolate { order: IsolationOrder, operator: Operator, reply: Reply<BlockView> },
    /// End a device's isolation; answers what was ended.
    Release { device: DeviceRef, operator: Operator, reply: Reply<BlockView> },

    /// A description (RFC 8520) of what a device was seen to do.
    Describe { device: DeviceRef, reply: Reply<Value> },
    /// The description that a device is held to.
    Profile { device: DeviceRef, reply: Reply<ProfileView> },
    /// Hold a device to a description.
    ApplyProfile { device: DeviceRef, description: Bytes, operator: Operator, reply: Reply<ProfileView> },
    /// Hold a device to nothing; answers what was ended.
    RemoveProfile { device: DeviceRef, operator: Operator, reply: Reply<ProfileView> },

    /// The policy in force, the ones before, and what was refused.
    Policy { reply: Reply<PolicyView> },
    /// What a sealed policy would change.
    CheckPolicy { sealed: Bytes, reply: Reply<PolicyCheckView> },
    /// Put a sealed policy in force.
    ApplyPolicy { sealed: Bytes, operator: Operator, reply: Reply<PolicyView> },
    /// Put the policy before in force again.
    RollbackPolicy { operator: Operator, reply: Reply<PolicyView> },

    /// Other gateways of the site, and what passed between them and this one.
    Neighbours { reply: Reply<NeighboursView> },

    /// Commands that wait for an operator, and what was done so far.
    Commands { reply: Reply<CommandsView> },
    /// One of those that wait.
    Command { id: String, reply: Reply<HeldCommandView> },
    /// Let a held command go on; answers what it is.
    ReleaseCommand { id: String, operator: Operator, reply: Reply<HeldCommandView> },
    /// Take a held command away for good; answers what it was.
    DropCommand { id: String, operator: Operator, reply: Reply<HeldCommandView> },

    /// Every enforcement, isolations included; never-block entries excluded.
    Blocks { reply: Reply<Vec<BlockView>> },
    /// Block an address or prefix, or limit its rate.
    AddBlock { order: BlockOrder, operator: Operator, reply: Reply<BlockView> },
    /// End one enforcement; answers what was ended.
    DeleteBlock { target: Target, operator: Operator, reply: Reply<BlockView> },
    /// End every enforcement; answers what was ended.
    FlushBlocks { operator: Operator, reply: Reply<Vec<BlockView>> },

    /// Every never-block entry, whatever put it there.
    Allowed { reply: Reply<Vec<AllowView>> },
    /// Add or replace an operator's never-block entry.
    Allow { order: AllowOrder, operator: Operator, reply: Reply<AllowView> },
    /// Delete an operator's never-block entry; answers what was deleted.
    Disallow { target: Target, operator: Operator, reply: Reply<AllowView> },
    /// Whether a target is protected, and by what.
    CheckAllowed { target: Target, reply: Reply<AllowCheckView> },

    /// Incidents, newest first.
    Incidents { filter: IncidentFilter, reply: Reply<Incidents> },
    /// One incident.
    Incident { id: String, reply: Reply<IncidentView> },
    /// Why something was done: the id of an incident, or the target of an enforcement.
    Explain { id: String, reply: Reply<ExplainView> },
    /// The last events, oldest first.
    Events { limit: usize, reply: Reply<Vec<EventView>> },

    /// Baselines of all devices and the fleet-wide one.
    Models { reply: Reply<Vec<ModelView>> },
    /// Train a device's baseline now, or everyone's.
    TrainModel { device: Option<DeviceRef>, operator: Operator, reply: Reply<Vec<ModelView>> },
    /// Go back to a device's previous baseline.
    RollbackModel { device: DeviceRef, operator: Operator, reply: Reply<ModelView> },
    /// A device's baseline as a document.
    ExportModel { device: DeviceRef, reply: Reply<Bytes> },
    /// Give a device the baseline of a document.
    ImportModel { device: DeviceRef, document: Bytes, operator: Operator, reply: Reply<ModelView> },
}

/// How an operator names a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum DeviceRef {
    /// By hardware address.
    Mac(Mac),
    /// By one of its addresses.
    Address(IpAddr),
    /// By its DHCP or mDNS name, case ignored.
    Name(String),
}

impl From<String> for DeviceRef {
    fn from(text: String) -> Self {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Self::Address(address.to_canonical());
        }
        text.parse().map(Self::Mac).unwrap_or(Self::Name(text))
    }
}

impl FromStr for DeviceRef {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.to_owned().into())
    }
}

impl From<DeviceRef> for String {
    fn from(device: DeviceRef) -> Self {
        device.to_string()
    }
}

impl fmt::Display for DeviceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// An operator's block or rate limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockOrder {
    /// Address or prefix. Devices are isolated instead.
    pub target: Target,
    /// How long; none for `enforcement.base_ttl`.
    #[serde(default)]
    pub ttl: Option<Period>,
    /// Packets a second that still pass; none for none.
    #[serde(default)]
    pub rate_pps: Option<u32>,
    /// Why, in the operator's words.
    #[serde(default)]
    pub reason: String,
}

/// An operator's isolation of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IsolationOrder {
    /// Which device.
    pub device: DeviceRef,
    /// How far.
    pub level: IsolationLevel,
    /// How long; none for `enforcement.base_ttl`.
    #[serde(default)]
    pub ttl: Option<Period>,
    /// Why, in the operator's words.
    #[serde(default)]
    pub reason: String,
}

/// An operator's never-block entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowOrder {
    /// Address, prefix or device.
    pub target: Target,
    /// What it is to the devices; empty for [`RoleWord::Operator`]. The other roles are an address's alone.
    #[serde(default)]
    pub roles: Vec<RoleWord>,
    /// Why, in the operator's words.
    #[serde(default)]
    pub reason: String,
}

/// Which incidents are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IncidentFilter {
    /// At most so many.
    #[serde(default = "IncidentFilter::default_limit")]
    pub limit: usize,
    /// Only those still going on.
    #[serde(default)]
    pub open: bool,
    /// Only those with evidence since then, in seconds before now.
    #[serde(default)]
    pub within_s: Option<u64>,
    /// Strangers' probes are only counted, instead of listed one by one.
    #[serde(default)]
    pub gathered: bool,
}

impl IncidentFilter {
    const fn default_limit() -> usize {
        100
    }
}

impl Default for IncidentFilter {
    fn default() -> Self {
        Self { limit: Self::default_limit(), open: false, within_s: None, gathered: false }
    }
}

/// Who asked, as the kernel says of the socket's other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// User id.
    pub uid: u32,
    /// Process id, if the kernel tells.
    pub pid: Option<i32>,
    /// User name, if the user database has one.
    pub name: Option<String>,
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} (uid {})", self.uid),
            None => write!(f, "uid {}", self.uid),
        }
    }
}

/// What kind of no it is: decides the exit code of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// No such device, enforcement, entry or incident.
    NotFound,
    /// The order makes no sense or contradicts a rule, such as blocking a protected address.
    Refused,
    /// The daemon cannot do it now: starting, stopping, or the part is switched off.
    Unavailable,
    /// Something broke.
    Failed,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{cause}")]
pub struct Refusal {
    /// Kind.
    pub kind: RefusalKind,
    /// What was asked and why not.
    pub cause: String,
    /// What the operator can do.
    pub hint: String,
}

impl Refusal {
    /// There is no such thing.
    pub fn not_found(cause: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind: RefusalKind::NotFound, cause: cause.into(), hint: hint.into() }
    }

    /// The order is refused.
    pub fn refused(cause: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Refused, cause: cause.into(), hint: hint.into() }
    }

    /// Not now.
    pub fn unavailable(cause: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Unavailable, cause: cause.into(), hint: hint.into() }
    }

    /// Something broke.
    pub fn failed(cause: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Failed, cause: cause.into(), hint: hint.into() }
    }
}

/// How long the loop may take to answer.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_by_address_or_name() {
        let parse = |text: &str| DeviceRef::from(text.to_owned());
        assert_eq!(parse("02:00:5e:10:00:01"), DeviceRef::Mac(Mac([2, 0, 0x5e, 0x10, 0, 1])));
        assert_eq!(parse("192.0.2.7"), DeviceRef::Address(IpAddr::from([192, 0, 2, 7])));
        assert_eq!(parse("camera-1"), DeviceRef::Name("camera-1".to_owned()));
    }
}
