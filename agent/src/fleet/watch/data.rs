//! From everything the loop knows to the few figures that are worth a metric. Pure.
//!
//! Counters become what was added since the reading before; the first reading has none of them.

use std::time::SystemTime;

use crate::{
    api::{LATENCY_BUCKETS_US, Snapshot, view::ActionWord},
    learn::Technique,
};

/// Figures of one reading at most.
pub const MOST_FIGURES: usize = 16;

/// Name of the metric that tells that the gateway is there.
pub const HEARTBEAT: &str = "Heartbeat";

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Microseconds.
    Microseconds,
}

/// One metric at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Its name.
    pub name: &'static str,
    /// Its unit.
    pub unit: Unit,
    /// Values, and how often each was observed.
    pub values: Vec<(f64, f64)>,
}

/// All metrics at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// When.
    pub at: SystemTime,
    /// The figures.
    pub figures: Vec<Figure>,
}

/// The figures of `now`, given the snapshot `before`.
pub fn figures(now: &Snapshot, before: Option<&Snapshot>) -> Vec<Figure> {
    let count = |name, value: u64| Figure { name, unit: Unit::Count, values: vec![(value as f64, 1.0)] };
    let in_force = |action: ActionWord| {
        now.verdicts.iter().filter(|row| row.action == action).map(|row| row.count).sum::<u64>()
    };
    let mut figures = vec![
        count(HEARTBEAT, 1),
        count("Problems", now.problems),
        count("Devices", now.devices.used),
        count("Blocks", in_force(ActionWord::Block) + in_force(ActionWord::RateLimit)),
        count("Isolations", in_force(ActionWord::Isolate)),
        count("OutboxDepth", now.outbox.iter().map(|(_, tally)| tally.waiting).sum()),
        count("CloudOnline", u64::from(now.cloud_online)),
    ];
    figures.extend(now.certificate_days.map(|days| count("CertificateDays", days)));
    let Some(before) = before else { return figures };
    type Counter = fn(&Snapshot) -> u64;
    let counters: [(&str, Counter); 6] = [
        ("PacketsDropped", |snapshot| snapshot.counters.dropped()),
        ("EventsLost", |snapshot| snapshot.counters.events_lost),
        ("OutboxDropped", |snapshot| snapshot.outbox.iter().map(|(_, tally)| tally.dropped).sum()),
        ("Incidents", |snapshot| snapshot.incidents.iter().map(|row| row.count).sum()),
        ("Drift", |snapshot| {
            let drifts = snapshot.incidents.iter().filter(|row| row.technique == Technique::DRIFTED.id);
            drifts.map(|row| row.count).sum()
        }),
        ("BaselinesRenewed", |snapshot| snapshot.baselines_renewed),
    ];
    figures.extend(counters.map(|(name, counter)| count(name, counter(now).saturating_sub(counter(before)))));
    // Each bucket by its upper end, from which CloudWatch makes percentiles; what is beyond the last counts as twice that.
    let ends =
        LATENCY_BUCKETS_US.iter().copied().chain([2 * LATENCY_BUCKETS_US[LATENCY_BUCKETS_US.len() - 1]]);
    let added = now.scoring.buckets().iter().zip(before.scoring.buckets());
    let values: Vec<(f64, f64)> = ends
        .zip(added)
        .map(|(end, (now, before))| (end as f64, now.saturating_sub(*before) as f64))
        .filter(|(_, count)| *count > 0.0)
        .collect();
    if !values.is_empty() {
        figures.push(Figure { name: "ScoringLatency", unit: Unit::Microseconds, values });
    }
    figures
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a missing figure is the test's failure")]

    use std::time::Duration;

    use super::*;
    use crate::{
        api::{TechniqueCount, VerdictCount},
        store::{MessageKind, OutboxTally},
    };

    fn value(figures: &[Figure], name: &str) -> f64 {
        figures.iter().find(|figure| figure.name == name).unwrap().values[0].0
    }

    #[test]
    fn counters_are_told_as_what_was_added() {
        let mut before = Snapshot::default();
        before.counters.dropped_address = 40;
        before.counters.events_lost = 7;
        before.scoring.observe(Duration::from_micros(9));
        let mut now = before.clone();
        now.counters.dropped_address = 45;
        now.counters.dropped_prefix = 1;
        now.verdicts.push(VerdictCount { action: ActionWord::Block, count: 3 });
        now.incidents.push(TechniqueCount { technique: "drift".to_owned(), count: 2 });
        now.outbox = vec![(MessageKind::Incident, OutboxTally { waiting: 11, ..OutboxTally::default() })];
        now.scoring.observe(Duration::from_micros(40));
        now.scoring.observe(Duration::from_micros(45));
        now.scoring.observe(Duration::from_secs(1));
        let figures = figures(&now, Some(&before));
        for (name, expected) in [
            ("Heartbeat", 1.0),
            ("PacketsDropped", 6.0),
            ("EventsLost", 0.0),
            ("Blocks", 3.0),
            ("Drift", 2.0),
            ("OutboxDepth", 11.0),
        ] {
            assert!((value(&figures, name) - expected).abs() < f64::EPSILON, "{name}: {figures:?}");
        }
        let latency = figures.last().unwrap();
        assert_eq!((latency.name, &latency.values), ("ScoringLatency", &vec![(50.0, 2.0), (200_000.0, 1.0)]));
        assert!(figures.len() <= MOST_FIGURES);
    }

    #[test]
    fn the_first_reading_tells_no_counters_and_a_restart_no_negative_ones() {
        let mut before = Snapshot::default();
        before.counters.dropped_address = 40;
        let first = figures(&before, None);
        assert!(first.iter().all(|figure| figure.name != "PacketsDropped"));
        let after = figures(&Snapshot::default(), Some(&before));
        assert!(value(&after, "PacketsDropped").abs() < f64::EPSILON);
    }
}
