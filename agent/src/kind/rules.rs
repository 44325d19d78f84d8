//! The rules as the file has them.

use std::sync::LazyLock;

use serde::{Deserialize, Deserializer, de};
use tidegate_common::parse::proto;

use super::{Kind, Traits};
use crate::learn::{Service, Whom};

/// A share of bytes says something only about this many.
const ENOUGH_BYTES: u64 = 1_000_000;

pub(super) static RULES: LazyLock<Rules> =
    LazyLock::new(|| toml::from_str(include_str!("rules.toml")).unwrap_or_default());

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rules {
    pub(super) rule: Vec<Rule>,
    pub(super) never: Vec<Never>,
}

/// One thing that speaks for kinds. Of every list one element must hold, and of several conditions all.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    pub(super) kinds: Vec<Kind>,
    pub(super) weight: f64,
    pub(super) because: String,
    #[serde(default)]
    offers: Vec<Port>,
    #[serde(default)]
    uses: Vec<Port>,
    #[serde(default)]
    groups: Vec<Port>,
    #[serde(default)]
    maker: Vec<String>,
    #[serde(default)]
    name: Vec<String>,
    #[serde(default)]
    says: Vec<String>,
    #[serde(default)]
    sent_share_over: Option<f64>,
    #[serde(default)]
    received_share_over: Option<f64>,
    #[serde(default)]
    hosts_over: Option<usize>,
}

/// What devices of some kinds do not do.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Never {
    kinds: Vec<Kind>,
    pub(super) because: String,
    #[serde(default)]
    uses: Vec<Port>,
    #[serde(default)]
    offers: Vec<Port>,
}

/// `tcp/554`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    protocol: u8,
    port: u16,
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parts = text.split_once('/').and_then(|(protocol, port)| {
            let protocol = match protocol {
                "tcp" => proto::TCP,
                "udp" => proto::UDP,
                _ => return None,
            };
            Some(Self { protocol, port: port.parse().ok()? })
        });
        parts.ok_or_else(|| de::Error::custom(format!("`{text}` is no port")))
    }
}

impl Port {
    fn is_of(self, service: &Service) -> bool {
        service.protocol == self.protocol && service.port == self.port
    }
}

impl Rule {
    pub(super) fn holds(&self, traits: &Traits) -> bool {
        let any = |ports: &[Port], which: &dyn Fn(&Service) -> bool| {
            ports.is_empty()
                || traits
                    .services
                    .iter()
                    .any(|service| which(service) && ports.iter().any(|port| port.is_of(service)))
        };
        let within =
            |words: &[String], text: &str| words.is_empty() || words.iter().any(|word| text.contains(word));
        let share = |limit: Option<f64>, part: u64| {
            let all = traits.bytes_out.saturating_add(traits.bytes_in);
            limit.is_none_or(|limit| all >= ENOUGH_BYTES && part as f64 > limit * all as f64)
        };
        any(&self.offers, &|service| !service.by_device)
            && any(&self.uses, &|service| service.by_device && service.whom != Whom::Group)
            && any(&self.groups, &|service| service.by_device && service.whom == Whom::Group)
            && within(&self.maker, &traits.maker)
            && within(&self.name, &traits.name)
            && (self.says.is_empty() || traits.says.iter().any(|text| within(&self.says, text)))
            && share(self.sent_share_over, traits.bytes_out)
            && share(self.received_share_over, traits.bytes_in)
            && self.hosts_over.is_none_or(|hosts| traits.hosts() > hosts)
    }

    /// Whether the rule asks for anything at all.
    #[cfg(test)]
    pub(super) fn has_condition(&self) -> bool {
        let lists = [&self.offers, &self.uses, &self.groups].iter().any(|ports| !ports.is_empty());
        let words = [&self.maker, &self.name, &self.says].iter().any(|words| !words.is_empty());
        let numbers =
            self.sent_share_over.is_some() || self.received_share_over.is_some() || self.hosts_over.is_some();
        lists || words || numbers
    }
}

impl Never {
    pub(super) fn objects(&self, kind: Kind, service: &Service) -> bool {
        let ports = if service.by_device { &self.uses } else { &self.offers };
        self.kinds.contains(&kind) && ports.iter().any(|port| port.is_of(service))
    }
}
