//! Suricata's EVE JSON: `flow` (both directions), `netflow` (one direction a record), `alert`. Source: Suricata's user
//! guide, "EVE JSON Format".
//!
//! A log with both kinds tells every packet twice: the kind that comes first counts.

use std::borrow::Cow;

use serde_json::{Map, Value};
use tidegate_common::parse::proto;

use super::{
    BadLine, Entry, LoggedAlert, Parsed,
    flow::{LoggedFlow, LoggedSide},
    found, json, value,
    zeek::reached,
};

/// The kind of record that tells the flows of this log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Undecided,
    Flow,
    Netflow,
}

/// Reads one event.
pub(super) fn event(kind: &mut Kind, line: &str) -> Result<Parsed, BadLine> {
    let event = json::object(line)?;
    let this = match event.get("event_type").and_then(Value::as_str) {
        Some("flow") => Kind::Flow,
        Some("netflow") => Kind::Netflow,
        Some("alert") => return alert(&event).map(|alert| Parsed::Entry(Entry::Alert(alert))),
        Some(_) => return Ok(Parsed::Other),
        None => return Err(BadLine::LineJson),
    };
    if *kind != Kind::Undecided && *kind != this {
        return Ok(Parsed::Other);
    }
    let flow = flow(&event, this)?;
    *kind = this;
    Ok(found(flow))
}

fn flow(event: &Map<String, Value>, kind: Kind) -> Result<LoggedFlow, BadLine> {
    let empty = Map::new();
    let section = |name: &str| event.get(name).and_then(Value::as_object).unwrap_or(&empty);
    let counts = section(if kind == Kind::Flow { "flow" } else { "netflow" });
    let count = |name: &str| value::count(&text(counts, name).ok_or(BadLine::LineCount)?);
    let side = |packets: &str, bytes: &str, mac: &str| {
        Ok::<_, BadLine>(LoggedSide {
            packets: count(packets)?.min(1 << 40),
            bytes: count(bytes)?.min(1 << 48),
            payload: None,
            tcp_flags: 0,
            mac: text(section("ether"), mac).and_then(|text| value::mac(&text)),
            local: None,
        })
    };
    let (mut out, mut inward) = if kind == Kind::Flow {
        (
            side("pkts_toserver", "bytes_toserver", "src_mac")?,
            side("pkts_toclient", "bytes_toclient", "dest_mac")?,
        )
    } else {
        (side("pkts", "bytes", "src_mac")?, LoggedSide::default())
    };
    let protocol = value::protocol(&text(event, "proto").ok_or(BadLine::LineProtocol)?)?;
    let with_ports = matches!(protocol, proto::TCP | proto::UDP | 132);
    let port = |name: &str| match text(event, name) {
        Some(text) if with_ports => value::port(&text),
        _ => Ok(0),
    };
    let moment = |name: &str| text(counts, name).map(|text| value::moment(&text)).transpose();
    let at = || value::moment(&text(event, "timestamp").ok_or(BadLine::LineTime)?);
    let first_ns = moment("start")?.map_or_else(at, Ok)?;
    let last_ns = moment("end")?.unwrap_or(first_ns).max(first_ns);
    let tcp = section("tcp");
    let flags = |name: &str| text(tcp, name).and_then(|hex| u8::from_str_radix(&hex, 16).ok()).unwrap_or(0);
    if kind == Kind::Flow {
        out.tcp_flags = flags("tcp_flags_ts");
        inward.tcp_flags = flags("tcp_flags_tc");
    } else {
        out.tcp_flags = flags("tcp_flags");
    }
    let number = |name: &str| text(event, name).and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(LoggedFlow {
        src: address(event, "src_ip")?,
        dst: address(event, "dest_ip")?,
        src_port: port("src_port")?,
        dst_port: port("dest_port")?,
        proto: protocol,
        vlans: vlans(event),
        first_ns,
        last_ns,
        icmp: (number("icmp_type"), number("icmp_code")),
        progress: if protocol == proto::TCP { reached(out.tcp_flags, inward.tcp_flags) } else { 0 },
        out,
        inward,
        label: None,
    })
}

fn alert(event: &Map<String, Value>) -> Result<LoggedAlert, BadLine> {
    let alert = event.get("alert").and_then(Value::as_object).ok_or(BadLine::LineJson)?;
    Ok(LoggedAlert {
        time_ns: value::moment(&text(event, "timestamp").ok_or(BadLine::LineTime)?)?,
        src: address(event, "src_ip")?,
        dst: address(event, "dest_ip")?,
        signature_id: alert.get("signature_id").and_then(Value::as_u64).unwrap_or(0),
        signature: signature(&text(alert, "signature").unwrap_or_default()),
        severity: alert.get("severity").and_then(Value::as_u64).unwrap_or(0).min(255) as u8,
    })
}

/// Somebody else's words: short, and without characters that move a cursor.
fn signature(text: &str) -> String {
    const CHARS: usize = 200;
    text.chars().take(CHARS).map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn address(event: &Map<String, Value>, name: &str) -> Result<std::net::IpAddr, BadLine> {
    value::address(&text(event, name).ok_or(BadLine::LineAddress)?)
}

/// Suricata writes a list, its older versions a number.
fn vlans(event: &Map<String, Value>) -> [u16; 2] {
    let id = |value: Option<&Value>| value.and_then(json::text).map_or(0, |text| value::vlan(&text));
    match event.get("vlan") {
        Some(Value::Array(ids)) => [id(ids.first()), id(ids.get(1))],
        single => [id(single), 0],
    }
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Option<Cow<'a, str>> {
    object.get(name).and_then(json::text)
}
