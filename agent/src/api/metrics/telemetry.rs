//! What is counted of telemetry, as metrics.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::{counter, gauge};
use crate::messages::{
    read,
    telemetry::{Sign, Tallies},
};

pub(super) fn encode(e: &mut DescriptorEncoder, tallies: &Tallies) -> Result<(), fmt::Error> {
    let now = |counter| read(counter) as i64;
    gauge(e, "telemetry_topics", "Telemetry topics that are known", None, now(&tallies.topics))?;
    let help = "Telemetry topics that are judged: learning is over";
    gauge(e, "telemetry_judged_topics", help, None, now(&tallies.judged_topics))?;
    for (name, help, value) in [
        ("telemetry_messages", "Messages on telemetry topics", &tallies.messages),
        ("telemetry_learning", "Messages before their topic was learned", &tallies.learning),
        ("telemetry_unreadable", "Telemetry of no format that is read", &tallies.unreadable),
        ("telemetry_no_room", "Telemetry whose device or topic found no room", &tallies.no_room),
        ("telemetry_relearned", "Topics learned again as what was odd had lasted", &tallies.relearned),
        (
            "telemetry_summarised",
            "Measurements that went to the cloud as a summary only",
            &tallies.summarised,
        ),
        ("telemetry_untold", "Odd messages that were not told: nobody took them", &tallies.untold),
    ] {
        counter(e, name, help, read(value))?;
    }
    let help = "Telemetry unlike before, by sign";
    let mut odd = e.encode_descriptor("telemetry_odd", help, None, MetricType::Counter)?;
    for sign in Sign::ALL {
        let label = [("sign", sign.name())];
        odd.encode_family(&label)?.encode_counter::<NoLabelSet, _, u64>(&read(tallies.odd(sign)), None)?;
    }
    Ok(())
}
