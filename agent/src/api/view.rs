//! What the daemon tells: the JSON that `-o json` prints and scripts read.
//!
//! Every document carries `"schema": 1`. Fields are only ever added; a change of meaning raises the number. Times are RFC
//! 3339 in UTC, lengths of time whole seconds (`_s`).

mod commands;
mod device;
mod messages;
mod neighbours;
mod policy;
mod profile;
mod words;

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    config::values::{GatewayMode, IsolationLevel},
    enforce::Target,
    identity::Mac,
};

pub use self::words::{ActionWord, BaselineState, CheckState, EventKind, Health, ReasonWord, RoleWord};
pub use self::{
    commands::{CommandsView, HeldCommandView, HeldState},
    device::DeviceView,
    messages::MessagesView,
    neighbours::{NeighbourView, NeighboursView},
    policy::{PolicyCheckView, PolicyVersionView, PolicyView},
    profile::ProfileView,
};

/// Number of the JSON schema.
pub const SCHEMA: u32 = 1;

/// A view with its schema number beside its fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The view itself.
    #[serde(flatten)]
    pub view: T,
}

impl<T> From<T> for Versioned<T> {
    fn from(view: T) -> Self {
        Self { schema: SCHEMA, view }
    }
}

macro_rules! listings {
    ($($(#[doc = $doc:literal])+ $name:ident { $field:ident: $view:ty })+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub struct $name {
            /// The list.
            pub $field: Vec<$view>,
        }
    )+};
}

listings! {
    /// Listing of devices.
    Devices { devices: DeviceView }
    /// Listing of enforcements.
    Blocks { blocks: BlockView }
    /// Listing of never-block entries.
    Allowed { allow: AllowView }
    /// Listing of events.
    Events { events: EventView }
    /// Listing of baselines.
    Models { models: ModelView }
}

/// Listing of incidents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incidents {
    /// The list.
    pub incidents: Vec<IncidentView>,
    /// Strangers' probes, where they were asked to be counted and not listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<ProbesView>,
}

/// What strangers tried in vain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbesView {
    /// Incidents that are not listed.
    pub incidents: u32,
    /// Different hosts that they are about.
    pub hosts: u32,
    /// Pieces of evidence in them.
    pub evidence: u32,
    /// When the last one came.
    pub last_seen: Option<Timestamp>,
}

/// How the gateway is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// Version of the daemon.
    pub version: String,
    /// Whether everything works.
    pub health: Health,
    /// What does not, in plain words; empty when healthy.
    pub problems: Vec<String>,
    /// Mode of the configuration or the command line.
    pub mode: GatewayMode,
    /// Whether the kernel drops packets at this moment.
    pub enforcing: bool,
    /// Process id of the daemon.
    pub pid: u32,
    /// When it started.
    pub started: Timestamp,
    /// Seconds since.
    pub uptime_s: u64,
    /// Kernel release.
    pub kernel: String,
    /// Whether tables of an earlier run were taken over.
    pub resumed: bool,
    /// Guarded ports.
    pub interfaces: Vec<InterfaceView>,
    /// Flows in the table now, and how many it holds.
    pub flows: Usage,
    /// Devices in the table now, and how many it holds.
    pub devices: Usage,
    /// Enforcements in force, isolations included.
    pub blocks: u64,
    /// Never-block entries.
    pub allow: u64,
    /// Addresses and prefixes on bulk lists.
    pub feed_entries: u64,
    /// Incidents going on.
    pub open_incidents: u64,
    /// Devices with a baseline of their own.
    pub baselines_ready: u64,
    /// Devices still being learned.
    pub baselines_learning: u64,
    /// Sums of the kernel's counters by name, see `tidegate_common::counter`.
    pub counters: BTreeMap<String, u64>,
    /// Packets in no flow, by reason.
    pub unparsed: BTreeMap<String, u64>,
    /// Packets that the account does not explain; 0 on a quiet machine.
    pub unaccounted: i64,
    /// Events that the agent received from the kernel.
    pub events_received: u64,
    /// The MQTT guard, if it runs.
    #[serde(default)]
    pub messages: Option<MessagesView>,
}

/// A table's use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Entries in use.
    pub used: u64,
    /// Entries it can hold.
    pub capacity: u64,
}

/// A guarded port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceView {
    /// Name.
    pub name: String,
    /// Index.
    pub ifindex: u32,
    /// How frames that enter are seen: `driver` or `generic`.
    pub xdp: String,
    /// How frames that leave are seen: `tcx` or `clsact`.
    pub tc: String,
    /// Why driver mode was not possible, when it was tried.
    pub fallback: Option<String>,
}

/// An enforcement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockView {
    /// What it applies to: address, prefix or hardware address.
    pub target: Target,
    /// What it does.
    pub action: ActionWord,
    /// How far a device is isolated.
    pub level: Option<IsolationLevel>,
    /// Packets a second that still pass.
    pub rate_pps: Option<u32>,
    /// Why.
    pub reason: ReasonWord,
    /// Who: an operator, or the name of the rule or model.
    pub author: String,
    /// Why, in plain words.
    pub detail: String,
    /// Incident it answers.
    pub incident: Option<String>,
    /// Since when.
    pub created: Timestamp,
    /// Until when; none for ever.
    pub expires: Option<Timestamp>,
    /// Seconds left.
    pub ttl_s: Option<u64>,
    /// Which repeat it is, 1 for the first block.
    pub repeat: u32,
    /// Packets that matched.
    pub hits: u64,
    /// Their bytes.
    pub hit_bytes: u64,
    /// When the last one matched.
    pub last_hit: Option<Timestamp>,
}

/// A never-block entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AllowView {
    /// What is protected: address, prefix or hardware address.
    pub target: Target,
    /// What it is to the devices.
    pub roles: Vec<RoleWord>,
    /// Who put it there: `config`, `discovered`, or an operator.
    pub author: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub created: Option<Timestamp>,
    /// Packets that passed because of it.
    pub hits: u64,
}

/// Whether a target is protected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AllowCheckView {
    /// What was asked for.
    pub target: Target,
    /// Whether no verdict may touch it.
    pub protected: bool,
    /// The entries that protect it.
    pub by: Vec<AllowView>,
}

/// Correlated evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentView {
    /// Id, as `explain` takes it.
    pub id: String,
    /// MITRE ATT&CK technique.
    pub technique: TechniqueView,
    /// Who is to blame: an address or a hardware address.
    pub subject: String,
    /// The first victim known.
    pub victim: Option<IpAddr>,
    /// One line of plain words.
    pub summary: String,
    /// First evidence.
    pub first_seen: Timestamp,
    /// Last evidence.
    pub last_seen: Timestamp,
    /// How often evidence came in.
    pub evidence: u64,
    /// Whether it goes on.
    pub open: bool,
    /// Highest score, 0 to 1.
    pub score: f64,
    /// What was done, in plain words.
    pub response: String,
}

/// A technique of MITRE ATT&CK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TechniqueView {
    /// Id, such as `T1046`.
    pub id: String,
    /// Name.
    pub name: String,
}

/// Why something was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainView {
    /// The incident; none when an operator's order is explained.
    pub incident: Option<IncidentView>,
    /// What happened and what follows, in plain words.
    pub explanation: String,
    /// Rule that fired; none when a model spoke.
    pub rule: Option<String>,
    /// How rare the behaviour is among the device's normal traffic, 0 to 1.
    pub p_value: Option<f64>,
    /// What stood out.
    pub notes: Vec<NoteView>,
    /// The enforcement that answers it.
    pub block: Option<BlockView>,
    /// Why it was only observed.
    pub held_back: Option<String>,
}

/// A value that stood out, beside what is normal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoteView {
    /// Name of the feature.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// Normal values begin here.
    pub normal_low: f64,
    /// Normal values end here.
    pub normal_high: f64,
    /// Its share in what makes the whole anomalous, 0–1.
    #[serde(default)]
    pub share: f64,
}

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// When.
    pub time: Timestamp,
    /// What it is about.
    pub kind: EventKind,
    /// In plain words.
    pub message: String,
    /// Whom it concerns: address, prefix or hardware address.
    pub target: Option<Target>,
    /// Incident it belongs to.
    pub incident: Option<String>,
}

/// A baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelView {
    /// Device; none for the fleet-wide baseline.
    pub device: Option<Mac>,
    /// How far it is.
    pub state: BaselineState,
    /// How much of the learning is done, 0 to 1.
    pub learned: f64,
    /// Number of the baseline in force, 0 for none.
    pub version: u32,
    /// When it was trained.
    pub trained: Option<Timestamp>,
    /// Flows collected.
    pub flows: u64,
    /// Windows collected.
    pub windows: u64,
    /// Earlier versions that a rollback can reach.
    pub earlier: u32,
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadView {
    /// File that was read.
    pub path: String,
    /// Keys that changed in the file but need a restart.
    pub needs_restart: Vec<String>,
}

/// One thing that `doctor` looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckView {
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub state: CheckState,
    /// What was found.
    pub found: String,
    /// What to do about it; empty when nothing.
    pub hint: String,
}

/// Everything that `doctor` looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorReport {
    /// The checks.
    pub checks: Vec<CheckView>,
}

impl DoctorReport {
    /// The worst state of all checks.
    pub fn worst(&self) -> CheckState {
        self.checks.iter().map(|check| check.state).max().unwrap_or(CheckState::Ok)
    }
}
