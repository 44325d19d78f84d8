//! What is read of packets, and that no bytes make a reader panic.

#![allow(clippy::unwrap_used, reason = "a refused packet is the test's failure")]

use proptest::prelude::*;

use super::*;
use crate::messages::{
    answer,
    connect::{Connect, Overridden, connack, connect_version},
    subscribe,
};

/// CONNECT of version 3.1.1: client id "cam", will on "t", user "u", password "pw", keep-alive 60.
pub(crate) const CONNECT_V4: &[u8] = &[
    0x10, 31, 0, 4, b'M', b'Q', b'T', b'T', 4, 0xc6, 0, 60, 0, 3, b'c', b'a', b'm', 0, 1, b't', 0, 4, b'd',
    b'e', b'a', b'd', 0, 1, b'u', 0, 2, b'p', b'w',
];

fn whole(bytes: &[u8]) -> Frame {
    let frame = frame(bytes).unwrap().unwrap();
    assert_eq!(frame.len, bytes.len());
    frame
}

#[test]
fn a_frame_ends_where_its_length_says() {
    assert_eq!(frame(&[]).unwrap(), None);
    assert_eq!(frame(&[0x30, 0x80]).unwrap(), None);
    assert_eq!(frame(&[0x30, 0x80, 1]).unwrap(), Some(Frame { kind: Kind::Publish, head: 3, len: 131 }));
    assert!(frame(&[0x30, 0xff, 0xff, 0xff, 0xff]).is_err());
    for first in [0x00, 0x11, 0x60, 0x80, 0xa0] {
        assert!(frame(&[first, 0]).is_err(), "{first:#x}");
    }
}

#[test]
fn a_publish_is_read_where_it_lies() {
    let packet = [0x33, 10, 0, 3, b'a', b'/', b'b', 0, 9, b'h', b'i', b'!'];
    let frame = whole(&packet);
    let message = publish(Version::V4, &packet, frame.head).unwrap();
    assert_eq!((message.topic, message.qos, message.retain), ("a/b", 1, true));
    assert_eq!((message.id.unwrap().get(), message.payload), (9, &b"hi!"[..]));
}

#[test]
fn an_alias_is_found_among_the_properties() {
    // Content type "x", then alias 5.
    let packet = [0x30, 13, 0, 1, b't', 7, 3, 0, 1, b'x', 0x23, 0, 5, b'h', b'i'];
    let message = publish(Version::V5, &packet, 2).unwrap();
    assert_eq!((message.topic, message.alias.unwrap().get(), message.payload), ("t", 5, &b"hi"[..]));
    let nameless = [0x30, 6, 0, 0, 3, 0x23, 0, 5];
    assert_eq!(publish(Version::V5, &nameless, 2).unwrap().topic, "");
}

#[test]
fn what_no_publish_may_be_is_refused() {
    for (version, packet) in [
        (Version::V4, &[0x30, 2, 0, 0][..]),
        (Version::V4, &[0x30, 3, 0, 1, b'#']),
        (Version::V4, &[0x30, 3, 0, 2, b'a']),
        (Version::V4, &[0x36, 3, 0, 1, b'a']),
        (Version::V4, &[0x38, 3, 0, 1, b'a']),
        (Version::V4, &[0x32, 5, 0, 1, b'a', 0, 0]),
        (Version::V4, &[0x30, 3, 0, 1, 0xff]),
        (Version::V5, &[0x30, 3, 0, 1, b'a']),
        (Version::V5, &[0x30, 3, 0, 0, 0]),
        (Version::V5, &[0x30, 5, 0, 1, b'a', 1, 0x77]),
        (Version::V5, &[0x30, 7, 0, 1, b'a', 3, 0x23, 0, 0]),
    ] {
        assert!(publish(version, packet, 2).is_err(), "{packet:x?}");
    }
}

#[test]
fn a_connect_goes_on_without_its_credentials() {
    let version = connect_version(CONNECT_V4, 2).unwrap().unwrap();
    let connect = Connect::decode(version, CONNECT_V4).unwrap();
    assert_eq!((connect.client_id.as_str(), connect.username.as_deref()), ("cam", Some("u")));
    assert_eq!((connect.password.as_deref(), connect.keep_alive), (Some(&b"pw"[..]), 60));
    let will = connect.will.clone().unwrap();
    assert_eq!((will.topic.as_str(), &will.payload[..]), ("t", &b"dead"[..]));
    let forwarded = Connect::decode(version, &connect.forward("u/cam".to_owned(), 30, 0).unwrap()).unwrap();
    assert_eq!((forwarded.client_id.as_str(), forwarded.keep_alive), ("u/cam", 30));
    assert_eq!((forwarded.username, forwarded.password), (None, None));
    assert_eq!(forwarded.will, connect.will);
}

#[test]
fn a_connack_of_version_5_tells_the_guards_limits() {
    let overridden = Overridden { keep_alive: Some(600), expiry_s: Some(60) };
    // Topic alias maximum 10.
    let (bytes, accepted) = connack(Version::V5, &[0x20, 6, 0, 0, 3, 0x22, 0, 10], overridden).unwrap();
    assert!(accepted);
    let Packet::V5(v5::Packet::ConnectAck(ack)) = Packet::decode(Version::V5, &bytes).unwrap() else {
        panic!("{bytes:x?}")
    };
    assert_eq!((ack.topic_alias_max, ack.server_keepalive_sec), (0, Some(600)));
    assert_eq!(ack.session_expiry_interval_secs, Some(60));
    assert!(!connack(Version::V4, &[0x20, 2, 0, 5], overridden).unwrap().1);
}

#[test]
fn only_the_two_versions_are_spoken() {
    let mut other = CONNECT_V4.to_vec();
    other[8] = 3;
    assert_eq!(connect_version(&other, 2).unwrap(), None);
    assert!(connect_version(b"GET / HTTP/1.1\r\n", 2).is_err());
}

/// A packet with a plausible first byte and length and anything behind it.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        Just(0x10),
        Just(0x20),
        0x30..=0x3f_u8,
        Just(0x40),
        Just(0x82),
        Just(0x90),
        Just(0xa2),
        Just(0xe0),
        any::<u8>()
    ];
    let rest = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..60),
        proptest::collection::vec(0..9_u8, 0..60),
        proptest::collection::vec(any::<u8>(), 0..40)
            .prop_map(|tail| { [&[0, 4, b'M', b'Q', b'T', b'T'][..], &tail].concat() }),
    ];
    (first, rest).prop_map(|(first, rest)| [&[first, rest.len() as u8][..], &rest].concat())
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in packet(), five in any::<bool>()) {
        let version = if five { Version::V5 } else { Version::V4 };
        let _ = frame(&bytes);
        let _ = connect_version(&bytes, 2);
        let _ = packet_id(&bytes, 2);
        let _ = is_failure(&bytes, 2);
        let _ = subscribe::merge_suback(version, &bytes, 2, &[None, Some(1)]);
        let _ = subscribe::unsubscribed(version, &bytes);
        let _ = subscribe::disconnect(version, &bytes, 5);
        let _ = connack(version, &bytes, Overridden::default());
        if let Ok(connect) = Connect::decode(version, &bytes) {
            let forwarded = connect.forward("a/b".to_owned(), 1, 1).unwrap();
            Connect::decode(version, &forwarded).unwrap();
        }
        if let Ok(subscribe) = subscribe::Subscribe::decode(version, &bytes) {
            let mut codes = vec![None; subscribe.filters.len()];
            codes[0] = Some(0x80);
            prop_assert!(subscribe.allowed(&codes).unwrap().len() <= bytes.len());
        }
        if let Ok(message) = publish(version, &bytes, 2) {
            prop_assert!(message.payload.len() <= bytes.len());
            let mut answers = BytesMut::new();
            let reason = crate::messages::Reason::PublishTopic;
            answer::refuse_publish(version, &message, reason, reason.name(), &mut answers);
        }
    }
}
