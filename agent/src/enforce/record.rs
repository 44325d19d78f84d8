//! What the enforcer keeps and what it answers. All of it goes to the store and the API as it is.

use std::{fmt, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tidegate_common::verdict::{Action, Level, Reason};

use super::{
    names,
    target::{TableError, Target},
};

/// One moment on both clocks. Expiry is on the kernel's; records are on the wall's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The kernel's monotonic clock, nanoseconds.
    pub kernel_ns: u64,
    /// The wall clock.
    pub wall: Timestamp,
}

impl Now {
    /// The wall-clock time `ahead` of now, as far as the calendar goes.
    pub fn wall_in(&self, ahead: Duration) -> Timestamp {
        SignedDuration::try_from(ahead)
            .ok()
            .and_then(|ahead| self.wall.checked_add(ahead).ok())
            .unwrap_or(Timestamp::MAX)
    }

    /// The kernel-clock time `ahead` of now; never `u64::MAX`, which means for ever.
    pub fn kernel_in(&self, ahead: Duration) -> u64 {
        let ahead_ns = u64::try_from(ahead.as_nanos()).unwrap_or(u64::MAX);
        self.kernel_ns.saturating_add(ahead_ns).min(u64::MAX - 1)
    }

    /// How long until `then`; zero when it is past.
    pub fn until(&self, then: Timestamp) -> Duration {
        Duration::try_from(then.duration_since(self.wall)).unwrap_or(Duration::ZERO)
    }

    /// How long since `then`; zero when it is still to come.
    pub fn since(&self, then: Timestamp) -> Duration {
        Duration::try_from(self.wall.duration_since(then)).unwrap_or(Duration::ZERO)
    }
}

/// Who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "name")]
pub enum Author {
    /// A person, by login name.
    Operator(String),
    /// The detector. Blast radius, cooldown, escalation and confirmation apply to it alone.
    Automatic,
    /// The agent itself, for what the gateway needs.
    System,
    /// A gateway of the site, by its name in the configuration. Blast radius, cooldown and confirmation apply to it, and whatever
    /// the gateway finds itself goes before it.
    Neighbour(String),
}

impl Author {
    /// Whether no person stands behind it, so that what protects a gateway from its own mistakes applies.
    pub const fn is_machine(&self) -> bool {
        matches!(self, Self::Automatic | Self::Neighbour(_))
    }
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator(name) => write!(f, "operator {name}"),
            Self::Automatic => f.write_str("detector"),
            Self::System => f.write_str("agent"),
            Self::Neighbour(name) => write!(f, "neighbour {name}"),
        }
    }
}

/// Where an enforcement stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// In the kernel; taken back if the gateway loses its own reachability.
    Pending,
    /// In the kernel.
    Active,
    /// Its time was over.
    Expired,
    /// An operator took it back.
    Released,
    /// The neighbour that asked for it took it back.
    Withdrawn,
    /// It coincided with a loss of the gateway's own reachability and was taken back.
    RolledBack,
    /// A never-block entry made it void.
    Suppressed,
    /// Another enforcement on the same target took its place.
    Replaced,
}

impl State {
    /// Whether the kernel holds it.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Pending | Self::Active)
    }

    /// The word in the store, the API and the CLI.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Released => "released",
            Self::Withdrawn => "withdrawn",
            Self::RolledBack => "rolled-back",
            Self::Suppressed => "suppressed",
            Self::Replaced => "replaced",
        }
    }
}

/// One verdict, from its installation to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Enforcement {
    /// Sorts by time.
    pub id: String,
    /// On what.
    pub target: Target,
    /// What happens.
    #[serde(with = "names::action")]
    pub action: Action,
    /// How far, for an isolation.
    #[serde(with = "names::level_option")]
    pub level: Option<Level>,
    /// Why.
    #[serde(with = "names::reason")]
    pub reason: Reason,
    /// Who asked.
    pub author: Author,
    /// The behaviour rule that fired.
    pub rule: Option<String>,
    /// MITRE technique id.
    pub technique: Option<String>,
    /// Incident it answers.
    pub incident: Option<String>,
    /// In plain language.
    pub explanation: String,
    /// Packets a second, for a rate limit, else 0.
    pub rate_pps: u32,
    /// How often in a row this target was enforced automatically, this time included; 0 for operators.
    pub strikes: u32,
    /// Where it stands.
    pub state: State,
    /// When it was installed.
    pub installed_at: Timestamp,
    /// When it ends by itself; `None` for never.
    pub expires_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Why it ended, in plain language.
    pub ended_because: Option<String>,
    /// Packets that matched, as last read from the kernel.
    pub hits: u64,
    /// Their bytes, as frame length.
    pub hit_bytes: u64,
    /// Last match.
    pub last_hit_at: Option<Timestamp>,
}

/// A never-block entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowEntry {
    /// What no verdict may touch.
    pub target: Target,
    /// Why, as bits of `common::verdict::role`.
    #[serde(with = "names::roles")]
    pub roles: u16,
    /// Who added it.
    pub author: Author,
    /// The operator's note.
    pub note: String,
    /// Since when.
    pub since: Timestamp,
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "refusal")]
pub enum Refusal {
    /// The target, or something it is part of or contains, may never be blocked.
    #[error(
        "{target} may never be blocked: {entry} is a never-block entry ({roles}); `tidegate allow list` shows all"
    )]
    NeverBlock {
        /// What was asked for.
        target: Target,
        /// The entry that protects it.
        entry: Target,
        /// Its roles, in words.
        roles: String,
    },
    /// An equal or stronger verdict is in force already.
    #[error("{target} is already under {action} by {author}: release it first to change it")]
    InForce {
        /// What was asked for.
        target: Target,
        /// What is in force.
        action: &'static str,
        /// Whether that keeps packets from passing.
        cuts: bool,
        /// Who asked for that.
        author: Author,
    },
    /// An operator's release or a roll-back holds the detector back.
    #[error("{target} is on hold for another {remaining_s} s ({cause}): only an operator can enforce it now")]
    OnHold {
        /// What was asked for.
        target: Target,
        /// For how long still, in seconds.
        remaining_s: u64,
        /// Why.
        cause: &'static str,
    },
    /// Too many automatic verdicts within an hour.
    #[error(
        "{target} not enforced: {cap} automatic verdicts on {kind} within an hour is the limit (blast radius)"
    )]
    BlastRadius {
        /// What was asked for.
        target: Target,
        /// `devices` or `addresses`.
        kind: &'static str,
        /// The limit.
        cap: u32,
    },
    /// The order makes no sense.
    #[error("{target}: {cause}")]
    Invalid {
        /// What was asked for.
        target: Target,
        /// What is wrong, with a hint.
        cause: &'static str,
    },
    /// Nothing is in force on the target.
    #[error("{target} is under no enforcement: `tidegate blocks list` shows what is")]
    NotFound {
        /// What was asked for.
        target: Target,
    },
}

impl Refusal {
    /// Label for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::NeverBlock { .. } => "never-block",
            Self::InForce { .. } => "in-force",
            Self::OnHold { .. } => "on-hold",
            Self::BlastRadius { .. } => "blast-radius",
            Self::Invalid { .. } => "invalid",
            Self::NotFound { .. } => "not-found",
        }
    }
}

/// An order came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum EnforceError {
    /// It was refused; nothing has changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The kernel tables could not be read or written; reconciliation repairs what is half done.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// Something people should hear of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "notice")]
pub enum Notice {
    /// A verdict was taken back because the gateway lost its own reachability.
    RolledBack {
        /// The target, now on hold.
        target: Target,
        /// What became unreachable: `dns`, `ntp`, `cloud`.
        lost: Vec<&'static str>,
    },
    /// Reachability stayed lost after every new verdict was taken back: they were not the cause, and holds are lifted.
    OutageNotOurs {
        /// What is unreachable.
        lost: Vec<&'static str>,
    },
    /// A verdict is void since a never-block entry was added.
    Suppressed {
        /// The verdict's target.
        target: Target,
        /// The entry.
        by: Target,
    },
    /// Kernel and desired state differed; the kernel was repaired.
    Drift {
        /// Which way.
        drift: Drift,
        /// Where.
        target: Target,
    },
}

/// How the kernel differed from the desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Drift {
    /// Not in the kernel; put back.
    Missing,
    /// In the kernel for no known reason; removed.
    Unexpected,
    /// Not as it was written; rewritten.
    Different,
    /// Found in the kernel at start without a record; kept until it expires.
    Adopted,
}

/// What an operation changed: records to store, and notices to pass on.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Enforcements as they stand now, new and ended.
    pub changes: Vec<Enforcement>,
    /// Alarms.
    pub notices: Vec<Notice>,
}

impl Report {
    /// Everything in `other`, too.
    pub fn merge(&mut self, other: Self) {
        self.changes.extend(other.changes);
        self.notices.extend(other.notices);
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.notices.is_empty()
    }
}
