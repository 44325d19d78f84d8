//! The keys of telemetry.

use super::Check;
use crate::{
    config::{Config, period::Period},
    messages::acl,
};

pub(super) fn check(check: &mut Check, config: &Config) {
    let telemetry = &config.telemetry;
    for filter in telemetry.topics.iter().filter(|filter| !acl::is_filter(filter)) {
        let hint = "write a topic filter such as devices/+/telemetry/#";
        check.refuse("telemetry.topics", format!("{filter:?}"), "not a topic filter", hint);
    }
    if !telemetry.topics.is_empty() && !config.messages.is_on() {
        let hint = "set messages.listen or messages.listen_tls, or name no topics";
        check.refuse("telemetry.topics", format!("{:?}", telemetry.topics), "no guard sees messages", hint);
    }
    let days = |days: u64| Period::hours(days * 24);
    check.range("telemetry.learning_period", telemetry.learning_period, Period::seconds(1)..=days(90));
    check.range("telemetry.learning_messages", telemetry.learning_messages, 50..=1_000_000);
    check.range("telemetry.relearn_after", telemetry.relearn_after, Period::minutes(1)..=days(365));
    check.range("telemetry.devices", telemetry.devices, 1..=65_536);
    check.range("telemetry.topics_per_device", telemetry.topics_per_device, 1..=256);
    check.range("telemetry.models", telemetry.models, 1..=65_536);
    check.range("telemetry.fields", telemetry.fields, 1..=64);
    check.range("telemetry.depth", telemetry.depth, 1..=16);
    check.range("telemetry.payload_bytes", telemetry.payload_bytes, 64..=262_144);
    check.range("telemetry.forward_every", telemetry.forward_every, Period::seconds(1)..=Period::hours(1));
    check.range("telemetry.forward_messages", telemetry.forward_messages, 0..=1_000);
}

#[cfg(test)]
mod tests {
    use super::super::problems;
    use crate::config::{Config, values::Listen};

    fn keys(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        problems(&config).into_iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn topics_need_a_guard_and_the_form_of_a_filter() {
        let named = |topic: &str| vec![topic.to_owned()];
        assert_eq!(keys(|c| c.telemetry.topics = named("d/+/t")), ["telemetry.topics"]);
        let guarded = |c: &mut Config, topic| {
            c.messages.listen = Listen::At(([127, 0, 0, 1], 1883).into());
            c.messages.anonymous = true;
            c.telemetry.topics = named(topic);
        };
        assert_eq!(keys(|c| guarded(c, "d/+/t/#")), [""; 0]);
        assert_eq!(keys(|c| guarded(c, "d/#/t")), ["telemetry.topics"]);
        assert_eq!(keys(|c| c.telemetry.fields = 65), ["telemetry.fields"]);
    }
}
