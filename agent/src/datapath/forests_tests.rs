//! The forest in the kernel beside the one in the agent, and what a low score does.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed run is the test's failure; a skip is said aloud"
)]

use tidegate_common::{
    feature::{FEATURES, flow_features},
    forest::{NODES, Node, score_sum},
    pod::mix64,
    verdict::{Action, Config, Mode, Verdict, role},
};

use super::*;
use crate::{
    datapath::{TestBed, object_is_embedded},
    enforce::VerdictTable,
};

const CUT_MS: u32 = 30_000;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The first checkpoint.
const JUDGED: u64 = 8;

fn is_skipped(test: &str) -> bool {
    let skipped = !nix::unistd::geteuid().is_root() || !object_is_embedded();
    if skipped {
        println!("SKIPPED {test}: needs root and the kernel programs");
    }
    skipped
}

/// Ethernet, IPv4, UDP from 10.0.0.1 to 10.0.0.2:2000 with `payload` bytes.
fn frame(source_port: u16, payload: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2];
    frame.extend(MAC);
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((28 + payload).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend(source_port.to_be_bytes());
    frame.extend([0x07, 0xd0]);
    frame.extend((8 + payload).to_be_bytes());
    frame.extend([0, 0]);
    frame.resize(frame.len() + usize::from(payload), 0);
    frame
}

fn forest(seed: u32) -> Box<[Tree; TREES]> {
    let mut state = u64::from(seed) << 32;
    let mut random = || {
        state += 1;
        mix64(state) as u16
    };
    let mut tree = || {
        let mut tree = Tree::EMPTY;
        for at in 1..NODES {
            *tree.node_mut(at) = Node::new(random() & 0x0fff, random() % FEATURES as u16);
        }
        tree.leaves_mut().fill_with(|| random() & 0x0fff);
        tree
    };
    Box::new(std::array::from_fn(|_| tree()))
}

struct Bench {
    bed: TestBed,
    forests: KernelForests,
    device: DeviceKey,
    now_ns: u64,
}

impl Bench {
    fn new(mode: Mode) -> Self {
        let mut bed = TestBed::new(4_096).unwrap();
        bed.verdicts.configure(&Config { mode: mode as u32, cut_ms: CUT_MS, ..Config::default() }).unwrap();
        let forests = bed.datapath.take_forests().unwrap();
        bed.ingress(&frame(1, 1)).unwrap();
        let device = *bed.datapath.devices().unwrap().keys().next().unwrap();
        Self { bed, forests, device, now_ns: 0 }
    }

    fn send(&mut self, frame: &[u8], gap_ns: u64) -> bool {
        self.now_ns += gap_ns;
        self.bed.set_clock(self.now_ns).unwrap();
        self.bed.ingress(frame).unwrap()
    }
}

#[test]
fn the_kernels_score_is_the_agents() {
    if is_skipped("the_kernels_score_is_the_agents") {
        return;
    }
    let mut bench = Bench::new(Mode::Enforce);
    for (round, seed) in [7, 8].into_iter().enumerate() {
        let trees = forest(seed);
        let placed = bench.forests.put(bench.device, &trees, 0, bench.now_ns).unwrap();
        let Placed::InForce(generation) = placed else { panic!("{placed:?}") };
        for flow in 0..60u16 {
            let port = 10_000 + 100 * round as u16 + flow;
            for packet in 0..JUDGED as u16 {
                let size = (flow * 23 + packet * flow) % 1_400;
                assert!(bench.send(&frame(port, size), 1_000 << (flow % 24)));
            }
        }
        let judged: Vec<_> = bench.bed.datapath.flows().unwrap();
        let judged: Vec<_> =
            judged.iter().filter(|(_, record)| record.model_generation == generation).collect();
        assert_eq!(judged.len(), 60);
        for (key, record) in judged {
            assert_eq!(record.score, score_sum(&*trees, &flow_features(key, record)), "{key:?}");
        }
    }
    assert_eq!(bench.bed.datapath.counters().unwrap().scores, 120);
}

#[test]
fn without_a_model_nothing_is_judged() {
    if is_skipped("without_a_model_nothing_is_judged") {
        return;
    }
    let mut bench = Bench::new(Mode::Enforce);
    let other = DeviceKey::new([2, 0, 0, 0, 0, 9], bench.device.ifindex);
    bench.forests.put(other, &forest(1), u32::MAX, 0).unwrap();
    bench.forests.put(bench.device, &forest(1), u32::MAX, 0).unwrap();
    bench.forests.remove(bench.device, 0).unwrap();
    for _ in 0..20 {
        assert!(bench.send(&frame(500, 10), 1_000));
    }
    assert_eq!(bench.bed.datapath.counters().unwrap().scores, 0);
    assert_eq!(bench.forests.devices().collect::<Vec<_>>(), [other]);
}

#[test]
fn a_flow_below_the_limit_is_cut_with_its_packet_and_for_a_while() {
    if is_skipped("a_flow_below_the_limit_is_cut_with_its_packet_and_for_a_while") {
        return;
    }
    let mut bench = Bench::new(Mode::Enforce);
    bench.forests.put(bench.device, &forest(3), u32::MAX, 0).unwrap();
    let elsewhere = Verdict {
        action: Action::NeverBlock as u8,
        roles: role::DNS,
        expires_ns: u64::MAX,
        ..Verdict::default()
    };
    for number in 0..64 {
        let address: std::net::IpAddr = [192, 0, 2, number].into();
        bench.bed.verdicts.put(&address.into(), &elsewhere).unwrap();
    }
    let frame = frame(600, 10);
    let passed: Vec<bool> = (0..12).map(|_| bench.send(&frame, 1_000)).collect();
    let expected: Vec<bool> = (1..=12).map(|number| number < JUDGED).collect();
    assert_eq!(passed, expected);
    let counters = bench.bed.datapath.counters().unwrap();
    assert_eq!((counters.flows_cut, counters.dropped_model, counters.unaccounted()), (1, 4, 0));

    let gap_ns = u64::from(CUT_MS) * 1_000_000;
    assert!(bench.send(&frame, gap_ns), "a cut has an end");
    assert_eq!(bench.bed.datapath.counters().unwrap().unaccounted(), 0);
}

#[test]
fn monitor_mode_and_never_block_come_before_a_cut() {
    if is_skipped("monitor_mode_and_never_block_come_before_a_cut") {
        return;
    }
    let mut watching = Bench::new(Mode::Monitor);
    watching.forests.put(watching.device, &forest(3), u32::MAX, 0).unwrap();
    assert!((0..12).all(|_| watching.send(&frame(600, 10), 1_000)));
    let counters = watching.bed.datapath.counters().unwrap();
    assert_eq!((counters.flows_cut, counters.would_drop, counters.unaccounted()), (1, 4, 0));
    let block = Verdict { action: Action::Block as u8, expires_ns: u64::MAX, ..Verdict::default() };
    watching.bed.verdicts.put(&"10.0.0.2".parse().unwrap(), &block).unwrap();
    assert!(watching.send(&frame(600, 10), 1_000));
    let twice = watching.bed.datapath.counters().unwrap().would_drop;
    assert_eq!(twice, 5, "a packet of a cut flow to a blocked address is one packet");

    for (target, roles) in
        [("10.0.0.2", role::DNS), ("10.0.0.1", role::OPERATOR), ("10.0.0.0/24", 0), ("02:00:00:00:00:01", 0)]
    {
        let mut bench = Bench::new(Mode::Enforce);
        bench.forests.put(bench.device, &forest(3), u32::MAX, 0).unwrap();
        let listed =
            Verdict { action: Action::NeverBlock as u8, roles, expires_ns: u64::MAX, ..Verdict::default() };
        bench.bed.verdicts.put(&target.parse().unwrap(), &listed).unwrap();
        assert!((0..12).all(|_| bench.send(&frame(600, 10), 1_000)), "{target}");
        bench.bed.verdicts.remove(&target.parse().unwrap()).unwrap();
        let later = (0..60).all(|_| bench.send(&frame(600, 10), 1_000));
        assert!(!later, "{target}: once it is off the list, the next checkpoint cuts");
    }
}

/// The second device's answers pass its own port, where the one that began the flow is not seen.
#[test]
fn a_never_block_device_keeps_its_flow_at_every_port() {
    if is_skipped("a_never_block_device_keeps_its_flow_at_every_port") {
        return;
    }
    let mut bench = Bench::new(Mode::Enforce);
    bench.forests.put(bench.device, &forest(3), u32::MAX, 0).unwrap();
    let listed = Verdict { action: Action::NeverBlock as u8, expires_ns: u64::MAX, ..Verdict::default() };
    bench.bed.verdicts.put(&"02:00:00:00:00:01".parse().unwrap(), &listed).unwrap();
    let asked = frame(700, 10);
    let mut answer = asked.clone();
    // From the gateway's far side: other hardware addresses, ends exchanged.
    answer[..12].copy_from_slice(&[2, 0, 0, 0, 0, 8, 2, 0, 0, 0, 0, 9]);
    let (source, destination) = (answer[26..30].to_vec(), answer[30..34].to_vec());
    answer[26..30].copy_from_slice(&destination);
    answer[30..34].copy_from_slice(&source);
    let (source, destination) = (answer[34..36].to_vec(), answer[36..38].to_vec());
    answer[34..36].copy_from_slice(&destination);
    answer[36..38].copy_from_slice(&source);
    assert!(bench.send(&asked, 1_000));
    assert!((0..80).all(|_| bench.send(&answer, 1_000)));
    let counters = bench.bed.datapath.counters().unwrap();
    assert!(counters.scores > 0 && counters.flows_cut == 0, "{counters:?}");
    bench.bed.verdicts.remove(&"02:00:00:00:00:01".parse().unwrap()).unwrap();
    assert!(!(0..600).all(|_| bench.send(&answer, 1_000)), "off the list, it is cut");
}

#[test]
fn a_limit_is_changed_in_place() {
    if is_skipped("a_limit_is_changed_in_place") {
        return;
    }
    let mut bench = Bench::new(Mode::Enforce);
    bench.forests.put(bench.device, &forest(3), u32::MAX, 0).unwrap();
    bench.forests.set_limit(bench.device, 0).unwrap();
    assert!((0..12).all(|_| bench.send(&frame(600, 10), 1_000)));
    assert_eq!(bench.bed.datapath.counters().unwrap().scores, 1);
}

#[test]
fn a_place_rests_before_the_next_forest_takes_it() {
    if is_skipped("a_place_rests_before_the_next_forest_takes_it") {
        return;
    }
    let mut bench = Bench::new(Mode::Enforce);
    let places = bench.forests.places.len();
    let device = |number: usize| DeviceKey::new([2, 0, 0, 1, 0, number as u8], 1);
    let trees = forest(5);
    for number in 0..places {
        assert!(matches!(bench.forests.put(device(number), &trees, 0, 5).unwrap(), Placed::InForce(_)));
    }
    assert_eq!(bench.forests.put(device(places), &trees, 0, 5).unwrap(), Placed::NoPlace);
    bench.forests.remove(device(0), 10).unwrap();
    assert_eq!(bench.forests.put(device(places), &trees, 0, 10 + REST_NS - 1).unwrap(), Placed::NoPlace);
    let placed = bench.forests.put(device(places), &trees, 0, 10 + REST_NS).unwrap();
    assert_eq!(placed, Placed::InForce(places as u32 + 1));
}
