//! A flow as a log tells it, and the record the kernel would have kept of it as far as that can be known.

use std::net::IpAddr;

use tidegate_common::{
    flow::{FlowKey, FlowRecord, FlowSide, ObservationPoint, Sender, progress},
    parse::{Packet, proto, tcp_flag},
    pod::Addr,
};

use super::value::mean;
use crate::replay::engine::POINT;

/// Where both directions of a flow are taken to be seen until somebody says which end is a device.
const ELSEWHERE: ObservationPoint = ObservationPoint::egress(POINT.ifindex());
/// Shortest IP and transport headers: what a packet is at least.
const TCP_HEADERS: u64 = 40;
const OTHER_HEADERS: u64 = 28;
/// The counters of a record are 64 bits; a log may claim anything, and sums must stay exact.
const MOST: u64 = 1 << 48;

/// What a label says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Normal traffic.
    Benign,
    /// Part of an attack.
    Malicious,
    /// Nobody knows: neither trained on nor judged.
    Unknown,
}

/// A label of a labelled log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// What it says.
    pub class: Class,
    /// The attack in the log's own words; empty when there are none.
    pub detail: String,
}

impl Label {
    /// The label of a log's words: whatever is neither benign nor unknown is an attack.
    pub fn of(word: &str, detail: &str) -> Self {
        let detail = if matches!(detail, "-" | "(empty)") { "" } else { detail };
        let class = match word.trim().to_ascii_lowercase().as_str() {
            "benign" | "normal" | "0" => Class::Benign,
            "" | "-" | "(empty)" | "unknown" | "background" => Class::Unknown,
            _ => Class::Malicious,
        };
        let named = !matches!(word.to_ascii_lowercase().as_str(), "malicious" | "1" | "attack" | "anomaly");
        let detail = if detail.is_empty() && class == Class::Malicious && named { word } else { detail };
        Self { class, detail: detail.trim().to_owned() }
    }
}

/// What a log tells of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoggedSide {
    /// Packets.
    pub packets: u64,
    /// Bytes, as the log counts them.
    pub bytes: u64,
    /// Transport payload, where the log says.
    pub payload: Option<u64>,
    /// TCP flags, or-ed, as far as the log says.
    pub tcp_flags: u8,
    /// Hardware address of the sender, where the log says.
    pub mac: Option<[u8; 6]>,
    /// Whether the log counts the sender to its own networks, where it says.
    pub local: Option<bool>,
}

/// A flow of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedFlow {
    /// Who began it.
    pub src: IpAddr,
    /// With whom.
    pub dst: IpAddr,
    /// Port of the first, 0 for protocols without ports.
    pub src_port: u16,
    /// Port of the second.
    pub dst_port: u16,
    /// IP protocol.
    pub proto: u8,
    /// Outer and inner VLAN id, 0 for none.
    pub vlans: [u16; 2],
    /// First packet, nanoseconds since the epoch.
    pub first_ns: u64,
    /// Last packet.
    pub last_ns: u64,
    /// ICMP type and code.
    pub icmp: (u8, u8),
    /// From the one who began.
    pub out: LoggedSide,
    /// To the one who began.
    pub inward: LoggedSide,
    /// What TCP reached, see `tidegate_common::flow::progress`.
    pub progress: u8,
    /// The label of a labelled log.
    pub label: Option<Label>,
}

impl LoggedFlow {
    /// The flow's key and which of its ends began.
    fn key_and_sender(&self) -> (FlowKey, Sender) {
        FlowKey::of(&Packet {
            src: addr(self.src),
            dst: addr(self.dst),
            src_port: self.src_port,
            dst_port: self.dst_port,
            vlan: self.vlans[0],
            inner_vlan: self.vlans[1],
            proto: self.proto,
            ..Packet::default()
        })
    }

    /// The flow's key.
    pub fn key(&self) -> FlowKey {
        self.key_and_sender().0
    }

    /// Packets the log claims.
    pub const fn packets(&self) -> u64 {
        self.out.packets + self.inward.packets
    }

    /// How long it took.
    pub const fn duration_ns(&self) -> u64 {
        self.last_ns.saturating_sub(self.first_ns)
    }

    /// The whole record.
    pub fn record(&self) -> FlowRecord {
        self.record_after(self.packets(), self.last_ns)
    }

    /// The record as it stood after `packets` of its packets, at `now_ns`, taking both directions to have come evenly.
    ///
    /// A log knows no single packet: sizes are taken to be alike within a direction, and gaps to be those of chance
    /// (exponential), neither regular nor bursty, so that no rule reads a rhythm into an average.
    pub fn record_after(&self, packets: u64, now_ns: u64) -> FlowRecord {
        let (_, sender) = self.key_and_sender();
        let whole = packets >= self.packets();
        let share = |side: &LoggedSide, first: bool| {
            if whole {
                return side.packets;
            }
            let even = u128::from(packets) * u128::from(side.packets) / u128::from(self.packets().max(1));
            (even as u64).max(u64::from(first)).min(side.packets)
        };
        let out = self.side(&self.out, share(&self.out, true), now_ns);
        let inward = self.side(&self.inward, share(&self.inward, false), now_ns);
        let mut progress = self.progress;
        if !whole {
            progress &= !(progress::FIN_OUT | progress::FIN_IN);
            if packets <= 1 {
                progress &= progress::SYN;
            } else if self.packets() > 3 {
                progress &= !progress::RESET;
            }
        }
        let mut record = FlowRecord {
            initiator_is_b: u8::from(sender == Sender::B),
            progress,
            icmp_type: self.icmp.0,
            icmp_code: self.icmp.1,
            reported_ns: now_ns.min(self.last_ns),
            out,
            inward,
            ..FlowRecord::default()
        };
        if !whole {
            // What ends a connection is not in its beginning.
            record.out.tcp_flags &= !(tcp_flag::FIN | tcp_flag::RST);
            record.inward.tcp_flags &= !(tcp_flag::FIN | tcp_flag::RST);
            if packets <= 1 && record.out.tcp_flags & tcp_flag::SYN != 0 {
                record.out.tcp_flags = tcp_flag::SYN;
            }
        }
        record
    }

    fn side(&self, side: &LoggedSide, packets: u64, now_ns: u64) -> FlowSide {
        let part = |value: u64| {
            if packets >= side.packets {
                value
            } else {
                (u128::from(value) * u128::from(packets) / u128::from(side.packets.max(1))) as u64
            }
        };
        if packets == 0 {
            // A side that was not seen still says when the flow was, for records without any packets.
            return FlowSide { first_ns: self.first_ns, last_ns: self.first_ns, ..FlowSide::default() };
        }
        let bytes = part(side.bytes).min(MOST);
        let headers = packets * if self.proto == proto::TCP { TCP_HEADERS } else { OTHER_HEADERS };
        let most_payload = bytes.saturating_sub(headers.min(bytes));
        let payload = side.payload.map_or(most_payload, &part).min(bytes);
        let size = mean(bytes, packets);
        let last_ns = if packets == 1 { self.first_ns } else { now_ns.min(self.last_ns).max(self.first_ns) };
        let gap_ns = mean(last_ns - self.first_ns, packets - 1);
        let ticks = gap_ns >> 10;
        FlowSide {
            packets,
            bytes,
            payload_bytes: payload,
            size_sum_sq: size.saturating_mul(size).saturating_mul(packets),
            first_ns: self.first_ns,
            last_ns,
            iat_min_ns: if packets > 1 { 0 } else { u64::MAX },
            iat_max_ns: gap_ns.saturating_mul(2).min(last_ns - self.first_ns),
            iat_sum_sq: ticks.saturating_mul(ticks).saturating_mul(2).saturating_mul(packets - 1),
            flag_lanes: self.flag_lanes(side, packets),
            size_min: size.min(65_535) as u16,
            size_max: size.min(65_535) as u16,
            tcp_flags: side.tcp_flags,
            point: ELSEWHERE,
            ..FlowSide::default()
        }
    }

    /// How often SYN came: with every packet of a connection that nobody answered, else once.
    fn flag_lanes(&self, side: &LoggedSide, packets: u64) -> [u64; 2] {
        let unanswered = self.inward.packets == 0 && side.tcp_flags == tcp_flag::SYN;
        let syns = match side.tcp_flags & tcp_flag::SYN {
            0 => 0,
            _ if unanswered => packets.min(65_535),
            _ => 1,
        };
        [syns << 16, 0]
    }
}

/// The address as the kernel tables have it.
pub(super) fn addr(address: IpAddr) -> Addr {
    match address {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr::v6(v6.octets()),
    }
}
