//! Versioned messages between gateways and the cloud.
//!
//! Every message travels in an [`Envelope`] that names its schema. A reader refuses a schema it does not know; within one
//! schema, fields are only added, with a default, so older writers are understood. Addresses and hardware addresses are text as
//! people write them. This crate describes messages: it neither sends, signs nor stores them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The schema that this crate writes.
pub const SCHEMA: u32 = 1;

/// Longest text in any field that a reader has to accept, in bytes.
pub const MAX_TEXT: usize = 4_096;

/// A message and where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// Schema of the body, see [`SCHEMA`].
    pub schema: u32,
    /// Name of the gateway in the fleet.
    pub gateway: String,
    /// Unique id of the message: delivering it twice has the effect of once.
    pub id: String,
    /// When it was written, RFC 3339 in UTC.
    pub time: String,
    /// Place in the order of the gateway's kept messages, from 1; none of a message that is not kept. It grows with every message,
    /// so it orders those of one device, and a number left out was dropped on the gateway. It begins anew with a new database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The message.
    pub body: T,
}

impl<T> Envelope<T> {
    /// A message of the present schema.
    pub fn new(gateway: impl Into<String>, id: impl Into<String>, time: impl Into<String>, body: T) -> Self {
        let (gateway, id, time) = (gateway.into(), id.into(), time.into());
        Self { schema: SCHEMA, gateway, id, time, sequence: None, body }
    }

    /// The same message with its place in the gateway's order.
    #[must_use]
    pub fn at(self, sequence: u64) -> Self {
        Self { sequence: Some(sequence), ..self }
    }

    /// The message, unless its schema is a later one.
    pub fn open(self) -> Result<T, UnknownSchema> {
        if self.schema == SCHEMA { Ok(self.body) } else { Err(UnknownSchema { found: self.schema }) }
    }
}

/// The message is of a schema this reader does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownSchema {
    /// The schema found.
    pub found: u32,
}

impl std::fmt::Display for UnknownSchema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "message of schema {} where {SCHEMA} is known: update the older side", self.found)
    }
}

impl std::error::Error for UnknownSchema {}

/// What gateways report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Report {
    /// An incident began, changed or ended.
    Incident(IncidentReport),
    /// An enforcement was installed or ended.
    Block(BlockReport),
    /// The gateway is there.
    Heartbeat(Heartbeat),
    /// A policy was taken over, refused, taken back, or ran out.
    Policy(PolicyReport),
    /// What a device measured.
    Telemetry(TelemetryReport),
}

/// Correlated evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentReport {
    /// Id on the gateway.
    pub incident: String,
    /// MITRE ATT&CK id, such as `T1046`.
    pub technique: String,
    /// Who is to blame: an address or a hardware address.
    pub subject: String,
    /// The first victim known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub victim: Option<String>,
    /// Rule that fired; none when a model spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Highest score, 0 to 1.
    pub score: f64,
    /// First evidence, RFC 3339.
    pub first_seen: String,
    /// Last evidence, RFC 3339.
    pub last_seen: String,
    /// How often evidence came in.
    pub evidence: u64,
    /// Whether it goes on.
    pub open: bool,
    /// What happened, in plain words.
    pub explanation: String,
}

/// What an enforcement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Count only.
    Observe,
    /// Leave a packet rate.
    RateLimit,
    /// Drop.
    Block,
    /// Isolate a device.
    Isolate,
}

/// An enforcement that began or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockReport {
    /// Address, prefix or hardware address.
    pub target: String,
    /// What it does.
    pub action: Action,
    /// Isolation level of a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// Incident it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<String>,
    /// Who asked: an operator, or the name of the rule or model.
    pub author: String,
    /// Whether it is in force.
    pub in_force: bool,
    /// Until when, RFC 3339; none for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Packets that matched so far.
    pub hits: u64,
}

/// The gateway is there, and how it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Version of the agent.
    pub version: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Whether the kernel drops packets.
    pub enforcing: bool,
    /// What is wrong, in plain words; empty when nothing.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Devices seen.
    pub devices: u64,
    /// Enforcements in force.
    pub blocks: u64,
    /// Sums of the kernel's counters.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
}

/// What became of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyOutcome {
    /// It is in force.
    Applied,
    /// It was not taken over; the one before stays in force.
    Refused,
    /// An earlier one is in force again.
    RolledBack,
    /// Its time is over; the configuration file rules.
    Expired,
}

/// A gateway's answer to a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyReport {
    /// What became of it.
    pub outcome: PolicyOutcome,
    /// Version of the policy this is about; none if it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Version in force now; none for the configuration file alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<u64>,
    /// Why it was refused, as one word of a closed set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same in plain words.
    #[serde(default)]
    pub detail: String,
}

/// What a device measured on one topic in a stretch of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TelemetryReport {
    /// The device by its topic.
    pub device: String,
    /// The topic on the gateway's local broker.
    pub topic: String,
    /// First measurement, RFC 3339.
    pub from: String,
    /// Last measurement, RFC 3339.
    pub to: String,
    /// Names of the fields, in the order of every list below.
    pub fields: Vec<String>,
    /// Messages one by one, as many as had room.
    pub measurements: Vec<Measurement>,
    /// Every field over all messages that are not marked.
    pub summaries: Vec<Summary>,
    /// Messages that are in the summaries only.
    #[serde(default)]
    pub left_out: u64,
}

/// One message of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Milliseconds after the report's first.
    pub after_ms: u64,
    /// Value of each field; none where the message did not have it. Fields at the end may be missing.
    pub values: Vec<Option<f64>>,
    /// Why it does not fit what the device measured before; none when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
}

/// Why a message does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// In which way: `spike`, `unit-jump`, `rate`, `joint`, `stuck`, `range` or `schema`.
    pub sign: String,
    /// The field, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// In plain words.
    pub detail: String,
}

/// A field over several messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Messages that had it.
    pub count: u64,
    /// Least value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
    /// Mean value.
    pub mean: f64,
    /// Last value.
    pub last: f64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed round trip is the test's failure")]

    use super::*;

    fn incident() -> Report {
        Report::Incident(IncidentReport {
            incident: "01J0".to_owned(),
            technique: "T1046".to_owned(),
            subject: "203.0.113.9".to_owned(),
            victim: Some("192.168.1.20".to_owned()),
            rule: Some("vertical-scan".to_owned()),
            score: 0.97,
            first_seen: "2026-01-02T03:04:05Z".to_owned(),
            last_seen: "2026-01-02T03:04:07Z".to_owned(),
            evidence: 3,
            open: true,
            explanation: "tried 40 ports of one host in 2 s".to_owned(),
        })
    }

    fn block() -> Report {
        Report::Block(BlockReport {
            target: "203.0.113.9".to_owned(),
            action: Action::RateLimit,
            level: None,
            incident: None,
            author: "alice (uid 1000)".to_owned(),
            in_force: true,
            expires: None,
            hits: u64::MAX,
        })
    }

    fn heartbeat() -> Report {
        Report::Heartbeat(Heartbeat {
            version: "0.1.0".to_owned(),
            uptime_s: 5,
            enforcing: true,
            problems: vec!["the database cannot be written".to_owned()],
            devices: 4,
            blocks: 1,
            counters: BTreeMap::from([("seen".to_owned(), 7)]),
        })
    }

    fn policy() -> Report {
        Report::Policy(PolicyReport {
            outcome: PolicyOutcome::Refused,
            version: Some(3),
            in_force: Some(4),
            reason: Some("not-newer".to_owned()),
            detail: "version 3 is not newer than 4".to_owned(),
        })
    }

    fn telemetry() -> Report {
        let mark =
            Mark { sign: "spike".to_owned(), field: Some("t".to_owned()), detail: "99 after 21".to_owned() };
        Report::Telemetry(TelemetryReport {
            device: "lamp".to_owned(),
            topic: "d/lamp/t".to_owned(),
            from: "2026-01-02T03:04:05Z".to_owned(),
            to: "2026-01-02T03:05:05Z".to_owned(),
            fields: vec!["t".to_owned(), "h".to_owned()],
            measurements: vec![
                Measurement { after_ms: 0, values: vec![Some(21.5), None], mark: None },
                Measurement { after_ms: 60_000, values: vec![Some(99.0)], mark: Some(mark) },
            ],
            summaries: vec![Summary { count: 1, min: 21.5, max: 21.5, mean: 21.5, last: 21.5 }],
            left_out: 2,
        })
    }

    #[test]
    fn every_report_survives_the_wire() {
        for report in [incident(), block(), heartbeat(), policy(), telemetry()] {
            let sent = Envelope::new("gw-1", "m-1", "2026-01-02T03:04:08Z", report);
            let text = serde_json::to_string(&sent).unwrap();
            let received: Envelope<Report> = serde_json::from_str(&text).unwrap();
            assert_eq!(received, sent);
            assert_eq!(received.open().unwrap(), sent.body);
            let kept = sent.at(7);
            let text = serde_json::to_string(&kept).unwrap();
            assert!(text.contains(r#""sequence":7,"#), "{text}");
            assert_eq!(serde_json::from_str::<Envelope<Report>>(&text).unwrap(), kept);
        }
    }

    #[test]
    fn the_form_on_the_wire_is_fixed() {
        let sent = Envelope::new("gw-1", "m-1", "2026-01-02T03:04:08Z", block());
        let expected = concat!(
            r#"{"schema":1,"gateway":"gw-1","id":"m-1","time":"2026-01-02T03:04:08Z","body":{"kind":"block","#,
            r#""target":"203.0.113.9","action":"rate-limit","author":"alice (uid 1000)","in_force":true,"#,
            r#""hits":18446744073709551615}}"#,
        );
        assert_eq!(serde_json::to_string(&sent).unwrap(), expected);
    }

    #[test]
    fn a_later_field_is_ignored_and_a_later_schema_is_refused() {
        let text = r#"{"schema":1,"gateway":"g","id":"i","time":"t","region":"x",
            "body":{"kind":"heartbeat","version":"9","uptime_s":1,"enforcing":false,"devices":0,"blocks":0,"mood":"fine"}}"#;
        let received: Envelope<Report> = serde_json::from_str(text).unwrap();
        assert!(matches!(received.open().unwrap(), Report::Heartbeat(beat) if beat.problems.is_empty()));
        let later = Envelope { schema: 2, ..Envelope::new("g", "i", "t", heartbeat()) };
        assert_eq!(
            later.open().unwrap_err().to_string(),
            "message of schema 2 where 1 is known: update the older side"
        );
    }
}
