//! The event log: one JSON object a line, in the words of Suricata's EVE output, so that its tools read it.
//!
//! Suricata's fields keep their meaning (`alert`, `flow`, `stats`, `anomaly`; src is who began the flow); what EVE has no word for stands
//! under `tidegate`. Times are UTC with microseconds and offset. A line that cannot be written is counted, never waited for and never
//! fatal. Source of the format: Suricata's user guide, "EVE JSON Format".

use std::{net::IpAddr, path::Path, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tidegate_common::{
    flow::{FlowKey, FlowRecord, progress},
    parse::{proto, tcp_flag},
    pod::Addr,
};

use super::rotate::RotatingFile;
use crate::{
    enforce::{Now, names::rule_id},
    identity::{NameOrigin, PeerName},
};

/// Who talked to whom.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tuple {
    /// Who began.
    pub src: Option<(IpAddr, u16)>,
    /// With whom.
    pub dest: Option<(IpAddr, u16)>,
    /// IP protocol.
    pub proto: Option<u8>,
}

/// Something hostile.
#[derive(Debug, Clone)]
pub struct Alert<'a> {
    /// Who and whom.
    pub tuple: Tuple,
    /// Interface the traffic entered through.
    pub in_iface: Option<&'a str>,
    /// Whether it is cut from now on.
    pub blocked: bool,
    /// Name of the rule or model; the signature's number follows from it.
    pub rule: &'a str,
    /// What was found, in plain words.
    pub signature: &'a str,
    /// Name of the technique.
    pub category: &'a str,
    /// 1 (grave) to 3.
    pub severity: u8,
    /// What the other end is called.
    pub peer: Option<PeerName>,
    /// Everything else: incident, score, technique id, evidence.
    pub tidegate: Value,
}

/// How writing goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EveTally {
    /// Lines written.
    pub written: u64,
    /// Lines that could not be written.
    pub failed: u64,
    /// Why the last one could not; `None` once writing works again.
    pub trouble: Option<String>,
}

/// The log.
#[derive(Debug)]
pub struct EveLog {
    file: RotatingFile,
    tally: EveTally,
}

impl EveLog {
    /// A log at `path`. After `limit` bytes the file is renamed to `NAME.1`; `keep` old files are kept. Nothing is opened before
    /// the first event.
    pub fn new(path: &Path, limit: u64, keep: u32) -> Self {
        Self { file: RotatingFile::new(path, limit, keep), tally: EveTally::default() }
    }

    /// How writing goes.
    pub const fn tally(&self) -> &EveTally {
        &self.tally
    }

    /// Opens the file by its name again, for programs that rotate it themselves.
    pub fn reopen(&mut self) {
        self.file.reopen();
    }

    /// Writes one event; `false` when it could not be written.
    pub fn write(&mut self, event: &Value) -> bool {
        let mut line = event.to_string();
        line.push('\n');
        match self.file.append(line.as_bytes()) {
            Ok(()) => {
                self.tally.written += 1;
                self.tally.trouble = None;
                true
            }
            Err(cause) => {
                self.tally.failed += 1;
                self.tally.trouble = Some(cause.to_string());
                false
            }
        }
    }
}

/// An `alert` event.
pub fn alert(alert: &Alert<'_>, at: Timestamp) -> Value {
    let mut event = event("alert", at, alert.in_iface);
    put_tuple(&mut event, &alert.tuple);
    let action = if alert.blocked { "blocked" } else { "allowed" };
    event.insert(
        "alert".to_owned(),
        json!({
            "action": action,
            "gid": 1,
            "signature_id": signature_id(alert.rule),
            "rev": 1,
            "signature": alert.signature,
            "category": alert.category,
            "severity": alert.severity,
        }),
    );
    match &alert.peer {
        Some(PeerName { name, origin: NameOrigin::Dns, .. }) => {
            event.insert("dns".to_owned(), json!({"rrname": name}));
        }
        Some(PeerName { name, origin: NameOrigin::Tls, .. }) => {
            event.insert("tls".to_owned(), json!({"sni": name}));
        }
        None => {}
    }
    event.insert("tidegate".to_owned(), alert.tidegate.clone());
    Value::Object(event)
}

/// A `flow` event. `reason` is why it is written now: `closed`, `timeout`, `shutdown`.
pub fn flow(key: &FlowKey, record: &FlowRecord, in_iface: Option<&str>, reason: &str, now: Now) -> Value {
    let (src, src_port, dest, dest_port) = key.seen_from(record.initiator());
    let mut event = event("flow", now.wall, in_iface);
    event.insert("flow_id".to_owned(), flow_id(key, record.first_ns()).into());
    let vlans: Vec<u16> = [key.vlan, key.inner_vlan].into_iter().filter(|vlan| *vlan != 0).collect();
    if !vlans.is_empty() {
        event.insert("vlan".to_owned(), vlans.into());
    }
    let tuple = Tuple {
        src: Some((address(src), src_port)),
        dest: Some((address(dest), dest_port)),
        proto: Some(key.proto),
    };
    put_tuple(&mut event, &tuple);
    if matches!(key.proto, proto::ICMP | proto::ICMPV6) {
        event.insert("icmp_type".to_owned(), record.icmp_type.into());
        event.insert("icmp_code".to_owned(), record.icmp_code.into());
    }
    let (first_ns, last_ns) = (record.first_ns(), record.last_ns());
    event.insert(
        "flow".to_owned(),
        json!({
            "pkts_toserver": record.out.packets,
            "pkts_toclient": record.inward.packets,
            "bytes_toserver": record.out.bytes,
            "bytes_toclient": record.inward.bytes,
            "start": stamp(wall_at(first_ns, now)),
            "end": stamp(wall_at(last_ns, now)),
            "age": last_ns.saturating_sub(first_ns) / 1_000_000_000,
            "state": state(record),
            "reason": reason,
        }),
    );
    if key.proto == proto::TCP {
        event.insert("tcp".to_owned(), tcp(record));
    }
    Value::Object(event)
}

/// A `stats` event; `stats` is an object of counters.
pub fn stats(stats: impl Serialize, at: Timestamp) -> Value {
    with("stats", "stats", stats, at)
}

/// An `anomaly` event: a packet or a binding that should not be, such as `arp_conflict`.
pub fn anomaly(
    name: &str,
    tuple: &Tuple,
    in_iface: Option<&str>,
    detail: impl Serialize,
    at: Timestamp,
) -> Value {
    let mut event = event("anomaly", at, in_iface);
    put_tuple(&mut event, tuple);
    event.insert("anomaly".to_owned(), json!({"type": "decode", "event": name}));
    event.insert("tidegate".to_owned(), to_value(detail));
    Value::Object(event)
}

/// An event that EVE has no word for: `kind` says what happened, `detail` is an object with the rest.
pub fn tidegate(kind: &str, detail: impl Serialize, at: Timestamp) -> Value {
    let mut detail = to_value(detail);
    if let Value::Object(fields) = &mut detail {
        fields.insert("kind".to_owned(), kind.into());
    } else {
        detail = json!({"kind": kind, "value": detail});
    }
    with("tidegate", "tidegate", detail, at)
}

/// Number of a signature: in the range that Suricata leaves to local rules, the same for a name for ever.
pub fn signature_id(rule: &str) -> u32 {
    1_000_000 + rule_id(rule) % 1_000_000
}

/// Number of a flow: stable over its life, below 2^53 so that every JSON reader keeps it whole.
pub fn flow_id(key: &FlowKey, first_ns: u64) -> u64 {
    let bytes = bytemuck::bytes_of(key).iter().copied().chain(first_ns.to_ne_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash >> 11
}

fn with(event_type: &str, field: &str, value: impl Serialize, at: Timestamp) -> Value {
    let mut event = event(event_type, at, None);
    event.insert(field.to_owned(), to_value(value));
    Value::Object(event)
}

fn to_value(value: impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_else(|cause| json!({"unwritable": cause.to_string()}))
}

pub(super) fn event(event_type: &str, at: Timestamp, in_iface: Option<&str>) -> Map<String, Value> {
    let mut event = Map::new();
    event.insert("timestamp".to_owned(), stamp(at).into());
    event.insert("event_type".to_owned(), event_type.into());
    if let Some(name) = in_iface {
        event.insert("in_iface".to_owned(), name.into());
    }
    event
}

pub(super) fn put_tuple(event: &mut Map<String, Value>, tuple: &Tuple) {
    let has_ports = matches!(tuple.proto, None | Some(proto::TCP | proto::UDP));
    for (end, ip_field, port_field) in
        [(tuple.src, "src_ip", "src_port"), (tuple.dest, "dest_ip", "dest_port")]
    {
        let Some((ip, port)) = end else { continue };
        event.insert(ip_field.to_owned(), ip.to_string().into());
        if has_ports && port != 0 {
            event.insert(port_field.to_owned(), port.into());
        }
    }
    if let Some(number) = tuple.proto {
        event.insert("proto".to_owned(), proto_name(number).into());
    }
}

fn proto_name(number: u8) -> String {
    match number {
        proto::ICMP => "ICMP".to_owned(),
        2 => "IGMP".to_owned(),
        proto::TCP => "TCP".to_owned(),
        proto::UDP => "UDP".to_owned(),
        47 => "GRE".to_owned(),
        50 => "ESP".to_owned(),
        proto::ICMPV6 => "IPv6-ICMP".to_owned(),
        132 => "SCTP".to_owned(),
        other => format!("{other:03}"),
    }
}

fn state(record: &FlowRecord) -> &'static str {
    let answered = record.out.packets > 0 && record.inward.packets > 0;
    if record.is_closed() {
        "closed"
    } else if answered || record.progress & progress::ESTABLISHED != 0 {
        "established"
    } else {
        "new"
    }
}

fn tcp(record: &FlowRecord) -> Value {
    let (out, inward) = (record.out.tcp_flags, record.inward.tcp_flags);
    let all = out | inward;
    let mut tcp = Map::new();
    for (field, flags) in [("tcp_flags", all), ("tcp_flags_ts", out), ("tcp_flags_tc", inward)] {
        tcp.insert(field.to_owned(), format!("{flags:02x}").into());
    }
    const PSH: u8 = 0x08;
    const URG: u8 = 0x20;
    for (field, bit) in [
        ("syn", tcp_flag::SYN),
        ("fin", tcp_flag::FIN),
        ("rst", tcp_flag::RST),
        ("psh", PSH),
        ("ack", tcp_flag::ACK),
        ("urg", URG),
    ] {
        if all & bit != 0 {
            tcp.insert(field.to_owned(), true.into());
        }
    }
    Value::Object(tcp)
}

fn address(address: Addr) -> IpAddr {
    IpAddr::from(address.octets()).to_canonical()
}

fn wall_at(then_ns: u64, now: Now) -> Timestamp {
    let ago = Duration::from_nanos(now.kernel_ns.saturating_sub(then_ns));
    jiff::SignedDuration::try_from(ago)
        .ok()
        .and_then(|ago| now.wall.checked_sub(ago).ok())
        .unwrap_or(now.wall)
}

/// Suricata's form of a time: microseconds and a numeric offset without a colon.
fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6f+0000").to_string()
}
