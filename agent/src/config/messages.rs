//! The MQTT guard's section in the guard's own terms.

use std::path::{Path, PathBuf};

use jiff::SignedDuration;

use crate::{
    config::{
        Config, Messages,
        period::Period,
        values::{Doubtful, Endpoint, Listen, Unusual},
    },
    messages::{Address, BrokerSettings, Limits, Settings, TlsSettings, commands, telemetry},
};

/// Which broker `messages.broker` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Broker {
    Supervised,
    Named(Address),
}

impl Messages {
    /// Whether the guard runs at all.
    pub fn is_on(&self) -> bool {
        self.listen != Listen::Off || self.listen_tls != Listen::Off
    }

    /// Whether everything but rules and bindings is as in `next`.
    pub(super) fn differs_only_in_rules(&self, next: &Self) -> bool {
        let (rules, bindings) = (next.rules.clone(), next.bindings.clone());
        Self { rules, bindings, ..self.clone() } == *next
    }

    pub(super) fn broker(&self) -> Result<Broker, String> {
        match self.broker.as_str() {
            "mosquitto" => Ok(Broker::Supervised),
            path if path.starts_with('/') => Ok(Broker::Named(Address::Unix(PathBuf::from(path)))),
            endpoint => endpoint.parse::<Endpoint>().map(|endpoint| Broker::Named(Address::Tcp(endpoint))),
        }
    }
}

impl Config {
    /// How the MQTT guard is set up, if it is to run.
    pub fn message_settings(&self) -> Option<Settings> {
        let messages = &self.messages;
        if !messages.is_on() {
            return None;
        }
        let address = |listen| match listen {
            Listen::Off => None,
            Listen::At(address) => Some(address),
        };
        let file = |path: &str| (!path.is_empty()).then(|| PathBuf::from(path));
        let tls = address(messages.listen_tls).map(|address| {
            let settings = TlsSettings {
                certificate: PathBuf::from(&messages.certificate),
                key: PathBuf::from(&messages.key),
                client_ca: file(&messages.client_ca),
                revoked: file(&messages.revoked),
                required: messages.require_certificate,
                identity: messages.identity,
            };
            (address, settings)
        });
        Some(Settings {
            listen: address(messages.listen),
            tls,
            passwords: file(&messages.passwords),
            command_keys: file(&self.commands.keys),
            anonymous: messages.anonymous,
            broker: self.broker_settings(&self.gateway.state_dir),
            limits: self.limits(),
            telemetry: self.telemetry_settings(),
        })
    }

    /// How telemetry is judged, if any topic is named.
    fn telemetry_settings(&self) -> Option<telemetry::Settings> {
        let section = &self.telemetry;
        if section.topics.is_empty() {
            return None;
        }
        let is_forwarded = section.forward && self.cloud.enabled;
        Some(telemetry::Settings {
            topics: section.topics.clone(),
            anomalous: section.anomalous,
            learning: telemetry::Learning {
                messages: section.learning_messages,
                period_ms: section.learning_period.as_ns() / 1_000_000,
            },
            relearn_after: section.relearn_after.0,
            devices: section.devices as usize,
            topics_per_device: section.topics_per_device as usize,
            models: section.models as usize,
            shape: telemetry::Shape {
                bytes: section.payload_bytes as usize,
                fields: section.fields as usize,
                depth: section.depth as usize,
            },
            forward_every: is_forwarded.then_some(section.forward_every.0),
            readings: section.forward_messages as usize,
        })
    }

    fn broker_settings(&self, state: &Path) -> BrokerSettings {
        match self.messages.broker() {
            Ok(Broker::Named(address)) => BrokerSettings::Named(address),
            // Validation refuses whatever is no broker.
            Ok(Broker::Supervised) | Err(_) => BrokerSettings::Supervised {
                program: self.messages.broker_program.clone(),
                directory: state.join("broker"),
            },
        }
    }

    /// How commands are judged.
    pub fn command_settings(&self) -> commands::Settings {
        let commands = &self.commands;
        let period = |period: Period| SignedDuration::try_from(period.0).unwrap_or(SignedDuration::MAX);
        commands::Settings {
            topics: commands.topics.clone(),
            allow_unsigned: commands.unsigned == Doubtful::Judge,
            allow_unknown: commands.unknown_format == Doubtful::Judge,
            hold: commands.unusual == Unusual::Hold,
            verb_keys: commands.verb_keys.clone(),
            skew: period(commands.skew),
            life: period(commands.max_lifetime),
            hold_for: period(commands.hold_for),
            held: commands.max_held as usize,
            learn_after: commands.learn_after as usize,
            rate: commands.rate,
            devices: commands.max_devices as usize,
            clock: self.command_clock(),
            rules: commands.rules.clone(),
        }
    }

    /// The clock that hours in command rules are of.
    pub fn command_clock(&self) -> commands::WallClock {
        self.commands.time_zone.resolve().into()
    }

    fn limits(&self) -> Limits {
        let limits = &self.message_limits;
        Limits {
            connections: limits.connections as usize,
            connections_per_source: limits.connections_per_source as usize,
            connects_per_second: limits.connects_per_second,
            strangers_per_second: limits.strangers_per_second,
            connect_timeout: limits.connect_timeout.0,
            packet_bytes: limits.packet_bytes as usize,
            packet_timeout: limits.packet_timeout.0,
            messages_per_second: limits.messages_per_second,
            bytes_per_second: limits.bytes_per_second,
            inflight: u16::try_from(limits.inflight).unwrap_or(u16::MAX),
            subscriptions: limits.subscriptions as usize,
            retained: limits.retained as usize,
            topic_bytes: limits.topic_bytes as usize,
            topic_levels: limits.topic_levels as usize,
            will_bytes: limits.will_bytes as usize,
            slow_reader: limits.slow_reader.0,
            keep_alive: limits.keep_alive.0,
            session_expiry: limits.session_expiry.0,
            queued_messages: limits.queued_messages,
            buffered_bytes: limits.buffered_bytes as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_without_an_address_does_not_run() {
        assert_eq!(Config::default().message_settings(), None);
        let mut config = Config::default();
        config.messages.listen = Listen::At(([127, 0, 0, 1], 1883).into());
        let settings = config.message_settings();
        let directory = PathBuf::from("/var/lib/tidegate/broker");
        assert!(settings.is_some_and(|settings| {
            settings.tls.is_none()
                && matches!(settings.broker, BrokerSettings::Supervised { directory: found, .. } if found == directory)
        }));
    }

    #[test]
    fn rules_are_taken_over_without_a_restart() {
        let was = Config::default();
        let mut is = was.clone();
        is.messages.rules.clear();
        assert!(was.diff_reloadable(&is).is_empty());
        is.messages.anonymous = true;
        assert_eq!(was.diff_reloadable(&is), ["messages"]);
    }
}
