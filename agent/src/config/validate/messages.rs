//! The MQTT guard's keys.

mod commands;

use std::{path::Path, time::Duration};

use super::Check;
use crate::{
    config::{Config, messages::Broker, period::Period, values::Listen},
    messages::acl,
};

pub(super) fn check(check: &mut Check, config: &Config) {
    let messages = &config.messages;
    let has_tls = messages.listen_tls != Listen::Off;
    for (key, path) in [
        ("messages.certificate", &messages.certificate),
        ("messages.key", &messages.key),
        ("messages.client_ca", &messages.client_ca),
        ("messages.revoked", &messages.revoked),
        ("messages.passwords", &messages.passwords),
    ] {
        if !path.is_empty() {
            check.absolute(key, Path::new(path));
        } else if has_tls && matches!(key, "messages.certificate" | "messages.key") {
            check.refuse(key, "\"\"", "TLS needs it", "name the file, or set messages.listen_tls to `off`");
        }
    }
    if has_tls && messages.require_certificate && messages.client_ca.is_empty() {
        let hint = "name the authority, or set messages.require_certificate to false";
        check.refuse(
            "messages.client_ca",
            "\"\"",
            "a certificate is required and none can be verified",
            hint,
        );
    }
    if !messages.revoked.is_empty() && messages.client_ca.is_empty() {
        let hint = "name the authority in messages.client_ca";
        check.refuse("messages.revoked", &messages.revoked, "no authority issues certificates", hint);
    }
    let proofs =
        [!messages.client_ca.is_empty() && has_tls, !messages.passwords.is_empty(), messages.anonymous];
    if config.messages.is_on() && !proofs.contains(&true) {
        let hint = "name messages.passwords or messages.client_ca, or set messages.anonymous to true";
        check.refuse("messages.passwords", "\"\"", "no client could prove who it is", hint);
    }
    if messages.listen != Listen::Off && messages.listen == messages.listen_tls {
        let hint = "use another port, 8883 by custom";
        check.refuse("messages.listen_tls", "the same", "messages.listen has this address", hint);
    }
    rules(check, config);
    if let Err(cause) = messages.broker() {
        let hint = "write `mosquitto`, /path/to/socket or host:port";
        check.refuse("messages.broker", format!("{:?}", messages.broker), cause, hint);
    }
    if matches!(messages.broker(), Ok(Broker::Supervised)) {
        let socket = config.gateway.state_dir.join("broker/broker.sock");
        if config.messages.is_on() && socket.as_os_str().len() > 100 {
            let hint = "use a state_dir of at most 80 bytes";
            check.refuse("gateway.state_dir", socket.display(), "too long for the broker's socket", hint);
        }
    }
    limits(check, config);
    commands::check(check, config);
}

fn rules(check: &mut Check, config: &Config) {
    for rule in &config.messages.rules {
        if rule.who != "*" && !acl::is_sound_name(&rule.who) {
            let hint = "write an identity (1 to 128 characters without /, + and #) or `*`";
            check.refuse("messages.rules", format!("who = {:?}", rule.who), "no client is called so", hint);
        }
        for filter in rule.publish.iter().chain(&rule.subscribe).filter(|filter| !acl::is_filter(filter)) {
            let hint = "write a topic filter such as devices/%u/#, with + and # filling whole levels";
            check.refuse("messages.rules", format!("{filter:?}"), "not a topic filter", hint);
        }
    }
    for (identity, mac) in &config.messages.bindings {
        if !acl::is_sound_name(identity) {
            let hint = "write 1 to 128 characters without /, + and #";
            check.refuse("messages.bindings", format!("{identity:?}"), "no client is called so", hint);
        }
        if !mac.is_device() {
            let hint = "name the device's own hardware address";
            check.refuse("messages.bindings", mac, "no device can have this address", hint);
        }
    }
}

fn limits(check: &mut Check, config: &Config) {
    let limits = &config.message_limits;
    check.range("message_limits.connections", limits.connections, 1..=100_000);
    check.range("message_limits.connections_per_source", limits.connections_per_source, 1..=100_000);
    check.range("message_limits.connects_per_second", limits.connects_per_second, 1..=100_000);
    check.range("message_limits.strangers_per_second", limits.strangers_per_second, 1..=100_000);
    let shortest = Period(Duration::from_millis(100));
    check.range("message_limits.connect_timeout", limits.connect_timeout, shortest..=Period::minutes(1));
    check.range("message_limits.packet_bytes", limits.packet_bytes, 1_024..=16_777_216);
    let while_open = Period::seconds(1)..=Period::minutes(10);
    check.range("message_limits.packet_timeout", limits.packet_timeout, while_open.clone());
    check.range("message_limits.slow_reader", limits.slow_reader, while_open);
    check.range("message_limits.messages_per_second", limits.messages_per_second, 1..=10_000_000);
    check.range("message_limits.bytes_per_second", limits.bytes_per_second, 1_024..=1_000_000_000);
    check.range("message_limits.inflight", limits.inflight, 1..=65_535);
    check.range("message_limits.subscriptions", limits.subscriptions, 1..=100_000);
    check.range("message_limits.retained", limits.retained, 0..=1_000_000);
    check.range("message_limits.topic_bytes", limits.topic_bytes, 1..=65_535);
    check.range("message_limits.topic_levels", limits.topic_levels, 1..=1_000);
    check.range("message_limits.will_bytes", limits.will_bytes, 0..=65_535);
    check.range("message_limits.keep_alive", limits.keep_alive, Period::seconds(1)..=Period::hours(18));
    check.range(
        "message_limits.session_expiry",
        limits.session_expiry,
        Period::hours(1)..=Period::hours(365 * 24),
    );
    check.range("message_limits.queued_messages", limits.queued_messages, 1..=1_000_000);
    check.range("message_limits.buffered_bytes", limits.buffered_bytes, 1_048_576..=1_073_741_824);
}

#[cfg(test)]
mod tests {
    use super::super::problems;
    use crate::config::{Config, values::Listen};

    fn keys(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        config.messages.listen = Listen::At(([127, 0, 0, 1], 1883).into());
        config.messages.anonymous = true;
        change(&mut config);
        problems(&config).into_iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn a_guard_that_nobody_could_use_is_refused() {
        assert_eq!(keys(|_| {}), [""; 0]);
        assert_eq!(keys(|c| c.messages.anonymous = false), ["messages.passwords"]);
        let tls = |c: &mut Config| c.messages.listen_tls = Listen::At(([127, 0, 0, 1], 8883).into());
        assert_eq!(keys(tls), ["messages.certificate", "messages.key", "messages.client_ca"]);
        assert_eq!(keys(|c| c.messages.revoked = "/crl.pem".to_owned()), ["messages.revoked"]);
    }

    #[test]
    fn rules_and_brokers_are_checked() {
        assert_eq!(keys(|c| c.messages.rules[0].publish.push("a/#/b".to_owned())), ["messages.rules"]);
        assert_eq!(keys(|c| c.messages.rules[0].who = "a/b".to_owned()), ["messages.rules"]);
        assert_eq!(keys(|c| c.messages.broker = "elsewhere".to_owned()), ["messages.broker"]);
        assert_eq!(keys(|c| c.messages.broker = "10.0.0.1:1883".to_owned()), [""; 0]);
        assert_eq!(keys(|c| c.message_limits.inflight = 0), ["message_limits.inflight"]);
    }
}
