//! Per-device aggregate: totals, and two alternating windows for the detector.
//!
//! The kernel keeps the records of each CPU in sets of [`DEVICE_WAYS`] places; a device's set follows from its key, so
//! finding a record costs a comparison, not a walk through a hash table's chain.

use bytemuck::{Pod, Zeroable};

use crate::{
    flow::{FlowKey, FlowRecord, ObservationPoint, Sender},
    parse::{Packet, Unparsed, proto, tcp_flag},
    pod::{Addr, mix64},
};

/// Places of a set.
pub const DEVICE_WAYS: u32 = 8;

/// A device that was silent for this long gives its place to another one when its set is full.
pub const DEVICE_AGE_NS: u64 = 600_000_000_000;

/// How many sets hold `devices` devices with places to spare, so that hardly any set is ever full: a power of two.
pub const fn device_sets(devices: u32) -> u32 {
    let sets = devices.div_ceil(DEVICE_WAYS / 2).next_power_of_two();
    if sets < 16 { 16 } else { sets }
}

/// A device on the protected side: hardware address and interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct DeviceKey {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Always zero.
    pub reserved: [u8; 2],
    /// Interface the device is behind.
    pub ifindex: u32,
}

impl DeviceKey {
    /// The key of `mac` behind `ifindex`.
    #[inline(always)]
    pub const fn new(mac: [u8; 6], ifindex: u32) -> Self {
        Self { mac, reserved: [0; 2], ifindex }
    }

    /// The device behind the port where `packet` is seen: its sender on the way in, its receiver on the way out. Group
    /// addresses are nobody's, and a frame without addresses has no sender.
    #[inline(always)]
    pub fn of(packet: &Packet, point: ObservationPoint) -> Option<Self> {
        let mac = if point.is_ingress() { packet.src_mac } else { packet.dst_mac };
        let headless = packet.unparsed.is_some_and(|reason| reason as u8 == Unparsed::FrameTooShort as u8);
        if mac[0] & 1 != 0 || headless { None } else { Some(Self::new(mac, point.ifindex())) }
    }

    /// The key of a hardware address and an interface as [`Self::words`] gives them.
    #[inline(always)]
    pub const fn from_words(mac: u64, ifindex: u32) -> Self {
        let [a, b, c, d, e, f, ..] = mac.to_ne_bytes();
        Self::new([a, b, c, d, e, f], ifindex)
    }

    /// Key in one word and a half: compared as bytes, it would call `memcmp`, which the verifier refuses.
    #[inline(always)]
    pub const fn words(self) -> (u64, u32) {
        let [a, b, c, d, e, f] = self.mac;
        (u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]), self.ifindex)
    }

    /// Whether this is `other`.
    #[inline(always)]
    pub const fn is(self, other: Self) -> bool {
        let ((mac, ifindex), (other_mac, other_ifindex)) = (self.words(), other.words());
        mac == other_mac && ifindex == other_ifindex
    }

    /// Whether this is the key of a place that was never used.
    #[inline(always)]
    pub const fn is_vacant(self) -> bool {
        let (mac, ifindex) = self.words();
        mac == 0 && ifindex == 0
    }

    /// The set that the device belongs to, of `sets`, a power of two.
    #[inline(always)]
    pub const fn set(self, sets: u32) -> u32 {
        let (mac, ifindex) = self.words();
        mix64(mac ^ (ifindex as u64) << 48) & sets.wrapping_sub(1)
    }
}

/// Linear-counting sketch of 256 bits: how many different values were added, to about ±10 % up to 300, saturating near 1,400.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Sketch {
    bits: [u64; 4],
}

impl Sketch {
    /// Adds a value by its hash.
    #[inline(always)]
    pub fn add(&mut self, hash: u32) {
        self.bits[(hash >> 6 & 3) as usize] |= 1 << (hash & 63);
    }

    /// Everything in `other`, too.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.bits.iter_mut().zip(other.bits) {
            *mine |= theirs;
        }
    }

    /// Bits set, 0–256. The estimate `-256·ln(1 - n/256)` is left to readers that have floats.
    pub const fn ones(&self) -> u32 {
        self.bits[0].count_ones()
            + self.bits[1].count_ones()
            + self.bits[2].count_ones()
            + self.bits[3].count_ones()
    }
}

/// What a device did in one window on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct DeviceWindow {
    /// Number of the window: kernel clock divided by the window length.
    pub epoch: u64,
    /// Packets the device sent.
    pub packets_out: u64,
    /// Bytes the device sent, as frame length.
    pub bytes_out: u64,
    /// Packets sent to the device.
    pub packets_in: u64,
    /// Bytes sent to the device.
    pub bytes_in: u64,
    /// Flows the device began.
    pub flows_out: u32,
    /// Flows others began with it.
    pub flows_in: u32,
    /// SYNs that began a flow of the device.
    pub syn_out: u32,
    /// Those that were answered.
    pub syn_answered: u32,
    /// Resets the device sent.
    pub resets_out: u32,
    /// Resets the device was sent.
    pub resets_in: u32,
    /// ARP requests the device sent.
    pub arp_requests: u32,
    /// ARP replies the device sent.
    pub arp_replies: u32,
    /// Gratuitous ARP the device sent.
    pub arp_gratuitous: u32,
    /// ARP in which the device claimed an address that another device had claimed.
    pub arp_conflicts: u32,
    /// Packets of the device that are in no flow, ARP excepted.
    pub unparsed: u32,
    /// Packets of flows that found no room in the flow table.
    pub folded: u32,
    /// Their bytes, as IP total length.
    pub folded_bytes: u64,
    /// Different remote addresses of flows the device began.
    pub remote_addrs: Sketch,
    /// Different remote ports of flows the device began.
    pub remote_ports: Sketch,
    /// Different addresses the device asked for by ARP.
    pub arp_targets: Sketch,
}

/// A device's totals and windows, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct DeviceRecord {
    /// Whose they are.
    pub key: DeviceKey,
    /// Index of the current window.
    pub current: u32,
    /// Last packet, kernel clock.
    pub last_ns: u64,
    /// When the current window ends, kernel clock.
    pub window_end_ns: u64,
    /// Packets the device sent.
    pub packets_out: u64,
    /// Bytes the device sent.
    pub bytes_out: u64,
    /// Packets sent to the device.
    pub packets_in: u64,
    /// Bytes sent to the device.
    pub bytes_in: u64,
    /// Window of even epochs, window of odd epochs.
    pub windows: [DeviceWindow; 2],
}

impl DeviceRecord {
    /// The window that `now_ns` falls into; the one before the last is forgotten for it.
    #[inline(always)]
    pub fn window(&mut self, now_ns: u64, window_ns: u64) -> &mut DeviceWindow {
        if now_ns >= self.window_end_ns {
            let epoch = if window_ns == 0 { 0 } else { now_ns / window_ns };
            self.window_end_ns = (epoch + 1) * window_ns;
            self.current = (epoch & 1) as u32;
            let window = &mut self.windows[(epoch & 1) as usize];
            *window = DeviceWindow::zeroed();
            window.epoch = epoch;
            return window;
        }
        &mut self.windows[(self.current & 1) as usize]
    }

    /// Counts a frame of `frame_len` bytes, and lends the window it falls into.
    #[inline(always)]
    pub fn count(
        &mut self,
        packet: &Packet,
        frame_len: u32,
        point: ObservationPoint,
        now_ns: u64,
        window_ns: u64,
    ) -> &mut DeviceWindow {
        let (packets, bytes) = (u64::from(packet.segments), u64::from(frame_len));
        self.last_ns = now_ns;
        if point.is_ingress() {
            self.packets_out += packets;
            self.bytes_out += bytes;
            let window = self.window(now_ns, window_ns);
            window.packets_out += packets;
            window.bytes_out += bytes;
            window
        } else {
            self.packets_in += packets;
            self.bytes_in += bytes;
            let window = self.window(now_ns, window_ns);
            window.packets_in += packets;
            window.bytes_in += bytes;
            window
        }
    }

    /// Everything another CPU saw of the same device, too. Of two windows in one place the newer one stays.
    pub fn merge(&mut self, other: &Self) {
        self.key = other.key;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.last_ns = self.last_ns.max(other.last_ns);
        self.window_end_ns = self.window_end_ns.max(other.window_end_ns);
        for (mine, theirs) in self.windows.iter_mut().zip(&other.windows) {
            if mine.epoch < theirs.epoch {
                *mine = *theirs;
            } else if mine.epoch == theirs.epoch {
                mine.merge(theirs);
            }
        }
    }
}

impl DeviceWindow {
    /// A flow that `packet` begins, seen at `point`.
    #[inline(always)]
    pub fn begun(
        &mut self,
        packet: &Packet,
        point: ObservationPoint,
        key: &FlowKey,
        sender: Sender,
        record: &FlowRecord,
    ) {
        const SYN_ACK: u8 = tcp_flag::SYN | tcp_flag::ACK;
        let by_sender = record.initiator() as u8 == sender as u8;
        if by_sender != point.is_ingress() {
            self.flows_in += 1;
            return;
        }
        self.flows_out += 1;
        let (remote, port): (Addr, u16) =
            if record.initiator_is_b == 0 { (key.b, key.b_port) } else { (key.a, key.a_port) };
        self.remote_addrs.add(remote.mix());
        self.remote_ports.add(mix64(u64::from(port)));
        if packet.proto == proto::TCP && packet.tcp_flags & SYN_ACK == tcp_flag::SYN {
            self.syn_out += 1;
        }
    }

    /// A connection is reset by a packet seen at `point`.
    #[inline(always)]
    pub const fn reset(&mut self, point: ObservationPoint) {
        if point.is_ingress() {
            self.resets_out += 1;
        } else {
            self.resets_in += 1;
        }
    }

    /// A packet whose flow finds no room.
    #[inline(always)]
    pub fn folded(&mut self, packet: &Packet, point: ObservationPoint) {
        self.folded += 1;
        self.folded_bytes += u64::from(packet.ip_len);
        if point.is_ingress() {
            self.remote_addrs.add(packet.dst.mix());
            self.remote_ports.add(mix64(u64::from(packet.dst_port)));
        }
    }

    /// ARP that the device sends.
    #[inline(always)]
    pub fn arp(&mut self, packet: &Packet) {
        const REQUEST: u16 = 1;
        if packet.src.v4_key() == packet.dst.v4_key() {
            self.arp_gratuitous += 1;
        } else if packet.arp_op == REQUEST {
            self.arp_requests += 1;
            self.arp_targets.add(packet.dst.mix());
        } else {
            self.arp_replies += 1;
        }
    }

    /// Everything another CPU saw of the same window, too.
    pub fn merge(&mut self, other: &Self) {
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.flows_out += other.flows_out;
        self.flows_in += other.flows_in;
        self.syn_out += other.syn_out;
        self.syn_answered += other.syn_answered;
        self.resets_out += other.resets_out;
        self.resets_in += other.resets_in;
        self.arp_requests += other.arp_requests;
        self.arp_replies += other.arp_replies;
        self.arp_gratuitous += other.arp_gratuitous;
        self.arp_conflicts += other.arp_conflicts;
        self.unparsed += other.unparsed;
        self.folded += other.folded;
        self.folded_bytes += other.folded_bytes;
        self.remote_addrs.merge(&other.remote_addrs);
        self.remote_ports.merge(&other.remote_ports);
        self.arp_targets.merge(&other.arp_targets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_alternate_and_forget() {
        let mut record = DeviceRecord::default();
        record.window(1_005, 10).flows_out = 3;
        record.window(1_009, 10).flows_out += 1;
        record.window(1_010, 10).flows_out = 7;
        let by_epoch = |record: &DeviceRecord, epoch: u64| {
            record.windows.iter().find(|window| window.epoch == epoch).map(|window| window.flows_out)
        };
        assert_eq!(by_epoch(&record, 100), Some(4));
        assert_eq!(by_epoch(&record, 101), Some(7));
        record.window(1_025, 10).flows_out = 1;
        assert_eq!(by_epoch(&record, 100), None);
        assert_eq!(by_epoch(&record, 101), Some(7));
        assert_eq!(by_epoch(&record, 102), Some(1));
    }

    #[test]
    fn a_sketch_counts_different_values_once() {
        let mut sketch = Sketch::default();
        for _ in 0..100 {
            sketch.add(crate::pod::mix64(42));
        }
        assert_eq!(sketch.ones(), 1);
        for value in 0..100 {
            sketch.add(crate::pod::mix64(value));
        }
        assert!((60..=100).contains(&sketch.ones()), "{}", sketch.ones());
    }
}
