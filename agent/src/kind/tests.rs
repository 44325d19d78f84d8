//! What speaks for which kind, and what for none.

#![allow(clippy::unwrap_used, reason = "a failing test should stop at once")]

use proptest::{collection::vec, prelude::*, sample::select};
use tidegate_common::parse::proto;

use super::{rules::Rules, *};

fn service(by_device: bool, whom: Whom, protocol: u8, port: u16) -> Service {
    Service { whom, peer: [198, 51, 100, 7].into(), protocol, port, by_device }
}

#[test]
fn the_rules_are_sound() {
    let rules: Rules = toml::from_str(include_str!("rules.toml")).unwrap();
    assert!(rules.rule.len() > 40 && rules.never.len() > 3);
    for rule in &rules.rule {
        assert!(rule.has_condition() && !rule.kinds.is_empty(), "{rule:?}");
        assert!((0.1..=3.0).contains(&rule.weight), "{rule:?}");
    }
    let spoken_for = |kind: &Kind| rules.rule.iter().any(|rule| rule.kinds.contains(kind));
    assert!(Kind::ALL.iter().all(spoken_for));
}

#[test]
fn a_camera_is_told_by_what_it_serves_and_says_why() {
    let traits = Traits {
        maker: "hangzhou hikvision digital technology".to_owned(),
        services: vec![service(false, Whom::Neighbour, proto::TCP, 554)],
        ..Traits::default()
    };
    let opinion = classify(&traits).unwrap();
    assert_eq!(opinion.kind, Kind::Camera);
    assert!(opinion.confidence > 0.9, "{opinion:?}");
    assert_eq!(opinion.reasons[0], "it serves video streams (RTSP)");
}

#[test]
fn little_speaks_for_nothing_and_contradictions_for_less() {
    assert_eq!(classify(&Traits::default()), None);
    let web = Traits { services: vec![service(true, Whom::Remote, proto::TCP, 443)], ..Traits::default() };
    assert_eq!(classify(&web), None);
    let both = Traits { name: "printer-camera".to_owned(), ..Traits::default() };
    assert_eq!(classify(&both), None, "as much for one as for the other");
}

#[test]
fn a_plug_that_opens_telnet_is_unlike_plugs() {
    let telnet = service(true, Whom::Remote, proto::TCP, 23);
    assert!(objection(Kind::Plug, &telnet).unwrap().contains("telnet"));
    assert_eq!(objection(Kind::Computer, &telnet), None);
    assert_eq!(objection(Kind::Plug, &Service { by_device: false, port: 9_999, ..telnet }), None);
}

proptest! {
    #[test]
    fn whatever_a_device_does_confidence_is_a_share(
        maker in ".{0,20}",
        name in ".{0,20}",
        services in vec((any::<bool>(), select(vec![6_u8, 17]), any::<u16>()), 0..60),
        bytes in any::<(u64, u64)>(),
    ) {
        let services = services
            .into_iter()
            .map(|(by_device, protocol, port)| service(by_device, Whom::Remote, protocol, port))
            .collect();
        let traits = Traits {
            maker, name, says: Vec::new(), services, bytes_out: bytes.0, bytes_in: bytes.1,
        };
        if let Some(opinion) = classify(&traits) {
            prop_assert!((LEAST_CONFIDENCE..=1.0).contains(&opinion.confidence));
            prop_assert!(!opinion.reasons.is_empty());
        }
    }
}
