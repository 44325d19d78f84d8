//! The keys of commands.

use std::path::Path;

use super::Check;
use crate::{
    config::{
        Config,
        period::Period,
        values::{Doubtful, Listen},
    },
    messages::{acl, commands::Rule},
};

pub(super) fn check(check: &mut Check, config: &Config) {
    let commands = &config.commands;
    for topic in &commands.topics {
        let has_device = topic.split('/').any(|level| level == "+");
        if !acl::is_filter(topic) || !has_device {
            let hint = "write a topic filter such as cmd/+/#, whose first + stands for the device";
            check.refuse("commands.topics", format!("{topic:?}"), "no device can be told from it", hint);
        }
    }
    if !commands.keys.is_empty() {
        check.absolute("commands.keys", Path::new(&commands.keys));
    } else if !commands.topics.is_empty() && commands.unsigned == Doubtful::Refuse {
        let hint = "name a file of public keys, or set commands.unsigned to \"judge\"";
        check.refuse("commands.keys", "\"\"", "no command could pass without one", hint);
    }
    let has_guard = config.messages.listen != Listen::Off || config.messages.listen_tls != Listen::Off;
    if !commands.topics.is_empty() && !has_guard {
        let hint = "set messages.listen or messages.listen_tls";
        check.refuse("commands.topics", format!("{:?}", commands.topics), "the MQTT guard is off", hint);
    }
    check.range("commands.skew", commands.skew, Period::seconds(0)..=Period::minutes(5));
    check.range("commands.max_lifetime", commands.max_lifetime, Period::seconds(1)..=Period::hours(24));
    check.range("commands.hold_for", commands.hold_for, Period::seconds(10)..=Period::hours(24));
    check.range("commands.max_held", commands.max_held, 1..=1_000);
    check.range("commands.learn_after", commands.learn_after, 20..=256);
    check.range("commands.rate", commands.rate, 0.0001..=0.2);
    check.range("commands.max_devices", commands.max_devices, 1..=4_096);
    commands.rules.iter().for_each(|one| rule(check, one));
}

fn rule(check: &mut Check, rule: &Rule) {
    const KEY: &str = "commands.rules";
    for sender in rule.senders.iter().filter(|sender| !acl::is_sound_name(sender)) {
        let hint = "write identities of 1 to 128 characters without /, + and #";
        check.refuse(KEY, format!("{sender:?}"), "no client is called so", hint);
    }
    for key in &rule.keys {
        if key.len() != 16 || !key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            let hint = "write the sixteen digits that `tidegate commands keygen` shows";
            check.refuse(KEY, format!("{key:?}"), "no key is called so", hint);
        }
    }
    if let Some(most) = rule.per_minute {
        check.range("commands.rules.per_minute", most, 1..=1_000);
    }
    for (name, limit) in &rule.params {
        let is_finite = |bound: Option<f64>| bound.is_none_or(f64::is_finite);
        let is_range = match (limit.min, limit.max) {
            (Some(min), Some(max)) => min <= max,
            _ => true,
        };
        if !is_finite(limit.min) || !is_finite(limit.max) || !is_range {
            let found = format!("{name} = {:?} to {:?}", limit.min, limit.max);
            check.refuse(
                KEY,
                found,
                "no number is within",
                "write the least number as min, the greatest as max",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::problems;
    use crate::config::{
        Config,
        values::{Doubtful, Listen},
    };

    fn keys(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        config.messages.listen = Listen::At(([127, 0, 0, 1], 1883).into());
        config.messages.anonymous = true;
        config.commands.topics = vec!["cmd/+/#".to_owned()];
        config.commands.unsigned = Doubtful::Judge;
        change(&mut config);
        problems(&config).into_iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn commands_that_nobody_could_give_are_refused() {
        assert_eq!(keys(|_| {}), [""; 0]);
        assert_eq!(keys(|c| c.commands.unsigned = Doubtful::Refuse), ["commands.keys"]);
        assert_eq!(keys(|c| c.messages.listen = Listen::Off), ["commands.topics"]);
        for topic in ["cmd/lamp", "cmd/#/+", ""] {
            assert_eq!(keys(|c| c.commands.topics = vec![topic.to_owned()]), ["commands.topics"], "{topic}");
        }
        assert_eq!(keys(|c| c.commands.rate = f64::NAN), ["commands.rate"]);
    }

    #[test]
    fn rules_that_no_command_could_fit_are_refused() {
        let rule = |text: &str| toml::from_str(text).unwrap_or_default();
        let with = |text: &str| keys(|c| c.commands.rules.push(rule(text)));
        assert_eq!(with("params = { level = { min = 0, max = 80 } }\nhours = ['22:00-06:00']"), [""; 0]);
        assert_eq!(with("params = { level = { min = 1, max = 0 } }"), ["commands.rules"]);
        assert_eq!(with("keys = ['fleet']"), ["commands.rules"]);
        assert_eq!(with("senders = ['a/b']"), ["commands.rules"]);
        assert_eq!(with("per_minute = 0"), ["commands.rules.per_minute"]);
    }
}
