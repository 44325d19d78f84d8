//! The forest in the kernel, as part of suite `datapath`: what a judged packet costs, and what it costs a packet that is not.
//!
//! Random trees are put into the running agent's own tables for one device; another device without a model stands beside it.
//! Frames are run one by one: the eighth of a flow is the first that is judged.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use tidegate_common::{
    device::DeviceKey,
    feature::FEATURES,
    forest::{DeviceModel, NODES, Node, TREES, Tree},
    maps,
    pod::mix64,
};

use super::{
    Context, Row,
    kernel::{Program, Table, XDP_PASS},
};

/// A test run's frames come in from the loopback interface.
const TEST_RUN_IFINDEX: u32 = 1;
const JUDGED: [u8; 6] = [2, 0, 0, 0, 0, 2];
const UNJUDGED: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// Frames of a flow before the first that is judged.
const BEFORE: u32 = 7;

/// Costs of a judged and of an unjudged packet. `frame` is a UDP frame of some device, `pins` the directory of the agent's tables.
pub(super) fn rows(
    context: &Context,
    program: &Program,
    pins: &Path,
    frame: &[u8],
    runs: u32,
) -> Result<Vec<Row>> {
    put_forest(pins)?;
    let flows: u16 = if context.smoke { 32 } else { 512 };
    let (mut with, mut without, mut extra) = (Vec::new(), Vec::new(), Vec::new());
    let (mut judged, mut unjudged) = (Vec::new(), Vec::new());
    for repeat in 0..context.repeats {
        let first = 1_024 + (repeat % 60) as u16 * 512;
        // A flow belongs to whoever began it, so the two devices need ports of their own.
        let other = first + 31_744;
        unjudged.push(eighth_packets(program, frame, UNJUDGED, other..other + flows)?);
        judged.push(
            eighth_packets(program, frame, JUDGED, first..first + flows)? - unjudged[unjudged.len() - 1],
        );
        with.push(time(program, &from(frame, JUDGED, 1_000), runs)?);
        without.push(time(program, &from(frame, UNJUDGED, 1_001), runs)?);
        extra.push(with[with.len() - 1] - without[without.len() - 1]);
    }
    Ok(vec![
        Row::of("forest_eval_ns", "ns", &judged, "checkpoint without a model", &unjudged),
        Row::of("no_checkpoint_ns", "ns", &extra, "packet without a model", &without),
    ])
}

/// Median time of the eighth packets of flows from these source ports.
fn eighth_packets(program: &Program, frame: &[u8], mac: [u8; 6], ports: std::ops::Range<u16>) -> Result<f64> {
    let mut times = Vec::with_capacity(ports.len());
    for port in ports {
        let frame = from(frame, mac, port);
        time(program, &frame, BEFORE)?;
        times.push(time(program, &frame, 1)?);
    }
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().context("no flow was asked for")
}

fn time(program: &Program, frame: &[u8], runs: u32) -> Result<f64> {
    let (verdict, ns) = program.time(frame, runs)?;
    if verdict != XDP_PASS {
        bail!("the program returned {verdict} for a frame that should pass");
    }
    Ok(ns)
}

fn from(frame: &[u8], mac: [u8; 6], port: u16) -> Vec<u8> {
    const SOURCE_MAC: usize = 6;
    const SOURCE_PORT: usize = 34;
    let mut frame = frame.to_vec();
    frame[SOURCE_MAC..SOURCE_MAC + 6].copy_from_slice(&mac);
    frame[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&port.to_be_bytes());
    frame
}

/// A forest of full depth for [`JUDGED`] that cuts nothing.
fn put_forest(pins: &Path) -> Result<()> {
    let mut state = 0_u64;
    let mut random = || {
        state += 1;
        mix64(state)
    };
    let trees = Table::pinned(&pins.join(maps::FORESTS))?;
    for index in 0..TREES as u32 {
        let mut tree = Tree::EMPTY;
        for at in 1..NODES {
            *tree.node_mut(at) = Node::new((random() & 0x3fff) as u16, (random() % FEATURES as u32) as u16);
        }
        tree.leaves_mut().fill_with(|| (random() % 2_048) as u16 + 256);
        trees.put(&index, &tree)?;
    }
    let device = DeviceKey::new(JUDGED, TEST_RUN_IFINDEX);
    let model = DeviceModel { generation: 1, ..DeviceModel::default() };
    Table::pinned(&pins.join(maps::MODELS))?.put(&device, &model)
}
