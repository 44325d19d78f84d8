//! What a policy says, and what that does to the settings.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::state::{Reason, Refused};
use crate::{
    config::{
        Config, ConfigError,
        values::{IsolationLevel, Sensitivity},
    },
    decide,
    enforce::Target,
    identity::Mac,
    messages::commands,
    mud,
};

/// A policy as its author writes it, before it is signed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Grows with every policy of a fleet, from 1. A gateway takes none that is not newer than every one before.
    pub version: u64,
    /// The fleet it is for.
    #[serde(default)]
    pub fleet: String,
    /// The gateways it is for; empty for every one of the fleet.
    #[serde(default)]
    pub gateways: Vec<String>,
    /// It takes effect from then on.
    pub not_before: Timestamp,
    /// From then on the configuration file rules again.
    pub expires: Timestamp,
    /// What it is for, in its author's words.
    #[serde(default)]
    pub description: String,
    /// What it sets; the rest is as the configuration file says.
    #[serde(default)]
    pub settings: Settings,
}

/// Settings that lie over those of the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `learning.sensitivity`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensitivity: Option<Sensitivity>,
    /// `response.min_confidence`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_confidence: Option<f64>,
    /// `response.full_confidence`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_confidence: Option<f64>,
    /// `response.model_p`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_p: Option<f64>,
    /// Entries of `response.techniques`: verdict or isolation level by ATT&CK id.
    pub techniques: BTreeMap<String, decide::Response>,
    /// In the place of `commands.rules`: what devices may be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_rules: Option<Vec<commands::Rule>>,
    /// Added to `[never_block]`; a policy takes nothing away from it.
    pub never_block: NeverBlock,
    /// Devices that are isolated while the policy is in force.
    pub isolation: Vec<Isolation>,
    /// Devices that are held to a description (MUD, RFC 8520) while the policy is in force.
    pub profiles: BTreeMap<Mac, Value>,
}

/// What no verdict may touch, besides what the configuration file names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NeverBlock {
    /// `never_block.addresses`.
    pub addresses: Vec<Target>,
    /// `never_block.devices`.
    pub devices: Vec<Mac>,
    /// `never_block.dns`.
    pub dns: Vec<IpAddr>,
    /// `never_block.dhcp`.
    pub dhcp: Vec<IpAddr>,
    /// `never_block.ntp`.
    pub ntp: Vec<IpAddr>,
    /// `never_block.cloud`.
    pub cloud: Vec<IpAddr>,
}

/// A device that a policy isolates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Isolation {
    /// The device.
    pub device: Mac,
    /// How far.
    pub level: IsolationLevel,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

impl Document {
    /// Whom its isolations and profiles are said to be by.
    pub fn author(&self) -> String {
        format!("policy {}", self.version)
    }

    /// `base` with this policy over it, checked as a whole.
    pub fn over(&self, base: &Config) -> Result<Config, Refused> {
        fn add<T: Clone + PartialEq>(to: &mut Vec<T>, more: &[T]) {
            for item in more {
                if !to.contains(item) {
                    to.push(item.clone());
                }
            }
        }
        let wanted = &self.settings;
        let mut config = base.clone();
        if let Some(sensitivity) = wanted.sensitivity {
            config.learning.sensitivity = sensitivity;
        }
        let response = &mut config.response;
        response.min_confidence = wanted.min_confidence.unwrap_or(response.min_confidence);
        response.full_confidence = wanted.full_confidence.unwrap_or(response.full_confidence);
        response.model_p = wanted.model_p.unwrap_or(response.model_p);
        response.techniques.extend(wanted.techniques.iter().map(|(id, answer)| (id.clone(), *answer)));
        if let Some(rules) = &wanted.command_rules {
            config.commands.rules.clone_from(rules);
        }
        let never = &mut config.never_block;
        add(&mut never.addresses, &wanted.never_block.addresses);
        add(&mut never.devices, &wanted.never_block.devices);
        add(&mut never.dns, &wanted.never_block.dns);
        add(&mut never.dhcp, &wanted.never_block.dhcp);
        add(&mut never.ntp, &wanted.never_block.ntp);
        add(&mut never.cloud, &wanted.never_block.cloud);
        config.check(Path::new(&self.author())).map_err(|error| match error {
            ConfigError::Unusable { problems, .. } => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                self.unusable(&problems.join("; "))
            }
            other => self.unusable(&other.to_string()),
        })?;
        for (device, description) in &wanted.profiles {
            mud::read(description.to_string().as_bytes())
                .map_err(|error| self.unusable(&format!("the profile of {device}: {error}")))?;
        }
        Ok(config)
    }

    /// A refusal for what it asks for.
    pub fn unusable(&self, cause: &str) -> Refused {
        Refused::new(Reason::Unusable, format!("policy {} cannot be put in force: {cause}", self.version))
            .of(self.version)
    }
}

/// A setting that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Its dotted name, as in the configuration file.
    pub key: String,
    /// What it is; null where it is not there.
    pub from: Value,
    /// What it would be.
    pub to: Value,
}

/// What differs between two configurations, by key.
pub fn changes(from: &Config, to: &Config) -> Vec<Change> {
    let value = |config: &Config| serde_json::to_value(config).unwrap_or_default();
    let mut found = Vec::new();
    compare("", &value(from), &value(to), &mut found);
    found
}

fn compare(key: &str, from: &Value, to: &Value, found: &mut Vec<Change>) {
    if let (Value::Object(before), Value::Object(after)) = (from, to) {
        let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
        for name in names {
            let dotted = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            let side =
                |object: &serde_json::Map<String, Value>| object.get(name).cloned().unwrap_or_default();
            compare(&dotted, &side(before), &side(after), found);
        }
    } else if from != to {
        found.push(Change { key: key.to_owned(), from: from.clone(), to: to.clone() });
    }
}
