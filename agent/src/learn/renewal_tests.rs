//! A device whose traffic changes: what is followed, and what is not.

use super::super::{
    Finding, Technique,
    learner::tests::{SENSOR, learned, minute, rules},
    testing::{MS, S, Script, Sim, inside, outside},
};

/// Minutes of the sensor's life, each at its own place in time, with whatever `more` adds to them.
fn live(sim: &mut Sim, minutes: u64, more: impl Fn(&mut Script, u64)) -> Vec<(u64, Finding)> {
    let mut found = Vec::new();
    for hour in 0..minutes.div_ceil(60) {
        let mut script = Script::default();
        for n in 0..60.min(minutes - hour * 60) {
            minute(&mut script, n + hour * 60 % 20);
            more(&mut script, n + hour * 60);
        }
        found.extend(sim.play(&mut script, (60 + hour * 60 % 20) * 60 * S + S));
    }
    found
}

fn unusual(found: &[(u64, Finding)]) -> usize {
    found.iter().filter(|(_, finding)| finding.technique == Technique::UNUSUAL).count()
}

/// A device that changes a little is followed: nothing is reported, and its models are renewed.
#[test]
fn a_harmless_change_is_followed() {
    let mut sim = learned();
    let found = live(&mut sim, 600, |script, n| {
        if n >= 120 {
            let port = 40_000 + (n % 20_000) as u16;
            // A second, somewhat larger report to a host that it knows.
            script.tcp(
                n % 60 * 60 * S + 33 * S,
                (inside(SENSOR, port), outside(2, 443)),
                (10, 320),
                (10, 600),
                30 * MS,
                true,
            );
        }
    });
    assert!(rules(&found).is_empty(), "{found:#?}");
    assert!(unusual(&found) <= 1, "{found:#?}");
}

/// Somebody who moves a device's traffic step by step towards an attack is not followed all the way.
#[test]
fn a_slow_drift_does_not_teach_an_attack() {
    let mut sim = learned();
    let attack = |script: &mut Script, n: u64, strength: u64| {
        for call in 0..strength {
            let at = n % 60 * 60 * S + call * 2 * S + call * 7_907 % 1_000 * MS;
            let port = 30_000 + (n * 31 + call) as u16 % 20_000;
            let to = outside(1 + (call % 3) as u32, 40_000 + (n * 37 + call * 11) as u16 % 9_000);
            script.tcp(at, (inside(SENSOR, port), to), (60, 900), (200, 1_300), MS, call % 3 == 0);
        }
    };
    let hours = 6;
    let on_the_way = live(&mut sim, hours * 60, |script, n| attack(script, n, (n + 1) * 28 / (hours * 60)));
    let found = live(&mut sim, 60, |script, n| attack(script, n, 28));
    let noticed = |found: &[(u64, Finding)]| {
        found
            .iter()
            .filter(|(_, finding)| [Technique::UNUSUAL, Technique::DRIFTED].contains(&finding.technique))
            .count()
    };
    assert!(noticed(&on_the_way) > 0, "nothing was said in {hours} hours");
    assert!(noticed(&found) > 0, "the whole attack has become normal; on the way: {}", noticed(&on_the_way));
}

/// Busier days make a device's calls a little different: that is told, and after a while it is how the device is.
#[test]
fn what_is_mildly_unusual_is_told_and_followed() {
    let mut sim = learned();
    let mut busier = |hours: u64| {
        let found = live(&mut sim, hours * 60, |script, n| {
            for call in 0..4 {
                let from = inside(SENSOR, 40_000 + (n * 4 + call) as u16 % 20_000);
                let at = n % 60 * 60 * S + call * 14 * S + 7 * S;
                script.tcp(
                    at,
                    (from, outside(1, 8_883)),
                    (11 + (n % 3) as u32, 330),
                    (9, 190),
                    55 * MS,
                    true,
                );
            }
        });
        assert!(rules(&found).is_empty(), "{found:#?}");
        unusual(&found)
    };
    let told = [busier(1), busier(2), busier(3)];
    assert!(told[0] > 0 && told[2] == 0, "{told:?}");
}
