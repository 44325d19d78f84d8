//! Who may publish to and subscribe to which topics: rules of the configuration, resolved for one client. Pure.
//!
//! A rule names topic filters of MQTT in which `%u` stands for the client's identity and `%c` for its client id. What no rule
//! grants is refused. Names that get into a filter hold no `/`, `+` or `#` and begin with no `$` ([`is_sound_name`]), so no
//! client can widen a rule by what it calls itself.

use serde::{Deserialize, Serialize};

/// Longest identity or client id, in bytes.
pub const MAX_NAME: usize = 128;

/// What one identity, or everybody, may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// Identity it is for; `*` for everybody.
    pub who: String,
    /// Filters of topics it may publish to.
    pub publish: Vec<String>,
    /// Filters of topics it may subscribe to.
    pub subscribe: Vec<String>,
}

/// What one client may do, with its names filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    publish: Vec<String>,
    subscribe: Vec<String>,
}

impl Grants {
    /// What `rules` grant to a client.
    pub fn of(rules: &[Rule], identity: &str, client_id: &str) -> Self {
        let fill = |filters: &[String]| -> Vec<String> {
            filters.iter().map(|filter| fill_in(filter, identity, client_id)).collect()
        };
        let mut grants = Self::default();
        for rule in rules.iter().filter(|rule| rule.who == "*" || rule.who == identity) {
            grants.publish.extend(fill(&rule.publish));
            grants.subscribe.extend(fill(&rule.subscribe));
        }
        grants
    }

    /// Whether it may publish to `topic`.
    pub fn may_publish(&self, topic: &str) -> bool {
        self.publish.iter().any(|filter| matches(filter, topic))
    }

    /// Whether it may be given messages of `topic`.
    pub fn may_receive(&self, topic: &str) -> bool {
        self.subscribe.iter().any(|filter| matches(filter, topic))
    }

    /// Whether it may subscribe to `filter`: every topic that the filter matches must be granted by one rule. A shared
    /// subscription is judged by the filter that is shared.
    pub fn may_subscribe(&self, filter: &str) -> bool {
        let Some(filter) = shared_filter(filter) else { return false };
        is_filter(filter) && self.subscribe.iter().any(|grant| covers(grant, filter))
    }
}

/// The filter within `$share/GROUP/FILTER`, or the filter itself; `None` for a share without group or filter.
fn shared_filter(filter: &str) -> Option<&str> {
    let Some(shared) = filter.strip_prefix("$share/") else {
        return (filter != "$share").then_some(filter);
    };
    let (group, inner) = shared.split_once('/')?;
    let sound = !group.is_empty() && !group.contains(['+', '#']) && !inner.is_empty();
    (sound && inner != "$share" && !inner.starts_with("$share/")).then_some(inner)
}

/// Replaces `%u` and `%c` in one pass: what is filled in is not looked at again.
fn fill_in(filter: &str, identity: &str, client_id: &str) -> String {
    let mut filled = String::with_capacity(filter.len() + identity.len());
    let mut rest = filter;
    while let Some(at) = rest.find('%') {
        let (before, after) = rest.split_at(at);
        filled.push_str(before);
        if let Some(after) = after.strip_prefix("%u") {
            filled.push_str(identity);
            rest = after;
        } else if let Some(after) = after.strip_prefix("%c") {
            filled.push_str(client_id);
            rest = after;
        } else {
            filled.push('%');
            rest = &after[1..];
        }
    }
    filled + rest
}

/// Whether `name` may stand for a client in filters and in the broker's client ids.
pub fn is_sound_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.starts_with('$')
        && !name.chars().any(|c| matches!(c, '/' | '+' | '#') || c.is_control())
}

/// Whether a message may be published to `topic` at all: no wildcards, no NUL, not empty.
pub fn is_topic(topic: &str) -> bool {
    !topic.is_empty() && !topic.bytes().any(|byte| matches!(byte, b'+' | b'#' | 0))
}

/// Whether `filter` is a topic filter: wildcards fill whole levels, `#` only the last one.
pub fn is_filter(filter: &str) -> bool {
    !filter.is_empty()
        && !filter.contains('\0')
        && filter.rsplit('/').enumerate().all(|(from_end, level)| match level {
            "#" => from_end == 0,
            "+" => true,
            level => !level.contains(['+', '#']),
        })
}

/// Whether `topic` is one of the topics that `filter` stands for. A wildcard in the first level stands for no topic that
/// begins with `$`, and `a/#` stands for `a` too (MQTT 5, 4.7).
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topics = topic.split('/');
    for level in filter.split('/') {
        match (level, topics.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(found)) if level == found => {}
            _ => return false,
        }
    }
    topics.next().is_none()
}

/// Whether every topic that `filter` stands for is one that `grant` stands for.
pub fn covers(grant: &str, filter: &str) -> bool {
    if filter.starts_with('$') && grant.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = filter.split('/');
    for granted in grant.split('/') {
        match (granted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(level)) if level != "#" => {}
            (granted, Some(level)) if granted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(who: &str, publish: &[&str], subscribe: &[&str]) -> Rule {
        let owned = |filters: &[&str]| filters.iter().map(|&filter| filter.to_owned()).collect();
        Rule { who: who.to_owned(), publish: owned(publish), subscribe: owned(subscribe) }
    }

    #[test]
    fn a_client_may_do_what_a_rule_for_it_or_for_all_grants() {
        let rules = [
            rule("*", &["devices/%u/#"], &["devices/%u/#", "news/+"]),
            rule("pump", &["valve/%c/set"], &["$SYS/broker/uptime"]),
        ];
        let lamp = Grants::of(&rules, "lamp", "lamp-1");
        assert!(lamp.may_publish("devices/lamp/on"));
        assert!(!lamp.may_publish("devices/pump/on") && !lamp.may_publish("valve/lamp-1/set"));
        assert!(lamp.may_subscribe("devices/lamp/+/x") && lamp.may_subscribe("news/+"));
        for filter in ["#", "+/lamp/#", "devices/+/on", "$SYS/#", "news/#", "devices/#", "", "a/#/b"] {
            assert!(!lamp.may_subscribe(filter), "{filter}");
        }
        let pump = Grants::of(&rules, "pump", "p");
        assert!(pump.may_publish("valve/p/set") && pump.may_subscribe("$SYS/broker/uptime"));
    }

    #[test]
    fn a_shared_subscription_is_judged_by_what_is_shared() {
        let grants = Grants::of(&[rule("*", &[], &["a/#"])], "x", "x");
        assert!(grants.may_subscribe("$share/group/a/b"));
        for filter in ["$share/group/b", "$share/a/#", "$share//a/b", "$share/+/a/b", "$share", "$share/g"] {
            assert!(!grants.may_subscribe(filter), "{filter}");
        }
    }

    #[test]
    fn everything_granted_is_still_not_the_brokers_own_topics() {
        let grants = Grants::of(&[rule("*", &["#"], &["#"])], "x", "x");
        assert!(grants.may_subscribe("#") && grants.may_publish("any/thing"));
        assert!(!grants.may_subscribe("$SYS/#") && !grants.may_publish("$SYS/broker"));
    }

    #[test]
    fn no_name_widens_a_rule() {
        for name in ["", "a/b", "+", "#", "a#", "$SYS", "a\0", "a\n", &"x".repeat(129)] {
            assert!(!is_sound_name(name), "{name:?}");
        }
        assert!(is_sound_name("camera-1.example") && is_sound_name("%u"));
        let grants = Grants::of(&[rule("*", &["%u/%c"], &[])], "%c", "id");
        assert!(grants.may_publish("%c/id") && !grants.may_publish("id/id"));
    }

    fn topic() -> impl Strategy<Value = String> {
        proptest::collection::vec(prop_oneof!["[ab]{0,1}", Just("$x".to_owned())], 1..5)
            .prop_map(|levels| levels.join("/"))
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![3 => "[ab]{0,1}", 1 => Just("+".to_owned()), 1 => Just("$x".to_owned())];
        (proptest::collection::vec(level, 0..4), any::<bool>()).prop_map(|(mut levels, rest)| {
            if rest || levels.is_empty() {
                levels.push("#".to_owned());
            }
            levels.join("/")
        })
    }

    proptest! {
        #[test]
        fn what_a_covered_filter_matches_the_grant_matches(grant in filter(), asked in filter(), topic in topic()) {
            if covers(&grant, &asked) && matches(&asked, &topic) {
                prop_assert!(matches(&grant, &topic));
            }
            prop_assert!(covers(&asked, &asked));
        }

        #[test]
        fn a_topic_as_a_filter_is_covered_exactly_when_it_matches(grant in filter(), topic in topic()) {
            prop_assume!(is_topic(&topic));
            prop_assert_eq!(covers(&grant, &topic), matches(&grant, &topic));
            prop_assert!(matches(&topic, &topic));
        }

        #[test]
        fn any_text_is_judged_without_a_panic(grant in ".{0,30}", asked in ".{0,30}", name in ".{0,10}") {
            let grants = Grants::of(&[rule("*", &[&grant], &[&grant])], &name, &name);
            let _ = (grants.may_publish(&asked), grants.may_subscribe(&asked), grants.may_receive(&asked));
            let _ = (is_filter(&asked), is_topic(&asked), is_sound_name(&asked));
        }
    }
}
