//! What the models make of simulated devices: nothing of weeks of ordinary ones, and each way of being odd within its time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::float_cmp,
    reason = "a failed step is the test's failure, and the figures are for whoever reads its output"
)]

use std::f64::consts::TAU;

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::{
    Anomalous, Learning, Settings, Shape, Sign,
    nursery::nursery,
    payload::Reading,
    spread::DAY_MS,
    topic::{Odd, Outcome, Topic},
};

const MINUTE_MS: u64 = 60_000;
/// Messages of a device that sends one a minute.
const A_DAY: u64 = DAY_MS / MINUTE_MS;

fn settings() -> Settings {
    Settings {
        topics: vec!["d/+/t".to_owned()],
        anomalous: Anomalous::Mark,
        learning: Learning { messages: 200, period_ms: DAY_MS },
        relearn_after: std::time::Duration::from_hours(24),
        devices: 4,
        topics_per_device: 4,
        models: 8,
        shape: Shape { bytes: 4_096, fields: 16, depth: 4 },
        forward_every: None,
        readings: 10,
    }
}

/// A device with its own noise and moods.
struct Device {
    random: Pcg64Mcg,
    minute: u64,
    weather: f64,
    walk: f64,
    is_on: bool,
    energy: f64,
}

impl Device {
    fn new(seed: u64) -> Self {
        let random = Pcg64Mcg::seed_from_u64(seed);
        Self { random, minute: 0, weather: 0.0, walk: 0.0, is_on: false, energy: 1_000.0 }
    }

    fn uniform(&mut self) -> f64 {
        (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn noise(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    /// Temperature with a daily cycle, weather and noise, humidity that goes against it, a switched load with its meter,
    /// wind with gusts, and a battery in whole percents.
    fn next(&mut self) -> Values {
        self.minute += 1;
        let hour = self.minute as f64 / 60.0;
        self.weather = 0.9995 * self.weather + 0.02 * self.noise();
        self.walk = 0.98 * self.walk + 0.2 * self.noise();
        let day = (TAU * hour / 24.0).sin();
        let temperature = 20.0 + 5.0 * day + 3.0 * self.weather + 0.15 * self.noise();
        let humidity = 55.0 - 10.0 * day - 5.0 * self.weather + 0.6 * self.noise();
        if self.uniform() < 0.03 {
            self.is_on = !self.is_on;
        }
        let power = if self.is_on { 1_500.0 + 20.0 * self.noise() } else { 3.0 + 0.2 * self.noise() };
        self.energy += power / 60.0;
        let wind = (4.0 + self.walk).max(0.0) * (1.0 - self.uniform().ln() * 0.2);
        let battery = (90.0 - hour / 40.0 + 0.3 * self.noise()).round();
        Values { temperature, humidity, power, energy: self.energy.round(), wind, battery }
    }
}

#[derive(Clone, Copy)]
struct Values {
    temperature: f64,
    humidity: f64,
    power: f64,
    energy: f64,
    wind: f64,
    battery: f64,
}

impl Values {
    fn json(&self) -> String {
        let Self { temperature, humidity, power, energy, wind, battery } = self;
        format!(
            r#"{{"t":{temperature:.2},"h":{humidity:.1},"load":{{"p":{power:.1},"e":{energy}}},"wind":{wind:.1},"battery":{battery},"fw":"1.2"}}"#
        )
    }
}

struct Bench {
    settings: Settings,
    topic: Topic,
    reading: Reading,
    now_ms: u64,
}

impl Bench {
    fn new() -> Self {
        let settings = settings();
        let reading = Reading::new(settings.shape);
        Self { settings, topic: Topic::default(), reading, now_ms: 1_700_000_000_000 }
    }

    fn say(&mut self, payload: &str) -> Outcome {
        self.now_ms += MINUTE_MS;
        let read = self.reading.read(payload.as_bytes()).map(|()| &self.reading);
        let outcome = self.topic.message(read, self.now_ms, &self.settings, None);
        if let Some(seed) = self.topic.seed(self.now_ms) {
            self.topic.put(seed.grow());
        }
        outcome
    }

    /// A bench that has learned `device` for a day and a bit.
    fn learned(device: &mut Device) -> Self {
        let mut bench = Self::new();
        for _ in 0..A_DAY + A_DAY / 4 {
            let outcome = bench.say(&device.next().json());
            assert!(matches!(outcome, Outcome::Learning | Outcome::Normal), "{outcome:?}");
        }
        assert!(bench.topic.is_ready());
        bench
    }
}

fn odd(outcome: Outcome) -> Option<Odd> {
    if let Outcome::Odd(odd) = outcome { Some(odd) } else { None }
}

#[test]
fn weeks_of_ordinary_devices_are_hardly_ever_odd() {
    let (mut messages, mut found) = (0_u32, Vec::new());
    for seed in 0..6 {
        let mut device = Device::new(seed);
        let mut bench = Bench::learned(&mut device);
        for minute in 0..14 * A_DAY {
            messages += 1;
            if let Some(odd) = odd(bench.say(&device.next().json())) {
                found.push((seed, minute, odd));
            }
        }
    }
    let rate = found.len() as f64 / f64::from(messages);
    println!("{} of {messages} messages ({rate:.1e})", found.len());
    for odd in found.iter().take(40) {
        println!("{odd:?}");
    }
    assert!(rate < 1e-4);
}

/// What the first odd one of `count` messages is found to be, and after how many; `change` gets each, its number, and the first.
fn first(seed: u64, count: usize, change: impl Fn(&mut Values, usize, Values)) -> Option<(Odd, usize)> {
    let mut device = Device::new(seed);
    let mut bench = Bench::learned(&mut device);
    let mut before = None;
    (0..count).find_map(|index| {
        let mut values = device.next();
        let before = *before.get_or_insert(values);
        change(&mut values, index, before);
        odd(bench.say(&values.json())).map(|odd| (odd, index + 1))
    })
}

#[test]
fn each_way_of_being_odd_is_found_and_named() {
    type Change = fn(&mut Values, usize, Values);
    let cases: [(&str, Sign, Option<&str>, usize, Change); 8] = [
        ("a forged temperature", Sign::Spike, Some("t"), 1, |v, _, _| v.temperature = 85.0),
        ("a number beyond all measure", Sign::Spike, Some("h"), 1, |v, _, _| v.humidity = 1e90),
        ("a jump of a meter", Sign::Spike, Some("load.e"), 1, |v, _, _| v.energy += 5_000.0),
        ("Fahrenheit", Sign::UnitJump, Some("t"), 1, |v, _, _| v.temperature = 1.8 * v.temperature + 32.0),
        ("milli", Sign::UnitJump, Some("t"), 1, |v, _, _| v.temperature *= 1_000.0),
        ("a jump within the range", Sign::Rate, Some("t"), 1, |v, _, _| {
            v.temperature = if v.temperature > 20.0 { v.temperature - 8.0 } else { v.temperature + 8.0 };
        }),
        ("a ramp", Sign::Rate, Some("t"), 60, |v, index, _| v.temperature += index as f64 * 0.25),
        ("a frozen sensor", Sign::Stuck, Some("t"), 60, |v, _, before| v.temperature = before.temperature),
    ];
    for (what, sign, field, within, change) in cases {
        for seed in 20..23 {
            let (odd, after) = first(seed, within, change).unwrap_or_else(|| panic!("{what} is not found"));
            println!("{what}: after {after}: {odd:?}");
            // Slow ones may leave the other fields behind before they are too fast.
            let is_named =
                odd.sign == Sign::Joint && after > 1 || (odd.sign, odd.field.as_deref()) == (sign, field);
            assert!(is_named, "{what}: {odd:?}");
        }
    }
}

/// A pump that takes the more power the more it delivers.
fn pump(device: &mut Device, flows: bool) -> String {
    device.walk = 0.97 * device.walk + 0.1 * device.noise();
    let flow = 5.0 + 4.5 * device.walk.tanh();
    let share = if flows { flow } else { 10.0 - flow };
    let power = 50.0 + 20.0 * share + 2.0 * device.noise();
    format!(r#"{{"flow":{flow:.2},"power":{power:.1}}}"#)
}

#[test]
fn fields_that_no_longer_fit_each_other_are_found_though_each_by_itself_is_ordinary() {
    for seed in 0..5 {
        let (mut device, mut bench) = (Device::new(seed), Bench::new());
        for _ in 0..3 * A_DAY {
            let outcome = bench.say(&pump(&mut device, true));
            assert!(!matches!(outcome, Outcome::Odd(_)), "{outcome:?}");
        }
        // It begins while both are where they may be either way.
        while device.walk.abs() > 0.05 {
            bench.say(&pump(&mut device, true));
        }
        let found =
            (1..600).find_map(|after| odd(bench.say(&pump(&mut device, false))).map(|odd| (after, odd)));
        let (after, odd) = found.expect("it is found");
        println!("after {after}: {odd:?}");
        assert_eq!(odd.sign, Sign::Joint, "{odd:?}");
    }
}

#[test]
fn changes_of_the_schema_are_told_once_at_growing_distances() {
    let mut device = Device::new(3);
    let mut bench = Bench::learned(&mut device);
    for (change, said) in [
        (r#""fw":"1.2""#, r#""fw":7"#),
        (r#""t":"#, r#""temp":"#),
        (r#""wind":"#, r#""wind":1,"wind":"#),
        ("}", "x"),
    ] {
        let text = device.next().json();
        let odd = odd(bench.say(&text.replace(change, said))).unwrap_or_else(|| panic!("{said}"));
        assert_eq!(odd.sign, Sign::Schema, "{odd:?}");
        (0..3).for_each(|_| assert_eq!(bench.say(&device.next().json()), Outcome::Normal));
    }
    let told = (0..64).filter(|_| {
        let text = device.next().json().replace("\"fw\"", "\"sw\"");
        odd(bench.say(&text)).is_some_and(|odd| odd.is_news)
    });
    assert!((7..=8).contains(&told.count()));
}

#[test]
fn what_lasts_is_learned_again_and_not_before() {
    let mut device = Device::new(4);
    let mut bench = Bench::learned(&mut device);
    let shifted = |device: &mut Device| {
        let mut values = device.next();
        values.temperature += 60.0;
        values.json()
    };
    for _ in 0..A_DAY {
        assert!(matches!(bench.say(&shifted(&mut device)), Outcome::Odd(_)));
    }
    assert_eq!(bench.say(&shifted(&mut device)), Outcome::Relearned);
    assert_eq!(bench.say(&shifted(&mut device)), Outcome::Learning);
}

#[test]
fn one_that_creeps_is_found_before_it_gets_far() {
    let creep = |v: &mut Values, index: usize, _: Values| v.temperature += index as f64 * 0.01;
    let (odd, after) = first(5, 5 * A_DAY as usize, creep).expect("it is found");
    println!("after {after}: {odd:?}");
    assert!(after < 3_000, "{after}");
}

#[test]
fn a_model_that_was_stored_judges_as_before() {
    let mut device = Device::new(6);
    let mut bench = Bench::learned(&mut device);
    let text = serde_json::to_string(&bench.topic).unwrap();
    println!("{} bytes stored", text.len());
    let stored: Topic = serde_json::from_str(&text).unwrap();
    bench.topic = stored.revive(bench.settings.shape.fields).expect("it is sound");
    bench.now_ms += 6 * 60 * MINUTE_MS;
    (0..6 * 60).for_each(|_| _ = device.next());
    for _ in 0..A_DAY {
        let outcome = bench.say(&device.next().json());
        assert!(matches!(outcome, Outcome::Normal), "{outcome:?}");
    }
    let mut values = device.next();
    values.temperature = 85.0;
    assert!(odd(bench.say(&values.json())).is_some());
    let unsound = text.replacen("\"mean\":", "\"mean\":-", 1);
    assert_ne!(unsound, text);
    assert!(serde_json::from_str::<Topic>(&unsound).unwrap().revive(16).is_none());
}

#[test]
fn a_model_that_grows_elsewhere_is_taken_up_when_it_is_ready_and_for_the_topic_it_is_of_alone() {
    let (mut nursery, grower) = nursery();
    let (mut device, mut bench) = (Device::new(7), Bench::new());
    let say = |bench: &mut Bench, payload: &str| {
        bench.now_ms += MINUTE_MS;
        let read = bench.reading.read(payload.as_bytes()).map(|()| &bench.reading);
        bench.topic.message(read, bench.now_ms, &bench.settings, None)
    };
    while !bench.topic.is_ready() {
        say(&mut bench, &pump(&mut device, true));
    }
    assert!(bench.topic.is_due());
    let mut forgotten = bench.topic.clone();
    assert!(nursery.tend("d/1/t", &mut bench.topic) && nursery.tend("d/2/t", &mut forgotten));
    assert!(!bench.topic.is_due(), "one request at a time");
    assert!(nursery.grown().is_none(), "nobody has grown anything");
    let thread = std::thread::spawn(move || grower.run());
    let mut grown = || {
        let wait = || std::thread::sleep(std::time::Duration::from_millis(1));
        std::iter::repeat_with(|| nursery.grown().or_else(|| (wait(), None).1)).flatten().next().unwrap()
    };
    let (first, second) = (grown(), grown());
    assert_eq!((&*first.0, &*second.0), ("d/1/t", "d/2/t"));
    // What was forgotten and learned anew meanwhile does not get the old model.
    forgotten = Topic::default();
    forgotten.put(second.1);
    assert!(!forgotten.has_forest() && !bench.topic.has_forest());
    bench.topic.put(first.1);
    assert!(bench.topic.has_forest());
    drop(nursery);
    thread.join().unwrap();
}

#[test]
fn requests_without_room_stay_due() {
    let (mut nursery, grower) = nursery();
    let mut device = Device::new(8);
    let mut bench = Bench::new();
    while !bench.topic.is_ready() {
        bench.now_ms += MINUTE_MS;
        let text = pump(&mut device, true);
        let read = bench.reading.read(text.as_bytes()).map(|()| &bench.reading);
        bench.topic.message(read, bench.now_ms, &bench.settings, None);
    }
    let mut topics: Vec<Topic> = (0..40).map(|_| bench.topic.clone()).collect();
    let taken = topics.iter_mut().map(|topic| nursery.tend("t", topic)).take_while(|room| *room).count();
    assert_eq!(taken, 16);
    assert_eq!(topics.iter().filter(|topic| topic.is_due()).count(), 40 - 16);
    drop(grower);
    assert!(!nursery.tend("t", &mut topics[20]) && topics[20].is_due());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_numbers_at_any_times_are_judged_without_a_panic(
        numbers in prop::collection::vec((any::<f64>(), -1e3..1e3_f64, any::<u32>(), any::<bool>()), 1..400),
    ) {
        let mut settings = settings();
        settings.learning = Learning { messages: 50, period_ms: 1 };
        let (mut topic, mut reading, mut now_ms) = (Topic::default(), Reading::new(settings.shape), 0_u64);
        for (wild, tame, step, is_back) in numbers {
            now_ms = if is_back { now_ms.saturating_sub(u64::from(step)) } else { now_ms + u64::from(step) };
            let text = format!("{{\"a\":\"{wild}\",\"b\":{tame},\"c\":{}}}", tame * tame);
            reading.read(text.as_bytes()).unwrap();
            let _ = topic.message(Ok(&reading), now_ms, &settings, None);
            let text = serde_json::to_string(&topic).unwrap();
            let stored: Topic = serde_json::from_str(&text).unwrap();
            prop_assert!(stored.revive(settings.shape.fields).is_some());
            if let Some(seed) = topic.seed(u64::from(step)) {
                topic.put(seed.grow());
            }
        }
    }
}
