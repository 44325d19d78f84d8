//! The gateway's own metrics on their way to AWS IoT Device Defender: read now and then, and never waited for.
//!
//! On a gateway with very many sockets the kernel takes long to tell them: a thread that ends with its report reads them, one at a time, and
//! hands the report to the link.

use std::{io, thread, time::Instant};

use jiff::Timestamp;
use tokio::sync::mpsc::Sender;

use super::gateway::Gateway;
use crate::{
    api::Snapshot,
    enforce::Now,
    fleet::{
        defender::{Reporter, Sample},
        link::Order,
        sockets,
        watch::data::{Figure, figures},
    },
};

const REFUSED: &str = "AWS IoT Device Defender refuses the metrics";
const UNREAD: &str = "metrics for AWS IoT Device Defender cannot be read";

/// A report that is being made; what writes the next one comes back with it.
type Reading = thread::JoinHandle<(Reporter, Result<(), String>)>;

/// What the reports have in common.
#[derive(Debug, Default)]
pub(super) struct Defender {
    reporter: Option<Reporter>,
    reading: Option<Reading>,
    before: Option<Box<Snapshot>>,
    reported_ns: Option<u64>,
}

impl Gateway {
    /// Reports when it is time to, while there is somebody to report to.
    pub(super) fn report_metrics(&mut self, now: Now) {
        self.end_reading();
        let cloud = &self.config.cloud;
        let Some(format) = cloud.defender.format().filter(|_| self.cloud.online) else { return };
        let every_ns = u64::try_from(cloud.defender_every.0.as_nanos()).unwrap_or(u64::MAX);
        let is_early = |at_ns: u64| now.kernel_ns.saturating_sub(at_ns) < every_ns;
        if self.defender.reported_ns.is_some_and(is_early) || self.defender.reading.is_some() {
            return;
        }
        self.defender.reported_ns = Some(now.kernel_ns);
        let Some(orders) = self.cloud.orders.clone() else { return };
        // What cannot be read now is reported by whoever reads it for a reason.
        let Ok(snapshot) = self.metrics() else { return };
        let figures = figures(&snapshot, self.defender.before.as_deref());
        self.defender.before = Some(snapshot);
        let reporter = self.defender.reporter.take().unwrap_or_else(|| Reporter::new(format));
        match read(reporter, figures, now.wall, orders, || {
            sockets::sample().map_err(|error| error.to_string())
        }) {
            Ok(reading) => self.defender.reading = Some(reading),
            Err(error) => self.trouble(UNREAD, Some(&error.to_string())),
        }
    }

    /// Takes note of a report that was made.
    fn end_reading(&mut self) {
        let Some(reading) = self.defender.reading.take_if(|reading| reading.is_finished()) else { return };
        match reading.join() {
            Ok((reporter, read)) => {
                self.defender.reporter = Some(reporter);
                self.trouble(UNREAD, read.err().as_deref());
            }
            Err(_) => self.trouble(UNREAD, Some("the thread that reads them ended early")),
        }
    }

    pub(super) fn on_metrics_answered(&mut self, answer: Result<(), String>) {
        self.trouble(REFUSED, answer.err().as_deref());
    }
}

/// Starts a thread that hands the link a report of what `sample` says and of `figures`. A link with no room for it does without.
fn read(
    mut reporter: Reporter,
    figures: Vec<Figure>,
    at: Timestamp,
    orders: Sender<Order>,
    sample: impl FnOnce() -> Result<Sample, String> + Send + 'static,
) -> io::Result<Reading> {
    thread::Builder::new().name("sockets".to_owned()).spawn(move || {
        let began = Instant::now();
        let read = sample().map(|sample| {
            let report = reporter.report(&sample, &figures, at);
            let _ = orders.try_send(Order::Metrics(report));
        });
        tracing::debug!(took_ms = began.elapsed().as_millis() as u64, "sockets read for Device Defender");
        (reporter, read)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

    use std::sync::mpsc as std_mpsc;

    use tokio::sync::mpsc;

    use super::*;
    use crate::fleet::defender::Format;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_reading_that_takes_long_is_waited_for_by_nobody_and_its_report_comes() {
        let (orders, mut given) = mpsc::channel(4);
        let (release, held) = std_mpsc::channel::<()>();
        let sample = move || {
            held.recv().unwrap();
            Ok(Sample { tcp_ports: vec![22], ..Sample::default() })
        };
        let reading = read(Reporter::new(Format::Json), Vec::new(), at(7), orders.clone(), sample).unwrap();
        assert!(!reading.is_finished() && given.try_recv().is_err());
        release.send(()).unwrap();
        let (reporter, read_well) = reading.join().unwrap();
        assert_eq!(read_well, Ok(()));
        let Ok(Order::Metrics(report)) = given.try_recv() else { panic!("no report") };
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report["metrics"]["listening_tcp_ports"]["ports"][0]["port"], 22);

        // The next one goes on counting, and one that cannot be read says why and loses nothing.
        let (reporter, refused) =
            read(reporter, Vec::new(), at(7), orders.clone(), || Err("no table".to_owned()))
                .unwrap()
                .join()
                .unwrap();
        assert_eq!(refused, Err("no table".to_owned()));
        assert!(given.try_recv().is_err());
        let reading = read(reporter, Vec::new(), at(7), orders, || Ok(Sample::default())).unwrap();
        assert_eq!(reading.join().unwrap().1, Ok(()));
        let Ok(Order::Metrics(report)) = given.try_recv() else { panic!("no report") };
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report["header"]["report_id"], 8, "not the number before");
    }

    #[test]
    fn a_link_without_room_does_without() {
        let (orders, _given) = mpsc::channel(1);
        for _ in 0..3 {
            let reading =
                read(
                    Reporter::new(Format::Cbor),
                    Vec::new(),
                    at(7),
                    orders.clone(),
                    || Ok(Sample::default()),
                );
            assert_eq!(reading.unwrap().join().unwrap().1, Ok(()));
        }
    }
}
