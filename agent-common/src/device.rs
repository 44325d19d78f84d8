//! Per-device aggregate: totals for ever, and two alternating windows for the detector.

use bytemuck::{Pod, Zeroable};

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
    /// Packets the device sent.
    pub packets_out: u64,
    /// Bytes the device sent.
    pub bytes_out: u64,
    /// Packets sent to the device.
    pub packets_in: u64,
    /// Bytes sent to the device.
    pub bytes_in: u64,
    /// Last packet, kernel clock.
    pub last_ns: u64,
    /// When the current window ends, kernel clock.
    pub window_end_ns: u64,
    /// Index of the current window.
    pub current: u64,
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
            self.current = epoch & 1;
            let window = &mut self.windows[(epoch & 1) as usize];
            *window = DeviceWindow::zeroed();
            window.epoch = epoch;
            return window;
        }
        &mut self.windows[(self.current & 1) as usize]
    }
}

impl DeviceRecord {
    /// Everything another CPU saw of the same device, too. Of two windows in one place the newer one stays.
    pub fn merge(&mut self, other: &Self) {
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
