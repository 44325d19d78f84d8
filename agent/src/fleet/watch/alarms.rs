//! Which alarms a gateway has, and its dashboard. Pure.
//!
//! Every alarm wants M of the last N periods, so that one bad minute wakes nobody. A gateway that says nothing is in trouble: missing
//! heartbeats are breaching; the other metrics are judged only when they are there.

use serde::Serialize;
use serde_json::{Value, json};

use super::data::HEARTBEAT;

/// Dimension that tells gateways apart.
pub const DIMENSION: &str = "Gateway";

/// An alarm over one metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alarm {
    /// Its name.
    pub name: String,
    /// What it means and what to do.
    pub description: &'static str,
    /// The metric.
    pub metric: &'static str,
    /// What of the metric in a period: `Sum`, `Maximum`, or a percentile such as `p99`.
    pub statistic: &'static str,
    /// Whether it is an alarm below the threshold instead of above.
    pub below: bool,
    /// The threshold.
    pub threshold: f64,
    /// Seconds of a period.
    pub period_s: u32,
    /// Periods looked at.
    pub periods: u32,
    /// Of which so many must be bad.
    pub bad: u32,
    /// Whether a period without a figure is bad.
    pub missing_is_bad: bool,
}

/// A call that changes something in CloudWatch; its name is that of the right in IAM.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "call")]
#[allow(missing_docs, reason = "the fields are the parameters that AWS documents")]
pub enum Call {
    PutMetricAlarm(Alarm),
    PutCompositeAlarm { name: String, rule: String },
    PutDashboard { name: String, body: Value },
    DeleteAlarms { names: Vec<String> },
    DeleteDashboards { names: Vec<String> },
}

/// Name of the alarm over all others, and of the dashboard.
pub fn composite(gateway: &str) -> String {
    format!("tidegate-{gateway}-health")
}

fn dashboard_name(gateway: &str) -> String {
    // Names of dashboards hold no colon.
    format!("tidegate-{}", gateway.replace(':', "_"))
}

/// The alarms of a gateway, with periods of `period_s` seconds.
pub fn alarms(gateway: &str, period_s: u32) -> Vec<Alarm> {
    type Row = (&'static str, &'static str, &'static str, &'static str, f64, u32, u32);
    let rows: [Row; 7] = [
        (
            "heartbeat",
            HEARTBEAT,
            "Sum",
            "the gateway says nothing: is it on, and does it reach AWS?",
            1.0,
            5,
            3,
        ),
        (
            "problems",
            "Problems",
            "Maximum",
            "the gateway is degraded: `tidegate status` says why",
            0.0,
            15,
            10,
        ),
        (
            "events-lost",
            "EventsLost",
            "Sum",
            "events of the kernel found no room: raise kernel.ring_bytes",
            0.0,
            5,
            3,
        ),
        (
            "outbox",
            "OutboxDepth",
            "Maximum",
            "reports wait: is the link to AWS IoT Core up?",
            1_000.0,
            15,
            10,
        ),
        (
            "outbox-dropped",
            "OutboxDropped",
            "Sum",
            "reports found no room: raise cloud.outbox_rows",
            0.0,
            5,
            1,
        ),
        ("scoring", "ScoringLatency", "p99", "verdicts are slow: is the gateway overloaded?", 5_000.0, 5, 3),
        (
            "drift",
            "Drift",
            "Sum",
            "a device's traffic left what was learned: `tidegate incidents list`",
            0.0,
            60,
            1,
        ),
    ];
    let alarm = |(name, metric, statistic, description, threshold, periods, bad): Row| Alarm {
        name: format!("tidegate-{gateway}-{name}"),
        description,
        metric,
        statistic,
        below: metric == HEARTBEAT,
        threshold,
        period_s,
        periods,
        bad,
        missing_is_bad: metric == HEARTBEAT,
    };
    rows.into_iter().map(alarm).collect()
}

/// The calls that give a gateway its alarms and its dashboard; repeated, they change nothing.
pub fn apply(gateway: &str, namespace: &str, region: &str, period_s: u32) -> Vec<Call> {
    let alarms = alarms(gateway, period_s);
    let rule =
        alarms.iter().map(|alarm| format!("ALARM(\"{}\")", alarm.name)).collect::<Vec<_>>().join(" OR ");
    let body = dashboard(gateway, namespace, region, &alarms);
    let mut calls: Vec<Call> = alarms.into_iter().map(Call::PutMetricAlarm).collect();
    calls.push(Call::PutCompositeAlarm { name: composite(gateway), rule });
    calls.push(Call::PutDashboard { name: dashboard_name(gateway), body });
    calls
}

/// The calls that take them away: the composite alarm first, for it names the others.
pub fn delete(gateway: &str) -> Vec<Call> {
    let names = alarms(gateway, 60).into_iter().map(|alarm| alarm.name).collect();
    vec![
        Call::DeleteAlarms { names: vec![composite(gateway)] },
        Call::DeleteAlarms { names },
        Call::DeleteDashboards { names: vec![dashboard_name(gateway)] },
    ]
}

fn dashboard(gateway: &str, namespace: &str, region: &str, alarms: &[Alarm]) -> Value {
    let graphs: [(&str, &[&str]); 6] = [
        ("Alive", &[HEARTBEAT, "CloudOnline", "Problems"]),
        ("Packets dropped", &["PacketsDropped"]),
        ("In force", &["Blocks", "Isolations"]),
        ("Incidents", &["Incidents", "Drift", "BaselinesRenewed"]),
        ("Reports", &["OutboxDepth", "OutboxDropped", "EventsLost"]),
        ("Scoring, microseconds", &["ScoringLatency"]),
    ];
    let widgets = graphs.iter().enumerate().map(|(index, (title, metrics))| {
        let rows = metrics.iter().map(|metric| json!([namespace, metric, DIMENSION, gateway]));
        let statistic = if metrics[0] == "ScoringLatency" { "p99" } else { "Maximum" };
        json!({
            "type": "metric", "x": 12 * (index % 2), "y": 6 * (index / 2), "width": 12, "height": 6,
            "properties": {
                "title": title, "region": region, "stat": statistic, "view": "timeSeries",
                "metrics": rows.collect::<Vec<_>>(),
            },
        })
    });
    let names =
        alarms.iter().map(|alarm| format!("tidegate {}", alarm.name)).collect::<Vec<_>>().join("\n\n");
    let note = json!({
        "type": "text", "x": 0, "y": 18, "width": 24, "height": 3,
        "properties": { "markdown": format!("Gateway {gateway}\n\n{names}") },
    });
    json!({ "widgets": widgets.chain([note]).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::Snapshot, fleet::watch::data::figures};

    #[test]
    fn every_alarm_is_over_a_metric_that_is_sent_and_silence_alone_is_bad() {
        let mut snapshot = Snapshot::default();
        let before = snapshot.clone();
        snapshot.scoring.observe(std::time::Duration::from_micros(1));
        let sent: Vec<&str> =
            figures(&snapshot, Some(&before)).into_iter().map(|figure| figure.name).collect();
        for alarm in alarms("gate", 60) {
            assert!(sent.contains(&alarm.metric), "{}", alarm.metric);
            assert_eq!(alarm.missing_is_bad, alarm.metric == HEARTBEAT);
            assert!(alarm.bad <= alarm.periods && alarm.periods * alarm.period_s <= 86_400);
        }
        let body = dashboard("gate", "Tidegate", "eu-central-1", &[]).to_string();
        assert!(sent.iter().filter(|name| **name != "Devices").all(|name| body.contains(name)), "{body}");
    }

    #[test]
    fn the_composite_alarm_names_all_and_goes_first() {
        let calls = apply("gate", "Tidegate", "eu-central-1", 60);
        let Some(Call::PutCompositeAlarm { rule, .. }) = calls.get(7) else { panic!("{calls:?}") };
        assert_eq!(rule.matches("ALARM(").count(), 7);
        assert_eq!(delete("gate")[0], Call::DeleteAlarms { names: vec![composite("gate")] });
    }
}
