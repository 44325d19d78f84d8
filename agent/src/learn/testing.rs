//! Traffic for tests: packets go through the kernel's own flow record, and the learner gets the events the kernel would send.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
};

use tidegate_common::{
    device::{DeviceKey, DeviceWindow},
    event::{EventHeader, FlowCause, FlowEvent},
    flow::{FlowKey, FlowRecord, ObservationPoint},
    parse::{Packet, proto, tcp_flag},
    pod::{Addr, mix64},
};

use super::{Finding, FlowEnds, LearnConfig, Learner, RuleConfig, address};

pub(super) const MS: u64 = 1_000_000;
pub(super) const S: u64 = 1_000 * MS;
const PORT: u32 = 3;
const WINDOW_NS: u64 = 30 * S;
const ACTIVE_TIMEOUT_NS: u64 = 30 * S;
/// Half of a round trip.
const HALF_TRIP: u64 = 5 * MS;

pub(super) const SYN: u8 = tcp_flag::SYN;
pub(super) const ACK: u8 = tcp_flag::ACK;
pub(super) const RST: u8 = tcp_flag::RST;
pub(super) const FIN: u8 = tcp_flag::FIN;

/// An end of a conversation: 10.0.0.x are devices, everything else is outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End(pub(super) Ipv4Addr, pub(super) u16);

pub(super) fn device(last: u8) -> DeviceKey {
    DeviceKey::new([2, 0, 0, 0, 0, last], PORT)
}

pub(super) fn inside(last: u8, port: u16) -> End {
    End(Ipv4Addr::new(10, 0, 0, last), port)
}

pub(super) fn outside(number: u32, port: u16) -> End {
    End(Ipv4Addr::from(0xc633_0000 + number), port)
}

/// A script of packets, played in the order of time.
#[derive(Default)]
pub(super) struct Script {
    packets: Vec<(u64, End, End, u8, u8, u32)>,
}

impl Script {
    /// One packet with `payload` bytes.
    pub(super) fn packet(
        &mut self,
        at: u64,
        from: End,
        to: End,
        protocol: u8,
        flags: u8,
        payload: u32,
    ) -> &mut Self {
        self.packets.push((at, from, to, protocol, flags, payload));
        self
    }

    /// Moves what comes from `at` on to `later`, whose time begins then.
    pub(super) fn cut(&mut self, at: u64, later: &mut Self) {
        let moved = self.packets.extract_if(.., |packet| packet.0 >= at);
        later.packets.extend(moved.map(|(begin, from, to, protocol, flags, payload)| {
            (begin - at, from, to, protocol, flags, payload)
        }));
    }

    pub(super) fn udp(&mut self, at: u64, from: End, to: End, payload: u32) -> &mut Self {
        self.packet(at, from, to, proto::UDP, 0, payload)
    }

    /// Question and answer.
    pub(super) fn ask(&mut self, at: u64, from: End, to: End, payload: u32) -> &mut Self {
        self.udp(at, from, to, 40).udp(at + HALF_TRIP * 2, to, from, payload)
    }

    pub(super) fn syn(&mut self, at: u64, from: End, to: End) -> &mut Self {
        self.packet(at, from, to, proto::TCP, SYN, 0)
    }

    /// A connection attempt that is refused.
    pub(super) fn refused(&mut self, at: u64, from: End, to: End) -> &mut Self {
        self.syn(at, from, to).packet(at + HALF_TRIP, to, from, proto::TCP, RST | ACK, 0)
    }

    /// A connection that sends and receives so many packets of so many bytes, one every `gap`; closed when `close`.
    pub(super) fn tcp(
        &mut self,
        at: u64,
        (from, to): (End, End),
        (out, out_bytes): (u32, u32),
        (back, back_bytes): (u32, u32),
        gap: u64,
        close: bool,
    ) -> &mut Self {
        let tcp = proto::TCP;
        self.syn(at, from, to).packet(at + HALF_TRIP, to, from, tcp, SYN | ACK, 0).packet(
            at + HALF_TRIP * 2,
            from,
            to,
            tcp,
            ACK,
            0,
        );
        let begin = at + HALF_TRIP * 2 + gap;
        for step in 0..out.max(back) {
            let at = begin + u64::from(step) * gap;
            if step < out {
                self.packet(at, from, to, tcp, ACK, out_bytes);
            }
            if step < back {
                self.packet(at + gap / 2, to, from, tcp, ACK, back_bytes);
            }
        }
        if close {
            let end = begin + u64::from(out.max(back)) * gap;
            self.packet(end, from, to, tcp, FIN | ACK, 0).packet(
                end + HALF_TRIP,
                to,
                from,
                tcp,
                FIN | ACK,
                0,
            );
        }
        self
    }
}

/// 10.0.0.x is device x; every other address from inside is one that device 66 makes up.
fn owner(address: Ipv4Addr) -> Option<DeviceKey> {
    let [a, b, c, d] = address.octets();
    (a == 10).then(|| if (b, c) == (0, 0) { device(d) } else { device(66) })
}

/// A learner behind a small kernel.
pub(super) struct Sim {
    pub(super) learner: Learner,
    pub(super) now: u64,
    flows: HashMap<FlowKey, FlowRecord>,
    windows: HashMap<DeviceKey, DeviceWindow>,
    /// Devices that sent something.
    heard: HashSet<DeviceKey>,
}

impl Sim {
    pub(super) fn new() -> Self {
        Self::with(LearnConfig::default())
    }

    pub(super) fn with(config: LearnConfig) -> Self {
        let learner = Learner::new(config, RuleConfig::default()).unwrap();
        Self {
            learner,
            now: 1_000 * S,
            flows: HashMap::new(),
            windows: HashMap::new(),
            heard: HashSet::new(),
        }
    }

    /// Plays the script from now on; times in it are relative. Findings come with the time since its beginning.
    pub(super) fn play(&mut self, script: &mut Script, until: u64) -> Vec<(u64, Finding)> {
        script.packets.sort_by_key(|packet| packet.0);
        let begin = self.now;
        let mut next_tick = begin + S;
        let mut found = Vec::new();
        for (at, from, to, protocol, flags, payload) in script.packets.drain(..) {
            while begin + at >= next_tick {
                found.extend(self.tick(next_tick));
                next_tick += S;
            }
            self.now = begin + at;
            found.extend(self.packet(from, to, protocol, flags, payload));
        }
        while next_tick <= begin + until {
            found.extend(self.tick(next_tick));
            next_tick += S;
        }
        self.now = begin + until;
        found.into_iter().map(|finding| (finding.at_ns.saturating_sub(begin), finding)).collect()
    }

    fn tick(&mut self, now: u64) -> Vec<Finding> {
        self.now = now;
        let mut found = self.learner.tick(now);
        for (device, window) in &self.windows {
            found.extend(self.learner.observe_window(*device, window, now));
        }
        let idle: Vec<FlowKey> = self
            .flows
            .iter()
            .filter(|(_, record)| now - record.last_ns() > 60 * S)
            .map(|(key, _)| *key)
            .collect();
        for key in idle {
            let record = self.flows.remove(&key).unwrap();
            let ends = self.ends(&key, &record);
            found.extend(self.learner.observe_swept(&key, &record, ends, now));
        }
        found
    }

    /// The ends as the record and a registry of the devices heard so far tell them.
    fn ends(&self, key: &FlowKey, record: &FlowRecord) -> FlowEnds {
        let (source, _, victim, _) = key.seen_from(record.initiator());
        let holder = |addr| match address(addr) {
            IpAddr::V4(address) => owner(address).filter(|device| self.heard.contains(device)),
            IpAddr::V6(_) => None,
        };
        FlowEnds::of(record).or(holder(source), holder(victim))
    }

    fn window(&mut self, device: DeviceKey) -> &mut DeviceWindow {
        let epoch = self.now / WINDOW_NS;
        let window = self.windows.entry(device).or_default();
        if window.epoch != epoch {
            *window = DeviceWindow { epoch, ..DeviceWindow::default() };
        }
        window
    }

    fn packet(&mut self, from: End, to: End, protocol: u8, flags: u8, payload: u32) -> Vec<Finding> {
        let header = if protocol == proto::TCP { 52 } else { 28 };
        let (sender, receiver) = (owner(from.0), owner(to.0));
        self.heard.extend(sender);
        let point =
            if sender.is_some() { ObservationPoint::ingress(PORT) } else { ObservationPoint::egress(PORT) };
        let packet = Packet {
            src: Addr::v4(from.0.octets()),
            dst: Addr::v4(to.0.octets()),
            src_mac: sender.map_or([2, 9, 9, 9, 9, 9], |device| device.mac),
            src_port: from.1,
            dst_port: to.1,
            proto: protocol,
            tcp_flags: flags,
            icmp_type: if protocol == proto::ICMP { 8 } else { 0 },
            ip_len: header + payload,
            payload_len: payload,
            segments: 1,
            ..Packet::default()
        };
        let (key, end) = FlowKey::of(&packet);
        let now = self.now;
        let (record, cause) = if let Some(record) = self.flows.get_mut(&key) {
            let milestone = record.observe(&packet, end, point, now).unwrap_or_default();
            let cause = if milestone.closed {
                Some(FlowCause::Closed)
            } else if milestone.checkpoint {
                Some(FlowCause::Checkpoint)
            } else {
                (now - record.reported_ns > ACTIVE_TIMEOUT_NS).then_some(FlowCause::ActiveTimeout)
            };
            if cause.is_some() {
                record.reported_ns = now;
            }
            (*record, cause)
        } else {
            let mut record = FlowRecord::default();
            record.begin(&packet, end, now);
            record.observe(&packet, end, point, now);
            record.reported_ns = now;
            self.flows.insert(key, record);
            if let Some(device) = sender {
                let window = self.window(device);
                window.flows_out += 1;
                window.remote_addrs.add(packet.dst.mix());
                window.remote_ports.add(mix64(u64::from(to.1)));
                window.syn_out += u32::from(flags == SYN);
            }
            (record, Some(FlowCause::Start))
        };
        if let Some(device) = sender {
            let window = self.window(device);
            window.packets_out += 1;
            window.bytes_out += u64::from(packet.ip_len);
        }
        if let Some(device) = receiver {
            let window = self.window(device);
            window.packets_in += 1;
            window.bytes_in += u64::from(packet.ip_len);
            window.syn_answered += u32::from(flags == SYN | ACK);
        }
        let Some(cause) = cause else { return Vec::new() };
        let header = EventHeader { time_ns: now, ..EventHeader::default() };
        let event = FlowEvent { header, key, record, cause: cause as u8, reserved: [0; 7] };
        let ends = self.ends(&key, &record);
        self.learner.observe_flow(&event, ends)
    }
}
