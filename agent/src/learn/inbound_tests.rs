use crate::learn::{
    Finding, Nature, Subject, Technique,
    learner::tests::{SENSOR, learned},
    testing::{S, Script, Sim, inside, outside},
};

fn of_rules(found: &[(u64, Finding)]) -> Vec<(&'static str, Subject)> {
    found.iter().filter_map(|(_, finding)| Some((finding.rule?, finding.subject))).collect()
}

fn stranger(number: u32) -> Subject {
    Subject::Remote(outside(number, 0).0.into())
}

#[test]
fn a_stranger_that_tries_once_is_found_within_seconds() {
    let mut sim = learned();
    let mut script = Script::default();
    script.syn(0, outside(900, 40_000), inside(SENSOR, 23));
    script.refused(10 * S, outside(901, 40_000), inside(SENSOR, 8_080));
    script.udp(20 * S, outside(902, 40_000), inside(SENSOR, 5_060), 200);
    let found = sim.play(&mut script, 90 * S);
    let expected = [900, 901, 902].map(|number| ("unsolicited_probe", stranger(number)));
    assert_eq!(of_rules(&found), expected, "{found:#?}");
    let (at, first) = &found[0];
    assert!(*at <= 5 * S && first.technique == Technique::ACTIVE_SCANNING, "{first:?}");
    assert!(first.nature() == Nature::Threat && first.score >= 0.6, "{first:?}");
}

#[test]
fn hosts_that_the_device_turned_to_and_invited_ones_may_call() {
    let mut sim = learned();
    let mut script = Script::default();
    // A server of its baseline, one that it turned to just now, and an answer from elsewhere to a port that it opened.
    script.syn(0, outside(1, 443), inside(SENSOR, 40_001));
    script.tcp(S, (inside(SENSOR, 40_002), outside(910, 443)), (4, 100), (4, 100), S / 100, true);
    script.syn(5 * S, outside(910, 40_000), inside(SENSOR, 40_003));
    script.udp(6 * S, inside(SENSOR, 40_004), outside(911, 3_478), 60);
    script.udp(7 * S, outside(912, 40_000), inside(SENSOR, 40_004), 60);
    let found = sim.play(&mut script, 90 * S);
    assert!(of_rules(&found).is_empty(), "{found:#?}");
}

#[test]
fn devices_without_a_baseline_are_left_to_the_scan_rules() {
    let mut script = Script::default();
    script.syn(0, outside(900, 40_000), inside(33, 23));
    let found = Sim::new().play(&mut script, 90 * S);
    assert!(of_rules(&found).is_empty(), "{found:#?}");
}

#[test]
fn who_is_let_in_where_nothing_was_offered_is_reported_and_no_more() {
    let mut sim = learned();
    let mut script = Script::default();
    script.tcp(0, (outside(920, 40_000), inside(SENSOR, 8_080)), (6, 100), (6, 500), S / 100, true);
    let found = sim.play(&mut script, 90 * S);
    assert_eq!(of_rules(&found), [("new_service", stranger(920))], "{found:#?}");
    assert!(found[0].1.score < 0.6);
}

#[test]
fn beyond_the_budget_strangers_are_only_reported() {
    let mut sim = learned();
    let mut script = Script::default();
    for number in 0..400u32 {
        script.syn(u64::from(number) * S, outside(1_000 + number, 40_000), inside(SENSOR, 23));
    }
    let found = sim.play(&mut script, 420 * S);
    let acted =
        found.iter().filter(|(_, finding)| finding.score >= 0.6 && finding.rule == Some("unsolicited_probe"));
    let all = found.iter().filter(|(_, finding)| finding.rule == Some("unsolicited_probe"));
    assert_eq!((acted.count(), all.count()), (150, 400));
}
