//! One test a bad command: refused, for the reason named, told where it should be, and nothing goes on.

#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::{
    messages::{
        codec::Version,
        commands::{Allowed, Changes, Command, Limit, MAX_BYTES, Rule, WallClock, seal},
    },
    policy::SigningKey,
};

const DAY: i64 = 86_400;

fn at(second: i64) -> Timestamp {
    // Midnight.
    Timestamp::from_second(1_800_057_600 + second).unwrap()
}

struct World {
    desk: Desk,
    key: SigningKey,
    settings: Settings,
    nonces: u32,
}

impl World {
    fn new() -> Self {
        let key = SigningKey::parse(SigningKey::generate().unwrap().as_bytes()).unwrap();
        let settings = Settings {
            topics: vec!["cmd/+/#".to_owned()],
            allow_unsigned: false,
            allow_unknown: false,
            hold: true,
            verb_keys: vec!["verb".to_owned()],
            skew: SignedDuration::from_secs(30),
            life: SignedDuration::from_mins(10),
            hold_for: SignedDuration::from_mins(15),
            held: 2,
            learn_after: 100,
            rate: 0.01,
            devices: 4,
            clock: WallClock::default(),
            rules: Vec::new(),
        };
        let world = Self { desk: Desk::default(), key, settings, nonces: 0 };
        world.desk.trust(Some(TrustAnchors::parse(world.key.public_pem().as_bytes()).unwrap()));
        world.set(|_| {})
    }

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self.desk.configure(&Arc::new(self.settings.clone()));
        self
    }

    /// A command to `device`, signed at `now`.
    fn command(&mut self, device: &str, now: i64) -> Command {
        self.nonces += 1;
        Command {
            id: format!("order-{}", self.nonces),
            device: device.to_owned(),
            issued: at(now),
            expires: at(now + 60),
            nonce: format!("{:016}", self.nonces),
            verb: "set".to_owned(),
            params: serde_json::from_str(r#"{"level": 40}"#).unwrap(),
        }
    }

    fn signed(&mut self, now: i64) -> Vec<u8> {
        let command = self.command("lamp", now);
        self.seal(&command)
    }

    fn seal(&self, command: &Command) -> Vec<u8> {
        seal(command, &self.key).unwrap()
    }

    fn judge(&self, topic: &str, payload: &[u8], now: i64) -> Option<(Verdict, Option<Box<Notice>>)> {
        let incoming = Incoming {
            topic,
            payload,
            retain: false,
            packet: payload,
            version: Version::V4,
            sender: "hub",
            source: [192, 0, 2, 1].into(),
        };
        self.desk.judge(&incoming, at(now))
    }

    fn passes(&self, payload: &[u8], now: i64) {
        let before = self.desk.tally().passed;
        assert_eq!(self.judge("cmd/lamp/set", payload, now), Some((Verdict::Pass, None)));
        assert_eq!(self.desk.tally().passed, before + 1);
    }

    /// `payload` does not pass, for `reason`, in words that hold `word`; nothing is learned of it.
    fn refuses(&self, payload: &[u8], now: i64, reason: Reason, word: &str) {
        self.refuses_on("cmd/lamp/set", payload, now, reason, word);
    }

    fn refuses_on(&self, topic: &str, payload: &[u8], now: i64, reason: Reason, word: &str) {
        let before = self.desk.tally();
        let (verdict, notice) = self.judge(topic, payload, now).unwrap();
        assert_eq!(verdict, Verdict::Refuse(reason));
        if let Some(notice) = notice {
            assert_eq!((notice.reason, notice.held), (reason, None));
            assert!(notice.why.contains(word), "{word} in {}", notice.why);
        }
        let after = self.desk.tally();
        assert_eq!((before.passed, before.held), (after.passed, after.held));
    }
}

#[test]
fn other_topics_are_no_commands() {
    let world = World::new();
    assert_eq!(world.judge("news/today", b"rain", 0), None);
    assert_eq!(world.judge("cmd", b"rain", 0), None);
    assert!(world.desk.is_command("cmd/lamp") && !world.desk.is_command("news"));
    let world = world.set(|settings| settings.topics.clear());
    assert_eq!(world.judge("cmd/lamp/set", b"rain", 0), None);
}

#[test]
fn a_signed_command_passes_once() {
    let mut world = World::new();
    let sealed = world.signed(0);
    world.passes(&sealed, 1);
    world.refuses(&sealed, 2, Reason::CommandReplayed, "seen before");
    // Another envelope with the same nonce is the same command.
    let mut again = world.command("lamp", 3);
    again.nonce = format!("{:016}", 1);
    let again = world.seal(&again);
    world.refuses(&again, 4, Reason::CommandReplayed, "seen before");
}

#[test]
fn an_unsigned_command_is_refused() {
    let world = World::new();
    world.refuses(br#"{"verb":"set"}"#, 0, Reason::CommandUnsigned, "not signed");
}

#[test]
fn a_strangers_command_is_refused() {
    let (mut world, stranger) = (World::new(), World::new());
    let command = world.command("lamp", 0);
    world.refuses(&stranger.seal(&command), 0, Reason::CommandKey, "none of the trust anchors");
    world.desk.trust(None);
    world.refuses(&world.seal(&command), 0, Reason::CommandKey, "no trusted key");
}

#[test]
fn a_truncated_command_is_refused() {
    let mut world = World::new();
    let sealed = world.signed(0);
    for length in 1..sealed.len() {
        world.refuses(&sealed[..length], 0, Reason::CommandFormat, "");
    }
    world.passes(&sealed, 0);
}

#[test]
fn a_command_for_another_device_is_refused() {
    let mut world = World::new();
    let pump = world.command("pump", 0);
    let sealed = world.seal(&pump);
    world.refuses(&sealed, 0, Reason::CommandDevice, "\"pump\"");
    assert_eq!(world.judge("cmd/pump/set", &sealed, 0), Some((Verdict::Pass, None)));
}

#[test]
fn an_expired_command_is_refused() {
    let mut world = World::new();
    let sealed = world.signed(0);
    world.refuses(&sealed, 60, Reason::CommandExpired, "valid until");
    world.passes(&sealed, 59);
}

#[test]
fn a_clock_that_is_off_by_a_day_refuses_and_by_seconds_does_not() {
    let mut world = World::new();
    let sealed = world.signed(0);
    world.refuses(&sealed, -DAY, Reason::CommandEarly, "issued at");
    world.refuses(&sealed, DAY, Reason::CommandExpired, "valid until");
    world.refuses(&sealed, -31, Reason::CommandEarly, "issued at");
    world.passes(&sealed, -30);
}

#[test]
fn a_command_that_is_valid_for_long_is_refused() {
    let mut world = World::new();
    let mut long = world.command("lamp", 0);
    long.expires = at(601);
    let sealed = world.seal(&long);
    world.refuses(&sealed, 0, Reason::CommandLifetime, "max_lifetime");
}

#[test]
fn a_retained_command_is_refused() {
    let mut world = World::new();
    let payload = world.signed(0);
    let incoming = Incoming {
        topic: "cmd/lamp/set",
        payload: &payload,
        retain: true,
        packet: &payload,
        version: Version::V5,
        sender: "hub",
        source: [192, 0, 2, 1].into(),
    };
    let (verdict, _) = world.desk.judge(&incoming, at(0)).unwrap();
    assert_eq!(verdict, Verdict::Refuse(Reason::CommandRetained));
}

#[test]
fn after_an_unclean_end_what_may_have_been_seen_is_refused() {
    let mut world = World::new();
    let (before, after) = (world.signed(0), world.signed(40));
    world.desk.restore(Window::default(), Some(at(40)), Vec::new(), Vec::new());
    world.refuses(&before, 41, Reason::CommandReplayed, "sign it anew");
    world.passes(&after, 41);
}

#[test]
fn what_could_not_be_known_of_after_a_restart_is_refused() {
    let mut world = World::new();
    let sealed = world.signed(0);
    world.desk.record_until(at(10));
    world.refuses(&sealed, 11, Reason::CommandRoom, "");
    world.desk.record_until(at(40));
    world.passes(&sealed, 11);
}

#[test]
fn rules_bound_parameters_hours_and_rates() {
    let limit = Limit { max: Some(50.0), values: vec![Allowed::Number(40.0)], ..Limit::default() };
    let rule = Rule {
        device: "la*".to_owned(),
        verbs: vec!["set".to_owned()],
        params: [("level".to_owned(), limit)].into(),
        hours: vec!["06:00-22:00".parse().unwrap()],
        per_minute: Some(2),
        ..Rule::default()
    };
    let mut world = World::new().set(|settings| settings.rules.push(rule));
    let noon = 12 * 3_600;
    let mut high = world.command("lamp", noon);
    high.params = serde_json::from_str(r#"{"level": 51}"#).unwrap();
    let sealed = world.seal(&high);
    let (_, notice) = world.judge("cmd/lamp/set", &sealed, noon).unwrap();
    assert_eq!(notice.unwrap().technique, Technique::MODIFIED_PARAMETER);
    world.refuses(&sealed, noon, Reason::CommandParameter, "level = 51");
    high.verb = "erase".to_owned();
    let sealed = world.seal(&high);
    world.refuses(&sealed, noon, Reason::CommandVerb, "erase");
    let night = world.signed(0);
    world.refuses(&night, 0, Reason::CommandHours, "00:00 (UTC)");
    for second in [0, 1] {
        let sealed = world.signed(noon + second);
        world.passes(&sealed, noon + second);
    }
    let third = world.signed(noon + 2);
    world.refuses(&third, noon + 2, Reason::CommandRate, "2 such commands");
    world.passes(&third, noon + 61);
}

#[test]
fn unsigned_commands_are_judged_when_asked() {
    let world = World::new().set(|settings| settings.allow_unsigned = true);
    world.passes(br#"{"verb":"set","level":4}"#, 0);
    world.refuses(b"ON", 0, Reason::CommandFormat, "");
    world.refuses(&vec![b' '; MAX_BYTES + 1], 0, Reason::CommandFormat, "");
    let world = world.set(|settings| settings.allow_unknown = true);
    world.passes(b"ON", 0);
    world.passes(&[0xff, 0xfe], 0);
}

#[test]
fn more_devices_than_are_remembered_are_refused() {
    let world = World::new().set(|settings| settings.allow_unsigned = true);
    for number in 0..4 {
        let topic = format!("cmd/d{number}/set");
        assert_eq!(world.judge(&topic, b"1", 0), Some((Verdict::Pass, None)));
    }
    world.refuses_on("cmd/d4/set", b"1", 1, Reason::CommandRoom, "");
    // One that nothing is known of makes room once it was silent.
    assert_eq!(world.judge("cmd/d4/set", b"1", 61), Some((Verdict::Pass, None)));
}

/// A world in which `lamp` was given a hundred commands and its habit is known.
fn known() -> World {
    let world = World::new().set(|settings| settings.allow_unsigned = true);
    for number in 0..100 {
        world.passes(format!(r#"{{"verb":"set","level":{}}}"#, 20 + number % 30).as_bytes(), number * 600);
    }
    learn(&world);
    assert_eq!(world.desk.tally().known, 1);
    world
}

fn learn(world: &World) {
    for (device, history) in world.desk.tick(at(0)).due {
        world.desk.learned(&device, Habit::learn(&history).unwrap());
    }
}

#[test]
fn an_unusual_command_is_held_until_it_is_released_and_is_normal_then() {
    let (world, now) = (known(), 100 * 600);
    let erase = br#"{"verb":"erase"}"#;
    let (verdict, notice) = world.judge("cmd/lamp/set", erase, now).unwrap();
    let Verdict::Hold(id) = verdict else { panic!("{verdict:?}") };
    let notice = notice.unwrap();
    assert_eq!((notice.reason, notice.held), (Reason::CommandHeld, Some(id)));
    assert_eq!(notice.technique, Technique::FOREIGN_COMMAND);
    assert!(notice.why.contains("never told to \"erase\"") && !notice.notes.is_empty(), "{notice:?}");
    let held = world.desk.held(|id, held| (id, held.packet.clone(), held.until));
    assert_eq!(held, [(id, erase.to_vec(), at(now + 900))]);
    assert_eq!(world.desk.next_released(), None);

    assert_eq!(world.desk.release(id).unwrap().verb, "erase");
    assert_eq!(world.desk.release(id), None);
    let (released, held) = world.desk.next_released().unwrap();
    assert_eq!((released, &held.packet[..]), (id, &erase[..]));
    learn(&world);
    world.passes(erase, now + 600);
    // A broker that is away: it waits again.
    world.desk.put_back(id, held);
    assert!(world.desk.drop_held(id).is_some() && world.desk.drop_held(id).is_none());
    let tally = world.desk.tally();
    assert_eq!((tally.held, tally.released, tally.dropped, tally.waiting), (1, 0, 1, 0));
}

#[test]
fn an_unusual_parameter_is_refused_when_asked_and_named() {
    let world = known().set(|settings| settings.hold = false);
    let (verdict, notice) = world.judge("cmd/lamp/set", br#"{"verb":"set","level":9000}"#, 60_000).unwrap();
    assert_eq!(verdict, Verdict::Refuse(Reason::CommandUnusual));
    let notice = notice.unwrap();
    assert_eq!(notice.technique, Technique::MODIFIED_PARAMETER);
    assert!(notice.why.contains("level was never anything like 9000"), "{}", notice.why);
}

#[test]
fn held_commands_are_bounded_expire_and_are_seen() {
    let (mut world, now) = (known(), 100 * 600);
    let mut command = world.command("lamp", now);
    command.verb = "erase".to_owned();
    let sealed = world.seal(&command);
    assert!(matches!(world.judge("cmd/lamp/set", &sealed, now).unwrap().0, Verdict::Hold(_)));
    world.refuses(&sealed, now, Reason::CommandReplayed, "seen before");
    assert!(matches!(world.judge("cmd/lamp/set", br#"{"verb":"a"}"#, now).unwrap().0, Verdict::Hold(_)));
    world.refuses(br#"{"verb":"b"}"#, now, Reason::CommandUnusual, "no room");
    // A signed one waits no longer than it is valid.
    let verbs = |second| -> Vec<String> {
        world.desk.tick(at(second)).expired.into_iter().map(|(_, held)| held.verb).collect()
    };
    assert_eq!(verbs(now + 59), [""; 0]);
    assert_eq!(verbs(now + 60), ["erase"]);
    assert_eq!(verbs(now + 900), ["a"]);
    assert_eq!(world.desk.tally().expired, 2);
}

#[test]
fn a_habit_outlives_a_restart() {
    let world = known();
    let (changed, now) = (world.desk.take_changed(), 100 * 600);
    assert!(world.desk.take_changed().is_empty());
    let next = World::new().set(|settings| settings.allow_unsigned = true);
    next.desk.restore(Window::default(), None, changed, Vec::new());
    learn(&next);
    assert!(matches!(next.judge("cmd/lamp/set", br#"{"verb":"erase"}"#, now).unwrap().0, Verdict::Hold(_)));
    next.passes(br#"{"verb":"set","level":25}"#, now);
}

#[test]
fn held_commands_outlive_any_end_and_none_passes_twice() {
    let (world, now) = (known(), 100 * 600);
    let store = crate::store::Store::in_memory().unwrap();
    let hold = |world: &World, payload: &[u8]| match world.judge("cmd/lamp/set", payload, now).unwrap().0 {
        Verdict::Hold(id) => id,
        other => panic!("{other:?}"),
    };
    let write = |world: &World, second| {
        let tick = world.desk.tick(at(second));
        store.save_commands_held(&tick.changes).unwrap();
        world.desk.written(&tick);
        assert_eq!(world.desk.tick(at(second)).changes, Changes::default());
        tick
    };
    let restart = || {
        let next = World::new().set(|settings| settings.allow_unsigned = true);
        next.desk.restore(Window::default(), None, Vec::new(), store.commands().unwrap().held);
        next
    };
    let (erase, wipe) = (hold(&world, br#"{"verb":"erase"}"#), hold(&world, br#"{"verb":"wipe"}"#));
    write(&world, now);
    // The last digit of a p-value may change on the way through JSON, and nothing depends on it.
    let all = |world: &World| world.desk.held(|id, held| (id, Held { p_value: 0.0, ..held.clone() }));
    let before = all(&world);

    let next = restart();
    assert_eq!(all(&next), before);
    assert_eq!(next.desk.tick(at(now)).changes, Changes::default(), "they are on record");
    let release = |world: &World| {
        // As the loop releases: on record first.
        let held = Held { released: Some(at(now)), ..world.desk.find(erase).unwrap() };
        store.save_commands_held(&Changes { held: vec![(erase, held)], gone: Vec::new() }).unwrap();
        world.desk.release(erase).unwrap();
    };
    release(&next);
    let (_, released) = next.desk.next_released().unwrap();
    assert_eq!((&released.packet[..], released.version), (&br#"{"verb":"erase"}"#[..], Version::V4));
    // The broker was away: it waits again, and is on record again.
    next.desk.put_back(erase, released);
    write(&next, now);
    assert_eq!(all(&restart()), before);

    // An end before it is known to be delivered: told once, never sent by itself, until somebody releases it again.
    release(&next);
    let (_, released) = next.desk.next_released().unwrap();
    assert_eq!(next.desk.tick(at(now)).changes, Changes::default(), "its record stays");
    let again = restart();
    assert_eq!(again.desk.next_released(), None);
    assert_eq!(again.desk.held(|id, held| (id, held.released)), [(erase, Some(at(now))), (wipe, None)]);
    let told = |world: &World| {
        world.desk.tick(at(now)).interrupted.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    assert_eq!((told(&again), told(&again), again.desk.tally().interrupted), (vec![erase], vec![], 1));
    release(&again);
    assert_eq!(
        again.desk.next_released().map(|(id, held)| (id, held.packet)),
        Some((erase, released.packet))
    );
    again.desk.delivered(erase);
    write(&again, now);
    assert_eq!(restart().desk.held(|id, held| (id, held.released)), [(wipe, None)]);

    // Time goes on without the process; names do not come again.
    let late = restart();
    let expired: Vec<u64> = write(&late, now + 900).expired.into_iter().map(|(id, _)| id).collect();
    assert_eq!((expired, late.desk.tally().expired), (vec![wipe], 1));
    assert!(store.commands().unwrap().held.is_empty());
}

#[test]
fn refusals_are_told_within_bounds() {
    let world = World::new();
    let told = (0..100).filter(|_| world.judge("cmd/lamp/set", b"1", 0).unwrap().1.is_some()).count();
    assert_eq!(told, 10);
    assert!(world.judge("cmd/lamp/set", b"1", 1).unwrap().1.is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_on_any_topic_are_judged_without_a_panic(
        topic in "(cmd/)?[a-c/]{0,6}", bytes in prop::collection::vec(any::<u8>(), 0..100), now in -DAY..DAY,
    ) {
        let world = World::new().set(|settings| settings.allow_unsigned = true);
        let judged = world.judge(&topic, &bytes, now);
        prop_assert_eq!(judged.is_some(), topic.starts_with("cmd/"));
    }
}
