//! Closed sets of words and small values that keys of the configuration take.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tidegate_common::verdict::Level;

use crate::{fleet::defender::Format, text::serde_as_text};

/// When verdicts drop packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// Per device: only report until its baseline exists, enforce from then on.
    Auto,
    /// Act on rules from the start, on models as soon as a baseline exists.
    Enforce,
    /// Never drop; count what would have been dropped.
    Monitor,
}

impl fmt::Display for GatewayMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Enforce => "enforce",
            Self::Monitor => "monitor",
        })
    }
}

/// How readily traffic counts as evidence: a word, or the share of normal flows and windows that may.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "\"low\", \"medium\", \"high\" or a share between 0.0001 and 0.2 is expected")]
pub enum Sensitivity {
    /// A word.
    Named(SensitivityWord),
    /// The share itself.
    Rate(f64),
}

/// The sensitivities that have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SensitivityWord {
    /// Three of a thousand.
    Low,
    /// One of a hundred.
    Medium,
    /// Three of a hundred.
    High,
}

impl Sensitivity {
    /// Share of normal flows and windows that may count as evidence.
    pub const fn rate(self) -> f64 {
        match self {
            Self::Named(SensitivityWord::Low) => 0.003,
            Self::Named(SensitivityWord::Medium) => 0.01,
            Self::Named(SensitivityWord::High) => 0.03,
            Self::Rate(rate) => rate,
        }
    }
}

/// What becomes of something that nobody vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doubtful {
    /// It is refused.
    Refuse,
    /// It is judged by everything else.
    Judge,
}

/// What becomes of a command unlike a device's normal ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unusual {
    /// It waits for an operator.
    Hold,
    /// It is refused.
    Refuse,
}

/// Whether and how the gateway's own metrics go to AWS IoT Device Defender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Defender {
    /// Not at all.
    Off,
    /// In JSON.
    Json,
    /// In CBOR, which is shorter.
    Cbor,
}

impl Defender {
    /// How they are written, if they are.
    pub const fn format(self) -> Option<Format> {
        match self {
            Self::Off => None,
            Self::Json => Some(Format::Json),
            Self::Cbor => Some(Format::Cbor),
        }
    }
}

/// How far an isolated device is cut off, see [`Level`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum IsolationLevel {
    /// Nothing is dropped; would-be drops are counted.
    Observe,
    /// All traffic within a packet rate.
    RateLimit,
    /// ARP, ND, DHCP, the resolver, NTP and the cloud endpoints remain.
    CloudOnly,
    /// ARP, ND, DHCP and the resolver remain.
    DhcpDnsOnly,
    /// Nothing remains but the operator's never-block entries.
    Full,
}

impl From<IsolationLevel> for Level {
    fn from(level: IsolationLevel) -> Self {
        match level {
            IsolationLevel::Observe => Self::Observe,
            IsolationLevel::RateLimit => Self::RateLimit,
            IsolationLevel::CloudOnly => Self::CloudOnly,
            IsolationLevel::DhcpDnsOnly => Self::DhcpDnsOnly,
            IsolationLevel::Full => Self::Full,
        }
    }
}

impl From<Level> for IsolationLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Observe => Self::Observe,
            Level::RateLimit => Self::RateLimit,
            Level::CloudOnly => Self::CloudOnly,
            Level::DhcpDnsOnly => Self::DhcpDnsOnly,
            Level::Full => Self::Full,
        }
    }
}

impl fmt::Display for IsolationLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Observe => "observe",
            Self::RateLimit => "rate-limit",
            Self::CloudOnly => "cloud-only",
            Self::DhcpDnsOnly => "dhcp-dns-only",
            Self::Full => "full",
        })
    }
}

/// Where metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    Off,
    /// At this address.
    At(SocketAddr),
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::At(address) => serializer.collect_str(address),
        }
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|_| {
            de::Error::custom(format!(
                "`{text}` is neither `off` nor an address with a port, such as 127.0.0.1:9469"
            ))
        })
    }
}

/// A host, by name or address, and a TCP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Endpoint {
    /// The address, when the host is one.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse =
            || format!("`{text}` is not `host:port`, such as mqtt.example.net:8883 or [2001:db8::1]:443");
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(refuse)?;
        let host = match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().map_err(|_| refuse())?.to_string(),
            None if host.contains(':') => return Err(refuse()),
            None => host.to_owned(),
        };
        let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || host.len() > 253 || !host.chars().all(sound) {
            return Err(refuse());
        }
        Ok(Self { host, port })
    }
}

serde_as_text!(Endpoint);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed parse is the test's failure")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sensitivities_are_words_or_shares() {
        #[derive(Debug, Deserialize)]
        struct Section {
            sensitivity: Sensitivity,
        }
        let rate = |text: &str| toml::from_str::<Section>(text).map(|section| section.sensitivity.rate());
        for (text, expected) in [("\"low\"", 0.003), ("\"medium\"", 0.01), ("\"high\"", 0.03), ("0.02", 0.02)]
        {
            let found = rate(&format!("sensitivity = {text}")).unwrap();
            assert!((found - expected).abs() < f64::EPSILON, "{text}: {found}");
        }
        let error = rate("sensitivity = \"extreme\"").unwrap_err().to_string();
        assert!(error.contains("low") && error.contains("0.0001 and 0.2"), "{error}");
    }

    #[test]
    fn endpoints_are_names_or_addresses_with_a_port() {
        for text in ["mqtt.example.net:8883", "192.0.2.1:443", "[2001:db8::1]:443"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in ["", "host", "host:0", "host:65536", "2001:db8::1:443", "a b:1", ":1"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_endpoint_text_is_read_without_a_panic(text in ".{0,40}") {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
            }
        }
    }
}
