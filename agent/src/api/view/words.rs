//! Closed sets of words in the views.

use serde::{Deserialize, Serialize};
use tidegate_common::verdict::{Action, Reason, role};

/// Whether everything works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Everything works.
    Ok,
    /// Traffic flows and enforcement holds, but something is missing; see the problems.
    Degraded,
}

/// What an enforcement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActionWord {
    /// Count only.
    Observe,
    /// Leave a packet rate.
    RateLimit,
    /// Drop.
    Block,
    /// Isolate a device.
    Isolate,
    /// Protect.
    NeverBlock,
}

impl ActionWord {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::RateLimit => "rate-limit",
            Self::Block => "block",
            Self::Isolate => "isolate",
            Self::NeverBlock => "never-block",
        }
    }
}

impl From<Action> for ActionWord {
    fn from(action: Action) -> Self {
        match action {
            Action::Observe => Self::Observe,
            Action::RateLimit => Self::RateLimit,
            Action::Block => Self::Block,
            Action::Isolate => Self::Isolate,
            Action::NeverBlock => Self::NeverBlock,
        }
    }
}

/// Why an entry is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReasonWord {
    /// An operator asked for it.
    Operator,
    /// A behaviour rule fired.
    Rule,
    /// A model's score was outside the device's baseline.
    Anomaly,
    /// On a bulk list.
    Feed,
    /// The gateway itself needs it.
    System,
}

impl ReasonWord {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Rule => "rule",
            Self::Anomaly => "anomaly",
            Self::Feed => "feed",
            Self::System => "system",
        }
    }
}

impl From<Reason> for ReasonWord {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Operator => Self::Operator,
            Reason::Rule => Self::Rule,
            Reason::Anomaly => Self::Anomaly,
            Reason::Feed => Self::Feed,
            Reason::System => Self::System,
        }
    }
}

/// What a never-block entry is to the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RoleWord {
    /// One of the gateway's own addresses.
    Gateway,
    /// A DHCP server.
    Dhcp,
    /// A DNS resolver.
    Dns,
    /// An NTP server.
    Ntp,
    /// A cloud endpoint.
    Cloud,
    /// Passes everything, isolation included.
    Operator,
}

impl RoleWord {
    /// Every role.
    pub const ALL: [Self; 6] = [Self::Gateway, Self::Dhcp, Self::Dns, Self::Ntp, Self::Cloud, Self::Operator];

    /// The kernel's bit, see [`role`].
    pub const fn bit(self) -> u16 {
        match self {
            Self::Gateway => role::GATEWAY,
            Self::Dhcp => role::DHCP,
            Self::Dns => role::DNS,
            Self::Ntp => role::NTP,
            Self::Cloud => role::CLOUD,
            Self::Operator => role::OPERATOR,
        }
    }

    /// The roles in a set of bits.
    pub fn of_bits(bits: u16) -> Vec<Self> {
        Self::ALL.into_iter().filter(|word| bits & word.bit() != 0).collect()
    }

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Dhcp => "dhcp",
            Self::Dns => "dns",
            Self::Ntp => "ntp",
            Self::Cloud => "cloud",
            Self::Operator => "operator",
        }
    }
}

/// How far a device's baseline is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BaselineState {
    /// Its traffic is being collected; the fleet-wide baseline judges it.
    Learning,
    /// Its own baseline judges it.
    Ready,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// Start, stop, reload, mode.
    Lifecycle,
    /// New or changed device.
    Device,
    /// Evidence of something hostile.
    Incident,
    /// A verdict was installed, changed, expired or removed.
    Verdict,
    /// An operator did something.
    Operator,
    /// A human should look.
    Alarm,
}

impl EventKind {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lifecycle => "lifecycle",
            Self::Device => "device",
            Self::Incident => "incident",
            Self::Verdict => "verdict",
            Self::Operator => "operator",
            Self::Alarm => "alarm",
        }
    }
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// Works, but less well.
    Warn,
    /// Does not work.
    Fail,
}
