//! A notice, and the signed envelope it travels in: COSE_Sign1 with Ed25519 around one map in deterministic CBOR (RFC 8949, 4.2.1).
//!
//! The issuer is who signed; no field names it. Whether a notice is for now, new and about somebody outside is `gatekeeper`'s to
//! say. No bytes make anything here panic.

use coset::cbor;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{keys::PeerKey, refused::Refused};
use crate::{
    enforce::Target,
    policy::{
        KeyId, SigningKey,
        sealed::{Format, Purpose, SealError},
    },
};

/// Largest envelope, in bytes.
pub const MAX_BYTES: usize = 1 << 10;
/// Longest name in a notice, in bytes.
const LONGEST: usize = 64;
/// The highest confidence, in thousandths.
const CERTAIN: u16 = 1_000;
/// Longest time from issue to expiry: a block that lasts longer is told for as long as this.
pub(super) const LONGEST_LIFE: SignedDuration = SignedDuration::from_hours(24);

const NOTICE: Purpose = Purpose { context: b"tidegate neighbour notice 1", most: MAX_BYTES };

/// What one gateway tells another. Fields stand in the order of their names in deterministic CBOR: the shorter first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// Names it among its issuer's; telling it again does not change it.
    pub id: String,
    /// What it says.
    pub say: Say,
    /// When that came to be.
    pub issued: Timestamp,
    /// From then on it means nothing.
    pub expires: Timestamp,
}

/// What a notice says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Say {
    /// The issuer shut an address out.
    Block(Block),
    /// What the issuer's notice of this id did is to be undone.
    Withdraw(String),
}

/// An address that its issuer shut out, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// The address.
    pub target: Target,
    /// The issuer's incident.
    pub incident: String,
    /// ATT&CK technique.
    pub technique: String,
    /// The issuer's confidence, in thousandths.
    pub confidence: u16,
}

/// Signs a notice.
pub fn seal(notice: &Notice, key: &SigningKey) -> Result<Vec<u8>, SealError> {
    let malformed = |cause: &str| SealError::Malformed(cause.to_owned());
    if !is_sound(notice) {
        return Err(malformed(
            "a name in it is empty or too long, or it is for never or for more than a day",
        ));
    }
    let payload = deterministic(notice).ok_or_else(|| malformed("it cannot be written"))?;
    NOTICE.seal(payload, Format::Cbor, key)
}

/// Verifies that `from` signed an envelope and reads the notice in it; `own` is the gateway's own key.
pub fn open(bytes: &[u8], from: &PeerKey, own: KeyId) -> Result<Notice, Refused> {
    let opened = NOTICE.open(bytes, from.anchors()).map_err(|error| match error {
        SealError::TooLarge(..) => Refused::Oversized,
        SealError::Malformed(_) => Refused::Malformed,
        SealError::UnknownKey(key) if key == own => Refused::OwnEcho,
        SealError::UnknownKey(_) => Refused::WrongSigner,
        SealError::Unsigned(_) | SealError::Algorithm | SealError::WrongSignature(_) => Refused::BadSignature,
    })?;
    if opened.format != Format::Cbor {
        return Err(Refused::Malformed);
    }
    let notice: Notice = cbor::from_reader(&opened.payload[..]).map_err(|_| Refused::Malformed)?;
    // What has several forms could be the same notice under several signatures.
    let is_canonical = deterministic(&notice).is_some_and(|written| written == opened.payload);
    if is_canonical && is_sound(&notice) { Ok(notice) } else { Err(Refused::Malformed) }
}

/// The one form of a notice: its fields are in order, and the writer keeps lengths and numbers short.
fn deterministic(notice: &Notice) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    cbor::into_writer(notice, &mut bytes).ok()?;
    Some(bytes)
}

fn is_sound(notice: &Notice) -> bool {
    let is_name =
        |text: &str| (1..=LONGEST).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    let says = match &notice.say {
        Say::Block(block) => {
            is_name(&block.incident) && is_name(&block.technique) && block.confidence <= CERTAIN
        }
        Say::Withdraw(id) => is_name(id),
    };
    let life = notice.expires.duration_since(notice.issued);
    is_name(&notice.id) && says && life > SignedDuration::ZERO && life <= LONGEST_LIFE
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "fixed notices are valid")]

    use proptest::prelude::*;

    use super::*;

    pub(in crate::fleet::neighbours) fn key() -> SigningKey {
        SigningKey::parse(SigningKey::generate().unwrap().as_bytes()).unwrap()
    }

    pub(in crate::fleet::neighbours) fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    pub(in crate::fleet::neighbours) fn block(id: &str, target: &str) -> Notice {
        Notice {
            id: id.to_owned(),
            say: Say::Block(Block {
                target: target.parse().unwrap(),
                incident: "i-1".to_owned(),
                technique: "T1046".to_owned(),
                confidence: 900,
            }),
            issued: at(0),
            expires: at(600),
        }
    }

    pub(in crate::fleet::neighbours) fn withdraw(of: &str) -> Notice {
        Notice { id: format!("{of}-w"), say: Say::Withdraw(of.to_owned()), ..block(of, "203.0.113.9") }
    }

    #[test]
    fn what_is_sealed_is_opened_by_who_knows_the_key() {
        let key = key();
        for notice in [block("n-1", "203.0.113.9"), block("n-2", "2001:db8::9"), withdraw("n-1")] {
            let sealed = seal(&notice, &key).unwrap();
            assert!(sealed.len() < MAX_BYTES / 2, "{} bytes", sealed.len());
            assert_eq!(open(&sealed, &PeerKey::of(&key), KeyId([0; 8])), Ok(notice));
        }
    }

    #[test]
    fn each_bad_envelope_has_its_reason() {
        let (key, other) = (key(), self::key());
        let sealed = seal(&block("n-1", "203.0.113.9"), &key).unwrap();
        let (from, own) = (PeerKey::of(&key), other.id());
        assert_eq!(open(&sealed, &PeerKey::of(&other), own), Err(Refused::WrongSigner));
        assert_eq!(open(&sealed, &PeerKey::of(&other), key.id()), Err(Refused::OwnEcho));
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(open(&changed, &from, own), Err(Refused::BadSignature));
        assert_eq!(open(&sealed[..sealed.len() - 1], &from, own), Err(Refused::Malformed));
        assert_eq!(open(b"block 203.0.113.9", &from, own), Err(Refused::BadSignature));
        assert_eq!(open(&vec![0xd2; MAX_BYTES + 1], &from, own), Err(Refused::Oversized));
        let as_json = NOTICE.seal(b"{}".to_vec(), Format::Json, &key).unwrap();
        assert_eq!(open(&as_json, &from, own), Err(Refused::Malformed));
        let command = Purpose { context: b"tidegate command 1", most: MAX_BYTES };
        let payload = deterministic(&block("n-1", "203.0.113.9")).unwrap();
        let borrowed = command.seal(payload, Format::Cbor, &key).unwrap();
        assert_eq!(open(&borrowed, &from, own), Err(Refused::BadSignature), "signed for another purpose");
    }

    #[test]
    fn one_notice_has_one_form() {
        let key = key();
        let notice = block("n-1", "203.0.113.9");
        let value = cbor::Value::serialized(&notice).unwrap();
        let mut entries = value.into_map().unwrap();
        entries.reverse();
        let mut payload = Vec::new();
        cbor::into_writer(&cbor::Value::Map(entries), &mut payload).unwrap();
        let sealed = NOTICE.seal(payload, Format::Cbor, &key).unwrap();
        assert_eq!(open(&sealed, &PeerKey::of(&key), KeyId([0; 8])), Err(Refused::Malformed));
        for broken in [
            Notice { id: String::new(), ..notice.clone() },
            Notice { id: "x".repeat(LONGEST + 1), ..notice.clone() },
            Notice { id: "with space".to_owned(), ..notice.clone() },
            Notice { expires: notice.issued, ..notice.clone() },
            Notice { expires: at(86_401), ..notice.clone() },
        ] {
            assert!(seal(&broken, &key).is_err(), "{broken:?}");
            let payload = deterministic(&broken).unwrap();
            let sealed = NOTICE.seal(payload, Format::Cbor, &key).unwrap();
            assert_eq!(open(&sealed, &PeerKey::of(&key), KeyId([0; 8])), Err(Refused::Malformed));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..1_200),
            payload in prop::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let key = key();
            let from = PeerKey::of(&key);
            prop_assert!(open(&bytes, &from, KeyId([0; 8])).is_err());
            let signed = NOTICE.seal(payload, Format::Cbor, &key).unwrap();
            prop_assert!(open(&signed, &from, KeyId([0; 8])).is_err());
            let mut sealed = seal(&block("n-1", "203.0.113.9"), &key).unwrap();
            let at = at.index(sealed.len());
            prop_assert!(open(&sealed[..at], &from, KeyId([0; 8])).is_err());
            sealed[at] ^= 1 << bit;
            // A changed byte outside what is signed may leave the notice as it was, and nothing else.
            if let Ok(notice) = open(&sealed, &from, KeyId([0; 8])) {
                prop_assert_eq!(notice, block("n-1", "203.0.113.9"));
            }
        }
    }
}
