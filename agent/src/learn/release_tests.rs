use tidegate_common::parse::proto;

use crate::learn::{
    Finding, Subject,
    testing::{MS, S, Script, Sim, inside, outside},
};

fn rules(found: &[(u64, Finding)]) -> Vec<&'static str> {
    // A patient brute force is seen in a quick one, too.
    found.iter().filter_map(|(_, finding)| finding.rule).filter(|rule| !rule.starts_with("patient")).collect()
}

/// `count` logins from port `first` on, begun 50 ms apart from `at` on, each as long as eight steps of `gap`.
fn logins(script: &mut Script, at: u64, first: u16, count: u16, gap: u64) {
    for port in first..first + count {
        let ends = (outside(7, port), inside(20, 21));
        script.tcp(at + u64::from(port - first) * 50 * MS, ends, (6, 20), (8, 40), gap, true);
    }
}

#[test]
fn connections_begun_before_a_release_are_no_evidence_when_they_end_after_it() {
    let mut sim = Sim::new();
    let mut script = Script::default();
    logins(&mut script, 0, 40_000, 40, 20 * MS);
    // These are still open when the block is taken back, and end soon after.
    logins(&mut script, 2 * S, 41_000, 20, 200 * MS);
    let mut late = Script::default();
    script.cut(3_200 * MS, &mut late);
    assert_eq!(rules(&sim.play(&mut script, 3_200 * MS)), ["brute_force"]);
    sim.learner.forget_reports(|_| true, sim.now);
    assert!(rules(&sim.play(&mut late, 5 * S)).is_empty(), "they were begun before the release");
    let mut script = Script::default();
    logins(&mut script, 0, 42_000, 40, 20 * MS);
    assert_eq!(rules(&sim.play(&mut script, 5 * S)), ["brute_force"], "new ones count");
}

#[test]
fn a_flood_that_goes_on_within_its_flow_is_found_again() {
    let mut sim = Sim::new();
    let (mut flood, mut rest) = (Script::default(), Script::default());
    for packet in 0..40_000u64 {
        flood.packet(packet * MS / 5, outside(7, 0), inside(20, 0), proto::ICMP, 0, 56);
    }
    flood.cut(700 * MS, &mut rest);
    assert_eq!(rules(&sim.play(&mut flood, 700 * MS)), ["icmp_flood"]);
    sim.learner.forget_reports(|subject| matches!(subject, Subject::Remote(_)), sim.now);
    let found = sim.play(&mut rest, 8 * S);
    assert_eq!(rules(&found), ["icmp_flood"]);
    assert!(found[0].0 > S, "the first report after the release holds packets from before: {found:#?}");
}
