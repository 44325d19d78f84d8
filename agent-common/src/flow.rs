//! Flow key and flow record: what the kernel keeps about every conversation, in both directions.

use bytemuck::{Pod, Zeroable};

use crate::{
    device::DeviceKey,
    parse::{Packet, proto, tcp_flag},
    pod::Addr,
};

/// Direction-free 5-tuple and VLAN: both directions of a conversation have the same key.
///
/// `a` is the end whose (address, port) comes first in an arbitrary but fixed integer order; [`Side`] says which end sent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct FlowKey {
    /// Address of the first end.
    pub a: Addr,
    /// Address of the second end.
    pub b: Addr,
    /// Port of the first end, host order; 0 for protocols without ports and for later fragments.
    pub a_port: u16,
    /// Port of the second end, host order.
    pub b_port: u16,
    /// Outer VLAN id.
    pub vlan: u16,
    /// Inner VLAN id.
    pub inner_vlan: u16,
    /// IP protocol.
    pub proto: u8,
    /// Always zero.
    pub reserved: [u8; 7],
}

/// Which end of a [`FlowKey`] sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The end called `a`.
    A,
    /// The end called `b`.
    B,
}

impl FlowKey {
    /// The key of `packet` and the end that sent it.
    #[inline(always)]
    pub fn of(packet: &Packet) -> (Self, Sender) {
        let sender = if sorts_before(packet) { Sender::A } else { Sender::B };
        let (a, a_port, b, b_port) = match sender {
            Sender::A => (packet.src, packet.src_port, packet.dst, packet.dst_port),
            Sender::B => (packet.dst, packet.dst_port, packet.src, packet.src_port),
        };
        let key = Self {
            a,
            b,
            a_port,
            b_port,
            vlan: packet.vlan,
            inner_vlan: packet.inner_vlan,
            proto: packet.proto,
            reserved: [0; 7],
        };
        (key, sender)
    }

    /// Addresses and ports as `(source, source port, destination, destination port)` seen from `sender`.
    pub const fn seen_from(&self, sender: Sender) -> (Addr, u16, Addr, u16) {
        match sender {
            Sender::A => (self.a, self.a_port, self.b, self.b_port),
            Sender::B => (self.b, self.b_port, self.a, self.a_port),
        }
    }
}

/// Word by word: a comparison of byte arrays would call `memcmp`, which the verifier refuses.
#[inline(always)]
fn sorts_before(packet: &Packet) -> bool {
    let ([s0, s1], [d0, d1]) = (packet.src.words(), packet.dst.words());
    if s0 != d0 {
        s0 < d0
    } else if s1 != d1 {
        s1 < d1
    } else {
        packet.src_port <= packet.dst_port
    }
}

/// Where a packet was seen: interface and hook, as one comparable number.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ObservationPoint(pub u32);

impl ObservationPoint {
    /// Frames that enter the gateway from `ifindex` (XDP).
    #[inline(always)]
    pub const fn ingress(ifindex: u32) -> Self {
        Self(ifindex << 1)
    }

    /// Frames that leave the gateway through `ifindex` (TC).
    #[inline(always)]
    pub const fn egress(ifindex: u32) -> Self {
        Self(ifindex << 1 | 1)
    }

    /// The interface.
    #[inline(always)]
    pub const fn ifindex(self) -> u32 {
        self.0 >> 1
    }

    /// Whether frames enter here.
    #[inline(always)]
    pub const fn is_ingress(self) -> bool {
        self.0 & 1 == 0
    }
}

/// Counters of one direction of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowSide {
    /// Packets.
    pub packets: u64,
    /// Bytes, as IP total length.
    pub bytes: u64,
    /// Transport payload bytes.
    pub payload_bytes: u64,
    /// Sum of the squared IP lengths.
    pub size_sum_sq: u64,
    /// First packet, kernel clock.
    pub first_ns: u64,
    /// Last packet, kernel clock.
    pub last_ns: u64,
    /// Shortest gap between two packets.
    pub iat_min_ns: u64,
    /// Longest gap between two packets.
    pub iat_max_ns: u64,
    /// Sum of the squared gaps, each gap in units of 1,024 ns first; wraps after 2^64.
    pub iat_sum_sq: u64,
    /// Counts of the eight TCP flags over the first 65,535 packets: four 16-bit lanes a word, FIN SYN RST PSH, then ACK URG ECE CWR.
    pub flag_lanes: [u64; 2],
    /// Shortest IP length.
    pub size_min: u16,
    /// Longest IP length, 65,535 at most.
    pub size_max: u16,
    /// TCP window of the first packet.
    pub window: u16,
    /// TTL or hop limit of the first packet.
    pub ttl: u8,
    /// TCP flag bytes of all packets, or-ed.
    pub tcp_flags: u8,
    /// Source hardware address of the last packet.
    pub src_mac: [u8; 6],
    /// Always zero.
    pub reserved: [u8; 2],
    /// Where this direction is counted; other points see the same packets again.
    pub point: ObservationPoint,
    /// Always zero.
    pub reserved_tail: u32,
}

/// Packets whose size and direction are kept one by one.
pub const FIRST_SIZES: usize = 8;

/// Bit of [`FlowRecord::first_sizes`] that marks the responder's packets.
pub const FIRST_SIZE_IN: u16 = 0x8000;

/// What a TCP connection has reached: bits of [`FlowRecord::progress`].
pub mod progress {
    /// The initiator's SYN was seen.
    pub const SYN: u8 = 0x01;
    /// The responder's SYN-ACK was seen.
    pub const SYN_ACK: u8 = 0x02;
    /// The initiator acknowledged it.
    pub const ESTABLISHED: u8 = 0x04;
    /// The initiator sent FIN.
    pub const FIN_OUT: u8 = 0x08;
    /// The responder sent FIN.
    pub const FIN_IN: u8 = 0x10;
    /// Either end sent RST.
    pub const RESET: u8 = 0x20;
}

/// Everything known about one flow. `out` is the initiator's direction, `inward` the responder's.
///
/// In the kernel's memory 104 bytes stand between the start of a pair of cache lines and a record. The order of the fields lets a
/// packet of the initiator touch two pairs: what every packet needs ends the first one, and the second one holds all of `out`,
/// what is looked at first of all, and the first word of `inward`, how many packets came the other way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowRecord {
    /// When the record was last sent to the agent, kernel clock.
    pub reported_ns: u64,
    /// 1 when the initiator is the key's `b` end.
    pub initiator_is_b: u8,
    /// TCP state, see [`progress`].
    pub progress: u8,
    /// ICMP type of the first packet.
    pub icmp_type: u8,
    /// ICMP code of the first packet.
    pub icmp_code: u8,
    /// Fragments seen, in both directions.
    pub fragments: u32,
    /// Summed path length at the last checkpoint, see [`crate::forest`]; 0 when no forest judged the flow.
    pub score: u32,
    /// [`crate::forest::DeviceModel::generation`] of the forest that gave `score`.
    pub model_generation: u32,
    /// Initiator to responder.
    pub out: FlowSide,
    /// The kernel drops the flow until then, kernel clock; 0 when its score never asked for it.
    pub cut_until_ns: u64,
    /// Responder to initiator.
    pub inward: FlowSide,
    /// IP lengths of the first packets, at most 32,767, with [`FIRST_SIZE_IN`] set for the responder's.
    pub first_sizes: [u16; FIRST_SIZES],
}

/// What one packet did to its flow, as far as anyone else must know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Milestone {
    /// The flow reached 8, 64, 512, … packets.
    pub checkpoint: bool,
    /// The connection was reset or both ends have finished, just now.
    pub closed: bool,
    /// The responder answered the initiator's SYN, just now.
    pub answered: bool,
    /// This packet carries a reset.
    pub reset: bool,
}

/// Checkpoints: powers of eight from 8 on.
const CHECKPOINTS: u64 = 0x9249_2492_4924_9248;

impl FlowRecord {
    /// Makes a zeroed record the record of `packet`'s flow; [`Self::observe`] then counts its first packet.
    ///
    /// The initiator is the first packet's sender, or its receiver when that packet answers a SYN nobody saw.
    #[inline(always)]
    pub fn begin(&mut self, packet: &Packet, sender: Sender, now_ns: u64) {
        const SYN_ACK: u8 = tcp_flag::SYN | tcp_flag::ACK;
        let answers = packet.proto == proto::TCP && packet.tcp_flags & SYN_ACK == SYN_ACK;
        self.initiator_is_b = u8::from((sender as u8 == Sender::B as u8) != answers);
        self.reported_ns = now_ns;
        self.icmp_type = packet.icmp_type;
        self.icmp_code = packet.icmp_code;
    }

    /// The end that began the conversation.
    #[inline(always)]
    pub const fn initiator(&self) -> Sender {
        if self.initiator_is_b == 0 { Sender::A } else { Sender::B }
    }

    /// The device that began the conversation, when its packets enter from the protected side.
    #[inline(always)]
    pub const fn initiating_device(&self) -> Option<DeviceKey> {
        if !self.out.point.is_ingress() {
            return None;
        }
        Some(DeviceKey::new(self.out.src_mac, self.out.point.ifindex()))
    }

    /// Packets in both directions.
    #[inline(always)]
    pub const fn packets(&self) -> u64 {
        self.out.packets + self.inward.packets
    }

    /// First packet in either direction, kernel clock.
    pub fn first_ns(&self) -> u64 {
        match (self.out.packets, self.inward.packets) {
            (0, _) => self.inward.first_ns,
            (_, 0) => self.out.first_ns,
            _ => self.out.first_ns.min(self.inward.first_ns),
        }
    }

    /// Last packet in either direction, kernel clock.
    #[inline(always)]
    pub fn last_ns(&self) -> u64 {
        if self.out.last_ns > self.inward.last_ns { self.out.last_ns } else { self.inward.last_ns }
    }

    /// Whether the connection has ended.
    #[inline(always)]
    pub const fn is_closed(&self) -> bool {
        is_closed(self.progress)
    }

    /// Counts `packet`, sent by `sender` and seen at `point`. `None` when another point already counts this direction.
    #[inline(always)]
    pub fn observe(
        &mut self,
        packet: &Packet,
        sender: Sender,
        point: ObservationPoint,
        now_ns: u64,
    ) -> Option<Milestone> {
        let outward = (sender as u8) == (self.initiator() as u8);
        let total = self.packets();
        let size = clamp_size(packet);
        let side = if outward { &mut self.out } else { &mut self.inward };
        if !side.count(packet, point, size, now_ns) {
            return None;
        }
        if total < FIRST_SIZES as u64 {
            let direction = if outward { 0 } else { FIRST_SIZE_IN };
            self.first_sizes[total as usize & (FIRST_SIZES - 1)] = (size & !FIRST_SIZE_IN) | direction;
        }
        self.fragments += u32::from(packet.fragment as u8 != 0);

        let mut milestone = Milestone::default();
        if packet.proto == proto::TCP {
            let before = self.progress;
            self.progress = advance(before, packet.tcp_flags, outward);
            milestone.closed = is_closed(self.progress) && !is_closed(before);
            milestone.answered =
                self.progress & !before & progress::SYN_ACK != 0 && before & progress::SYN != 0;
            milestone.reset = packet.tcp_flags & tcp_flag::RST != 0;
        }
        let reached = total + u64::from(packet.segments);
        #[allow(clippy::manual_is_power_of_two, reason = "there is no instruction that counts bits")]
        let is_power_of_two = reached & (reached - 1) == 0;
        milestone.checkpoint = if packet.segments > 1 {
            passes_checkpoint(total, reached)
        } else {
            is_power_of_two && reached & CHECKPOINTS != 0
        };
        Some(milestone)
    }
}

/// Whether a super-packet takes the count over a checkpoint: from `before` to `reached`.
#[inline(always)]
const fn passes_checkpoint(before: u64, reached: u64) -> bool {
    let exponent = (reached | 1).ilog2();
    let power_of_eight = exponent - exponent % 3;
    power_of_eight > 0 && 1 << power_of_eight > before
}

impl FlowSide {
    /// Mean gap between packets in nanoseconds, 0 below two packets.
    pub const fn iat_mean_ns(&self) -> u64 {
        match self.packets {
            0 | 1 => 0,
            n => self.iat_sum_ns() / (n - 1),
        }
    }

    /// Sum of the gaps between packets.
    pub const fn iat_sum_ns(&self) -> u64 {
        self.last_ns.saturating_sub(self.first_ns)
    }

    /// How many packets carried each flag, FIN first, CWR last.
    pub fn flag_counts(&self) -> [u16; 8] {
        core::array::from_fn(|bit| (self.flag_lanes[bit / 4] >> (16 * (bit % 4))) as u16)
    }

    #[inline(always)]
    fn count(&mut self, packet: &Packet, point: ObservationPoint, size: u16, now_ns: u64) -> bool {
        if self.packets == 0 {
            self.point = point;
            self.first_ns = now_ns;
            self.iat_min_ns = u64::MAX;
            self.size_min = u16::MAX;
            self.window = packet.window;
            self.ttl = packet.ttl;
        } else {
            if self.point.0 != point.0 {
                // A frame that crosses two guarded ports is seen on the way in and on the way out: the way in counts.
                if self.point.is_ingress() && !point.is_ingress() {
                    return false;
                }
                self.point = point;
            }
            let gap_ns = now_ns.saturating_sub(self.last_ns);
            if gap_ns < self.iat_min_ns {
                self.iat_min_ns = gap_ns;
            }
            if gap_ns > self.iat_max_ns {
                self.iat_max_ns = gap_ns;
            }
            let ticks = gap_ns >> 10;
            self.iat_sum_sq = self.iat_sum_sq.wrapping_add(ticks.wrapping_mul(ticks));
        }
        // An address may move while its conversations go on: then the one who has it now sent, not the one before.
        self.src_mac = packet.src_mac;
        if self.packets < u64::from(u16::MAX) {
            self.flag_lanes[0] += spread(packet.tcp_flags & 0x0f);
            self.flag_lanes[1] += spread(packet.tcp_flags >> 4);
        }
        add(&mut self.packets, u64::from(packet.segments));
        add(&mut self.bytes, u64::from(packet.ip_len));
        self.payload_bytes += u64::from(packet.payload_len);
        self.size_sum_sq += u64::from(size) * u64::from(size) * u64::from(packet.segments);
        // Captures are not always in order of time, and CPUs' coarse clocks may differ by a tick.
        if now_ns > self.last_ns {
            self.last_ns = now_ns;
        }
        if now_ns < self.first_ns {
            self.first_ns = now_ns;
        }
        if size < self.size_min {
            self.size_min = size;
        }
        if size > self.size_max {
            self.size_max = size;
        }
        self.tcp_flags |= packet.tcp_flags;
        true
    }
}

/// Adds atomically, because two CPUs may handle the same direction at once and no packet may be lost from the account.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn add(counter: &mut u64, value: u64) {
    // The target has no compare-and-swap, so `AtomicU64` has no `fetch_add` there, although the machine has this
    // instruction since its first version.
    // SAFETY: the pointer is valid and aligned for as long as the borrow lasts.
    unsafe {
        core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) value, options(nostack));
    }
}

/// On the host one thread owns a record.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
fn add(counter: &mut u64, value: u64) {
    *counter += value;
}

/// The four low bits of `nibble`, one in each 16-bit lane.
#[inline(always)]
const fn spread(nibble: u8) -> u64 {
    (nibble as u64).wrapping_mul(0x0000_2000_4000_8001) & 0x0001_0001_0001_0001
}

/// IP length of one wire packet, 65,535 at most.
#[inline(always)]
fn clamp_size(packet: &Packet) -> u16 {
    let length = if packet.segments > 1 { packet.ip_len / packet.segments } else { packet.ip_len };
    if length > u32::from(u16::MAX) { u16::MAX } else { length as u16 }
}

#[inline(always)]
const fn is_closed(state: u8) -> bool {
    const BOTH: u8 = progress::FIN_OUT | progress::FIN_IN;
    state & progress::RESET != 0 || state & BOTH == BOTH
}

#[inline(always)]
const fn advance(state: u8, flags: u8, outward: bool) -> u8 {
    let syn = flags & tcp_flag::SYN != 0;
    let ack = flags & tcp_flag::ACK != 0;
    let mut next = state;
    if flags & tcp_flag::RST != 0 {
        next |= progress::RESET;
    }
    if outward {
        if syn && !ack {
            next |= progress::SYN;
        }
        if ack && !syn && state & progress::SYN_ACK != 0 {
            next |= progress::ESTABLISHED;
        }
        if flags & tcp_flag::FIN != 0 {
            next |= progress::FIN_OUT;
        }
    } else {
        if syn && ack {
            next |= progress::SYN_ACK;
        }
        if flags & tcp_flag::FIN != 0 {
            next |= progress::FIN_IN;
        }
    }
    next
}
