//! What is like the commands before passes, what is not is told apart and explained.

#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::*;
use crate::messages::commands::body::Value;

const RATE: f64 = 0.01;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn body(verb: &str, params: &str) -> Body {
    Body::new(verb.to_owned(), &serde_json::from_str::<Value>(params).unwrap()).unwrap()
}

/// The `number`th command of a hub that sets a lamp and asks for its state in turns, about every ten minutes.
fn normal(number: i64, random: &mut Pcg64Mcg) -> (Body, Timestamp) {
    let mut up_to = |most: u64| (random.next_u64() % most) as i64;
    let body = if number % 2 == 0 {
        let mode = if up_to(2) == 0 { "eco" } else { "day" };
        body("set", &format!(r#"{{"level": {}, "mode": "{mode}"}}"#, 20 + up_to(60)))
    } else {
        body("get", "{}")
    };
    (body, at(number * 600 + up_to(60)))
}

fn history(count: i64) -> (Vec<Fact>, Pcg64Mcg) {
    let mut random = Pcg64Mcg::seed_from_u64(7);
    let facts = (0..count)
        .map(|number| {
            let (body, at) = normal(number, &mut random);
            Fact::of(&body, "hub", 60, at)
        })
        .collect();
    (facts, random)
}

fn opinion(habit: &Habit, history: &[Fact], body: &Body, sender: &str, at: Timestamp) -> Opinion {
    let fact = Fact::of(body, sender, 60, at);
    habit.judge((&fact, body, sender), history.iter(), RATE)
}

#[test]
fn normal_commands_pass_but_for_the_rate_asked() {
    let (mut facts, mut random) = history(240);
    let habit = Habit::learn(&facts).unwrap();
    let mut unusual = 0;
    for number in 240..740 {
        let (body, at) = normal(number, &mut random);
        unusual += i32::from(opinion(&habit, &facts, &body, "hub", at).is_unusual);
        facts.push(Fact::of(&body, "hub", 60, at));
    }
    assert!(unusual <= 15, "{unusual} of 500");
}

#[test]
fn what_was_never_seen_is_unusual_and_told() {
    let (facts, _) = history(200);
    let habit = Habit::learn(&facts).unwrap();
    let set = |params: &str| body("set", params);
    for (body, sender, by_parameter, word) in [
        (body("erase", "{}"), "hub", false, "never told to \"erase\""),
        (body("get", "{}"), "camera", false, "\"camera\" never sent"),
        (set(r#"{"level": 4000, "mode": "eco"}"#), "hub", true, "level was never anything like 4000"),
        (set(r#"{"level": 40, "force": 1}"#), "hub", true, "never had a parameter \"force\""),
    ] {
        let opinion = opinion(&habit, &facts, &body, sender, at(200 * 600));
        assert!(opinion.is_unusual, "{body:?}: {opinion:?}");
        assert_eq!(opinion.by_parameter, by_parameter, "{body:?}");
        assert!(opinion.novelties.iter().any(|told| told.contains(word)), "{opinion:?}");
    }
}

#[test]
fn a_pause_or_a_busy_machine_makes_no_command_unusual() {
    // All within a moment, as a machine with nothing else to do delivers them.
    let started = at(0);
    let set = |number: i64| body("set", &format!(r#"{{"level": {}}}"#, number % 10));
    let later = |ms: i64| started + SignedDuration::from_millis(ms);
    let facts: Vec<Fact> = (0..31).map(|number| Fact::of(&set(number), "hub", 60, later(number))).collect();
    let habit = Habit::learn(&facts).unwrap();
    for after_ms in [40, 700, 5_000, 3 * 60_000, 30 * 3_600_000] {
        let opinion = opinion(&habit, &facts, &set(5), "hub", later(30 + after_ms));
        assert!(!opinion.is_unusual, "{after_ms} ms later: {opinion:?}");
    }
}

#[test]
fn commands_faster_than_ever_are_unusual() {
    let (mut facts, mut random) = history(240);
    let habit = Habit::learn(&facts).unwrap();
    let mut unusual = 0;
    for number in 0..60 {
        let (body, _) = normal(240 + number, &mut random);
        let now = at(240 * 600 + number / 10);
        unusual += i32::from(opinion(&habit, &facts, &body, "hub", now).is_unusual);
        facts.push(Fact::of(&body, "hub", 60, now));
    }
    assert!(unusual >= 40, "{unusual} of 60");
}

#[test]
fn a_device_that_is_always_told_something_new_is_not_held_for_it() {
    let facts: Vec<Fact> = (0..200)
        .map(|number| {
            let body = body("print", &format!(r#"{{"text": "page {number}"}}"#));
            Fact::of(&body, "hub", 60, at(number * 600))
        })
        .collect();
    let habit = Habit::learn(&facts).unwrap();
    let next = opinion(&habit, &facts, &body("print", r#"{"text": "page 200"}"#), "hub", at(200 * 600));
    assert!(!next.is_unusual, "{next:?}");
}

#[test]
fn histories_outlive_being_written_down() {
    let (facts, _) = history(50);
    let text = serde_json::to_string(&facts).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Fact>>(&text).unwrap(), facts);
    assert!(Habit::learn(&[]).is_none());
    assert!(Habit::learn(&facts[..1]).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_numbers_and_words_are_judged_without_a_panic(
        numbers in prop::collection::vec((any::<f64>(), ".{0,4}", -1_000_000_i64..1_000_000), 1..60),
    ) {
        let facts: Vec<(Body, Fact)> = numbers
            .iter()
            .map(|(number, word, second)| {
                let params = Value::Map(
                    [("n".to_owned(), Value::Number(*number)), (word.clone(), Value::Text(word.clone()))].into(),
                );
                let body = Body::new(format!("v{word}"), &params).unwrap();
                let fact = Fact::of(&body, word, 10, at(*second));
                (body, fact)
            })
            .collect();
        let history: Vec<Fact> = facts.iter().map(|(_, fact)| fact.clone()).collect();
        let habit = Habit::learn(&history).unwrap();
        for (body, fact) in &facts {
            let opinion = habit.judge((fact, body, "x"), history.iter(), RATE);
            prop_assert!(opinion.p_value > 0.0 && opinion.p_value <= 1.0);
        }
    }
}
