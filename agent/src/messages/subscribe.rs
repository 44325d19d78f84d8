//! SUBSCRIBE with some of its filters taken out, and the SUBACK that tells the client of all of them. Also UNSUBSCRIBE and the
//! DISCONNECT of version 5, the other packets that the guard reads whole.

use std::num::NonZeroU16;

use rmqtt_codec::{v3, v5};
use tokio_util::bytes::BytesMut;

use super::{
    answer,
    codec::{Malformed, Packet, Version},
};

/// What a client asks to be given.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// Id of the packet.
    pub id: NonZeroU16,
    /// Filters in order.
    pub filters: Vec<String>,
    packet: Packet,
}

impl Subscribe {
    /// Reads a whole SUBSCRIBE.
    pub fn decode(version: Version, packet: &[u8]) -> Result<Self, Malformed> {
        let packet = Packet::decode(version, packet)?;
        let (id, filters) = match &packet {
            Packet::V4(v3::Packet::Subscribe { packet_id, topic_filters }) => {
                (*packet_id, topic_filters.iter().map(|(filter, _)| filter.to_string()).collect())
            }
            Packet::V5(v5::Packet::Subscribe(subscribe)) => {
                let filters = subscribe.topic_filters.iter().map(|(filter, _)| filter.to_string());
                (subscribe.packet_id, filters.collect())
            }
            _ => return Err(Malformed("not a SUBSCRIBE")),
        };
        let subscribe = Self { id, filters, packet };
        if subscribe.filters.is_empty() {
            Err(Malformed("SUBSCRIBE without a filter"))
        } else {
            Ok(subscribe)
        }
    }

    /// The SUBSCRIBE with those filters alone whose code is `None`.
    pub fn allowed(self, codes: &[Option<u8>]) -> Result<BytesMut, Malformed> {
        let is_allowed = |index: usize| codes.get(index).is_some_and(Option::is_none);
        let packet = match self.packet {
            Packet::V4(v3::Packet::Subscribe { packet_id, topic_filters }) => {
                let topic_filters = keep(topic_filters, is_allowed);
                Packet::V4(v3::Packet::Subscribe { packet_id, topic_filters })
            }
            Packet::V5(v5::Packet::Subscribe(mut subscribe)) => {
                subscribe.topic_filters = keep(subscribe.topic_filters, is_allowed);
                Packet::V5(v5::Packet::Subscribe(subscribe))
            }
            other => other,
        };
        let mut bytes = BytesMut::new();
        packet.encode(&mut bytes)?;
        Ok(bytes)
    }
}

fn keep<T>(list: Vec<T>, wanted: impl Fn(usize) -> bool) -> Vec<T> {
    list.into_iter().enumerate().filter(|(index, _)| wanted(*index)).map(|(_, item)| item).collect()
}

/// The broker's SUBACK with the guard's own codes put back where filters were taken out.
pub fn merge_suback(
    version: Version,
    packet: &[u8],
    head: usize,
    codes: &[Option<u8>],
) -> Result<BytesMut, Malformed> {
    let cut = Malformed("SUBACK is cut short");
    let rest = packet.get(head..).ok_or(cut)?;
    let (id, rest) = rest.split_first_chunk::<2>().ok_or(cut)?;
    let id = NonZeroU16::new(u16::from_be_bytes(*id)).ok_or(cut)?;
    let granted = match version {
        Version::V4 => rest,
        Version::V5 => super::codec::after_properties(rest)?,
    };
    let mut granted = granted.iter().copied();
    let merged: Option<Vec<u8>> = codes.iter().map(|code| code.or_else(|| granted.next())).collect();
    let mut bytes = BytesMut::new();
    answer::suback(version, id, &merged.ok_or(cut)?, &mut bytes);
    Ok(bytes)
}

/// The filters that a whole UNSUBSCRIBE gives up.
pub fn unsubscribed(version: Version, packet: &[u8]) -> Result<Vec<String>, Malformed> {
    match Packet::decode(version, packet)? {
        Packet::V4(v3::Packet::Unsubscribe { topic_filters, .. }) => {
            Ok(topic_filters.iter().map(ToString::to_string).collect())
        }
        Packet::V5(v5::Packet::Unsubscribe(unsubscribe)) => {
            Ok(unsubscribe.topic_filters.iter().map(ToString::to_string).collect())
        }
        _ => Err(Malformed("not an UNSUBSCRIBE")),
    }
}

/// A DISCONNECT with a session expiry of at most `most_s`: the client may change its mind when it leaves. `None` when the
/// packet may pass as it is.
pub fn disconnect(version: Version, packet: &[u8], most_s: u32) -> Result<Option<BytesMut>, Malformed> {
    match Packet::decode(version, packet)? {
        Packet::V4(v3::Packet::Disconnect) => Ok(None),
        Packet::V5(v5::Packet::Disconnect(mut disconnect)) => {
            if disconnect.session_expiry_interval_secs.is_none_or(|expiry| expiry <= most_s) {
                return Ok(None);
            }
            disconnect.session_expiry_interval_secs = Some(most_s);
            let mut bytes = BytesMut::new();
            Packet::V5(v5::Packet::Disconnect(disconnect)).encode(&mut bytes)?;
            Ok(Some(bytes))
        }
        _ => Err(Malformed("not a DISCONNECT")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a refused packet is the test's failure")]
    use super::*;

    // SUBSCRIBE, id 10, filters "a/b" and "c" with quality 1.
    const V4: &[u8] = &[0x82, 12, 0, 10, 0, 3, b'a', b'/', b'b', 1, 0, 1, b'c', 1];
    const V5: &[u8] = &[0x82, 13, 0, 10, 0, 0, 3, b'a', b'/', b'b', 1, 0, 1, b'c', 1];

    #[test]
    fn refused_filters_are_taken_out_and_answered_in_their_place() {
        for (version, packet, ack) in
            [(Version::V4, V4, &[0x90, 3, 0, 10, 1][..]), (Version::V5, V5, &[0x90, 4, 0, 10, 0, 1][..])]
        {
            let subscribe = Subscribe::decode(version, packet).unwrap();
            assert_eq!(subscribe.filters, ["a/b", "c"]);
            let codes = [Some(0x87), None];
            let allowed = Subscribe::decode(version, &subscribe.allowed(&codes).unwrap()).unwrap();
            assert_eq!((allowed.filters, allowed.id.get()), (vec!["c".to_owned()], 10));
            let merged = merge_suback(version, ack, 2, &codes).unwrap();
            assert_eq!(merged[merged.len() - 2..], [0x87, 1]);
            assert!(merge_suback(version, ack, 2, &[None, None]).is_err(), "a broker that leaves one out");
        }
    }

    #[test]
    fn a_client_that_leaves_cannot_lengthen_its_session() {
        let wish = [0xe0, 7, 0, 5, 0x11, 0xff, 0xff, 0xff, 0xff];
        let bytes = disconnect(Version::V5, &wish, 60).unwrap().unwrap();
        assert_eq!(bytes[bytes.len() - 4..], 60_u32.to_be_bytes());
        assert_eq!(disconnect(Version::V5, &[0xe0, 0], 60).unwrap(), None);
        assert_eq!(disconnect(Version::V4, &[0xe0, 0], 60).unwrap(), None);
    }
}
