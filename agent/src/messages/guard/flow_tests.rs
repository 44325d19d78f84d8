//! What passes does not depend on the pieces that it comes in, and no bytes make a session panic.

#![allow(clippy::unwrap_used, reason = "a refused packet is the test's failure")]

use std::{hash::RandomState, path::PathBuf, sync::Arc};

use proptest::prelude::*;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::messages::{
    Settings,
    acl::{Grants, Rule},
    broker::{Address, BrokerSettings},
    codec::Version,
    connect::Overridden,
    guard::{
        hub::{Hub, Live},
        limits::tests::limits,
        listen::Link,
    },
    judge::{Client, Judge},
    telemetry::nursery,
};

fn talk(version: Version) -> (Talk, Limits) {
    let limits = Limits {
        messages_per_second: 1_000_000,
        bytes_per_second: 1_000_000_000,
        inflight: 1_000,
        ..limits()
    };
    let settings = Settings {
        listen: None,
        tls: None,
        passwords: None,
        command_keys: None,
        anonymous: true,
        broker: BrokerSettings::Named(Address::Unix(PathBuf::from("/nowhere"))),
        limits: limits.clone(),
        telemetry: None,
    };
    let (reports, _) = mpsc::channel(1);
    let orders = watch::channel(Arc::default()).1;
    let stop = watch::channel(false).1;
    let link = Link {
        reports,
        orders,
        stop,
        counters: Arc::default(),
        commands: Arc::default(),
        nursery: nursery().0,
    };
    let hub = Arc::new(Hub::new(settings, Live::default(), Vec::new(), link));
    let rule =
        Rule { who: "*".to_owned(), publish: vec!["a/#".to_owned()], subscribe: vec!["a/#".to_owned()] };
    let source = [192, 0, 2, 1].into();
    let client = Client { identity: "x".to_owned(), client_id: "x".to_owned(), version, source };
    let grants = Grants::of(&[rule], "x", "x");
    let judge = Judge::new(
        client,
        grants,
        Arc::new(limits.clone()),
        Arc::default(),
        Arc::default(),
        None,
        RandomState::new(),
    );
    (Talk::new(hub, judge, Overridden::default(), 60, true), limits)
}

/// All that passes of `stream`, given in pieces of these sizes again and again; what the guard answered; how it ended.
fn pass(version: Version, stream: &[u8], sizes: &[usize]) -> (Vec<u8>, Vec<u8>, Option<Reason>) {
    let (mut talk, limits) = talk(version);
    let now = Instant::now();
    let mut up = Up::new(BytesMut::new(), &limits, now);
    let (mut passed, mut answered, mut rest) = (Vec::new(), Vec::new(), stream);
    for size in sizes.iter().cycle() {
        let piece = rest.len().min(*size);
        up.bytes.extend_from_slice(&rest[..piece]);
        rest = &rest[piece..];
        let judged = up.judge(&mut talk, &limits, (now, jiff::Timestamp::UNIX_EPOCH));
        passed.extend_from_slice(&up.bytes.split_to(up.passed));
        up.passed = 0;
        answered.extend_from_slice(&talk.answers.split());
        match judged {
            Err(reason) => return (passed, answered, Some(reason)),
            Ok(_) if rest.is_empty() && !up.is_held => return (passed, answered, None),
            Ok(_) => {}
        }
    }
    unreachable!("the sizes come again and again")
}

fn publish(topic: &str, qos: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend(topic.as_bytes());
    body.extend(&[0, 7][..if qos > 0 { 2 } else { 0 }]);
    body.extend(payload);
    [&[0x30 | qos << 1, body.len() as u8][..], &body].concat()
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    let message = ("(a|b)/[xy]{1,3}", 0..3_u8, proptest::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(topic, qos, payload)| publish(&topic, qos, &payload));
    let filters = proptest::collection::vec("(a|b)/([xy]|#)", 1..4).prop_map(|filters| {
        let mut body = vec![0, 9];
        for filter in filters {
            body.extend((filter.len() as u16).to_be_bytes());
            body.extend(filter.as_bytes());
            body.push(1);
        }
        [&[0x82, body.len() as u8][..], &body].concat()
    });
    prop_oneof![4 => message, 2 => filters, 1 => Just(vec![0xc0, 0]), 1 => Just(vec![0x40, 2, 0, 7])]
}

#[test]
fn what_is_refused_leaves_no_gap_in_what_passes() {
    let stream = [publish("a/x", 0, b"1"), publish("b/x", 1, b"2"), publish("a/y", 1, b"3")].concat();
    let (passed, answered, ended) = pass(Version::V4, &stream, &[1_000]);
    assert_eq!(passed, [publish("a/x", 0, b"1"), publish("a/y", 1, b"3")].concat());
    assert_eq!((answered, ended), (vec![0x40, 2, 0, 7], None));
}

#[test]
fn connack_comes_before_whatever_the_broker_sends_with_it() {
    let (mut talk, _) = talk(Version::V4);
    let delivery = publish("a/x", 0, b"kept");
    let mut down = Down::new(BytesMut::from(&[&[0x20, 2, 1, 0][..], &delivery].concat()[..]));
    down.judge(&mut talk).unwrap();
    assert!(down.is_held && down.passed == 0 && down.is_between_packets());
    assert_eq!(talk.answers.split()[..], [0x20, 2, 1, 0]);
    down.judge(&mut talk).unwrap();
    assert_eq!(down.bytes[..down.passed], delivery);
    assert!(!down.is_held);
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        packets in proptest::collection::vec(packet(), 0..20),
        sizes in proptest::collection::vec(1..50_usize, 1..10),
    ) {
        let stream = packets.concat();
        prop_assert_eq!(pass(Version::V4, &stream, &sizes), pass(Version::V4, &stream, &[1 << 20]));
    }

    #[test]
    fn any_bytes_are_carried_without_a_panic(
        up in proptest::collection::vec(any::<u8>(), 0..100),
        down in proptest::collection::vec(any::<u8>(), 0..100),
        is_five in any::<bool>(),
        sizes in proptest::collection::vec(1..50_usize, 1..5),
    ) {
        let version = if is_five { Version::V5 } else { Version::V4 };
        let _ = pass(version, &up, &sizes);
        let (mut talk, _) = talk(version);
        let mut from_broker = Down::new(BytesMut::from(&[&[0x20, 2, 0, 0][..], &down].concat()[..]));
        for _ in 0..4 {
            if from_broker.judge(&mut talk).is_err() {
                break;
            }
        }
    }
}
