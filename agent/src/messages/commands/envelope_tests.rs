//! One test a bad envelope, and that no bytes make one of any.

#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use coset::{CoseSign1, TaggedCborSerializable as _};
use proptest::prelude::*;

use super::*;

fn key() -> (SigningKey, TrustAnchors) {
    let key = SigningKey::parse(SigningKey::generate().unwrap().as_bytes()).unwrap();
    let anchors = TrustAnchors::parse(key.public_pem().as_bytes()).unwrap();
    (key, anchors)
}

fn command() -> Command {
    let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
    Command {
        id: "order-1".to_owned(),
        device: "lamp".to_owned(),
        issued: at(0),
        expires: at(60),
        nonce: "0123456789abcdef".to_owned(),
        verb: "set".to_owned(),
        params: serde_json::from_str(r#"{"level": 40, "a": {"zz": true, "b": 1.5}}"#).unwrap(),
    }
}

fn reason(bytes: &[u8], anchors: &TrustAnchors) -> Reason {
    open(bytes, anchors).unwrap_err().reason()
}

#[test]
fn a_command_comes_back_as_it_was_signed_in_both_formats() {
    let (key, anchors) = key();
    let sealed = seal(&command(), &key).unwrap();
    assert_eq!(open(&sealed, &anchors), Ok((command(), key.id())));
    let json = COMMAND.seal(serde_json::to_vec(&command()).unwrap(), Format::Json, &key).unwrap();
    assert_eq!(open(&json, &anchors), Ok((command(), key.id())));
}

#[test]
fn unsigned_strange_and_changed_commands_are_refused() {
    let ((key, anchors), (stranger, _)) = (key(), key());
    let sealed = seal(&command(), &key).unwrap();
    assert_eq!(reason(br#"{"verb":"set"}"#, &anchors), Reason::CommandUnsigned);
    assert_eq!(reason(&seal(&command(), &stranger).unwrap(), &anchors), Reason::CommandKey);
    let change = |change: fn(&mut CoseSign1)| {
        let mut changed = CoseSign1::from_tagged_slice(&sealed).unwrap();
        change(&mut changed);
        changed.to_tagged_vec().unwrap()
    };
    assert_eq!(reason(&change(|c| c.signature.clear()), &anchors), Reason::CommandUnsigned);
    assert_eq!(reason(&change(|c| c.signature[0] ^= 1), &anchors), Reason::CommandSignature);
    let other = change(|c| c.payload.as_mut().unwrap()[20] ^= 1);
    assert_eq!(reason(&other, &anchors), Reason::CommandSignature);
    // Signed by the right key, as a policy.
    let policy = Purpose { context: b"tidegate policy 1", most: MAX_BYTES };
    let payload = serde_json::to_vec(&command()).unwrap();
    let borrowed = policy.seal(payload, Format::Json, &key).unwrap();
    assert_eq!(reason(&borrowed, &anchors), Reason::CommandSignature);
    assert_eq!(reason(&vec![0xd2; MAX_BYTES + 1], &anchors), Reason::CommandFormat);
}

#[test]
fn every_truncation_is_refused() {
    let (key, anchors) = key();
    let sealed = seal(&command(), &key).unwrap();
    for length in 1..sealed.len() {
        assert_eq!(reason(&sealed[..length], &anchors), Reason::CommandFormat, "{length}");
    }
}

#[test]
fn signed_content_that_could_be_read_in_two_ways_is_refused() {
    let (key, anchors) = key();
    let value = cbor::Value::serialized(&command()).unwrap();
    let sound = deterministic(value.clone()).unwrap();
    let sealed = |payload: Vec<u8>, format| COMMAND.seal(payload, format, &key).unwrap();
    assert!(open(&sealed(sound.clone(), Format::Cbor), &anchors).is_ok());
    // Names in another order, something behind the map, the map cut short.
    let mut unordered = Vec::new();
    cbor::into_writer(&value, &mut unordered).unwrap();
    assert_ne!(unordered, sound);
    let trailing = [&sound[..], &[0]].concat();
    for payload in [unordered, trailing, sound[..sound.len() - 1].to_vec(), Vec::new()] {
        assert_eq!(reason(&sealed(payload, Format::Cbor), &anchors), Reason::CommandFormat);
    }
    let text = serde_json::to_string(&command()).unwrap();
    for text in [
        text.replacen("\"level\":40", "\"level\":40,\"level\":99", 1),
        text.replacen("\"verb\":", "\"verb\":\"off\",\"verb\":", 1),
        text.replacen("{\"id\"", "{\"mood\":1,\"id\"", 1),
        text.replacen("0123456789abcdef", "short", 1),
        text.replacen("\"lamp\"", "\"\"", 1),
    ] {
        let sealed = sealed(text.clone().into_bytes(), Format::Json);
        assert_eq!(reason(&sealed, &anchors), Reason::CommandFormat, "{text}");
    }
    let backwards = Command { expires: command().issued, ..command() };
    assert_eq!(seal(&backwards, &key).unwrap_err().reason(), Reason::CommandFormat);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_opened_without_a_panic_and_no_change_is_believed(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
    ) {
        let (key, anchors) = key();
        prop_assert!(open(&bytes, &anchors).is_err());
        let mut tagged = bytes.clone();
        tagged.insert(0, 0xd2);
        prop_assert!(open(&tagged, &anchors).is_err());
        // The right key may sign anything.
        let _ = open(&COMMAND.seal(bytes, Format::Cbor, &key).unwrap(), &anchors);
        let sealed = seal(&command(), &key).unwrap();
        let mut spoilt = sealed.clone();
        for (index, mask) in flips {
            spoilt[index.index(sealed.len())] ^= mask;
        }
        prop_assert!(spoilt == sealed || open(&spoilt, &anchors).is_err());
    }
}
