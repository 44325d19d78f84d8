use std::net::Ipv4Addr;

use tidegate_common::device::DeviceKey;

use super::*;

const REMOTE: Subject = Subject::Remote(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)));
const MANY: Subject = Subject::Remote(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
const DEVICE: Subject = Subject::Device(DeviceKey::new([2, 0, 0, 0, 0, 7], 3));

fn found(
    subject: Subject,
    technique: Technique,
    rule: Option<&'static str>,
    score: f64,
    p_value: f64,
) -> Finding {
    Finding {
        subject,
        victim: None,
        technique,
        rule,
        score,
        p_value,
        first_ns: 1,
        at_ns: 2,
        detail: "45 different ports of 10.0.0.7 tried in 2.1 s, 44 unanswered".to_owned(),
        notes: Vec::new(),
    }
}

struct Case {
    name: &'static str,
    finding: Finding,
    mode: Mode,
    baseline: Baseline,
    protected: bool,
    technique: Option<(&'static str, Response)>,
    expect: (Action, Option<Level>),
    held: Option<&'static str>,
}

fn case(name: &'static str, finding: Finding, expect: (Action, Option<Level>)) -> Case {
    Case {
        name,
        finding,
        mode: Mode::Enforce,
        baseline: Baseline::Ready,
        protected: false,
        technique: None,
        expect,
        held: None,
    }
}

#[test]
fn decisions_by_table() {
    use Technique as T;
    let scan = |subject| found(subject, T::NETWORK_SERVICE_DISCOVERY, Some("vertical_scan"), 0.95, 1e-9);
    let weak = |subject| found(subject, T::NETWORK_SERVICE_DISCOVERY, Some("arp_sweep"), 0.5, 1e-2);
    let model = |p_value| found(DEVICE, T::UNUSUAL, None, 0.7, p_value);
    let observe = (Action::Observe, None);
    let full = (Action::Isolate, Some(Level::Full));
    let cloud = (Action::Isolate, Some(Level::CloudOnly));
    let cases = [
        case("remote scanner", scan(REMOTE), (Action::Block, None)),
        case("scanning device", scan(DEVICE), full),
        case(
            "less sure scan",
            Finding { score: 0.8, ..scan(DEVICE) },
            (Action::Isolate, Some(Level::DhcpDnsOnly)),
        ),
        case("beacon", found(DEVICE, T::COMMAND_AND_CONTROL, Some("beacon"), 0.95, 1e-6), cloud),
        case("exfiltration", found(DEVICE, T::EXFILTRATION, Some("exfiltration"), 0.95, 1e-6), cloud),
        case("arp spoofing", found(DEVICE, T::ARP_POISONING, Some("arp_spoof"), 0.7, 1e-6), full),
        Case {
            held: Some("no threat by itself"),
            ..case("change", found(DEVICE, T::CHANGE, Some("update"), 0.95, 1e-6), observe)
        },
        Case { held: Some("confidence 0.50"), ..case("weak rule", weak(DEVICE), observe) },
        Case { held: Some("no single host"), ..case("forged sources", scan(MANY), observe) },
        Case {
            protected: true,
            held: Some("is protected: a resolver"),
            ..case("allowed", scan(REMOTE), observe)
        },
        Case {
            mode: Mode::Monitor,
            held: Some("monitor mode"),
            ..case("monitor keeps the action", scan(REMOTE), (Action::Block, None))
        },
        Case { baseline: Baseline::Learning, ..case("rules need no baseline", scan(DEVICE), full) },
        Case {
            baseline: Baseline::Learning,
            held: Some("no baseline"),
            ..case("model while learning", model(0.0), observe)
        },
        Case { held: Some("weaker than 1e-12"), ..case("weak model", model(1e-7), observe) },
        case("strong model", model(1e-14), cloud),
        Case {
            technique: Some(("T1046", Response::Observe)),
            held: Some("says to observe T1046"),
            ..case("observed by configuration", scan(REMOTE), observe)
        },
        Case {
            technique: Some(("T1046", Response::RateLimit)),
            ..case("limited by configuration", scan(REMOTE), (Action::RateLimit, None))
        },
        Case {
            technique: Some(("T1046", Response::CloudOnly)),
            ..case("level by configuration", scan(DEVICE), cloud)
        },
        Case {
            technique: Some(("T1046", Response::Block)),
            ..case("own level on request", scan(DEVICE), full)
        },
    ];
    for Case { name, finding, mode, baseline, protected, technique, expect, held } in cases {
        let techniques = technique.into_iter().map(|(id, response)| (id.to_owned(), response)).collect();
        let response = ResponseConfig { techniques, ..ResponseConfig::default() };
        let why = |_: &Target| protected.then(|| "a resolver".to_owned());
        let context = Context { mode, baseline, protected: &why, response: &response };
        let decision = decide(finding.clone(), &context);
        assert_eq!((decision.action, decision.level), expect, "{name}: {}", decision.explanation);
        match (held, &decision.held_back) {
            (None, None) => {}
            (Some(words), Some(said)) if said.contains(words) => {}
            (_, said) => panic!("{name}: held back {said:?}, expected {held:?}"),
        }
        assert!(decision.explanation.contains("45 different ports"), "{name}: {}", decision.explanation);
        assert_eq!(decision.finding, finding, "{name}");
    }
}

#[test]
fn an_explanation_reads_as_sentences() {
    let response = ResponseConfig::default();
    let context =
        Context { mode: Mode::Monitor, baseline: Baseline::Ready, protected: &|_| None, response: &response };
    let finding = found(REMOTE, Technique::ACTIVE_SCANNING, Some("vertical_scan"), 0.95, 1e-9);
    assert_eq!(
        decide(finding, &context).explanation,
        "203.0.113.7 would be blocked for 10 min: Active Scanning (T1595). 45 different ports of 10.0.0.7 tried in 2.1 s, \
         44 unanswered. Held back: monitor mode: what would be dropped is only counted."
    );
}

#[test]
fn a_mapped_address_is_blocked_as_ipv4() {
    let mapped = Subject::Remote("::ffff:192.0.2.1".parse().unwrap());
    assert_eq!(target_of(&mapped), Target::Address("192.0.2.1".parse().unwrap()));
}
