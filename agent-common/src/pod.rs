//! Plain data shared by every table: addresses and hardware addresses.

use bytemuck::{Pod, Zeroable};

/// IPv6 address, or IPv4 address mapped into `::ffff:0:0/96`, as 16 bytes in network order.
///
/// Kept as two words because the kernel programs compare and hash words, never byte slices.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Addr {
    words: [u64; 2],
}

/// The second word's leading half for an IPv4-mapped address: `00 00 ff ff`, in memory order.
const V4_MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Addr {
    /// An IPv4 address, mapped.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self { words: [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])] }
    }

    /// An IPv6 address.
    #[inline(always)]
    pub const fn v6(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self {
            words: [
                u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
                u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
            ],
        }
    }

    /// The sixteen bytes in network order.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.words[0].to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = self.words[1].to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The four bytes of a mapped IPv4 address.
    #[inline(always)]
    pub const fn as_v4(self) -> Option<[u8; 4]> {
        let [a, b, c, d, e, f, g, h] = self.words[1].to_ne_bytes();
        if self.words[0] == 0 && u32::from_ne_bytes([a, b, c, d]) == V4_MAPPED {
            Some([e, f, g, h])
        } else {
            None
        }
    }

    /// Both words, for comparisons that must stay integer comparisons in the kernel.
    #[inline(always)]
    pub const fn words(self) -> [u64; 2] {
        self.words
    }

    /// The IPv4 address as the kernel tables key it: four bytes in memory order. Meaningless for IPv6.
    #[inline(always)]
    pub const fn v4_key(self) -> u32 {
        let [.., e, f, g, h] = self.words[1].to_ne_bytes();
        u32::from_ne_bytes([e, f, g, h])
    }

    /// A 32-bit mix of the address, for the sketches.
    #[inline(always)]
    pub const fn mix(self) -> u32 {
        mix64(self.words[0] ^ self.words[1].rotate_left(23))
    }
}

/// A 64-bit value mixed down to 32 well-spread bits (the multiply-xorshift finaliser of SplitMix64, shortened).
#[inline(always)]
pub const fn mix64(value: u64) -> u32 {
    let x = (value ^ (value >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> 32) as u32
}

/// A hardware address, padded so that it hashes as two words.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct MacKey {
    /// The address as it stands in the frame.
    pub mac: [u8; 6],
    /// Always zero.
    pub reserved: [u8; 2],
}

impl MacKey {
    /// The key of `mac`.
    #[inline(always)]
    pub const fn new(mac: [u8; 6]) -> Self {
        Self { mac, reserved: [0; 2] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_round_trip() {
        assert_eq!(Addr::v4([192, 0, 2, 1]).as_v4(), Some([192, 0, 2, 1]));
        assert_eq!(Addr::v4([192, 0, 2, 1]).octets()[10..], [0xff, 0xff, 192, 0, 2, 1]);
        let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(Addr::v6(v6).octets(), v6);
        assert_eq!(Addr::v6(v6).as_v4(), None);
    }
}
