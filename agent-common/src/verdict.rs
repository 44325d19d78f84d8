//! What `enforce` installs in the kernel, and the decisions the kernel takes from it.

use bytemuck::{Pod, Zeroable};

use crate::{maps::FILTER_WORDS, pod::Addr};

/// What an entry asks for. A higher code never means a weaker action.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Let pass, count.
    Observe = 1,
    /// Let pass within a packet rate, drop the excess.
    RateLimit = 2,
    /// Drop.
    Block = 3,
    /// Isolate a device at a [`Level`].
    Isolate = 4,
    /// No verdict may touch this address or device.
    NeverBlock = 5,
}

impl Action {
    /// The action with this code.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Observe,
            2 => Self::RateLimit,
            3 => Self::Block,
            4 => Self::Isolate,
            5 => Self::NeverBlock,
            _ => return None,
        })
    }
}

/// How far an isolated device is cut off.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Nothing is dropped; would-be drops are counted.
    Observe = 1,
    /// All traffic within a packet rate.
    RateLimit = 2,
    /// ARP, ND, DHCP, the resolver, NTP and the cloud endpoint.
    CloudOnly = 3,
    /// ARP, ND, DHCP and the resolver.
    DhcpDnsOnly = 4,
    /// Nothing but the operator's never-block entries.
    Full = 5,
}

impl Level {
    /// The level with this code.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Observe,
            2 => Self::RateLimit,
            3 => Self::CloudOnly,
            4 => Self::DhcpDnsOnly,
            5 => Self::Full,
            _ => return None,
        })
    }
}

/// Why an address or device may never be blocked: bits of [`Verdict::roles`].
pub mod role {
    /// One of the gateway's own addresses.
    pub const GATEWAY: u16 = 0x01;
    /// A DHCP server.
    pub const DHCP: u16 = 0x02;
    /// A DNS resolver.
    pub const DNS: u16 = 0x04;
    /// An NTP server.
    pub const NTP: u16 = 0x08;
    /// The cloud endpoint.
    pub const CLOUD: u16 = 0x10;
    /// On the operator's list: wins over everything, isolation included.
    pub const OPERATOR: u16 = 0x20;
}

/// One enforcement as the kernel sees it. User space writes an entry once; only the kernel changes it afterwards.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Verdict {
    /// When the entry stops to exist for the kernel, on its monotonic clock; `u64::MAX` for never.
    pub expires_ns: u64,
    /// Packets that matched.
    pub hits: u64,
    /// Bytes of the frames that matched.
    pub hit_bytes: u64,
    /// Last match, kernel clock.
    pub last_hit_ns: u64,
    /// Token bucket: when it was last refilled, kernel clock.
    pub refilled_ns: u64,
    /// Token bucket: packets it holds, in thousandths.
    pub tokens_milli: u64,
    /// Token bucket: packets a second.
    pub rate_pps: u32,
    /// Token bucket: its depth in packets.
    pub burst: u32,
    /// Id of the rule that asked for the entry.
    pub rule: u32,
    /// Why the address may never be blocked, see [`role`].
    pub roles: u16,
    /// [`Action`] code.
    pub action: u8,
    /// [`Level`] code of an isolation, else 0.
    pub level: u8,
    /// Reason code, see [`Reason`].
    pub reason: u8,
    /// Always zero.
    pub reserved: [u8; 3],
    /// The profile that a device is held to whether or not the entry is live, see [`crate::profile`]; 0 for none.
    pub profile: u32,
}

/// Why an entry was installed.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// An operator asked for it.
    Operator = 1,
    /// An explicit behaviour rule fired.
    Rule = 2,
    /// A model's score was outside the device's baseline.
    Anomaly = 3,
    /// On a bulk list.
    Feed = 4,
    /// The gateway itself needs it.
    System = 5,
}

impl Verdict {
    /// Whether the kernel still honours the entry at `now_ns`.
    #[inline(always)]
    pub const fn is_live(&self, now_ns: u64) -> bool {
        self.expires_ns > now_ns
    }

    /// Whether the entry is of `action`.
    #[inline(always)]
    pub const fn is(&self, action: Action) -> bool {
        self.action == action as u8
    }

    /// Takes one packet out of the token bucket; `false` when it is empty.
    #[inline(always)]
    pub fn take_token(&mut self, now_ns: u64) -> bool {
        const SECOND_NS: u64 = 1_000_000_000;
        const PACKET_MILLI: u64 = 1_000;
        let depth_milli = self.burst as u64 * PACKET_MILLI;
        let elapsed_ns = now_ns.saturating_sub(self.refilled_ns);
        let mut tokens_milli = if elapsed_ns >= SECOND_NS {
            self.tokens_milli + self.rate_pps as u64 * PACKET_MILLI
        } else {
            self.tokens_milli + elapsed_ns * self.rate_pps as u64 / (SECOND_NS / PACKET_MILLI)
        };
        if tokens_milli > depth_milli {
            tokens_milli = depth_milli;
        }
        let taken = tokens_milli >= PACKET_MILLI;
        if taken {
            tokens_milli -= PACKET_MILLI;
        }
        // Less than a thousandth of a packet is not forgotten: the clock moves on only when something was refilled.
        if taken || tokens_milli != self.tokens_milli {
            self.refilled_ns = now_ns;
        }
        self.tokens_milli = tokens_milli;
        taken
    }
}

/// Membership of an address or prefix in the bulk lists: one bit a slot, so that a whole list swaps with one write.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct FeedEntry {
    /// Bit 0: in slot 0; bit 1: in slot 1.
    pub slots: u32,
    /// Which list named it.
    pub list: u32,
    /// Packets that matched.
    pub hits: u64,
}

/// Word and bit of the filter that stand for an address: most packets have no exact entry at either end, and a bit is read
/// sooner than a hash table.
#[inline(always)]
pub const fn filter_bit(address: Addr) -> (u32, u64) {
    let mixed = address.mix();
    (mixed >> 6 & (FILTER_WORDS - 1), 1 << (mixed & 63))
}

/// Which hardware address last claimed an IPv4 address by ARP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Binding {
    /// The claimant.
    pub mac: [u8; 6],
    /// Always zero.
    pub reserved: [u8; 2],
    /// Its last claim, kernel clock.
    pub last_ns: u64,
}

/// A binding that its owner has not renewed for this long may be taken over without a conflict.
const BINDING_AGE_NS: u64 = 120_000_000_000;

/// What an ARP claim is to the binding there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The claimant holds the address already.
    Renewed,
    /// Another holds it and was heard lately.
    Contested,
    /// Whoever held it has been silent for long.
    Vacant,
}

impl Binding {
    /// A claim of `mac` at `now_ns`.
    #[inline(always)]
    pub const fn new(mac: [u8; 6], now_ns: u64) -> Self {
        Self { mac, reserved: [0; 2], last_ns: now_ns }
    }

    /// What a claim of `mac` is to this binding, which a renewal makes younger.
    #[inline(always)]
    pub fn claim(&mut self, mac: [u8; 6], now_ns: u64) -> Claim {
        if self.mac == mac {
            self.last_ns = now_ns;
            Claim::Renewed
        } else if now_ns.saturating_sub(self.last_ns) < BINDING_AGE_NS {
            Claim::Contested
        } else {
            Claim::Vacant
        }
    }
}

/// Global switch.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Measure; count what would have been dropped.
    Monitor = 0,
    /// Measure and drop.
    Enforce = 1,
    /// Measure only; no verdict is looked up.
    Bypass = 2,
}

/// Which tables hold anything: bits of [`Config::present`]. An empty table costs no lookup.
pub mod present {
    /// Exact IPv4 entries.
    pub const V4: u32 = 0x01;
    /// Exact IPv6 entries.
    pub const V6: u32 = 0x02;
    /// Prefixes.
    pub const PREFIXES: u32 = 0x04;
    /// Never-block prefixes.
    pub const ALLOWED: u32 = 0x08;
    /// Isolated or never-block devices.
    pub const DEVICE: u32 = 0x10;
    /// Bulk lists with IPv4 addresses.
    pub const FEED_V4: u32 = 0x20;
    /// Bulk lists with IPv6 addresses.
    pub const FEED_V6: u32 = 0x40;
    /// Addresses or devices on the operator's never-block list.
    pub const OPERATORS: u32 = 0x80;
}

/// Settings the programs read for every packet; one entry, written whole by the agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Config {
    /// [`Mode`] code.
    pub mode: u32,
    /// Tables in use, see [`present`].
    pub present: u32,
    /// Length of a device window.
    pub window_ns: u64,
    /// How long a busy flow may go unreported.
    pub active_timeout_ns: u64,
    /// New flows a CPU may insert in a second; the rest are folded into the device.
    pub new_flow_limit: u32,
    /// Frames that tell who a device is, that a CPU may send in a second.
    pub sample_limit: u32,
    /// Which slot of the bulk lists is in force (0 or 1).
    pub feed_slot: u32,
    /// How long a flow stays cut, in milliseconds.
    pub cut_ms: u32,
    /// DNS messages that a CPU may send in a second; 0 when nobody wants them.
    pub dns_limit: u32,
    /// TLS hellos that a CPU may send in a second; 0 when nobody wants them.
    pub hello_limit: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(rate_pps: u32, burst: u32) -> Verdict {
        Verdict { rate_pps, burst, tokens_milli: u64::from(burst) * 1_000, ..Verdict::default() }
    }

    #[test]
    fn a_bucket_lets_its_burst_through_and_then_its_rate() {
        let mut verdict = bucket(10, 5);
        let burst = (0..20).filter(|_| verdict.take_token(1_000_000_000)).count();
        assert!(burst <= 10, "depth and one second of refill at the most, was {burst}");
        let mut now_ns = 2_000_000_000;
        let mut passed = 0;
        for _ in 0..1_000 {
            now_ns += 10_000_000;
            passed += u32::from(verdict.take_token(now_ns));
        }
        assert!((95..=106).contains(&passed), "10 s at 10 packets a second passed {passed}");
    }

    #[test]
    fn a_bucket_fed_faster_than_a_thousandth_still_refills() {
        let mut verdict = bucket(1, 1);
        assert!(verdict.take_token(0));
        let passed = (1..=3_000_000u64).filter(|step| verdict.take_token(step * 1_000)).count();
        assert_eq!(passed, 3, "three seconds in steps of a microsecond, at one packet a second");
    }

    #[test]
    fn an_entry_is_dead_from_its_expiry_on() {
        let verdict = Verdict { expires_ns: 100, ..Verdict::default() };
        assert!(verdict.is_live(99));
        assert!(!verdict.is_live(100));
    }
}
