use std::{net::Ipv4Addr, time::Instant};

use tidegate_common::parse::proto;

use super::*;
use crate::{
    identity::Mac,
    learn::{
        BaselineState, LearnError, Nature, Technique,
        testing::{End, MS, S, Script, Sim, device, inside, outside},
    },
};

/// Short enough to learn in a test, with enough windows for a model of them.
pub(in crate::learn) fn quick() -> LearnConfig {
    LearnConfig { period_s: 1_200, min_windows: 36, ..LearnConfig::default() }
}

pub(in crate::learn) const SENSOR: u8 = 20;

/// What a sensor does in a minute: reports over MQTT and HTTPS, asks for names and the time.
pub(in crate::learn) fn minute(script: &mut Script, minute: u64) {
    let wobble = |n: u64| (minute * 7_919 + n * 104_729) % 1_000 * MS;
    let at = minute * 60 * S;
    let port = (20_000 + minute % 20_000) as u16;
    for report in 0..4 {
        let begin = at + report * 15 * S + wobble(report);
        let to = outside(1, 8_883);
        let from = inside(SENSOR, port + 10_000 + report as u16 * 2_000);
        script.ask(begin, inside(SENSOR, port), inside(1, 53), 90 + (minute % 30) as u32);
        script.tcp(
            begin + 100 * MS,
            (from, to),
            (5 + (minute + report) as u32 % 4, 180),
            (4, 60),
            20 * MS,
            true,
        );
    }
    script.tcp(
        at + 5 * S + wobble(9),
        (inside(SENSOR, port + 5_000), outside(2, 443)),
        (8, 300),
        (9, 700),
        30 * MS,
        true,
    );
    script.ask(at + 30 * S, inside(SENSOR, 123), outside(3, 123), 48);
}

/// A sensor with a baseline.
pub(in crate::learn) fn learned() -> Sim {
    let mut sim = Sim::with(quick());
    let mut script = Script::default();
    (0..22).for_each(|n| minute(&mut script, n));
    let found = sim.play(&mut script, 1_380 * S);
    let of_rules: Vec<_> = found.iter().filter(|(_, finding)| finding.rule.is_some()).collect();
    assert!(of_rules.is_empty(), "{of_rules:#?}");
    assert_eq!(sim.learner.phase(device(SENSOR)), Some(Phase::Ready));
    sim
}

pub(in crate::learn) fn rules(found: &[(u64, Finding)]) -> Vec<&'static str> {
    found.iter().filter_map(|(_, finding)| finding.rule).collect()
}

#[test]
fn a_device_learns_and_then_stays_quiet() {
    let mut sim = learned();
    let status = sim.learner.status().find(|status| status.mac == Mac(device(SENSOR).mac)).unwrap();
    assert!(status.model.is_some() && status.flows >= 64 && status.windows >= 36, "{status:?}");
    let mut script = Script::default();
    (0..60).for_each(|n| minute(&mut script, n));
    let found = sim.play(&mut script, 3_660 * S);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn new_admin_peers_are_reported_and_several_are_lateral_movement() {
    let mut sim = learned();
    let visit = |number: u8| {
        let mut script = Script::default();
        for peer in 0..number {
            let ends = (inside(SENSOR, 50_000 + u16::from(peer)), inside(100 + peer, 22));
            script.tcp(u64::from(peer) * 60 * S, ends, (6, 90), (6, 200), S / 10, true);
        }
        script
    };
    let found = sim.play(&mut visit(1), 60 * S);
    assert_eq!(rules(&found), ["new_admin_peer"], "{found:#?}");
    assert_eq!(found[0].1.nature(), Nature::Anomaly);
    let found = sim.play(&mut visit(6), 420 * S);
    let moved = found.iter().find(|(_, finding)| finding.rule == Some("lateral_movement")).unwrap();
    assert_eq!(moved.1.technique, Technique::REMOTE_SERVICES);
    assert_eq!(moved.1.subject, Subject::Device(device(SENSOR)));
}

#[test]
fn peers_of_the_baseline_are_no_lateral_movement() {
    let mut sim = Sim::with(quick());
    let mut script = Script::default();
    (0..22).for_each(|n| minute(&mut script, n));
    for peer in 0..6u8 {
        let ends = (inside(SENSOR, 50_000), inside(100 + peer, 80));
        script.tcp(u64::from(peer) * 60 * S, ends, (6, 90), (6, 200), S / 10, true);
    }
    assert!(rules(&sim.play(&mut script, 1_380 * S)).is_empty());
    let mut script = Script::default();
    (0..6).for_each(|n| minute(&mut script, n));
    for peer in 0..6u8 {
        let ends = (inside(SENSOR, 51_000), inside(100 + peer, 80));
        script.tcp(u64::from(peer) * 30 * S, ends, (6, 90), (6, 200), S / 10, true);
    }
    assert!(rules(&sim.play(&mut script, 400 * S)).is_empty());
}

#[test]
fn what_goes_on_is_reported_again_once_it_is_forgotten() {
    let mut sim = Sim::new();
    let claim = |holder: u8| ArpClaim {
        claimant: device(66),
        address: IpAddr::from([10, 0, 0, 1]),
        holder: Mac(device(holder).mac),
        of_gateway: true,
        contest: crate::identity::Contest::default(),
    };
    let subject = Subject::Device(device(66));
    assert_eq!(sim.learner.observe_arp_claim(&claim(1), S).len(), 1);
    assert!(sim.learner.observe_arp_claim(&claim(1), 2 * S).is_empty(), "the same is not repeated at once");
    sim.learner.forget_reports(|about| *about != subject, 2 * S);
    assert!(sim.learner.observe_arp_claim(&claim(1), 3 * S).is_empty(), "another subject was forgotten");
    sim.learner.forget_reports(|about| *about == subject, 3 * S);
    assert_eq!(sim.learner.observe_arp_claim(&claim(1), 4 * S).len(), 1);
}

#[test]
fn what_is_over_is_not_reported_again_once_it_is_forgotten() {
    let mut sim = Sim::new();
    let scan = |sim: &mut Sim, ports: std::ops::Range<u16>| {
        let mut script = Script::default();
        for port in ports {
            script.refused(u64::from(port) * 10 * MS, outside(7, 40_000), inside(SENSOR, port));
        }
        rules(&sim.play(&mut script, 2 * S))
    };
    assert_eq!(scan(&mut sim, 1..40), ["vertical_scan"]);
    sim.learner.forget_reports(|_| true, sim.now);
    assert!(scan(&mut sim, 40..45).is_empty(), "a few attempts more prove nothing by themselves");
    assert_eq!(scan(&mut sim, 45..70), ["vertical_scan"], "many do");
}

#[test]
fn nothing_is_ready_before_its_time() {
    let mut sim = Sim::with(LearnConfig { period_s: 3_600, ..quick() });
    let mut script = Script::default();
    (0..20).for_each(|n| minute(&mut script, n));
    sim.play(&mut script, 1_260 * S);
    assert_eq!(sim.learner.phase(device(SENSOR)), Some(Phase::Learning));
    assert_eq!(sim.learner.phase(device(99)), None);
}

#[test]
fn a_beacon_to_a_new_host_is_found_and_one_to_a_known_host_is_not() {
    let beats = |to: u32, gap: u64| {
        let mut script = Script::default();
        for beat in 0..14u64 {
            // One twentieth of jitter.
            let at = beat * gap + beat * 37 % 10 * gap / 200;
            let from = inside(SENSOR, 50_000 + beat as u16);
            script.tcp(at, (from, outside(to, 4_444)), (2, 60), (2, 40), 10 * MS, true);
        }
        script
    };
    let found = learned().play(&mut beats(500, 3 * S), 60 * S);
    let (at, beacon) = found.iter().find(|(_, finding)| finding.rule == Some("beacon")).expect("a beacon");
    assert!(*at <= 16 * S, "{at}");
    assert_eq!(beacon.technique, Technique::COMMAND_AND_CONTROL);
    assert_eq!(beacon.subject, Subject::Device(device(SENSOR)));
    assert!(beacon.detail.contains("every 3.0 s"), "{}", beacon.detail);

    let found = learned().play(&mut beats(1, 3 * S), 60 * S);
    assert!(!rules(&found).contains(&"beacon"), "{found:#?}");
}

#[test]
fn contacts_without_a_beat_are_no_beacon() {
    let mut script = Script::default();
    let mut at = 0;
    for visit in 0..30u64 {
        at += S + (visit * 7_907 % 13) * S;
        let from = inside(SENSOR, 50_000 + visit as u16);
        script.tcp(at, (from, outside(500, 443)), (5, 200), (9, 900), 10 * MS, true);
    }
    let found = learned().play(&mut script, at + 10 * S);
    assert!(!rules(&found).contains(&"beacon"), "{found:#?}");
}

#[test]
fn a_service_that_moved_to_another_address_is_no_beacon() {
    let mut sim = learned();
    let habits = sim.learner.export(device(SENSOR), sim.now).unwrap().habits;
    assert!(
        habits.iter().any(|habit| habit.port == 8_883 && (14_000..16_000).contains(&habit.gap_ms)),
        "{habits:?}"
    );
    let mut script = Script::default();
    for report in 0..20u64 {
        let from = inside(SENSOR, 50_000 + report as u16);
        script.tcp(report * 15 * S, (from, outside(77, 8_883)), (6, 180), (4, 60), 20 * MS, true);
    }
    let found = sim.play(&mut script, 310 * S);
    assert!(rules(&found).is_empty(), "{found:#?}");
}

#[test]
fn a_beacon_over_one_udp_flow() {
    let mut script = Script::default();
    for beat in 0..12u64 {
        script.udp(beat * 2 * S, inside(SENSOR, 50_000), outside(500, 9_999), 64);
    }
    let found = learned().play(&mut script, 30 * S);
    assert!(rules(&found).contains(&"beacon"), "{found:#?}");
}

#[test]
fn an_exfiltration_is_found_while_it_runs() {
    let mut script = Script::default();
    // 30 MB at 10 MB/s to a host never seen.
    script.tcp(0, (inside(SENSOR, 50_000), outside(500, 443)), (21_000, 1_400), (7_000, 0), MS / 7, true);
    let found = learned().play(&mut script, 10 * S);
    let (at, finding) =
        found.iter().find(|(_, finding)| finding.rule == Some("exfiltration")).expect("a finding");
    assert!(*at <= 2 * S, "{at}");
    assert_eq!(finding.victim, Some(IpAddr::V4(outside(500, 0).0)));
    assert!(finding.detail.contains("MB sent to 198.51.1.244"), "{}", finding.detail);
}

#[test]
fn a_stream_that_nobody_answers_is_a_flood_and_no_exfiltration() {
    let mut script = Script::default();
    for packet in 0..6_000u64 {
        script.udp(packet * MS, inside(SENSOR, 50_000), outside(500, 9_999), 1_400);
    }
    let found = rules(&learned().play(&mut script, 10 * S));
    assert!(found.contains(&"udp_flood") && !found.contains(&"exfiltration"), "{found:?}");
}

fn upload(from: End, to: End) -> Script {
    let mut script = Script::default();
    script.tcp(0, (from, to), (21_000, 1_400), (7_000, 0), MS / 7, true);
    script
}

#[test]
fn what_a_device_of_many_hosts_uploads_to_a_new_web_host_is_only_told() {
    let mut sim = Sim::with(quick());
    let mut script = Script::default();
    (0..22).for_each(|n| minute(&mut script, n));
    for host in 0..20u16 {
        let ends = (inside(SENSOR, 50_000 + host), outside(100 + u32::from(host), 443));
        script.tcp(u64::from(host) * 50 * S, ends, (6, 300), (9, 1_200), S / 10, true);
    }
    sim.play(&mut script, 1_380 * S);
    for (port, is_sure) in [(443, false), (2_022, true)] {
        let found = sim.play(&mut upload(inside(SENSOR, 50_100), outside(500, port)), 10 * S);
        let finding = found.iter().find(|(_, finding)| finding.rule == Some("exfiltration")).unwrap();
        assert_eq!(finding.1.score > 0.6, is_sure, "{finding:?}");
    }
}

#[test]
fn what_is_fetched_from_a_device_is_laid_to_who_fetched_it() {
    let mut sim = learned();
    let mut script = Script::default();
    let ends = (outside(500, 50_000), inside(SENSOR, 443));
    script.tcp(0, ends, (7_000, 0), (21_000, 1_400), MS / 7, true);
    let found = sim.play(&mut script, 10 * S);
    let finding = &found.iter().find(|(_, finding)| finding.rule == Some("exfiltration")).unwrap().1;
    let remote = Subject::Remote(outside(500, 0).0.into());
    assert!(finding.subject == remote && finding.score < 0.6, "{finding:?}");
}

#[test]
fn calls_to_everybody_on_a_network_and_traceroutes_are_no_beacons() {
    let mut script = Script::default();
    for beat in 0..20u64 {
        let everybody = End([10, 0, 0, 255].into(), 57_621);
        script.udp(beat * 30 * S, inside(SENSOR, 57_621), everybody, 44);
        script.udp(beat * 30 * S, inside(SENSOR, 50_000 + beat as u16), outside(500, 33_440), 32);
    }
    let found = rules(&learned().play(&mut script, 600 * S));
    assert!(!found.contains(&"beacon"), "{found:?}");
}

#[test]
fn bursts_of_tries_that_fail_have_a_beat() {
    let mut script = Script::default();
    for burst in 0..8u64 {
        for try_ in 0..3u64 {
            let at = burst * 60 * S + try_ * 3 * S + burst * 7 % 5 * S;
            script.syn(at, inside(SENSOR, 40_000 + (burst * 3 + try_) as u16), outside(500, 6_667));
        }
    }
    let found = learned().play(&mut script, 480 * S);
    assert!(rules(&found).contains(&"beacon"), "{found:#?}");
}

#[test]
fn after_a_release_only_what_is_carried_off_from_then_on_counts() {
    let mut sim = learned();
    let upload = |port: u16, packets: u32| {
        let mut script = Script::default();
        script.tcp(
            0,
            (inside(SENSOR, port), outside(500, 443)),
            (packets, 1_400),
            (packets / 3, 0),
            MS / 7,
            true,
        );
        script
    };
    assert_eq!(rules(&sim.play(&mut upload(50_000, 21_000), 10 * S)), ["exfiltration"]);
    sim.learner.forget_reports(|_| true, sim.now);
    assert!(rules(&sim.play(&mut upload(50_001, 30), 10 * S)).is_empty(), "a few packets more");
    assert_eq!(rules(&sim.play(&mut upload(50_002, 21_000), 10 * S)), ["exfiltration"]);
}

#[test]
fn uploads_to_known_hosts_and_downloads_from_new_ones_are_none() {
    let mut script = Script::default();
    script.tcp(0, (inside(SENSOR, 50_000), outside(1, 8_883)), (21_000, 1_400), (7_000, 0), MS / 7, true);
    script.tcp(S, (inside(SENSOR, 50_001), outside(501, 443)), (7_000, 0), (21_000, 1_400), MS / 7, true);
    let found = learned().play(&mut script, 10 * S);
    assert!(rules(&found).is_empty(), "{found:#?}");
}

#[test]
fn traffic_unlike_the_devices_own_is_reported_with_reasons() {
    // Calls and page loads, in no beat and no great volume: nothing for a rule.
    let mut script = Script::default();
    for second in 0..300u64 {
        let at = second * S + second * 7_907 % 700 * MS;
        let port = 30_000 + second as u16;
        let to = outside(600 + (second * 31 % 97) as u32, 443);
        script.tcp(at, (inside(SENSOR, port), to), (60, 900), (200, 1_300), MS, second % 3 == 0);
        script.udp(at, inside(SENSOR, port), outside(900 + (second * 37 % 89) as u32, 40_000), 1_000);
    }
    let found = learned().play(&mut script, 310 * S);
    let unusual: Vec<_> = found.iter().filter(|(_, finding)| finding.rule.is_none()).collect();
    let (at, first) = unusual.first().unwrap_or_else(|| panic!("nothing of the model in {found:#?}"));
    assert!(*at <= 60 * S, "{at}");
    assert_eq!((first.technique, first.subject), (Technique::UNUSUAL, Subject::Device(device(SENSOR))));
    assert!(first.score > 0.5 && first.p_value > 1e-6, "one burst proves little: {first:?}");
    assert!(!first.notes.is_empty());
    let farthest = &first.notes[0];
    assert!(farthest.value < farthest.normal_low || farthest.value > farthest.normal_high, "{farthest:?}");
    let shares: f64 = first.notes.iter().map(|note| note.share).sum();
    assert!(first.notes.is_sorted_by(|a, b| a.share >= b.share) && shares <= 1.0, "{first:?}");
    assert!(unusual.len() <= 6, "{} findings in five minutes", unusual.len());
    assert!(
        unusual.iter().any(|(_, finding)| finding.p_value < 1e-12),
        "burst after burst and the windows strengthen it: {unusual:#?}"
    );
}

#[test]
fn an_attack_while_learning_does_not_become_normal() {
    let mut sim = Sim::with(quick());
    let mut script = Script::default();
    (0..5).for_each(|n| minute(&mut script, n));
    for host in 0..200u32 {
        script.syn(
            300 * S + u64::from(host) * 20 * MS,
            inside(SENSOR, 40_000 + host as u16),
            outside(host * 9, 23),
        );
    }
    let found = sim.play(&mut script, 320 * S);
    assert!(rules(&found).contains(&"horizontal_scan"), "{found:#?}");
    let status = sim.learner.status().find(|status| status.mac == Mac(device(SENSOR).mac)).unwrap();
    assert!(status.phase == Phase::Learning && status.since_ns >= 1_300 * S, "{status:?}");
}

#[test]
fn a_baseline_survives_export_and_import() {
    let sim = learned();
    let state = sim.learner.export(device(SENSOR), sim.now).unwrap();
    let text = serde_json::to_string(&state).unwrap();
    let read: BaselineState = serde_json::from_str(&text).unwrap();
    assert_eq!(read, state);

    let mut other = Sim::with(quick());
    other.learner.import(&read, other.now).unwrap();
    assert_eq!(other.learner.phase(device(SENSOR)), Some(Phase::Ready));
    other.learner.tick(other.now);
    assert!(other.learner.status().all(|status| status.model.is_some()));
    assert_eq!(other.learner.export(device(SENSOR), other.now).unwrap().flows, state.flows);
}

#[test]
fn foreign_states_are_refused() {
    let sim = learned();
    let state = sim.learner.export(device(SENSOR), sim.now).unwrap();
    let refuse = |change: fn(&mut BaselineState)| {
        let mut changed = state.clone();
        change(&mut changed);
        Sim::new().learner.import(&changed, 0).unwrap_err().to_string()
    };
    assert!(refuse(|state| state.version = 9).contains("has version 9"));
    assert!(refuse(|state| state.feature_version = 0).contains("features 0"));
    assert!(refuse(|state| state.device = Mac([0xff; 6])).contains("no device can have"));
    assert!(refuse(|state| state.flows.clear()).contains("holds no flows"));
    assert!(refuse(|state| state.flows = vec![[0; 16]; 20_000]).contains("more than"));
}

#[test]
fn relearning_can_be_rolled_back() {
    let mut sim = learned();
    let before = sim.learner.export(device(SENSOR), sim.now).unwrap();
    let now = sim.now;
    assert_eq!(
        sim.learner.rollback(device(SENSOR), now),
        Err(LearnError::NoPrevious(Mac(device(SENSOR).mac)))
    );
    sim.learner.relearn(device(SENSOR), now).unwrap();
    assert_eq!(sim.learner.phase(device(SENSOR)), Some(Phase::Learning));
    sim.learner.rollback(device(SENSOR), now).unwrap();
    assert_eq!(sim.learner.phase(device(SENSOR)), Some(Phase::Ready));
    assert_eq!(sim.learner.export(device(SENSOR), now).unwrap().flows, before.flows);
    assert!(matches!(sim.learner.relearn(device(99), now), Err(LearnError::Unknown(_))));
}

#[test]
fn the_gateway_itself_attacks_nobody() {
    let mut sim = Sim::new();
    let gateway = outside(7, 0).0;
    sim.learner.set_own_addresses([IpAddr::V4(gateway)]);
    let mut script = Script::default();
    for port in 1..500u16 {
        script.refused(u64::from(port) * MS, End(gateway, 50_000), inside(3, port));
    }
    assert!(sim.play(&mut script, 5 * S).is_empty());
}

/// Whatever an attacker makes up, nothing grows without bound and nothing takes long.
#[test]
fn a_storm_of_made_up_flows_stays_bounded() {
    let mut sim = Sim::with(LearnConfig { max_devices: 64, ..LearnConfig::default() });
    let begun = Instant::now();
    for n in 0..60_000u64 {
        let noise = tidegate_common::pod::mix64(n);
        let mut script = Script::default();
        let from = End(Ipv4Addr::from(noise), noise as u16);
        let to = inside((n % 250) as u8, (noise >> 16) as u16);
        script.packet(
            0,
            from,
            to,
            [proto::TCP, proto::UDP, 47][n as usize % 3],
            (noise >> 8) as u8,
            noise % 99,
        );
        sim.play(&mut script, MS);
    }
    assert!(sim.learner.status().count() <= 64);
    assert!(sim.learner.flows.len() <= MAX_FLOWS.get());
    assert!(sim.learner.reported.len() <= MAX_REPORTS.get());
    assert!(begun.elapsed().as_secs() < 120, "{:?}", begun.elapsed());
}

/// Calls every few seconds to a service that refuses them, and questions to a resolver that says nothing; how rare the models find it.
fn outage(cloud: End, resolver: End) -> f64 {
    let mut script = Script::default();
    for call in 0..300u16 {
        let at = u64::from(call) * 2 * S;
        script.refused(at, inside(SENSOR, 40_000 + call), cloud);
        script.udp(at, inside(SENSOR, 42_000 + call), resolver, 40);
        script.udp(at + S, inside(SENSOR, 42_000 + call), resolver, 40);
    }
    let found = learned().play(&mut script, 660 * S);
    found.iter().map(|(_, finding)| finding.p_value).fold(1.0, f64::min)
}

#[test]
fn an_outage_of_what_a_device_uses_is_no_strong_evidence_against_it() {
    let enough = crate::decide::ResponseConfig::default().model_p;
    let of_usual = outage(outside(1, 8_883), inside(1, 53));
    assert!(of_usual >= enough, "{of_usual:e}");
}
