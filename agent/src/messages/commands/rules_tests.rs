//! Each limit of a rule by itself, and that the nearest rule's word is told.

#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use proptest::prelude::*;

use super::*;
use crate::messages::commands::body::Value;

const RULES: &str = r#"
[[rules]]
device = "pump-*"
senders = ["hub"]
verbs = ["set", "get*"]
params = { level = { min = 0, max = 80 }, mode = { values = ["eco", 2, true] } }
hours = ["06:00-22:00"]
per_minute = 3

[[rules]]
device = "door"
verbs = ["open"]
hours = ["22:00-06:00", "12:00-13:00"]
keys = ["0101010101010101"]
"#;

#[derive(Deserialize)]
struct File {
    rules: Vec<Rule>,
}

struct Case<'a> {
    device: &'a str,
    sender: &'a str,
    key: Option<KeyId>,
    verb: &'a str,
    params: &'a str,
    minute: u16,
    given: u32,
}

impl Default for Case<'_> {
    fn default() -> Self {
        Self { device: "pump-1", sender: "hub", key: None, verb: "set", params: "{}", minute: 600, given: 0 }
    }
}

fn word(case: &Case<'_>) -> Option<Reason> {
    let rules = toml::from_str::<File>(RULES).unwrap().rules;
    let params: Value = serde_json::from_str(case.params).unwrap();
    let body = Body::new(case.verb.to_owned(), &params).unwrap();
    let Case { device, sender, key, minute, .. } = *case;
    let clock = WallClock::default();
    let asked = Asked { device, sender, key, body: &body, minute, clock: &clock };
    judge(&rules, &asked, |_| case.given).err().map(|(reason, _)| reason)
}

#[test]
fn a_command_fits_one_rule_wholly_or_is_refused_for_what_it_breaks() {
    let door =
        || Case { device: "door", verb: "open", key: Some(KeyId([1; 8])), minute: 0, ..Case::default() };
    for (case, expected) in [
        (Case::default(), None),
        (Case { verb: "get-state", ..Case::default() }, None),
        (Case { params: r#"{"level": 80, "mode": "eco"}"#, ..Case::default() }, None),
        (Case { params: r#"{"mode": 2}"#, ..Case::default() }, None),
        (Case { params: r#"{"mode": true}"#, ..Case::default() }, None),
        (Case { params: r#"{"level": 80.5}"#, ..Case::default() }, Some(Reason::CommandParameter)),
        (Case { params: r#"{"level": -1}"#, ..Case::default() }, Some(Reason::CommandParameter)),
        (Case { params: r#"{"level": "80"}"#, ..Case::default() }, Some(Reason::CommandParameter)),
        (Case { params: r#"{"mode": "boost"}"#, ..Case::default() }, Some(Reason::CommandParameter)),
        (Case { params: r#"{"force": 1}"#, ..Case::default() }, Some(Reason::CommandParameter)),
        (Case { verb: "erase", ..Case::default() }, Some(Reason::CommandVerb)),
        (Case { device: "lamp", ..Case::default() }, Some(Reason::CommandVerb)),
        (Case { sender: "camera", ..Case::default() }, Some(Reason::CommandSender)),
        (Case { minute: 359, ..Case::default() }, Some(Reason::CommandHours)),
        (Case { minute: 1_320, ..Case::default() }, Some(Reason::CommandHours)),
        (Case { given: 2, ..Case::default() }, None),
        (Case { given: 3, ..Case::default() }, Some(Reason::CommandRate)),
        (door(), None),
        (Case { minute: 1_330, ..door() }, None),
        (Case { minute: 730, ..door() }, None),
        (Case { minute: 700, ..door() }, Some(Reason::CommandHours)),
        (Case { key: None, ..door() }, Some(Reason::CommandSender)),
        (Case { key: Some(KeyId([2; 8])), ..door() }, Some(Reason::CommandSender)),
    ] {
        let Case { device, verb, params, minute, .. } = case;
        assert_eq!(word(&case), expected, "{device} {verb} {params} at {minute}");
    }
}

#[test]
fn without_rules_everything_is_allowed() {
    let body = Body::new("erase".to_owned(), &Value::Nothing).unwrap();
    let clock = WallClock::default();
    let asked = Asked { device: "x", sender: "y", key: None, body: &body, minute: 0, clock: &clock };
    assert_eq!(judge(&[], &asked, |_| 0), Ok(None));
}

#[test]
fn hours_are_read_and_written() {
    for text in ["06:00-22:00", "22:30-06:00", "00:00-24:00"] {
        assert_eq!(text.parse::<Hours>().unwrap().to_string(), text);
    }
    for text in ["", "6:00-22:00", "06:00", "06:60-07:00", "24:01-25:00", "06:00-07:00-08:00", "+6:00-07:00"]
    {
        assert!(text.parse::<Hours>().is_err(), "{text}");
    }
    assert!("00:00-24:00".parse::<Hours>().unwrap().contains(1_439));
}

proptest! {
    #[test]
    fn a_star_stands_for_any_characters(
        before in "[a-c]{0,4}", middle in "[a-c*]{0,4}", after in "[a-c]{0,4}", text in "[a-c]{0,8}",
    ) {
        let literal = format!("{before}{after}");
        prop_assert!(fits(&literal, &literal));
        let starred = format!("{before}*{after}");
        let filled = format!("{before}{text}{after}");
        prop_assert!(fits(&starred, &filled));
        // No pattern and no text make it panic.
        let _ = fits(&middle, &text);
        prop_assert!(fits("*", &text));
        prop_assert_eq!(fits(&text, &filled), text == filled);
    }

    #[test]
    fn any_text_is_read_as_hours_without_a_panic(text in ".{0,16}") {
        let _ = text.parse::<Hours>();
    }
}
