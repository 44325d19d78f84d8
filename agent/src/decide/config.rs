//! What the operator wants done about findings, as it stands under `[response]` in the configuration file.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use tidegate_common::verdict::Level;

/// What to do about one technique, whatever the defaults say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// Report only.
    Observe,
    /// Remote hosts: block. Devices: the technique's own level.
    Block,
    /// Devices: let pass within a packet rate. Remote hosts: the same for their address.
    RateLimit,
    /// Devices: leave ARP, DHCP, DNS, NTP and the cloud endpoint. Remote hosts: block.
    CloudOnly,
    /// Devices: leave ARP, DHCP and DNS. Remote hosts: block.
    DhcpDnsOnly,
    /// Devices: leave nothing but the operator's own entries. Remote hosts: block.
    Full,
}

impl Response {
    /// The isolation level for a device; `None` where the technique's own applies.
    pub(super) const fn level(self) -> Option<Level> {
        Some(match self {
            Self::Observe => Level::Observe,
            Self::Block => return None,
            Self::RateLimit => Level::RateLimit,
            Self::CloudOnly => Level::CloudOnly,
            Self::DhcpDnsOnly => Level::DhcpDnsOnly,
            Self::Full => Level::Full,
        })
    }
}

/// Settings of the decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResponseConfig {
    /// How long a first block of a remote address lasts, in seconds. Repeats last longer.
    pub block_s: u64,
    /// How long a first isolation of a device lasts, in seconds. Repeats last longer.
    pub isolate_s: u64,
    /// Confidence of a rule, 0–1, below which it is only reported.
    pub min_confidence: f64,
    /// Confidence of a rule, 0–1, from which on a device is cut off fully instead of being left DHCP and DNS.
    pub full_confidence: f64,
    /// P-value of a model's collected evidence, below which a device with a baseline is isolated without any rule.
    pub model_p: f64,
    /// Responses by technique id, for example `T1046 = "observe"`.
    pub techniques: BTreeMap<String, Response>,
}

impl Default for ResponseConfig {
    fn default() -> Self {
        Self {
            block_s: 600,
            isolate_s: 1_800,
            min_confidence: 0.6,
            full_confidence: 0.9,
            model_p: 1e-12,
            techniques: BTreeMap::new(),
        }
    }
}

impl ResponseConfig {
    /// How long a first block lasts.
    pub const fn block_for(&self) -> Duration {
        Duration::from_secs(self.block_s)
    }

    /// How long a first isolation lasts.
    pub const fn isolate_for(&self) -> Duration {
        Duration::from_secs(self.isolate_s)
    }
}
