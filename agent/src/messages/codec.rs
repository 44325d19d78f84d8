//! MQTT 3.1.1 and 5 on the wire, as much as the guard looks at. Control packets are read and written by `rmqtt-codec`.
//!
//! A PUBLISH is read where it lies: its bytes go on as they came, so only its head is looked at. Every other packet of a client is
//! read whole by the codec before it passes. No bytes make anything here panic; what cannot be read is [`Malformed`].

use std::{num::NonZeroU16, str};

use rmqtt_codec::{v3, v5};
use serde::{Deserialize, Serialize};
use tokio_util::{
    bytes::BytesMut,
    codec::{Decoder, Encoder},
};

use super::acl;

/// Not MQTT as the specification has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed packet: {0}")]
pub struct Malformed(pub &'static str);

/// Version of the protocol that a session speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// 3.1.1.
    V4,
    /// 5.
    V5,
}

/// Type of a packet, with its fixed flags checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// CONNECT.
    Connect,
    /// CONNACK.
    ConnAck,
    /// PUBLISH.
    Publish,
    /// PUBACK.
    PubAck,
    /// PUBREC.
    PubRec,
    /// PUBREL.
    PubRel,
    /// PUBCOMP.
    PubComp,
    /// SUBSCRIBE.
    Subscribe,
    /// SUBACK.
    SubAck,
    /// UNSUBSCRIBE.
    Unsubscribe,
    /// UNSUBACK.
    UnsubAck,
    /// PINGREQ.
    PingReq,
    /// PINGRESP.
    PingResp,
    /// DISCONNECT.
    Disconnect,
    /// AUTH.
    Auth,
}

impl Kind {
    fn of(first: u8) -> Result<Self, Malformed> {
        Ok(match first {
            0x10 => Self::Connect,
            0x20 => Self::ConnAck,
            0x30..=0x3f => Self::Publish,
            0x40 => Self::PubAck,
            0x50 => Self::PubRec,
            0x62 => Self::PubRel,
            0x70 => Self::PubComp,
            0x82 => Self::Subscribe,
            0x90 => Self::SubAck,
            0xa2 => Self::Unsubscribe,
            0xb0 => Self::UnsubAck,
            0xc0 => Self::PingReq,
            0xd0 => Self::PingResp,
            0xe0 => Self::Disconnect,
            0xf0 => Self::Auth,
            _ => return Err(Malformed("unknown type or flags")),
        })
    }
}

/// Where a packet ends: its type, the length of its fixed header, and its length with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Type.
    pub kind: Kind,
    /// Bytes of the fixed header.
    pub head: usize,
    /// Bytes of the whole packet.
    pub len: usize,
}

/// The packet that `bytes` begin with, which may not be there whole; `None` while its length is not known.
pub fn frame(bytes: &[u8]) -> Result<Option<Frame>, Malformed> {
    let Some(first) = bytes.first() else { return Ok(None) };
    let kind = Kind::of(*first)?;
    let Some((rest, digits)) = variable(&bytes[1..])? else { return Ok(None) };
    Ok(Some(Frame { kind, head: 1 + digits, len: 1 + digits + rest }))
}

/// A variable byte integer and its length; `None` when it goes on.
fn variable(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() >= 4 { Err(Malformed("a length of more than four bytes")) } else { Ok(None) }
}

/// A message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Topic; empty when only an alias was given.
    pub topic: &'a str,
    /// Quality of service, 0 to 2.
    pub qos: u8,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// Packet id; `None` with quality 0.
    pub id: Option<NonZeroU16>,
    /// Alias of the topic.
    pub alias: Option<NonZeroU16>,
    /// What it says.
    pub payload: &'a [u8],
    /// The whole packet as it came.
    pub packet: &'a [u8],
}

/// Reads the PUBLISH that `packet`, a whole packet with a fixed header of `head` bytes, is.
pub fn publish(version: Version, packet: &[u8], head: usize) -> Result<Publish<'_>, Malformed> {
    let cut = Malformed("PUBLISH is cut short");
    let first = *packet.first().ok_or(cut)?;
    let (topic, rest) = take_text(packet.get(head..).ok_or(cut)?).ok_or(cut)?;
    let topic = str::from_utf8(topic).map_err(|_| Malformed("a topic that is not UTF-8"))?;
    let qos = (first >> 1) & 3;
    if qos == 3 || (qos == 0 && first & 8 != 0) {
        return Err(Malformed("a quality of service that does not exist"));
    }
    let (id, rest) = match (qos, rest.split_first_chunk::<2>()) {
        (0, _) => (None, rest),
        (_, Some((id, rest))) => {
            let id = NonZeroU16::new(u16::from_be_bytes(*id)).ok_or(Malformed("packet id 0"))?;
            (Some(id), rest)
        }
        _ => return Err(cut),
    };
    let (alias, payload) = match version {
        Version::V4 => (None, rest),
        Version::V5 => {
            let (length, digits) = variable(rest)?.ok_or(cut)?;
            let payload = rest.get(digits + length..).ok_or(cut)?;
            let alias = if length == 0 { None } else { alias(packet, head, packet.len() - payload.len())? };
            (alias, payload)
        }
    };
    let named = acl::is_topic(topic) || (topic.is_empty() && alias.is_some());
    if !named {
        return Err(Malformed("a topic that is empty or has wildcards"));
    }
    Ok(Publish { topic, qos, retain: first & 1 != 0, id, alias, payload, packet })
}

/// Checks the properties of a PUBLISH, which end at `end`, and returns the topic alias among them.
fn alias(packet: &[u8], head: usize, end: usize) -> Result<Option<NonZeroU16>, Malformed> {
    let mut bytes = BytesMut::with_capacity(end + 4);
    bytes.extend_from_slice(&packet[..1]);
    let mut rest = end - head;
    loop {
        let more = rest > 0x7f;
        bytes.extend_from_slice(&[(rest & 0x7f) as u8 | if more { 0x80 } else { 0 }]);
        rest >>= 7;
        if !more {
            break;
        }
    }
    bytes.extend_from_slice(&packet[head..end]);
    match decode_v5(bytes)? {
        v5::Packet::Publish(publish) => Ok(publish.properties.and_then(|known| known.topic_alias)),
        _ => Err(Malformed("not a PUBLISH")),
    }
}

pub(super) fn take_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// What follows the properties of a packet of version 5.
pub fn after_properties(rest: &[u8]) -> Result<&[u8], Malformed> {
    let cut = Malformed("properties are cut short");
    let (length, digits) = variable(rest)?.ok_or(cut)?;
    rest.get(digits + length..).ok_or(cut)
}

/// The id that an acknowledgement, UNSUBACK or SUBACK carries first.
pub fn packet_id(packet: &[u8], head: usize) -> Result<NonZeroU16, Malformed> {
    packet
        .get(head..)
        .and_then(|rest| rest.first_chunk::<2>())
        .and_then(|id| NonZeroU16::new(u16::from_be_bytes(*id)))
        .ok_or(Malformed("no packet id"))
}

/// Whether an acknowledgement of version 5 says that it went wrong, which ends a message at once.
pub fn is_failure(packet: &[u8], head: usize) -> bool {
    packet.get(head + 2).is_some_and(|code| *code >= 0x80)
}

/// A control packet of either version.
#[derive(Clone, Debug)]
pub enum Packet {
    /// 3.1.1.
    V4(v3::Packet),
    /// 5.
    V5(v5::Packet),
}

impl Packet {
    /// Reads one whole packet.
    pub fn decode(version: Version, packet: &[u8]) -> Result<Self, Malformed> {
        let bytes = BytesMut::from(packet);
        match version {
            Version::V4 => decode_v4(bytes).map(Self::V4),
            Version::V5 => decode_v5(bytes).map(Self::V5),
        }
    }

    /// Appends it to `bytes`.
    pub fn encode(self, bytes: &mut BytesMut) -> Result<(), Malformed> {
        let written = match self {
            Self::V4(packet) => v3::Codec::default().encode(packet, bytes),
            Self::V5(packet) => v5::Codec::default().encode(packet, bytes),
        };
        written.map_err(|_| Malformed("the packet cannot be written"))
    }
}

fn decode_v4(mut bytes: BytesMut) -> Result<v3::Packet, Malformed> {
    match v3::Codec::default().decode(&mut bytes) {
        Ok(Some((packet, _))) if bytes.is_empty() => Ok(packet),
        _ => Err(Malformed("the codec refuses it")),
    }
}

fn decode_v5(mut bytes: BytesMut) -> Result<v5::Packet, Malformed> {
    match v5::Codec::default().decode(&mut bytes) {
        Ok(Some((packet, _))) if bytes.is_empty() => Ok(packet),
        _ => Err(Malformed("the codec refuses it")),
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
