//! Lines as Suricata's tools expect them.

#![allow(clippy::unwrap_used, reason = "a failed line is the test's failure")]

use jiff::Timestamp;
use tidegate_common::{device::DeviceKey, parse::Packet};

use super::*;
use crate::identity::{DnsAnswer, NXDOMAIN};

const DEVICE: DeviceKey = DeviceKey::new([2, 0, 0, 0, 0, 7], 3);

#[test]
fn an_answer_is_a_dns_event() {
    let message = DnsMessage {
        device: DEVICE,
        client: "10.0.0.7".parse().unwrap(),
        client_port: 40_000,
        resolver: "10.0.0.1".parse().unwrap(),
        id: 7,
        name: "vendor.example".to_owned(),
        name_len: 16,
        qtype: 1,
        length: 60,
        answer: Some(DnsAnswer { rcode: 0, addresses: vec![("198.51.100.9".parse().unwrap(), 60)] }),
    };
    let event = dns(&message, Timestamp::UNIX_EPOCH);
    assert_eq!((event["event_type"].as_str(), event["proto"].as_str()), (Some("dns"), Some("UDP")));
    assert_eq!((event["src_ip"].as_str(), event["dest_port"].as_u64()), (Some("10.0.0.7"), Some(53)));
    let expected = json!({
        "version": 2, "type": "answer", "id": 7, "rrname": "vendor.example", "rrtype": "A", "qr": true, "rcode": "NOERROR",
        "answers": [{"rrname": "vendor.example", "rrtype": "A", "ttl": 60, "rdata": "198.51.100.9"}],
    });
    assert_eq!(event["dns"], expected);
    assert_eq!(event["tidegate"]["device"], "02:00:00:00:00:07");
    let none = DnsMessage { answer: Some(DnsAnswer { rcode: NXDOMAIN, addresses: Vec::new() }), ..message };
    assert_eq!(dns(&none, Timestamp::UNIX_EPOCH)["dns"]["rcode"], "NXDOMAIN");
}

#[test]
fn a_connection_is_a_tls_event_with_the_client_first() {
    let client = ClientPrint {
        sni: Some("vendor.example".to_owned()),
        alpn: None,
        version: 0x0304,
        ja3_text: "771,,,,".to_owned(),
        ja3: "a".repeat(32),
        ja4: "t13d000000_000000000000_000000000000".to_owned(),
    };
    let server = ServerPrint { version: 0x0304, ja3s_text: "771,4865,43".to_owned(), ja3s: "b".repeat(32) };
    let packet = Packet {
        src: Addr::v4([198, 51, 100, 9]),
        dst: Addr::v4([10, 0, 0, 7]),
        src_port: 443,
        dst_port: 40_000,
        proto: proto::TCP,
        ..Packet::default()
    };
    let connection = TlsConnection { packet, device: DEVICE, client, server };
    let event = tls(&connection, Timestamp::UNIX_EPOCH);
    assert_eq!((event["src_ip"].as_str(), event["src_port"].as_u64()), (Some("10.0.0.7"), Some(40_000)));
    assert_eq!((event["dest_ip"].as_str(), event["dest_port"].as_u64()), (Some("198.51.100.9"), Some(443)));
    let expected = json!({
        "version": "TLS 1.3", "sni": "vendor.example", "ja4": "t13d000000_000000000000_000000000000",
        "ja3": {"hash": "a".repeat(32), "string": "771,,,,"},
        "ja3s": {"hash": "b".repeat(32), "string": "771,4865,43"},
    });
    assert_eq!(event["tls"], expected);
}
