//! The gateway's own metrics on their way to AWS IoT Device Defender: read now and then, and never waited for.

use super::gateway::Gateway;
use crate::{
    api::Snapshot,
    enforce::Now,
    fleet::{defender::Reporter, link::Order, sockets, watch::data::figures},
};

const REFUSED: &str = "AWS IoT Device Defender refuses the metrics";
const UNREAD: &str = "metrics for AWS IoT Device Defender cannot be read";

/// What the reports have in common.
#[derive(Debug, Default)]
pub(super) struct Defender {
    reporter: Option<Reporter>,
    before: Option<Box<Snapshot>>,
    reported_ns: Option<u64>,
}

impl Gateway {
    /// Reports when it is time to, while there is somebody to report to.
    pub(super) fn report_metrics(&mut self, now: Now) {
        let cloud = &self.config.cloud;
        let Some(format) = cloud.defender.format().filter(|_| self.cloud.online) else { return };
        let every_ns = u64::try_from(cloud.defender_every.0.as_nanos()).unwrap_or(u64::MAX);
        let is_early = |at_ns: u64| now.kernel_ns.saturating_sub(at_ns) < every_ns;
        if self.defender.reported_ns.is_some_and(is_early) {
            return;
        }
        self.defender.reported_ns = Some(now.kernel_ns);
        let sample = match sockets::sample() {
            Ok(sample) => sample,
            Err(error) => return self.trouble(UNREAD, Some(&error.to_string())),
        };
        self.trouble(UNREAD, None);
        // What cannot be read now is reported by whoever reads it for a reason.
        let Ok(snapshot) = self.metrics() else { return };
        let figures = figures(&snapshot, self.defender.before.as_deref());
        self.defender.before = Some(snapshot);
        let reporter = self.defender.reporter.get_or_insert_with(|| Reporter::new(format));
        let report = reporter.report(&sample, &figures, now.wall);
        self.order(Order::Metrics(report));
    }

    pub(super) fn on_metrics_answered(&mut self, answer: Result<(), String>) {
        self.trouble(REFUSED, answer.err().as_deref());
    }
}
