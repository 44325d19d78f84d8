//! The default baseline for devices that have none of their own: a forest trained on made-up normal IoT traffic.
//!
//! The flows below are drawn from the shapes that smart-home traffic is known for (name lookups, time, telemetry over TLS
//! and MQTT, local polling, streams, downloads), with wide spreads. No capture went into them. They are good enough to
//! point at the grossly strange, and `decide` never acts on them alone. There are no windows: how busy a device is says
//! nothing before its own habits are known.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tidegate_common::{
    feature::{FeatureVector, flow_features},
    flow::{FlowKey, FlowRecord, FlowSide, progress},
    parse::proto,
    pod::Addr,
};

use super::{baseline::Baseline, detector::Detector, forest::GrowthError, model::ModelKind};

const FLOWS: usize = 3_000;

/// How one kind of normal flow looks; pairs are the smallest and largest usual values.
struct Shape {
    /// How often it occurs among the others.
    weight: u64,
    protocol: u8,
    port: u16,
    local: bool,
    packets_out: (u64, u64),
    /// Packets in for a hundred packets out.
    in_percent: (u64, u64),
    payload_out: (u64, u64),
    payload_in: (u64, u64),
    gap_us: (u64, u64),
}

#[rustfmt::skip]
const SHAPES: [Shape; 12] = [
    // Name lookup, time, discovery.
    Shape { weight: 20, protocol: proto::UDP, port: 53, local: true, packets_out: (1, 2), in_percent: (100, 100), payload_out: (25, 60), payload_in: (40, 300), gap_us: (500, 60_000) },
    Shape { weight: 6, protocol: proto::UDP, port: 123, local: false, packets_out: (1, 4), in_percent: (100, 100), payload_out: (48, 48), payload_in: (48, 48), gap_us: (5_000, 2_000_000) },
    Shape { weight: 5, protocol: proto::UDP, port: 5353, local: true, packets_out: (1, 8), in_percent: (0, 0), payload_out: (40, 400), payload_in: (0, 0), gap_us: (100_000, 5_000_000) },
    // Telemetry: short TLS exchange, long MQTT session, plain HTTP.
    Shape { weight: 18, protocol: proto::TCP, port: 443, local: false, packets_out: (8, 40), in_percent: (70, 130), payload_out: (60, 400), payload_in: (200, 900), gap_us: (2_000, 400_000) },
    Shape { weight: 8, protocol: proto::TCP, port: 8883, local: false, packets_out: (10, 2_000), in_percent: (60, 110), payload_out: (20, 200), payload_in: (10, 150), gap_us: (50_000, 30_000_000) },
    Shape { weight: 5, protocol: proto::TCP, port: 1883, local: true, packets_out: (8, 2_000), in_percent: (60, 110), payload_out: (10, 120), payload_in: (4, 80), gap_us: (20_000, 30_000_000) },
    Shape { weight: 10, protocol: proto::TCP, port: 80, local: true, packets_out: (4, 12), in_percent: (80, 120), payload_out: (30, 150), payload_in: (80, 700), gap_us: (500, 60_000) },
    // Streams out, downloads in, calls both ways.
    Shape { weight: 5, protocol: proto::TCP, port: 443, local: false, packets_out: (500, 200_000), in_percent: (20, 60), payload_out: (900, 1_400), payload_in: (0, 60), gap_us: (500, 20_000) },
    Shape { weight: 4, protocol: proto::UDP, port: 50_000, local: false, packets_out: (500, 200_000), in_percent: (1, 60), payload_out: (700, 1_250), payload_in: (30, 300), gap_us: (800, 20_000) },
    Shape { weight: 6, protocol: proto::TCP, port: 443, local: false, packets_out: (100, 30_000), in_percent: (150, 250), payload_out: (0, 60), payload_in: (1_000, 1_420), gap_us: (100, 10_000) },
    Shape { weight: 8, protocol: proto::UDP, port: 443, local: false, packets_out: (8, 3_000), in_percent: (80, 250), payload_out: (40, 900), payload_in: (200, 1_250), gap_us: (200, 200_000) },
    // Reachability.
    Shape { weight: 5, protocol: proto::ICMP, port: 0, local: true, packets_out: (1, 30), in_percent: (100, 100), payload_out: (56, 64), payload_in: (56, 64), gap_us: (900_000, 1_100_000) },
];

struct Dice(Pcg64Mcg);

impl Dice {
    /// Between `low` and `high`, evenly on the logarithmic scale.
    fn spread(&mut self, (low, high): (u64, u64)) -> u64 {
        let share = (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let (low, high) = (low as f64 + 1.0, high as f64 + 1.0);
        (low * (high / low).powf(share)).round() as u64 - 1
    }

    fn flow(&mut self) -> (FlowKey, FlowRecord) {
        let total: u64 = SHAPES.iter().map(|shape| shape.weight).sum();
        let mut drawn = self.0.next_u64() % total;
        let shape = SHAPES
            .iter()
            .find(|shape| {
                let hit = drawn < shape.weight;
                drawn = drawn.saturating_sub(shape.weight);
                hit
            })
            .unwrap_or(&SHAPES[0]);
        let remote = if shape.local { [192, 168, 1, 1] } else { [198, 51, 100, 7] };
        let source_port = if shape.port == 0 { 0 } else { 40_000 };
        let key = FlowKey {
            a: Addr::v4([192, 168, 1, 50]),
            b: Addr::v4(remote),
            a_port: source_port,
            b_port: shape.port,
            proto: shape.protocol,
            ..FlowKey::default()
        };
        let packets_out = self.spread(shape.packets_out);
        let packets_in = packets_out * self.spread(shape.in_percent) / 100;
        let gap_us = self.spread(shape.gap_us);
        let out = self.side(shape, packets_out, shape.payload_out, gap_us);
        let inward = self.side(shape, packets_in, shape.payload_in, gap_us * packets_out / packets_in.max(1));
        let tcp = shape.protocol == proto::TCP;
        let progress = if tcp { progress::SYN | progress::SYN_ACK | progress::ESTABLISHED } else { 0 };
        (key, FlowRecord { out, inward, progress, ..FlowRecord::default() })
    }

    fn side(&mut self, shape: &Shape, packets: u64, payload: (u64, u64), gap_us: u64) -> FlowSide {
        if packets == 0 {
            return FlowSide::default();
        }
        let header = if shape.protocol == proto::TCP { 52 } else { 28 };
        let payload = self.spread(payload);
        let size = header + payload;
        // Sizes and gaps scatter around their means by up to a half.
        let (scatter, longest) = (self.spread((0, size / 2)), self.spread((gap_us, gap_us * 8)));
        FlowSide {
            packets,
            bytes: packets * size,
            payload_bytes: packets * payload,
            size_sum_sq: packets * (size * size + scatter * scatter),
            first_ns: 1_000_000,
            last_ns: 1_000_000 + (packets - 1) * gap_us * 1_000,
            iat_max_ns: if packets > 1 { longest * 1_000 } else { 0 },
            ..FlowSide::default()
        }
    }
}

/// The fleet's default baseline.
pub(super) fn baseline(seed: u64) -> Result<Baseline, GrowthError> {
    let mut dice = Dice(Pcg64Mcg::seed_from_u64(seed));
    let flows: Vec<FeatureVector> = (0..FLOWS)
        .map(|_| {
            let (key, record) = dice.flow();
            flow_features(&key, &record)
        })
        .collect();
    Ok(Baseline { flows: Detector::fit(&[&flows], ModelKind::Flow, seed)?, windows: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookup_is_plainer_than_a_flow_of_empty_syns() {
        let fleet = baseline(1).unwrap();
        let mut dice = Dice(Pcg64Mcg::seed_from_u64(99));
        let usual: Vec<f64> = (0..200)
            .map(|_| {
                let (key, record) = dice.flow();
                fleet.flows.judge(&flow_features(&key, &record)).p_value
            })
            .collect();
        let rare = usual.iter().filter(|p| **p < 0.02).count();
        assert!(rare <= 14, "{rare} of 200 flows of the same make are rare");

        let key = FlowKey { a_port: 40_000, b_port: 31_337, proto: proto::TCP, ..FlowKey::default() };
        let out = FlowSide {
            packets: 900_000,
            bytes: 36_000_000,
            first_ns: 1,
            last_ns: 9_000_000_000,
            ..FlowSide::default()
        };
        let strange = fleet.flows.judge(&flow_features(&key, &FlowRecord { out, ..FlowRecord::default() }));
        assert!(strange.p_value < 0.01, "{strange:?}");
    }
}
