//! Metrics of the gateway itself for AWS IoT Device Defender: its ports, its connections, its traffic, and what it shuts out. Pure.
//!
//! A report is a document of version 1.0, in JSON with long names or in CBOR with short ones. Traffic is what was added since the report
//! before, so the first one has none. Lists are cut, totals are not. What a report says of the present is of no use later: nothing here
//! waits for a connection.

use std::net::SocketAddr;

use coset::cbor;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::watch::data::{Figure, Unit};

/// Version of the document.
const VERSION: &str = "1.0";
/// Ports and connections that are listed, each.
const MOST_LISTED: usize = 100;
/// Every name of the document with its short form.
const NAMES: [(&str, &str); 21] = [
    ("header", "hed"),
    ("report_id", "rid"),
    ("version", "v"),
    ("metrics", "met"),
    ("custom_metrics", "cmet"),
    ("listening_tcp_ports", "tp"),
    ("listening_udp_ports", "up"),
    ("ports", "pts"),
    ("port", "pt"),
    ("total", "t"),
    ("network_stats", "ns"),
    ("bytes_in", "bi"),
    ("bytes_out", "bo"),
    ("packets_in", "pi"),
    ("packets_out", "po"),
    ("tcp_connections", "tc"),
    ("established_connections", "ec"),
    ("connections", "cs"),
    ("remote_addr", "rad"),
    ("local_port", "lp"),
    ("local_interface", "li"),
];

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// With long names.
    Json,
    /// With short names.
    Cbor,
}

impl Format {
    /// Its word in topics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Cbor => "cbor",
        }
    }
}

/// What went through all network ports but loopback since the machine started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Packets received.
    pub packets_in: u64,
    /// Packets sent.
    pub packets_out: u64,
}

/// The gateway's own network at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// TCP ports that others can reach, ascending.
    pub tcp_ports: Vec<u16>,
    /// UDP ports that others can reach, ascending.
    pub udp_ports: Vec<u16>,
    /// The other end and the own port of every connection with another host.
    pub connections: Vec<(SocketAddr, u16)>,
    /// What went through.
    pub traffic: Traffic,
}

/// Writes one report after the other.
#[derive(Clone, Debug)]
pub struct Reporter {
    format: Format,
    last_id: i64,
    before: Option<Traffic>,
}

impl Reporter {
    /// One that has reported nothing yet.
    pub const fn new(format: Format) -> Self {
        Self { format, last_id: 0, before: None }
    }

    /// The report of `sample` and of the gateway's own `figures`.
    pub fn report(&mut self, sample: &Sample, figures: &[Figure], now: Timestamp) -> Vec<u8> {
        // A clock that is set back must not repeat a number.
        self.last_id = now.as_second().max(self.last_id + 1);
        let mut metrics = json!({
            "listening_tcp_ports": ports(&sample.tcp_ports),
            "listening_udp_ports": ports(&sample.udp_ports),
            "tcp_connections": { "established_connections": connections(&sample.connections) },
        });
        if let Some(before) = self.before.replace(sample.traffic) {
            metrics["network_stats"] = added(sample.traffic, before);
        }
        let custom: Map<String, Value> = figures
            .iter()
            .filter(|figure| figure.unit == Unit::Count)
            .filter_map(|figure| {
                let (value, _) = figure.values.first()?;
                Some((format!("tidegate_{}", figure.name), json!([{ "number": *value as u64 }])))
            })
            .collect();
        let report = json!({
            "header": { "report_id": self.last_id, "version": VERSION },
            "metrics": metrics,
            "custom_metrics": custom,
        });
        match self.format {
            Format::Json => report.to_string().into_bytes(),
            Format::Cbor => {
                let mut bytes = Vec::new();
                // A tree of strings and whole numbers can be written, and memory does not refuse.
                let _ = cbor::into_writer(&shortened(report), &mut bytes);
                bytes
            }
        }
    }
}

/// Why a report was refused, in the service's words; `None` when it was accepted.
pub fn refusal(topic: &str, payload: &[u8]) -> Option<String> {
    if !topic.ends_with("/rejected") {
        return None;
    }
    let answer: Option<Value> =
        serde_json::from_slice(payload).ok().or_else(|| cbor::from_reader(payload).ok());
    let details = answer.as_ref().map(|answer| &answer["statusDetails"]);
    let said = details.and_then(|details| details["ErrorMessage"].as_str().or(details["ErrorCode"].as_str()));
    Some(said.unwrap_or("the service did not say why").to_owned())
}

fn ports(open: &[u16]) -> Value {
    let listed: Vec<Value> = open.iter().take(MOST_LISTED).map(|port| json!({ "port": port })).collect();
    listing("ports", listed, open.len())
}

fn connections(open: &[(SocketAddr, u16)]) -> Value {
    let one = |(remote, local): &(SocketAddr, u16)| json!({ "remote_addr": remote.to_string(), "local_port": local });
    listing("connections", open.iter().take(MOST_LISTED).map(one).collect(), open.len())
}

/// A list, which must not be empty where it stands, and how many there are.
fn listing(name: &str, listed: Vec<Value>, total: usize) -> Value {
    let mut value = json!({ "total": total });
    if !listed.is_empty() {
        value[name] = Value::Array(listed);
    }
    value
}

/// What was added; a port that went away, with its counters, makes nothing negative.
fn added(now: Traffic, before: Traffic) -> Value {
    json!({
        "bytes_in": now.bytes_in.saturating_sub(before.bytes_in),
        "bytes_out": now.bytes_out.saturating_sub(before.bytes_out),
        "packets_in": now.packets_in.saturating_sub(before.packets_in),
        "packets_out": now.packets_out.saturating_sub(before.packets_out),
    })
}

/// The same with short names; custom metrics keep theirs.
fn shortened(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(name, value)| {
                    let short = NAMES.iter().find(|(long, _)| *long == name).map(|(_, short)| *short);
                    (short.map_or(name, str::to_owned), shortened(value))
                })
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.into_iter().map(shortened).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a report that cannot be read is the test's failure")]

    use proptest::prelude::*;

    use super::*;

    fn sample(bytes_in: u64) -> Sample {
        Sample {
            tcp_ports: vec![22, 1_883],
            udp_ports: Vec::new(),
            connections: vec![("192.0.2.9:8883".parse().unwrap(), 40_000)],
            traffic: Traffic { bytes_in, bytes_out: 20, packets_in: 3, packets_out: 2 },
        }
    }

    fn figures() -> Vec<Figure> {
        let count = |name, value| Figure { name, unit: Unit::Count, values: vec![(value, 1.0)] };
        let latency = Figure { name: "Latency", unit: Unit::Microseconds, values: vec![(5.0, 2.0)] };
        vec![count("Blocks", 3.0), latency]
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_report_has_the_form_of_version_1_and_traffic_is_a_difference() {
        let mut reporter = Reporter::new(Format::Json);
        let first: Value =
            serde_json::from_slice(&reporter.report(&sample(100), &figures(), at(1_000))).unwrap();
        assert_eq!(
            first,
            json!({
                "header": { "report_id": 1_000, "version": "1.0" },
                "metrics": {
                    "listening_tcp_ports": { "ports": [{ "port": 22 }, { "port": 1_883 }], "total": 2 },
                    "listening_udp_ports": { "total": 0 },
                    "tcp_connections": { "established_connections": {
                        "connections": [{ "remote_addr": "192.0.2.9:8883", "local_port": 40_000 }], "total": 1,
                    } },
                },
                "custom_metrics": { "tidegate_Blocks": [{ "number": 3 }] },
            })
        );
        let second: Value = serde_json::from_slice(&reporter.report(&sample(160), &[], at(900))).unwrap();
        assert_eq!(second["header"]["report_id"], 1_001, "a clock that was set back");
        let stats = json!({ "bytes_in": 60, "bytes_out": 0, "packets_in": 0, "packets_out": 0 });
        assert_eq!(second["metrics"]["network_stats"], stats);
        let third: Value = serde_json::from_slice(&reporter.report(&sample(5), &[], at(2_000))).unwrap();
        assert_eq!(third["metrics"]["network_stats"]["bytes_in"], 0, "a port went away");
    }

    #[test]
    fn cbor_says_the_same_with_short_names() {
        let mut reporter = Reporter::new(Format::Cbor);
        reporter.report(&sample(100), &figures(), at(1_000));
        let bytes = reporter.report(&sample(101), &figures(), at(1_300));
        let read: Value = cbor::from_reader(&bytes[..]).unwrap();
        assert_eq!(
            read,
            json!({
                "hed": { "rid": 1_300, "v": "1.0" },
                "met": {
                    "tp": { "pts": [{ "pt": 22 }, { "pt": 1_883 }], "t": 2 },
                    "up": { "t": 0 },
                    "ns": { "bi": 1, "bo": 0, "pi": 0, "po": 0 },
                    "tc": { "ec": { "cs": [{ "rad": "192.0.2.9:8883", "lp": 40_000 }], "t": 1 } },
                },
                "cmet": { "tidegate_Blocks": [{ "number": 3 }] },
            })
        );
    }

    #[test]
    fn a_busy_gateway_makes_no_larger_report_than_a_message_may_be() {
        let remote: SocketAddr = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap();
        let busy = Sample {
            tcp_ports: (1..=u16::MAX).collect(),
            udp_ports: (1..=u16::MAX).collect(),
            connections: vec![(remote, u16::MAX); 50_000],
            traffic: Traffic::default(),
        };
        let bytes = Reporter::new(Format::Json).report(&busy, &figures(), at(1));
        assert!(bytes.len() < super::super::limits::MAX_PAYLOAD / 4, "{} bytes", bytes.len());
        let report: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(report["metrics"]["tcp_connections"]["established_connections"]["total"], 50_000);
    }

    #[test]
    fn a_refusal_is_read_in_either_form() {
        let answer = json!({ "thingName": "gate", "reportId": 1, "status": "REJECTED",
            "statusDetails": { "ErrorCode": "InvalidPayload", "ErrorMessage": "no version" } });
        let mut bytes = Vec::new();
        cbor::into_writer(&answer, &mut bytes).unwrap();
        for payload in [answer.to_string().into_bytes(), bytes] {
            assert_eq!(refusal("x/json/rejected", &payload).as_deref(), Some("no version"));
            assert_eq!(refusal("x/json/accepted", &payload), None);
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_a_panic(payload in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(refusal("x/rejected", &payload).is_some());
        }
    }
}
