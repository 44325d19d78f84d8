//! What passes between neighbours, as metrics.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use crate::fleet::neighbours::{PeerState, Refused};

/// Neighbours at one moment.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    /// Every peer.
    pub peers: Vec<PeerState>,
    /// Connections refused that were no peer's.
    pub strangers: BTreeMap<Refused, u64>,
}

pub(super) fn encode(e: &mut DescriptorEncoder, neighbours: &Neighbours) -> Result<(), fmt::Error> {
    type Number = fn(&PeerState) -> u64;
    type Words = fn(&PeerState) -> &BTreeMap<&'static str, u64>;
    let gauges: [(&str, &str, Number); 2] = [
        ("neighbour_reached", "1 when a neighbour can be told something", |peer| u64::from(peer.reached)),
        ("neighbour_waiting", "Notices that wait for a neighbour", |peer| peer.waiting as u64),
    ];
    for (name, help, number) in gauges {
        let mut family = e.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for peer in &neighbours.peers {
            family.encode_family(&[("peer", peer.name.as_str())])?.encode_gauge(&(number(peer) as i64))?;
        }
    }
    let counters: [(&str, &str, Number); 2] = [
        ("neighbour_dropped", "Notices to a neighbour that found no room", |peer| peer.dropped),
        ("neighbour_expired", "Notices that expired before a neighbour could be told", |peer| peer.expired),
    ];
    for (name, help, number) in counters {
        let mut family = e.encode_descriptor(name, help, None, MetricType::Counter)?;
        for peer in &neighbours.peers {
            let label = [("peer", peer.name.as_str())];
            family.encode_family(&label)?.encode_counter::<NoLabelSet, _, u64>(&number(peer), None)?;
        }
    }
    let by_word: [(&str, &str, Words); 2] = [
        ("neighbour_answers", "Answers of a neighbour to notices", |peer| &peer.answers),
        ("neighbour_judged", "What became of a neighbour's notices and connections", |peer| &peer.judged),
    ];
    for (name, help, words) in by_word {
        let mut family = e.encode_descriptor(name, help, None, MetricType::Counter)?;
        for peer in &neighbours.peers {
            for (word, count) in words(peer) {
                let labels = [("peer", peer.name.as_str()), ("outcome", word)];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
            }
        }
    }
    let help = "Connections to the port of neighbours that were no neighbour's, by reason";
    let mut family = e.encode_descriptor("neighbour_strangers", help, None, MetricType::Counter)?;
    for (reason, count) in &neighbours.strangers {
        let label = [("reason", reason.name())];
        family.encode_family(&label)?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
    }
    Ok(())
}
