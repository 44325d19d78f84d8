//! The configuration file: read, checked as a whole, compared on reload.
//!
//! A file is TOML; every key has a default and unknown keys are refused. Nothing outside this module reads the file, and
//! this module reads nothing else but the system's time zones: what a name resolves to or whether an interface exists is `tidegate doctor`'s affair.

mod convert;
mod example;
mod messages;
pub mod neighbours;
pub mod period;
mod schema;
pub(crate) mod section;
mod source;
mod validate;
pub mod values;
pub mod zone;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use self::{
    example::example,
    neighbours::Neighbours,
    schema::{
        Cloud, Cloudwatch, Commands, Enforcement, Feeds, Gateway, Inputs, Kernel, Learning, Log,
        MessageLimits, Messages, Metrics, Names, NeverBlock, Policy, Reachability, Response, Telemetry,
    },
    source::Source,
};
use crate::{learn::RuleConfig, policy::Identity};

/// File that is read when no other is named.
pub const DEFAULT_PATH: &str = "/etc/tidegate/tidegate.toml";

/// Largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where Tidegate stands and how it is reached.
    pub gateway: Gateway,
    /// Sizes and clocks of the kernel tables.
    pub kernel: Kernel,
    /// Names and TLS clients of devices.
    pub names: Names,
    /// How normal behaviour is learned.
    pub learning: Learning,
    /// Limits of the behaviour rules.
    pub detection: RuleConfig,
    /// Which findings lead to verdicts.
    pub response: Response,
    /// How long verdicts last and how many may be set.
    pub enforcement: Enforcement,
    /// What no verdict may touch.
    pub never_block: NeverBlock,
    /// What the gateway must be able to reach.
    pub reachability: Reachability,
    /// The MQTT guard.
    pub messages: Messages,
    /// What its clients may take.
    pub message_limits: MessageLimits,
    /// Commands to devices.
    pub commands: Commands,
    /// What devices measure.
    pub telemetry: Telemetry,
    /// Lists of hostile addresses.
    pub feeds: Feeds,
    /// What other programs know.
    pub inputs: Inputs,
    /// Event log.
    pub log: Log,
    /// Prometheus metrics.
    pub metrics: Metrics,
    /// Signed settings of the fleet.
    pub policy: Policy,
    /// The link to AWS IoT Core.
    pub cloud: Cloud,
    /// Section `[cloudwatch]`.
    pub cloudwatch: Cloudwatch,
    /// Other gateways on the local network.
    pub neighbours: Neighbours,
}

/// One value that is out of range or contradicts another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Dotted name of the key.
    pub key: String,
    /// What was found.
    pub value: String,
    /// Why it is refused.
    pub cause: String,
    /// What to write instead.
    pub hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}; {}", self.key, self.value, self.cause, self.hint)
    }
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read configuration {path}: {cause}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The file is not what this version understands: a syntax error, an unknown key, a wrong type or word.
    #[error("configuration {path} is malformed: {cause}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Position and cause, over several lines.
        cause: String,
    },
    /// Values that cannot be used, all of them at once.
    #[error("configuration {path} has unusable values:\n{}", list(.problems))]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; never empty.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => {
                "name another file with -c, or write one with `tidegate config example > FILE`"
            }
            Self::Malformed { .. } => "`tidegate config example` prints every key with its meaning",
            Self::Unusable { .. } => "correct the values and try `tidegate run --check -c FILE`",
        }
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("  {problem}")).collect::<Vec<_>>().join("\n")
}

impl Config {
    /// Reads and checks `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |cause| ConfigError::Unreadable { path: path.to_owned(), cause };
        let size = fs::metadata(path).map_err(unreadable)?.len();
        if size > MAX_BYTES {
            return Err(unreadable(io::Error::other(format!(
                "{size} bytes are more than a configuration can have"
            ))));
        }
        Self::parse(&fs::read_to_string(path).map_err(unreadable)?, path)
    }

    /// Reads and checks `text`; `path` names it in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Malformed {
            path: path.to_owned(),
            cause: error.to_string().trim_end().to_owned(),
        })?;
        config.check(path)?;
        Ok(config)
    }

    /// Checks the values as a whole; `path` names the file in errors.
    pub fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let problems = validate::problems(self);
        if problems.is_empty() {
            return Ok(());
        }
        Err(ConfigError::Unusable { path: path.to_owned(), problems })
    }

    /// The file to read: `named` if any, else the default one if it exists, else none (all defaults).
    pub fn locate(named: Option<&Path>) -> Option<PathBuf> {
        let default = Path::new(DEFAULT_PATH);
        named.map(Path::to_owned).or_else(|| default.exists().then(|| default.to_owned()))
    }

    /// Path of the database.
    pub fn database_path(&self) -> PathBuf {
        self.gateway.state_dir.join("tidegate.db")
    }

    /// Path of the event log, unless it is off.
    pub fn eve_path(&self) -> Option<PathBuf> {
        match self.log.eve_path.as_str() {
            "off" => None,
            "" => Some(self.gateway.state_dir.join("eve.json")),
            path => Some(PathBuf::from(path)),
        }
    }

    /// Path of Suricata's event log, if its alerts are wanted.
    pub fn eve_alerts_path(&self) -> Option<PathBuf> {
        Some(&self.inputs.eve_alerts).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// Path of the trust anchors of policies, if there are any.
    pub fn policy_keys_path(&self) -> Option<PathBuf> {
        Some(&self.policy.keys).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// Name of this gateway in its fleet.
    pub fn gateway_name(&self) -> String {
        if !self.gateway.name.is_empty() {
            return self.gateway.name.clone();
        }
        nix::sys::utsname::uname()
            .map(|system| system.nodename().to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// Whom policies must be for.
    pub fn policy_identity(&self) -> Identity {
        Identity { fleet: self.policy.fleet.clone(), gateway: self.gateway_name() }
    }

    /// Dotted names of keys that differ in `next` and that only a restart can change. The rest may be taken over at once.
    pub fn diff_reloadable(&self, next: &Self) -> Vec<&'static str> {
        let (was, is) = (&self.gateway, &next.gateway);
        let pairs = [
            ("gateway.interfaces", was.interfaces != is.interfaces),
            ("gateway.state_dir", was.state_dir != is.state_dir),
            ("gateway.socket", was.socket != is.socket),
            ("gateway.socket_group", was.socket_group != is.socket_group),
            ("gateway.pin_path", was.pin_path != is.pin_path),
            ("gateway.xdp", was.xdp != is.xdp),
            ("gateway.tc", was.tc != is.tc),
            ("kernel.max_flows", self.kernel.max_flows != next.kernel.max_flows),
            ("kernel.max_devices", self.kernel.max_devices != next.kernel.max_devices),
            ("kernel.max_forests", self.kernel.max_forests != next.kernel.max_forests),
            ("kernel.ring_bytes", self.kernel.ring_bytes != next.kernel.ring_bytes),
            ("learning.window", self.learning.window != next.learning.window),
            ("messages", !self.messages.differs_only_in_rules(&next.messages)),
            ("commands.keys", self.commands.keys != next.commands.keys),
            ("message_limits", self.message_limits != next.message_limits),
            ("telemetry", self.telemetry != next.telemetry),
            ("log", self.log != next.log),
            ("metrics", self.metrics != next.metrics),
            ("gateway.name", was.name != is.name),
            ("cloud", self.cloud != next.cloud),
            ("cloudwatch", self.cloudwatch != next.cloudwatch),
            ("neighbours.listen", self.neighbours.listen != next.neighbours.listen),
            ("neighbours.key", self.neighbours.key != next.neighbours.key),
            ("neighbours.peers", self.neighbours.peers != next.neighbours.peers),
        ];
        pairs.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a refused configuration is the test's failure")]

    use proptest::prelude::*;

    use super::*;
    use crate::{
        fleet::neighbours::{Peer, PeerKey},
        policy::SigningKey,
    };

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("test.toml"))
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn unknown_keys_are_refused_with_their_name_and_place() {
        let message = parse("[gateway]\ninterface = [\"lan0\"]\n").unwrap_err().to_string();
        assert!(message.contains("interface") && message.contains("line 2"), "{message}");
        assert!(parse("[gatway]\n").unwrap_err().to_string().contains("gatway"));
    }

    #[test]
    fn every_unusable_value_is_named_at_once() {
        let message = parse("[kernel]\nmax_flows = 3\nring_bytes = 65537\n[learning]\nwindow = \"1s\"\n")
            .unwrap_err()
            .to_string();
        for part in ["kernel.max_flows = 3", "kernel.ring_bytes = 65537", "learning.window = 1s"] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }

    #[test]
    fn only_some_keys_need_a_restart() {
        let was = Config::default();
        let mut is = was.clone();
        is.enforcement.base_ttl = period::Period::minutes(3);
        assert!(was.diff_reloadable(&is).is_empty());
        is.kernel.max_flows = 2_048;
        is.gateway.interfaces.push("lan0".to_owned());
        assert_eq!(was.diff_reloadable(&is), ["gateway.interfaces", "kernel.max_flows"]);
    }

    #[test]
    fn of_neighbours_only_what_connections_are_made_of_needs_a_restart() {
        let was = Config::default();
        let mut is = was.clone();
        is.neighbours.act = neighbours::OnNotice::Observe;
        is.neighbours.max_ttl = period::Period::minutes(5);
        is.neighbours.addresses_per_hour = 7;
        is.neighbours.skew = period::Period::seconds(1);
        is.neighbours.private_addresses = true;
        assert!(was.diff_reloadable(&is).is_empty());
        is.neighbours.listen = values::Listen::At(([192, 0, 2, 1], 7_443).into());
        is.neighbours.key = "/etc/tidegate/other.key".into();
        let key = PeerKey::of(&SigningKey::parse(SigningKey::generate().unwrap().as_bytes()).unwrap());
        is.neighbours.peers =
            vec![Peer { name: "east".to_owned(), address: "192.0.2.2:7443".parse().unwrap(), key }];
        let named = ["neighbours.listen", "neighbours.key", "neighbours.peers"];
        assert_eq!(was.diff_reloadable(&is), named);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text = toml::to_string(&Config::default()).unwrap();
        assert_eq!(parse(&text).unwrap(), Config::default());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,200}") {
            let _ = parse(&text);
        }
    }
}
