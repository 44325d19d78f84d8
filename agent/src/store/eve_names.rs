//! `dns` and `tls` events of the event log, in Suricata's words: DNS in version 2 of its format, with what Tidegate keeps of it.
//! Source of the format: Suricata's user guide, "EVE JSON Format", events DNS and TLS.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tidegate_common::{parse::proto, pod::Addr};

use super::eve::{Tuple, event, put_tuple};
use crate::identity::{
    ClientPrint, DnsMessage, Mac, ServerPrint, TlsConnection, rcode_name, type_name, version_name,
};

/// A `dns` event of an answer. Who asked is src.
pub fn dns(message: &DnsMessage, at: Timestamp) -> Value {
    let mut event = event("dns", at, None);
    let tuple = Tuple {
        src: Some((message.client, message.client_port)),
        dest: Some((message.resolver, 53)),
        proto: Some(proto::UDP),
    };
    put_tuple(&mut event, &tuple);
    let mut dns = Map::new();
    dns.insert("version".to_owned(), 2.into());
    dns.insert("type".to_owned(), if message.answer.is_some() { "answer" } else { "query" }.into());
    dns.insert("id".to_owned(), message.id.into());
    dns.insert("rrname".to_owned(), message.name.clone().into());
    dns.insert("rrtype".to_owned(), type_name(message.qtype).into());
    if let Some(answer) = &message.answer {
        dns.insert("qr".to_owned(), true.into());
        dns.insert("rcode".to_owned(), rcode_name(answer.rcode).into());
        let record = |(address, ttl): &(IpAddr, u32)| {
            let kind = if address.is_ipv4() { "A" } else { "AAAA" };
            json!({"rrname": message.name, "rrtype": kind, "ttl": ttl, "rdata": address})
        };
        dns.insert("answers".to_owned(), answer.addresses.iter().map(record).collect());
    }
    event.insert("dns".to_owned(), dns.into());
    event.insert("tidegate".to_owned(), json!({"device": Mac(message.device.mac)}));
    Value::Object(event)
}

/// A `tls` event of a connection whose hellos were seen. The client is src.
pub fn tls(connection: &TlsConnection, at: Timestamp) -> Value {
    let TlsConnection { packet, device, client, server } = connection;
    let ClientPrint { sni, alpn, ja3_text, ja3, ja4, .. } = client;
    let ServerPrint { version, ja3s_text, ja3s } = server;
    let mut event = event("tls", at, None);
    let address = |address: Addr| IpAddr::from(address.octets()).to_canonical();
    // The server's packet: the client is its receiver.
    let tuple = Tuple {
        src: Some((address(packet.dst), packet.dst_port)),
        dest: Some((address(packet.src), packet.src_port)),
        proto: Some(packet.proto),
    };
    put_tuple(&mut event, &tuple);
    let mut tls = Map::new();
    tls.insert("version".to_owned(), version_name(*version).into());
    for (field, value) in [("sni", sni), ("client_alpn", alpn)] {
        if let Some(value) = value {
            tls.insert(field.to_owned(), value.clone().into());
        }
    }
    tls.insert("ja3".to_owned(), json!({"hash": ja3, "string": ja3_text}));
    tls.insert("ja3s".to_owned(), json!({"hash": ja3s, "string": ja3s_text}));
    tls.insert("ja4".to_owned(), ja4.clone().into());
    event.insert("tls".to_owned(), tls.into());
    event.insert("tidegate".to_owned(), json!({"device": Mac(device.mac)}));
    Value::Object(event)
}

#[cfg(test)]
#[path = "eve_names_tests.rs"]
mod tests;
