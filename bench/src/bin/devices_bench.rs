//! What many learned devices take of the agent's memory, for `cargo xtask bench scoring`.
//!
//! Argument: number of devices. Each of them lives through a learning period and as long again with its baseline, with enough
//! flows and windows to fill every reserve that a busy device has: samples, quarantine, hosts and services. Prints one JSON line:
//! resident memory that the detector with all devices added, and the time that one device's training took on average.

use std::{env, fs, time::Instant};

use anyhow::{Context as _, Result, ensure};
use tidegate::learn::{FlowEnds, LearnConfig, Learner, Phase, RuleConfig};
use tidegate_common::{
    device::{DeviceKey, DeviceWindow},
    event::{EventHeader, FlowCause, FlowEvent},
    flow::{FlowKey, FlowRecord, ObservationPoint},
    parse::{Packet, proto, tcp_flag},
    pod::{Addr, mix64},
};

const SECOND_NS: u64 = 1_000_000_000;
const PORT: u32 = 3;
const PERIOD_S: u64 = 3_600;
const WINDOW_S: u64 = 30;
/// Between two flows of a device: 720 a period.
const FLOW_EVERY_S: u64 = 5;
const HOSTS: u64 = 32;

fn main() -> Result<()> {
    let devices: u32 =
        env::args().nth(1).context("usage: devices_bench DEVICES")?.parse().context("devices")?;
    let before = resident_bytes()?;
    let config = LearnConfig {
        period_s: PERIOD_S,
        max_devices: devices,
        max_models: devices,
        ..LearnConfig::default()
    };
    let mut learner = Learner::new(config, RuleConfig::default())?;
    let mut trained_s = 0.0;
    let mut now_s = 1_000;
    for period in 0..2 {
        for _ in 0..PERIOD_S / FLOW_EVERY_S {
            now_s += FLOW_EVERY_S;
            for device in 0..devices {
                connection(&mut learner, device, now_s);
                if now_s.is_multiple_of(WINDOW_S) {
                    learner.observe_window(key(device), &window(device, now_s), now_s * SECOND_NS);
                }
            }
            if period == 1 {
                learner.tick(now_s * SECOND_NS);
            }
        }
        if period == 0 {
            now_s += FLOW_EVERY_S * 2;
            let started = Instant::now();
            (0..devices).for_each(|_| _ = learner.tick(now_s * SECOND_NS));
            trained_s = started.elapsed().as_secs_f64();
            let ready =
                (0..devices).filter(|device| learner.phase(key(*device)) == Some(Phase::Ready)).count();
            ensure!(ready == devices as usize, "{ready} of {devices} devices are ready");
        }
    }
    let report = serde_json::json!({
        "mib": (resident_bytes()? - before) as f64 / (1 << 20) as f64,
        "train_ms": trained_s * 1e3 / f64::from(devices),
    });
    #[allow(clippy::print_stdout, reason = "the report is the program's output")]
    {
        println!("{report}");
    }
    Ok(())
}

fn key(device: u32) -> DeviceKey {
    let [_, b, c, d] = device.to_be_bytes();
    DeviceKey::new([2, 0, 0, b, c, d], PORT)
}

/// A number that looks random, the same for the same device and moment.
fn noise(device: u32, moment: u64, of: u64) -> u64 {
    u64::from(mix64(u64::from(device) << 40 ^ moment)) % of
}

/// One connection of a device to one of its hosts, begun and ended.
fn connection(learner: &mut Learner, device: u32, at_s: u64) {
    let at_ns = at_s * SECOND_NS + noise(device, at_s, SECOND_NS);
    let [_, b, c, d] = device.to_be_bytes();
    let host = noise(device, at_s / FLOW_EVERY_S, HOSTS) as u8;
    let inside = Addr::v4([10, b, c, d]);
    let outside = Addr::v4([198, 18, (device % 64) as u8, host + 1]);
    let port = 32_768 + (at_s / FLOW_EVERY_S % 28_000) as u16;
    let packet = |is_out: bool, flags: u8, bytes: u32| Packet {
        src: if is_out { inside } else { outside },
        dst: if is_out { outside } else { inside },
        src_mac: if is_out { key(device).mac } else { [2, 9, 9, 9, 9, 9] },
        src_port: if is_out { port } else { 443 },
        dst_port: if is_out { 443 } else { port },
        proto: proto::TCP,
        tcp_flags: flags,
        ip_len: 52 + bytes,
        payload_len: bytes,
        segments: 1,
        ..Packet::default()
    };
    let ack = tcp_flag::ACK;
    let size = |step| 40 + noise(device, at_s ^ step, 700) as u32;
    let packets = [
        packet(true, tcp_flag::SYN, 0),
        packet(false, tcp_flag::SYN | ack, 0),
        packet(true, ack, size(1)),
        packet(false, ack, size(2)),
        packet(true, ack, size(3)),
        packet(true, tcp_flag::FIN | ack, 0),
        packet(false, tcp_flag::FIN | ack, 0),
    ];
    let mut record = FlowRecord::default();
    let step_ns = 5_000_000 + noise(device, at_s, 40_000_000);
    for (step, packet) in packets.iter().enumerate() {
        let (flow, end) = FlowKey::of(packet);
        let now_ns = at_ns + step as u64 * step_ns;
        if step == 0 {
            record.begin(packet, end, now_ns);
        }
        let point = if packet.src == inside {
            ObservationPoint::ingress(PORT)
        } else {
            ObservationPoint::egress(PORT)
        };
        let milestone = record.observe(packet, end, point, now_ns).unwrap_or_default();
        let cause = match step {
            0 => FlowCause::Start,
            _ if milestone.closed => FlowCause::Closed,
            _ => continue,
        };
        let header = EventHeader { time_ns: now_ns, ..EventHeader::default() };
        let event = FlowEvent { header, key: flow, record, cause: cause as u8, reserved: [0; 7] };
        learner.observe_flow(&event, FlowEnds::of(&record));
    }
}

fn window(device: u32, at_s: u64) -> DeviceWindow {
    let epoch = at_s / WINDOW_S;
    let flows = WINDOW_S / FLOW_EVERY_S;
    let mut window = DeviceWindow {
        epoch,
        packets_out: flows * 4,
        bytes_out: flows * (300 + noise(device, epoch, 900)),
        packets_in: flows * 3,
        bytes_in: flows * (200 + noise(device, epoch ^ 1, 900)),
        flows_out: flows as u32,
        syn_out: flows as u32,
        syn_answered: flows as u32,
        ..DeviceWindow::default()
    };
    for flow in 0..flows {
        window.remote_addrs.add(mix64(noise(device, epoch * flows + flow, HOSTS)));
    }
    window.remote_ports.add(mix64(443));
    window
}

fn resident_bytes() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
    Ok(kib * 1_024)
}
