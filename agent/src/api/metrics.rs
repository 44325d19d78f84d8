//! Numbers for monitoring, as Prometheus text.
//!
//! A [`Snapshot`] is what the loop knows at one moment; [`render`] writes it. Every counter of the kernel appears by itself
//! because the names come from `Counters::named`.

mod neighbours;
mod telemetry;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};
use tidegate_common::{counter::Counters, parse::Unparsed};

use crate::{
    api::view::{ActionWord, Usage},
    messages::{Counters as MessageCounters, Reason, commands::Tally, read},
    store::{MessageKind, OutboxTally},
};

pub use neighbours::Neighbours;

/// Upper ends of the buckets of a [`Latency`], in microseconds.
pub const LATENCY_BUCKETS_US: [u64; 10] = [10, 25, 50, 100, 250, 500, 1_000, 5_000, 25_000, 100_000];

/// How long something took, counted in buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Observations in each bucket of [`LATENCY_BUCKETS_US`], then those beyond.
    buckets: [u64; LATENCY_BUCKETS_US.len() + 1],
    sum_ns: u64,
}

impl Latency {
    /// Counts one observation.
    pub fn observe(&mut self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BUCKETS_US.partition_point(|end| end.saturating_mul(1_000) < ns);
        self.buckets[bucket] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// Observations in each bucket of [`LATENCY_BUCKETS_US`], then those beyond.
    pub const fn buckets(&self) -> &[u64; LATENCY_BUCKETS_US.len() + 1] {
        &self.buckets
    }

    /// Observations so far.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// Enforcements in force with one action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictCount {
    /// Action.
    pub action: ActionWord,
    /// How many.
    pub count: u64,
}

/// Incidents of one technique since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TechniqueCount {
    /// MITRE ATT&CK id.
    pub technique: String,
    /// How many.
    pub count: u64,
}

/// Everything monitored, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Since the daemon started.
    pub uptime: Duration,
    /// Whether the kernel drops packets.
    pub enforcing: bool,
    /// Number of things that make the gateway degraded.
    pub problems: u64,
    /// Sums of the kernel's counters over all CPUs.
    pub counters: Counters,
    /// Flow table.
    pub flows: Usage,
    /// Device table.
    pub devices: Usage,
    /// What became of commands.
    pub commands: Tally,
    /// Enforcements in force by action, never-block entries included.
    pub verdicts: Vec<VerdictCount>,
    /// Incidents by technique since the start.
    pub incidents: Vec<TechniqueCount>,
    /// Events received from the kernel.
    pub events_received: u64,
    /// Age of the last event when it was read.
    pub ring_lag: Duration,
    /// Alerts taken from another detector's log.
    pub alerts_taken: u64,
    /// Alerts beyond what a second takes.
    pub alerts_held: u64,
    /// Lines of that log that could not be read.
    pub alert_lines_unreadable: u64,
    /// Bytes of that log skipped because too many waited.
    pub alert_bytes_skipped: u64,
    /// Writes to the database or event log that failed.
    pub store_errors: u64,
    /// Verdicts held back by the blast-radius cap.
    pub held_back: u64,
    /// Blocks rolled back because the gateway's reachability died.
    pub rollbacks: u64,
    /// Differences found between desired state and kernel tables.
    pub reconcile_differences: u64,
    /// Time from reading an event to its score.
    pub scoring: Latency,
    /// Whether the link to the cloud is up.
    pub cloud_online: bool,
    /// Whole days until the gateway's certificate for it ends.
    pub certificate_days: Option<u64>,
    /// How often it was made.
    pub cloud_connects: u64,
    /// How often it was lost or could not be made.
    pub cloud_failures: u64,
    /// Version of the policy in force, 0 for none.
    pub policy_version: u64,
    /// Policies refused, by reason.
    pub policies_refused: BTreeMap<String, u64>,
    /// Baselines renewed since the start.
    pub baselines_renewed: u64,
    /// Figures that CloudWatch took.
    pub cloudwatch_sent: u64,
    /// Requests to it that failed.
    pub cloudwatch_failed: u64,
    /// Readings for it that found no room.
    pub cloudwatch_dropped: u64,
    /// Messages to the cloud by kind.
    pub outbox: Vec<(MessageKind, OutboxTally)>,
    /// Other gateways of the site.
    pub neighbours: Neighbours,
    /// What the MQTT guard counts, if it runs.
    pub messages: Option<Arc<MessageCounters>>,
}

/// `snapshot` in the OpenMetrics text format.
pub fn render(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("tidegate");
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ActionLabel {
    action: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TechniqueLabel {
    technique: String,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let e = &mut encoder;
        info(e)?;
        gauge(e, "uptime", "Time since the daemon started", Some(&Unit::Seconds), self.uptime.as_secs_f64())?;
        gauge(
            e,
            "enforcing",
            "1 when the kernel drops packets, 0 in monitor mode",
            None,
            i64::from(self.enforcing),
        )?;
        gauge(e, "problems", "Things that make the gateway degraded", None, self.problems as i64)?;
        for (name, value) in self.counters.named() {
            counter(e, &format!("kernel_{name}"), kernel_help(name), value)?;
        }
        let mut unparsed = e.encode_descriptor(
            "kernel_unparsed",
            "Packets in no flow, by reason",
            None,
            MetricType::Counter,
        )?;
        for (reason, value) in Unparsed::ALL.iter().zip(self.counters.unparsed) {
            let label = ReasonLabel { reason: reason.name() };
            unparsed.encode_family(&label)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        let difference = self.counters.unaccounted();
        gauge(e, "kernel_unaccounted", "Packets that the account does not explain", None, difference)?;
        gauge(e, "flows_used", "Flows in the table", None, self.flows.used as i64)?;
        gauge(e, "flows_capacity", "Flows the table holds", None, self.flows.capacity as i64)?;
        gauge(e, "devices_used", "Devices in the table", None, self.devices.used as i64)?;
        gauge(e, "devices_capacity", "Devices the table holds", None, self.devices.capacity as i64)?;
        let mut verdicts =
            e.encode_descriptor("verdicts", "Enforcements in force", None, MetricType::Gauge)?;
        for verdict in &self.verdicts {
            let label = ActionLabel { action: verdict.action.as_str() };
            verdicts.encode_family(&label)?.encode_gauge(&(verdict.count as i64))?;
        }
        let mut incidents =
            e.encode_descriptor("incidents", "Incidents since the start", None, MetricType::Counter)?;
        for incident in &self.incidents {
            let label = TechniqueLabel { technique: incident.technique.clone() };
            incidents.encode_family(&label)?.encode_counter::<NoLabelSet, _, u64>(&incident.count, None)?;
        }
        counter(e, "events_received", "Events received from the kernel", self.events_received)?;
        let lag = self.ring_lag.as_secs_f64();
        gauge(e, "ring_lag", "Age of the last event when it was read", Some(&Unit::Seconds), lag)?;
        counter(e, "alerts", "Alerts taken from another detector's log", self.alerts_taken)?;
        counter(e, "alerts_held", "Alerts beyond what a second takes", self.alerts_held)?;
        let unreadable = self.alert_lines_unreadable;
        counter(e, "alert_lines_unreadable", "Lines of that log that could not be read", unreadable)?;
        counter(e, "alert_bytes_skipped", "Bytes of that log skipped", self.alert_bytes_skipped)?;
        counter(e, "store_errors", "Failed writes to the database or event log", self.store_errors)?;
        counter(e, "held_back", "Verdicts held back by the blast-radius cap", self.held_back)?;
        counter(e, "rollbacks", "Blocks rolled back for the gateway's reachability", self.rollbacks)?;
        let differences = self.reconcile_differences;
        counter(
            e,
            "reconcile_differences",
            "Differences between desired state and kernel tables",
            differences,
        )?;
        latency(e, "scoring", "Time from reading an event to its score", &self.scoring)?;
        counter(e, "baselines_renewed", "Baselines renewed since the start", self.baselines_renewed)?;
        fleet(e, self)?;
        outbox(e, &self.outbox)?;
        commands(e, &self.commands)?;
        neighbours::encode(e, &self.neighbours)?;
        // Without a guard its numbers are there too, so that they begin at 0.
        messages(e, self.messages.as_deref().unwrap_or(&MessageCounters::default()))
    }
}

fn fleet(e: &mut DescriptorEncoder, snapshot: &Snapshot) -> Result<(), fmt::Error> {
    gauge(e, "cloud_online", "1 when the link to the cloud is up", None, i64::from(snapshot.cloud_online))?;
    let days = snapshot.certificate_days.and_then(|days| i64::try_from(days).ok()).unwrap_or(-1);
    let help = "Days until the gateway's certificate for the cloud ends, -1 without one";
    gauge(e, "cloud_certificate_days", help, None, days)?;
    counter(e, "cloud_connects", "Links made to the cloud", snapshot.cloud_connects)?;
    counter(e, "cloud_failures", "Links lost or not made", snapshot.cloud_failures)?;
    counter(e, "cloudwatch_figures", "Figures that CloudWatch took", snapshot.cloudwatch_sent)?;
    counter(e, "cloudwatch_failures", "Requests to CloudWatch that failed", snapshot.cloudwatch_failed)?;
    let help = "Readings for CloudWatch that found no room";
    counter(e, "cloudwatch_dropped", help, snapshot.cloudwatch_dropped)?;
    let help = "Version of the policy in force, 0 for none";
    gauge(e, "policy_version", help, None, snapshot.policy_version as i64)?;
    let help = "Policies refused, by reason";
    let mut family = e.encode_descriptor("policies_refused", help, None, MetricType::Counter)?;
    for (reason, count) in &snapshot.policies_refused {
        let label = [("reason", reason.as_str())];
        family.encode_family(&label)?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
    }
    Ok(())
}

fn outbox(e: &mut DescriptorEncoder, tallies: &[(MessageKind, OutboxTally)]) -> Result<(), fmt::Error> {
    type Field = fn(&OutboxTally) -> u64;
    let waiting: [(&str, &str, Field); 2] = [
        ("outbox_messages", "Messages that wait for the cloud", |tally| tally.waiting),
        ("outbox_bytes", "Their bytes", |tally| tally.bytes),
    ];
    for (name, help, field) in waiting {
        gauge(e, name, help, None, tallies.iter().map(|(_, tally)| field(tally)).sum::<u64>() as i64)?;
    }
    let ended: [(&str, &str, Field); 2] = [
        ("outbox_acknowledged", "Messages that the cloud took, by kind", |tally| tally.acknowledged),
        ("outbox_dropped", "Messages that found no room, by kind", |tally| tally.dropped),
    ];
    for (name, help, field) in ended {
        let mut family = e.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (kind, tally) in tallies {
            let label = KindLabel { kind: kind.name() };
            family.encode_family(&label)?.encode_counter::<NoLabelSet, _, u64>(&field(tally), None)?;
        }
    }
    Ok(())
}

fn messages(e: &mut DescriptorEncoder, counters: &MessageCounters) -> Result<(), fmt::Error> {
    let now = |counter| read(counter) as i64;
    gauge(e, "mqtt_sessions", "Sessions of the MQTT guard open now", None, now(&counters.sessions))?;
    gauge(
        e,
        "mqtt_broker_down",
        "1 while the broker that the agent runs does not run",
        None,
        now(&counters.broker_down),
    )?;
    for (name, help, value) in [
        ("mqtt_connections", "Connections that the MQTT guard took", &counters.accepted),
        ("mqtt_published", "Messages passed from clients to the broker", &counters.published),
        ("mqtt_delivered", "Messages passed from the broker to clients", &counters.delivered),
        ("mqtt_bytes_in", "Bytes read from clients", &counters.bytes_in),
        ("mqtt_bytes_out", "Bytes written to clients", &counters.bytes_out),
        ("mqtt_throttled", "Times a client had to wait because it published too fast", &counters.throttled),
        ("mqtt_broker_restarts", "Starts of the broker after the first", &counters.broker_restarts),
        (
            "mqtt_reports_lost",
            "Reports of the MQTT guard that the loop had no room for",
            &counters.reports_lost,
        ),
    ] {
        counter(e, name, help, read(value))?;
    }
    let mut refused = e.encode_descriptor(
        "mqtt_refused",
        "Refusals of the MQTT guard, by reason",
        None,
        MetricType::Counter,
    )?;
    for reason in Reason::ALL {
        let label = ReasonLabel { reason: reason.name() };
        refused
            .encode_family(&label)?
            .encode_counter::<NoLabelSet, _, u64>(&counters.refused(*reason), None)?;
    }
    telemetry::encode(e, &counters.telemetry)
}

fn commands(e: &mut DescriptorEncoder, tally: &Tally) -> Result<(), fmt::Error> {
    let now = |value: u64| value as i64;
    gauge(e, "commands_waiting", "Commands that wait for an operator", None, now(tally.waiting))?;
    gauge(e, "command_habits", "Devices whose normal commands are known", None, now(tally.known))?;
    for (name, help, value) in [
        ("commands_passed", "Commands that went on to devices as normal", tally.passed),
        ("commands_held", "Commands that were held for an operator", tally.held),
        ("commands_released", "Held commands that an operator released", tally.released),
        ("commands_dropped", "Held commands that an operator dropped", tally.dropped),
        ("commands_expired", "Held commands that waited too long", tally.expired),
        (
            "commands_interrupted",
            "Commands released before a restart and not known to be delivered",
            tally.interrupted,
        ),
    ] {
        counter(e, name, help, value)?;
    }
    Ok(())
}

fn info(e: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
    e.encode_descriptor("build", "Version of the daemon", None, MetricType::Info)?
        .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
}

fn counter(e: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> Result<(), fmt::Error> {
    e.encode_descriptor(name, help, None, MetricType::Counter)?
        .encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn gauge<V: EncodeGaugeValue + Copy>(
    e: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: V,
) -> Result<(), fmt::Error> {
    e.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
}

fn latency(e: &mut DescriptorEncoder, name: &str, help: &str, latency: &Latency) -> Result<(), fmt::Error> {
    let ends = LATENCY_BUCKETS_US.iter().map(|end| *end as f64 / 1e6).chain([f64::MAX]);
    let buckets: Vec<(f64, u64)> = ends.zip(latency.buckets).collect();
    let sum = latency.sum_ns as f64 / 1e9;
    e.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?
        .encode_histogram::<NoLabelSet>(sum, latency.count(), &buckets, None)
}

/// The counters' own docs say more; this is the line in the scrape.
fn kernel_help(name: &str) -> &'static str {
    match name {
        "seen" => "Packets that reached a program",
        "in_flow" => "Packets counted in a flow record",
        "folded" => "Packets of flows without room, counted in their device alone",
        "repeated" => "Packets already counted at another guarded port",
        "would_drop" => "Packets that monitor mode let pass although a verdict asked to drop them",
        "never_blocked" => "Packets that passed because of a never-block entry",
        "events_lost" => "Events for which the ring buffer had no room",
        _ if name.starts_with("dropped") => "Packets dropped, by the table that asked for it",
        _ => "Counter of the kernel programs",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed encoding is the test's failure")]

    use super::*;

    #[test]
    fn every_kernel_counter_and_reason_is_exported() {
        let mut snapshot = Snapshot { uptime: Duration::from_secs(5), ..Snapshot::default() };
        snapshot.counters.dropped_address = 42;
        snapshot.counters.unparsed[Unparsed::Arp as usize] = 7;
        snapshot.verdicts.push(VerdictCount { action: ActionWord::Block, count: 3 });
        snapshot.incidents.push(TechniqueCount { technique: "T1046".to_owned(), count: 2 });
        let tally = OutboxTally { waiting: 5, dropped: 4, ..OutboxTally::default() };
        snapshot.outbox = vec![(MessageKind::Block, tally), (MessageKind::Incident, tally)];
        let names: Vec<&str> = snapshot.counters.named().map(|(name, _)| name).collect();
        let text = render(snapshot).unwrap();
        for name in names {
            assert!(text.contains(&format!("tidegate_kernel_{name}_total ")), "{name} in {text}");
        }
        for reason in Unparsed::ALL {
            assert!(text.contains(&format!("reason=\"{}\"", reason.name())), "{}", reason.name());
        }
        for line in [
            "tidegate_kernel_dropped_address_total 42",
            "tidegate_kernel_unparsed_total{reason=\"arp\"} 7",
            "tidegate_verdicts{action=\"block\"} 3",
            "tidegate_incidents_total{technique=\"T1046\"} 2",
            "tidegate_uptime_seconds 5.0",
            "tidegate_outbox_messages 10",
            "tidegate_outbox_dropped_total{kind=\"incident\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn the_reference_in_the_docs_is_current() {
        let mut page = String::from(
            "# Metrics\n\nGenerated from the metrics themselves; a test keeps it current.\n\n| name | type | meaning |\n|---|---|---|\n",
        );
        let text = render(Snapshot::default()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        for pair in lines.windows(2) {
            let [help, kind] = pair else { continue };
            let (Some(help), Some(kind)) = (help.strip_prefix("# HELP "), kind.strip_prefix("# TYPE "))
            else {
                continue;
            };
            let (name, meaning) = help.split_once(' ').unwrap();
            let kind = kind.rsplit(' ').next().unwrap();
            let row = format!("| `{name}` | {kind} | {} |\n", meaning.trim_end_matches('.'));
            page += &row;
        }
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/metrics.md");
        crate::cli::testing::assert_generated(&path, &page);
    }

    #[test]
    fn a_latency_falls_into_the_bucket_that_ends_at_it_or_above() {
        let mut latency = Latency::default();
        for us in [1, 10, 11, 100_000, 100_001] {
            latency.observe(Duration::from_micros(us));
        }
        assert_eq!(latency.buckets[..3], [2, 1, 0]);
        assert_eq!(latency.buckets[LATENCY_BUCKETS_US.len() - 1..], [1, 1]);
        assert_eq!(latency.count(), 5);
    }
}
