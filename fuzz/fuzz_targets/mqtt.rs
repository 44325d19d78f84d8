//! Packets of MQTT clients and brokers: framed, read, rewritten.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::messages::{
    acl,
    codec::{self, Version},
    connect::{self, Connect, Overridden},
    subscribe::{self, Subscribe},
};

fuzz_target!(|input: (bool, &[u8])| {
    let (is_five, bytes) = input;
    let version = if is_five { Version::V5 } else { Version::V4 };
    let Ok(Some(frame)) = codec::frame(bytes) else { return };
    let Some(packet) = bytes.get(..frame.len) else { return };
    let _ = connect::connect_version(packet, frame.head);
    if let Ok(message) = codec::publish(version, packet, frame.head) {
        assert!(message.topic.is_empty() || acl::is_topic(message.topic));
    }
    if let Ok(connect) = Connect::decode(version, packet) {
        // What goes on to the broker must be readable to it.
        if let Ok(forwarded) = connect.forward("a/b".to_owned(), 1, 1) {
            assert!(Connect::decode(version, &forwarded).is_ok());
        }
    }
    if let Ok(subscribe) = Subscribe::decode(version, packet) {
        let codes = vec![None; subscribe.filters.len()];
        let _ = subscribe.allowed(&codes);
    }
    let _ = subscribe::merge_suback(version, packet, frame.head, &[None, Some(0x80)]);
    let _ = subscribe::unsubscribed(version, packet);
    let _ = subscribe::disconnect(version, packet, 60);
    let _ = connect::connack(version, packet, Overridden::default());
});
