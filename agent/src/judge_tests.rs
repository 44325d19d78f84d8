#![allow(clippy::unwrap_used, reason = "a failed judgement is the test's failure")]

use super::*;
use crate::{
    config::Config,
    enforce::MemoryTable,
    identity::Vendors,
    learn::{LearnConfig, RuleConfig, Technique},
};

/// The incidents after these findings by rules about one device, each with its technique, score and detail.
fn incidents(findings: &[(Technique, f64, &str)]) -> Vec<Incident> {
    let config = Config::default();
    let kernel = config.kernel_config(Mode::Enforce);
    let mut enforcer = Enforcer::new(MemoryTable::default(), config.enforce_settings(), kernel);
    let learner = Learner::new(LearnConfig::default(), RuleConfig::default()).unwrap();
    let (mut incidents, mut ids) = (HashMap::new(), IdSource::new(0));
    let now = Now { kernel_ns: 1_000_000_000, wall: jiff::Timestamp::UNIX_EPOCH };
    for (technique, score, detail) in findings {
        let finding = Finding {
            subject: Subject::Device(DeviceKey::new([2, 0, 0, 0, 0, 7], 3)),
            victim: None,
            technique: *technique,
            rule: Some("rule"),
            score: *score,
            p_value: 1e-5,
            first_ns: now.kernel_ns,
            at_ns: now.kernel_ns,
            detail: (*detail).to_owned(),
            notes: Vec::new(),
        };
        let mut bench = Bench {
            mode: GatewayMode::Enforce,
            response: &config.response_config(),
            learner: &learner,
            registry: &Registry::new(Vendors::built_in()),
            enforcer: &mut enforcer,
            author: Author::Automatic,
            incidents: &mut incidents,
            ids: &mut ids,
        };
        bench.judge(finding, now);
    }
    let mut incidents: Vec<Incident> = incidents.into_values().collect();
    incidents.sort_by(|a, b| a.id.cmp(&b.id));
    incidents
}

#[test]
fn weaker_evidence_leaves_the_account_of_what_is_in_force() {
    const SCAN: Technique = Technique::NETWORK_SERVICE_DISCOVERY;
    let first = incidents(&[(SCAN, 0.95, "first")]).remove(0);
    assert!(first.explanation.contains("is isolated (full)"), "{}", first.explanation);
    let later = incidents(&[(SCAN, 0.95, "first"), (SCAN, 0.7, "less"), (SCAN, 0.4, "least")]).remove(0);
    assert_eq!((later.explanation, later.response), (first.explanation, first.response));
    assert_eq!((later.held_back, later.evidence, later.summary.as_str()), (None, 3, "least"));
}

#[test]
fn stronger_evidence_gives_the_account() {
    const SCAN: Technique = Technique::NETWORK_SERVICE_DISCOVERY;
    let incident = incidents(&[(SCAN, 0.4, "least"), (SCAN, 0.7, "less"), (SCAN, 0.95, "most")]).remove(0);
    assert!(incident.explanation.contains("is isolated (full)"), "{}", incident.explanation);
    assert_eq!(incident.held_back, None);
}

#[test]
fn an_incident_of_a_device_that_is_shut_already_says_so() {
    let both = incidents(&[
        (Technique::ARP_POISONING, 0.9, "claims"),
        (Technique::COMMAND_AND_CONTROL, 0.9, "calls"),
    ]);
    let (shut, other) = (&both[0], &both[1]);
    let text = format!("was already isolated (full) by incident {}: ", shut.id);
    assert!(other.explanation.contains(&text), "{}", other.explanation);
    assert_eq!(other.response, other.explanation);
}
