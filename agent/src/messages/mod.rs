//! Messages of devices: the MQTT guard in the path between devices and a broker, which judges every packet.
//!
//! A client proves who it is by certificate or password, may publish and subscribe to what the rules grant, and takes no more than
//! its limits. What passes goes to the broker as it came: the broker keeps sessions and retained messages, and serves nobody
//! else. Enforcement here never waits for the agent's loop: the loop sends [`Orders`], the guard sends [`Report`]s and drops them,
//! counted, when the loop has no room.
//!
//! Sessions are futures that [`Guard::serve`] owns. Starting threads is `run`'s.

pub mod acl;
pub mod answer;
pub mod auth;
pub mod broker;
pub mod codec;
pub mod commands;
pub mod connect;
mod guard;
pub mod judge;
pub mod reason;
pub mod subscribe;
pub mod telemetry;
pub mod tls;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

pub use self::{
    acl::Rule,
    auth::PasswordError,
    broker::{Address, BrokerSettings},
    guard::{
        limits::Limits,
        listen::{Guard, Link},
    },
    reason::{Counters, Meaning, Reason, read},
    tls::{IdentityFrom, TlsError, TlsSettings},
};
use tidegate_wire::TelemetryReport;

use crate::{identity::Mac, policy::KeyError};

/// How the guard is set up; changes need a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Address for clients in clear.
    pub listen: Option<SocketAddr>,
    /// Address for clients with TLS, and how that is set up.
    pub tls: Option<(SocketAddr, TlsSettings)>,
    /// File of passwords.
    pub passwords: Option<PathBuf>,
    /// File of the keys whose signatures on commands count.
    pub command_keys: Option<PathBuf>,
    /// Whether a client may come without proof; it is called `anonymous` then.
    pub anonymous: bool,
    /// The broker behind.
    pub broker: BrokerSettings,
    /// What clients may take.
    pub limits: Limits,
    /// How telemetry is judged, if it is.
    pub telemetry: Option<telemetry::Settings>,
}

/// The guard cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// A socket could not be bound.
    #[error("cannot listen for MQTT on {address}: {cause}; is another broker running there?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        cause: std::io::Error,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The passwords cannot be used.
    #[error(transparent)]
    Passwords(#[from] PasswordError),
    /// The keys of commands cannot be used.
    #[error("keys of commands {path}: {cause}", path = .path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: KeyError,
    },
}

/// What the loop tells the guard; a new one replaces the one before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Orders {
    /// Who may do what.
    pub rules: Vec<Rule>,
    /// Device that an identity may come from alone.
    pub bindings: BTreeMap<String, Mac>,
    /// Which device has which address.
    pub addresses: HashMap<IpAddr, Mac>,
    /// Devices that are cut off.
    pub cut_devices: HashSet<Mac>,
    /// Addresses that are cut off.
    pub cut_addresses: HashSet<IpAddr>,
    /// How commands are judged.
    pub commands: Arc<commands::Settings>,
}

impl Orders {
    /// Whether nobody may come from `source`.
    pub fn is_cut(&self, source: IpAddr) -> bool {
        self.cut_addresses.contains(&source)
            || self.addresses.get(&source).is_some_and(|device| self.cut_devices.contains(device))
    }
}

/// What the guard tells the loop.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// A source was refused so often that it means something.
    Abuse(Abuse),
    /// A command was refused or held.
    Command(Box<commands::Notice>),
    /// A released command got to the broker, or why it did not.
    Released(u64, Option<String>),
    /// Something does not work, in plain words.
    Trouble(String),
    /// A message on a telemetry topic does not fit.
    Odd(Box<telemetry::Alarm>),
    /// What a device measured, for the cloud.
    Measured(Box<TelemetryReport>),
    /// A model of telemetry, to be stored.
    Learned(Box<telemetry::Stored>),
}

/// Repeated refusals of one source.
#[derive(Clone, Debug, PartialEq)]
pub struct Abuse {
    /// Where they came from.
    pub source: IpAddr,
    /// Who it said or proved to be, the last time.
    pub identity: Option<String>,
    /// Why it was refused.
    pub reason: Reason,
    /// How often within a minute.
    pub count: u32,
    /// What that means.
    pub meaning: Meaning,
}
