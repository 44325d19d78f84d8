//! A labelled set as parts: what is learned, what thresholds are taken from, what is judged.
//!
//! Each device's benign flows are split by time, 50/20/30; every attack is judged, none is learned. A row that says the same
//! as another one (ends, ports, times, counts) counts once. Flows nobody labelled are neither learned nor judged.

use std::collections::{HashMap, HashSet};

use tidegate_common::device::DeviceKey;

use crate::replay::{
    detect::{Protected, device_of},
    flowlog::{Class, LoggedFlow},
};

/// Where a flow belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Benign, learned.
    Train,
    /// Benign, thresholds are taken from it.
    Calibrate,
    /// Benign, judged.
    Test,
    /// An attack, judged.
    Attack,
    /// Not labelled.
    Unknown,
}

/// A flow of the set.
#[derive(Clone, Debug)]
pub struct Row {
    /// The flow.
    pub flow: LoggedFlow,
    /// The device it is of: the one that began it, else the one that was asked.
    pub device: DeviceKey,
    /// Whether the device began it.
    pub by_device: bool,
    /// Where it belongs.
    pub part: Part,
}

/// A set, its rows in order of time.
#[derive(Clone, Debug, Default)]
pub struct Split {
    /// The flows.
    pub rows: Vec<Row>,
    /// Rows that said the same as another one.
    pub duplicates: u64,
    /// Flows without a device at either end.
    pub elsewhere: u64,
}

/// Splits `flows`.
pub fn split(flows: Vec<LoggedFlow>, protected: &Protected) -> Split {
    let mut seen = HashSet::new();
    let mut split = Split::default();
    for flow in flows {
        let facts =
            (flow.key(), flow.src, flow.first_ns, flow.last_ns, flow.out.packets, flow.inward.packets);
        let class = flow.label.as_ref().map(|label| label.class);
        let facts = (facts, flow.out.bytes, flow.inward.bytes, flow.progress, class);
        if !seen.insert(facts) {
            split.duplicates += 1;
            continue;
        }
        let by_device = protected.holds(flow.src, &flow.out);
        if !by_device && !protected.holds(flow.dst, &flow.inward) {
            split.elsewhere += 1;
            continue;
        }
        let device =
            if by_device { device_of(flow.src, &flow.out) } else { device_of(flow.dst, &flow.inward) };
        let part = match class {
            Some(Class::Malicious) => Part::Attack,
            Some(Class::Benign) => Part::Train,
            Some(Class::Unknown) | None => Part::Unknown,
        };
        split.rows.push(Row { flow, device, by_device, part });
    }
    split.rows.sort_by_key(|row| row.flow.first_ns);
    let mut benign: HashMap<DeviceKey, usize> = HashMap::new();
    for row in split.rows.iter().filter(|row| row.part == Part::Train) {
        *benign.entry(row.device).or_default() += 1;
    }
    let mut past: HashMap<DeviceKey, usize> = HashMap::new();
    for row in split.rows.iter_mut().filter(|row| row.part == Part::Train) {
        let place = past.entry(row.device).or_default();
        let all = benign.get(&row.device).copied().unwrap_or(0);
        row.part = match *place * 10 {
            at if at < all * 5 => Part::Train,
            at if at < all * 7 => Part::Calibrate,
            _ => Part::Test,
        };
        *place += 1;
    }
    split
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed run is the test's failure")]

    use super::*;
    use crate::replay::flowlog::{Label, LoggedSide};

    fn flow(at_s: u64, from: [u8; 4], label: &str) -> LoggedFlow {
        LoggedFlow {
            src: from.into(),
            dst: [203, 0, 113, 5].into(),
            src_port: 1,
            dst_port: 2,
            proto: 17,
            vlans: [0, 0],
            first_ns: at_s * 1_000_000_000,
            last_ns: at_s * 1_000_000_000,
            icmp: (0, 0),
            out: LoggedSide { packets: 1, bytes: 40, ..LoggedSide::default() },
            inward: LoggedSide::default(),
            progress: 0,
            label: Some(Label::of(label, "")),
        }
    }

    #[test]
    fn benign_flows_are_split_by_time_and_attacks_are_judged() {
        let mut flows: Vec<LoggedFlow> = (0..10).rev().map(|at| flow(at, [10, 0, 0, 1], "Benign")).collect();
        flows.push(flow(3, [10, 0, 0, 1], "Benign"));
        flows.push(flow(4, [10, 0, 0, 1], "Malicious"));
        flows.push(flow(4, [10, 0, 0, 2], "Background"));
        flows.push(flow(4, [8, 8, 8, 8], "Benign"));
        let split = split(flows, &Protected::default());
        assert_eq!((split.duplicates, split.elsewhere), (1, 1));
        let parts: Vec<Part> = split.rows.iter().map(|row| row.part).collect();
        use Part::{Attack, Calibrate, Test, Train, Unknown};
        let mut of_first = parts.clone();
        of_first.retain(|part| *part != Unknown && *part != Attack);
        assert_eq!(of_first, [Train, Train, Train, Train, Train, Calibrate, Calibrate, Test, Test, Test]);
        assert_eq!(parts.iter().filter(|part| **part == Attack).count(), 1);
    }
}
