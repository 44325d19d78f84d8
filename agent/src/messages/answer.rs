//! What the guard itself says to a client: refusals in the words of its version of MQTT.

use std::num::NonZeroU16;

use tokio_util::bytes::{BufMut as _, BytesMut};

use super::{
    codec::{Publish, Version},
    reason::Reason,
};

/// Property that holds a reason in words.
const REASON_STRING: u8 = 0x1f;
/// Longest of them that are said, in bytes.
const LONGEST_WORDS: usize = 64;

/// CONNACK that refuses.
pub fn connack(version: Version, reason: Reason) -> BytesMut {
    let code = match (version, reason) {
        (Version::V4, Reason::Version) => 1,
        (Version::V4, Reason::ClientId) => 2,
        (Version::V4, Reason::BrokerAway) => 3,
        (Version::V4, Reason::Credentials) => 4,
        (Version::V4, _) => 5,
        (Version::V5, Reason::Version) => 0x84,
        (Version::V5, Reason::ClientId) => 0x85,
        (Version::V5, Reason::BrokerAway) => 0x88,
        (Version::V5, Reason::Credentials) => 0x86,
        (Version::V5, Reason::Malformed) => 0x81,
        (Version::V5, Reason::PacketSize) => 0x95,
        (Version::V5, _) => 0x87,
    };
    match version {
        Version::V4 => BytesMut::from(&[0x20, 2, 0, code][..]),
        Version::V5 => BytesMut::from(&[0x20, 3, 0, code, 0][..]),
    }
}

/// DISCONNECT that says why; version 3.1.1 has none.
pub fn disconnect(version: Version, reason: Reason) -> Option<BytesMut> {
    let code = match reason {
        Reason::Malformed => 0x81,
        Reason::PacketSize => 0x95,
        Reason::KeepAlive => 0x8d,
        Reason::TopicShape => 0x90,
        Reason::PublishTopic | Reason::SubscribeTopic | Reason::Isolated | Reason::Revoked => 0x87,
        Reason::BrokerAway => 0x8b,
        _ => 0x97,
    };
    (version == Version::V5).then(|| BytesMut::from(&[0xe0, 1, code][..]))
}

/// The acknowledgement of a PUBLISH that was not passed on, if it wants one; version 5 says why, in `words` too unless they are
/// empty. Version 3.1.1 can only say that it arrived.
pub fn refuse_publish(
    version: Version,
    publish: &Publish<'_>,
    reason: Reason,
    words: &str,
    answers: &mut BytesMut,
) {
    let Some(id) = publish.id else { return };
    let code = match reason {
        Reason::TopicShape => 0x90,
        Reason::Retained | Reason::CommandRate | Reason::CommandRoom => 0x97,
        Reason::CommandFormat => 0x99,
        Reason::CommandHeld => 0x83,
        _ => 0x87,
    };
    // PUBACK or PUBREC; the PUBREL that follows the latter is answered by the broker, which does not know the id.
    answers.put_u8(if publish.qos == 1 { 0x40 } else { 0x50 });
    // Lengths of one byte are enough for them.
    let words = &words.as_bytes()[..words.len().min(LONGEST_WORDS)];
    match version {
        Version::V4 => answers.put_u8(2),
        Version::V5 if words.is_empty() => answers.put_u8(3),
        Version::V5 => answers.put_u8(7 + words.len() as u8),
    }
    answers.put_u16(id.get());
    if version == Version::V5 {
        answers.put_u8(code);
        if !words.is_empty() {
            answers.put_u8(3 + words.len() as u8);
            answers.put_u8(REASON_STRING);
            answers.put_u16(words.len() as u16);
            answers.extend_from_slice(words);
        }
    }
}

/// Code of a filter in SUBACK that was refused.
pub const fn suback_code(version: Version, reason: Reason) -> u8 {
    match (version, reason) {
        (Version::V4, _) => 0x80,
        (Version::V5, Reason::Subscriptions) => 0x97,
        (Version::V5, Reason::TopicShape) => 0x8f,
        (Version::V5, _) => 0x87,
    }
}

/// SUBACK with `codes`.
pub fn suback(version: Version, id: NonZeroU16, codes: &[u8], answers: &mut BytesMut) {
    let properties = usize::from(version == Version::V5);
    let mut rest = 2 + properties + codes.len();
    answers.put_u8(0x90);
    loop {
        let more = rest > 0x7f;
        answers.put_u8((rest & 0x7f) as u8 | if more { 0x80 } else { 0 });
        rest >>= 7;
        if !more {
            break;
        }
    }
    answers.put_u16(id.get());
    answers.put_bytes(0, properties);
    answers.extend_from_slice(codes);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a refused packet is the test's failure")]
    use super::*;
    use crate::messages::codec::Packet;

    #[test]
    fn every_answer_is_a_packet_of_its_version() {
        let publish = |qos| Publish {
            topic: "t",
            qos,
            retain: false,
            id: NonZeroU16::new(7),
            alias: None,
            payload: b"",
            packet: b"",
        };
        for version in [Version::V4, Version::V5] {
            for reason in Reason::ALL.iter().copied() {
                Packet::decode(version, &connack(version, reason)).unwrap();
                if let Some(bytes) = disconnect(version, reason) {
                    Packet::decode(version, &bytes).unwrap();
                }
                for qos in [1, 2] {
                    let mut bytes = BytesMut::new();
                    refuse_publish(version, &publish(qos), reason, reason.name(), &mut bytes);
                    Packet::decode(version, &bytes).unwrap();
                }
                let mut bytes = BytesMut::new();
                let codes = vec![suback_code(version, reason); 200];
                suback(version, NonZeroU16::MIN, &codes, &mut bytes);
                Packet::decode(version, &bytes).unwrap();
            }
        }
    }
}
