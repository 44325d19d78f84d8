//! One test a bad policy: refused, for the reason named, counted, and nothing changed.

#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use coset::{
    CoseSign1, CoseSign1Builder, HeaderBuilder, TaggedCborSerializable as _,
    iana::{Algorithm, CoapContentFormat},
};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    config::{Config, values::Sensitivity},
    decide::Response,
    enforce::Target,
};

struct World {
    key: SigningKey,
    anchors: TrustAnchors,
    identity: Identity,
    base: Config,
    policies: Policies,
}

fn at(hours: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + hours * 3_600).unwrap()
}

fn document(version: u64) -> Document {
    Document {
        version,
        fleet: "home".to_owned(),
        gateways: vec!["gw-1".to_owned(), "gw-2".to_owned()],
        not_before: at(-1),
        expires: at(12),
        description: "a test".to_owned(),
        settings: Settings {
            sensitivity: Some(Sensitivity::Rate(0.02)),
            techniques: [("T1046".to_owned(), Response::Observe)].into(),
            never_block: NeverBlock {
                addresses: vec!["198.51.100.7".parse().unwrap()],
                ..NeverBlock::default()
            },
            ..Settings::default()
        },
    }
}

impl World {
    /// A gateway on which policy 5 is in force.
    fn new() -> Self {
        let key = SigningKey::parse(SigningKey::generate().unwrap().as_bytes()).unwrap();
        let anchors = TrustAnchors::parse(key.public_pem().as_bytes()).unwrap();
        let identity = Identity { fleet: "home".to_owned(), gateway: "gw-1".to_owned() };
        let mut world =
            Self { key, anchors, identity, base: Config::default(), policies: Policies::default() };
        let accepted = world.judge(&seal(&document(5), &world.key).unwrap(), at(0)).unwrap();
        let (who, since) = ("alice".to_owned(), at(0));
        world.policies.adopt(Held { document: accepted.document, key: accepted.key, who, since });
        world
    }

    fn judge(&self, bytes: &[u8], now: Timestamp) -> Result<Accepted, Refused> {
        let protected =
            |target: &Target| (target.to_string() == "02:00:00:00:00:09").then(|| "it is a pump".to_owned());
        let (anchors, identity, base) = (&self.anchors, &self.identity, &self.base);
        self.policies.judge(bytes, &Terms { anchors, identity, base, now }, &protected)
    }

    /// `bytes` are refused for `reason` in words that hold `word`, which is counted and changes nothing.
    fn refuses(&mut self, bytes: &[u8], now: Timestamp, reason: Reason, word: &str) {
        let before = (self.policies.in_force().cloned(), self.policies.over(&self.base).unwrap());
        let refused = self.judge(bytes, now).unwrap_err();
        assert_eq!(refused.reason, reason, "{refused}");
        assert!(refused.detail.contains(word), "{word} in {refused}");
        self.policies.refuse(&refused);
        assert_eq!(self.policies.refused().get(&reason), Some(&1), "counted");
        assert_eq!(before, (self.policies.in_force().cloned(), self.policies.over(&self.base).unwrap()));
        assert_eq!(self.policies.highest(), 5);
    }

    fn seal(&self, document: &Document) -> Vec<u8> {
        seal(document, &self.key).unwrap()
    }
}

/// An envelope by the key of `world` over any payload, after `change`.
fn forge(world: &World, payload: &[u8], change: impl FnOnce(HeaderBuilder) -> HeaderBuilder) -> Vec<u8> {
    let header = HeaderBuilder::new()
        .algorithm(Algorithm::Ed25519)
        .content_format(CoapContentFormat::Json)
        .key_id(world.key.id().0.to_vec());
    CoseSign1Builder::new()
        .protected(change(header).build())
        .payload(payload.to_vec())
        .create_signature(b"tidegate policy 1", |message| world.key.sign(message))
        .build()
        .to_tagged_vec()
        .unwrap()
}

#[test]
fn a_good_policy_changes_exactly_what_it_says() {
    let world = World::new();
    let accepted = world.judge(&world.seal(&document(6)), at(0)).unwrap();
    assert_eq!(accepted.document, document(6));
    let changed = changes(&world.base, &accepted.config);
    let keys: Vec<&str> = changed.iter().map(|change| change.key.as_str()).collect();
    assert_eq!(keys, ["learning.sensitivity", "never_block.addresses", "response.techniques.T1046"]);
    assert!((accepted.config.learn_config().evidence_p - 0.02).abs() < 1e-9);
    assert_eq!(accepted.config.response_config().techniques["T1046"], Response::Observe);
}

#[test]
fn an_unsigned_policy_is_refused() {
    let mut world = World::new();
    let text = serde_json::to_vec_pretty(&document(6)).unwrap();
    world.refuses(&text, at(0), Reason::Unsigned, "not signed");
}

#[test]
fn an_envelope_without_a_signature_is_refused() {
    let mut world = World::new();
    let mut sealed = CoseSign1::from_tagged_slice(&world.seal(&document(6))).unwrap();
    sealed.signature.clear();
    world.refuses(&sealed.to_tagged_vec().unwrap(), at(0), Reason::Unsigned, "no signature");
}

#[test]
fn a_strangers_key_is_refused() {
    let mut world = World::new();
    let stranger = SigningKey::parse(SigningKey::generate().unwrap().as_bytes()).unwrap();
    let sealed = seal(&document(6), &stranger).unwrap();
    world.refuses(&sealed, at(0), Reason::UnknownKey, &stranger.id().to_string());
}

#[test]
fn a_strangers_signature_under_a_known_name_is_refused() {
    let mut world = World::new();
    let stranger = SigningKey::parse(SigningKey::generate().unwrap().as_bytes()).unwrap();
    let mut sealed = CoseSign1::from_tagged_slice(&world.seal(&document(6))).unwrap();
    sealed.signature = stranger.sign(b"anything");
    let word = world.key.id().to_string();
    world.refuses(&sealed.to_tagged_vec().unwrap(), at(0), Reason::WrongSignature, &word);
}

#[test]
fn a_changed_document_is_refused() {
    let mut world = World::new();
    let mut sealed = CoseSign1::from_tagged_slice(&world.seal(&document(6))).unwrap();
    sealed.payload = Some(serde_json::to_vec(&document(7)).unwrap());
    world.refuses(&sealed.to_tagged_vec().unwrap(), at(0), Reason::WrongSignature, "signature");
}

#[test]
fn a_signature_for_another_purpose_is_refused() {
    let mut world = World::new();
    let mut sealed = CoseSign1::from_tagged_slice(&world.seal(&document(6))).unwrap();
    sealed.signature = world.key.sign(&sealed.tbs_data(b"a command"));
    world.refuses(&sealed.to_tagged_vec().unwrap(), at(0), Reason::WrongSignature, "signature");
}

#[test]
fn another_algorithm_is_refused() {
    let mut world = World::new();
    let payload = serde_json::to_vec(&document(6)).unwrap();
    let sealed = forge(&world, &payload, |header| header.algorithm(Algorithm::ES256));
    world.refuses(&sealed, at(0), Reason::Algorithm, "Ed25519");
}

#[test]
fn an_expired_policy_is_refused() {
    let mut world = World::new();
    let over = Document { expires: at(-1), not_before: at(-5), ..document(6) };
    world.refuses(&world.seal(&over), at(0), Reason::Expired, "valid until");
}

#[test]
fn a_policy_of_tomorrow_is_refused() {
    let mut world = World::new();
    let early = Document { not_before: at(1), ..document(6) };
    world.refuses(&world.seal(&early), at(0), Reason::NotYetValid, "valid from");
}

#[test]
fn a_clock_a_day_slow_refuses_and_five_minutes_slow_does_not() {
    let mut world = World::new();
    let sealed = world.seal(&Document { not_before: at(0), ..document(6) });
    assert!(world.judge(&sealed, at(0) - SignedDuration::from_mins(4)).is_ok());
    world.refuses(&sealed, at(-24), Reason::NotYetValid, "it is 2027-01-14");
}

#[test]
fn a_clock_a_day_fast_refuses() {
    let mut world = World::new();
    world.refuses(&world.seal(&document(6)), at(24), Reason::Expired, "it is 2027-01-16");
}

#[test]
fn an_older_version_is_refused() {
    let mut world = World::new();
    world.refuses(&world.seal(&document(4)), at(0), Reason::NotNewer, "not newer than 5");
}

#[test]
fn the_same_version_is_refused() {
    let mut world = World::new();
    let other = Document { settings: Settings::default(), ..document(5) };
    world.refuses(&world.seal(&other), at(0), Reason::NotNewer, "not newer than 5");
}

#[test]
fn after_a_rollback_the_version_taken_back_does_not_return() {
    let mut world = World::new();
    let sealed = world.seal(&document(6));
    let newer = world.judge(&sealed, at(0)).unwrap();
    let (who, since) = ("alice".to_owned(), at(0));
    let before = world.policies.in_force().cloned().unwrap();
    world.policies.adopt(Held { document: newer.document, key: newer.key, who, since });
    world.policies.adopt(before);
    assert_eq!(world.policies.in_force().unwrap().document.version, 5);
    assert_eq!(world.judge(&sealed, at(0)).unwrap_err().reason, Reason::NotNewer);
}

#[test]
fn another_fleets_policy_is_refused() {
    let mut world = World::new();
    let other = Document { fleet: "plant".to_owned(), ..document(6) };
    world.refuses(&world.seal(&other), at(0), Reason::WrongFleet, "plant");
}

#[test]
fn another_gateways_policy_is_refused() {
    let mut world = World::new();
    let other = Document { gateways: vec!["gw-2".to_owned()], ..document(6) };
    world.refuses(&world.seal(&other), at(0), Reason::WrongGateway, "gw-1");
}

#[test]
fn noise_is_refused() {
    let mut world = World::new();
    world.refuses(&[0xd2, 0x84, 0xff, 0x00], at(0), Reason::Malformed, "COSE_Sign1");
}

#[test]
fn every_truncation_is_refused_and_trailing_bytes_are() {
    let world = World::new();
    let sealed = world.seal(&document(6));
    for length in 0..sealed.len() {
        let refused = world.judge(&sealed[..length], at(0)).unwrap_err();
        assert_eq!(refused.reason, Reason::Malformed, "{length}: {refused}");
    }
    let mut longer = sealed;
    longer.push(0);
    assert_eq!(world.judge(&longer, at(0)).unwrap_err().reason, Reason::Malformed);
}

#[test]
fn a_signed_document_with_unknown_fields_is_refused() {
    let mut world = World::new();
    let mut value = serde_json::to_value(document(6)).unwrap();
    value["settings"]["mood"] = json!("fine");
    let sealed = forge(&world, value.to_string().as_bytes(), |header| header);
    world.refuses(&sealed, at(0), Reason::Malformed, "mood");
}

#[test]
fn a_critical_header_that_nobody_knows_is_refused() {
    let mut world = World::new();
    let payload = serde_json::to_vec(&document(6)).unwrap();
    let sealed = forge(&world, &payload, |header| header.add_critical(coset::iana::HeaderParameter::Iv));
    world.refuses(&sealed, at(0), Reason::Malformed, "critical");
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    let mut world = World::new();
    let mut bad = document(6);
    bad.settings.min_confidence = Some(3.0);
    world.refuses(&world.seal(&bad), at(0), Reason::Unusable, "response.min_confidence");
}

#[test]
fn an_unusable_description_is_refused() {
    let mut world = World::new();
    let mut bad = document(6);
    bad.settings.profiles.insert("02:00:00:00:00:01".parse().unwrap(), json!({"mood": "fine"}));
    world.refuses(&world.seal(&bad), at(0), Reason::Unusable, "profile of 02:00:00:00:00:01");
}

#[test]
fn a_protected_device_is_never_isolated() {
    let mut world = World::new();
    let mut bad = document(6);
    let device = "02:00:00:00:00:09".parse().unwrap();
    let level = crate::config::values::IsolationLevel::Full;
    bad.settings.isolation.push(Isolation { device, level, reason: String::new() });
    world.refuses(&world.seal(&bad), at(0), Reason::Unusable, "it is a pump");
}

#[test]
fn a_policy_that_is_too_large_is_refused() {
    let mut world = World::new();
    world.refuses(&vec![0xd2; MAX_BYTES + 1], at(0), Reason::TooLarge, "bytes");
    let large = Document { description: "x".repeat(MAX_BYTES), ..document(6) };
    assert_eq!(seal(&large, &world.key).unwrap_err().reason, Reason::TooLarge);
}

#[test]
fn a_policy_ends_when_its_time_is_over() {
    let mut world = World::new();
    assert!(!world.policies.is_over(at(11)) && world.policies.is_over(at(12)));
    assert_eq!(world.policies.drop_in_force().unwrap().document.version, 5);
    assert_eq!(world.policies.over(&world.base).unwrap(), world.base, "the file rules");
    assert_eq!(world.policies.highest(), 5, "and what is older stays out");
}

#[test]
fn keys_of_other_tools_are_read_and_other_blocks_refused() {
    // RFC 8410, section 10: the example key and the public half that belongs to it.
    let private = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    let public = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    let key = SigningKey::parse(private.as_bytes()).unwrap();
    assert_eq!(key.public_pem().replace("\r\n", "\n"), public);
    assert!(TrustAnchors::parse(public.as_bytes()).unwrap().knows(key.id()));
    assert!(TrustAnchors::parse(private.as_bytes()).is_err());
    assert!(SigningKey::parse(public.as_bytes()).is_err());
    assert!(TrustAnchors::parse(b"").is_err());
    assert!(TrustAnchors::parse(public.repeat(17).as_bytes()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_judged_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
    ) {
        let world = World::new();
        prop_assert!(world.judge(&bytes, at(0)).is_err());
        let sealed = world.seal(&document(6));
        let mut spoilt = sealed.clone();
        for (index, mask) in flips {
            spoilt[index.index(sealed.len())] ^= mask;
        }
        prop_assert!(spoilt == sealed || world.judge(&spoilt, at(0)).is_err());
        let _ = (TrustAnchors::parse(&bytes), SigningKey::parse(&bytes));
    }
}
