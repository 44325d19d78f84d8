//! Feature vector of one flow: integers alone, so that the kernel computes the very numbers the agent trained on.
//!
//! Counts, sizes and times are on a logarithmic fixed-point scale ([`log2_q8`]), shares in 1/1,024, the rest ordinal. Times
//! count in ticks of [`TICK_NS`]: what is faster tells how busy a machine is, not what a device does.
//! Every value is below 2^15. Adding or redefining a feature makes old models worthless: raise [`FEATURE_VERSION`].

use crate::{
    flow::{FlowKey, FlowRecord, FlowSide, progress},
    parse::proto,
    pod::Addr,
};

/// Features of a vector; a power of two, so that a masked index needs no bounds check.
pub const FEATURES: usize = 16;

/// Meaning of the features, part of every stored model.
pub const FEATURE_VERSION: u32 = 2;

/// Shift from nanoseconds to ticks: the kernel divides nothing.
const TICK_SHIFT: u32 = 23;

/// One tick of time features, in nanoseconds: about 8.4 ms, two ticks of a kernel's coarse clock at 250 Hz.
pub const TICK_NS: u64 = 1 << TICK_SHIFT;

/// One flow in numbers, in the order of [`FLOW_FEATURES`].
pub type FeatureVector = [u32; FEATURES];

/// How a feature's integer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// [`log2_q8`] of a count or amount in `unit`.
    Log2,
    /// [`log2_q8`] of a time in ticks of [`TICK_NS`], read in milliseconds.
    Time,
    /// Share in 1/1,024.
    Share,
    /// Ordinal number, see the feature's own words.
    Ordinal,
}

/// Name, scale and unit of a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Name in explanations and exported data.
    pub name: &'static str,
    /// How to read the integer.
    pub scale: Scale,
    /// Unit of the value once it is read.
    pub unit: &'static str,
}

const fn feature(name: &'static str, scale: Scale, unit: &'static str) -> Feature {
    Feature { name, scale, unit }
}

/// The features in order.
pub const FLOW_FEATURES: [Feature; FEATURES] = [
    feature("packets_out", Scale::Log2, "packets"),
    feature("packets_in", Scale::Log2, "packets"),
    feature("bytes_out", Scale::Log2, "bytes"),
    feature("bytes_in", Scale::Log2, "bytes"),
    feature("mean_payload_out", Scale::Log2, "bytes"),
    feature("mean_payload_in", Scale::Log2, "bytes"),
    feature("size_spread_out", Scale::Log2, "bytes"),
    feature("size_spread_in", Scale::Log2, "bytes"),
    feature("duration", Scale::Time, "ms"),
    feature("mean_gap_out", Scale::Time, "ms"),
    feature("longest_gap_out", Scale::Time, "ms"),
    feature("out_share", Scale::Share, "of the bytes"),
    feature("outcome", Scale::Ordinal, "0 answered, 1 no transport state, 2 refused, 3 unanswered"),
    feature("service", Scale::Ordinal, "rank of the responder's port"),
    feature("protocol", Scale::Ordinal, "0 TCP, 1 UDP, 2 ICMP, 3 other"),
    feature("peer_scope", Scale::Ordinal, "0 local, 1 multicast, 2 global"),
];

/// Base-2 logarithm of `value + 1` in 1/256, the mantissa linear between powers of two: 0 for 0, 16,384 at the most.
///
/// Monotonic, and off by less than 0.09 of a doubling.
#[inline(always)]
pub const fn log2_q8(value: u64) -> u32 {
    let shifted = value.saturating_add(1);
    #[allow(
        clippy::manual_ilog2,
        reason = "`ilog2` panics at zero, which the kernel's compiler cannot always rule out"
    )]
    let exponent = 63 - shifted.leading_zeros();
    // The leading one is at bit 63 after the shift; the next eight bits are the mantissa.
    let mantissa = (shifted << (63 - exponent) >> 55) as u32 & 0xff;
    exponent << 8 | mantissa
}

/// The flow as numbers.
#[inline(always)]
pub fn flow_features(key: &FlowKey, record: &FlowRecord) -> FeatureVector {
    let (_, initiator_port, responder, responder_port) = key.seen_from(record.initiator());
    let (out, inward) = (&record.out, &record.inward);
    let bytes = out.bytes.wrapping_add(inward.bytes);
    let duration_ns = record.last_ns().saturating_sub(record.first_ns());
    [
        log2_q8(out.packets),
        log2_q8(inward.packets),
        log2_q8(out.bytes),
        log2_q8(inward.bytes),
        log2_q8(mean_payload(out)),
        log2_q8(mean_payload(inward)),
        size_spread(out),
        size_spread(inward),
        log2_q8(duration_ns >> TICK_SHIFT),
        log2_q8(out.iat_mean_ns() >> TICK_SHIFT),
        log2_q8(out.iat_max_ns >> TICK_SHIFT),
        // The shift keeps the product in range for any flow below 2^54 bytes.
        if bytes == 0 { 0 } else { (((out.bytes << 10) / bytes) & 0x7ff) as u32 },
        outcome(key.proto, record),
        service_rank(initiator_port, responder_port),
        match key.proto {
            proto::TCP => 0,
            proto::UDP => 1,
            proto::ICMP | proto::ICMPV6 => 2,
            _ => 3,
        },
        scope(responder),
    ]
}

#[inline(always)]
const fn mean_payload(side: &FlowSide) -> u64 {
    if side.packets == 0 { 0 } else { side.payload_bytes / side.packets }
}

/// Standard deviation of the packet sizes: half the logarithm of the variance.
#[inline(always)]
const fn size_spread(side: &FlowSide) -> u32 {
    if side.packets < 2 {
        return 0;
    }
    let mean = side.bytes / side.packets;
    let mean_square = side.size_sum_sq / side.packets;
    log2_q8(mean_square.saturating_sub(mean.wrapping_mul(mean))) / 2
}

#[inline(always)]
const fn outcome(protocol: u8, record: &FlowRecord) -> u32 {
    if record.inward.packets == 0 {
        3
    } else if protocol != proto::TCP || record.progress & progress::SYN_ACK != 0 {
        0
    } else if record.progress & progress::RESET != 0 {
        2
    } else {
        1
    }
}

/// Rank of a service port: well-known ones by number, registered ones by range, 0 without ports.
#[inline(always)]
const fn service_rank(initiator_port: u16, responder_port: u16) -> u32 {
    match (initiator_port, responder_port) {
        (0, 0) => 0,
        (_, port @ 0..1_024) => 64 + port as u32,
        (_, port @ 1_024..49_152) => 1_088 + (port as u32 >> 8),
        _ => 1_344,
    }
}

/// Whether the responder is local (RFC 1918, 3927, 4193, 4291 link-local), multicast or broadcast, or global.
#[inline(always)]
const fn scope(addr: Addr) -> u32 {
    let first = addr.octets();
    match addr.as_v4() {
        Some([224..=239, ..] | [255, 255, 255, 255]) => 1,
        Some([10, ..] | [192, 168, ..] | [169, 254, ..] | [172, 16..=31, ..]) => 0,
        Some(_) => 2,
        None => match first {
            [0xff, ..] => 1,
            [0xfc | 0xfd, ..] | [0xfe, 0x80..=0xbf, ..] => 0,
            _ => 2,
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_logarithm_is_close_and_monotonic() {
        assert_eq!((log2_q8(0), log2_q8(1), log2_q8(3), log2_q8(1_023)), (0, 256, 512, 2_560));
        assert_eq!(log2_q8(u64::MAX), 63 << 8 | 0xff);
        for value in 0..100_000u64 {
            let exact = ((value + 1) as f64).log2();
            let ours = f64::from(log2_q8(value)) / 256.0;
            assert!((exact - ours).abs() < 0.09, "{value}: {exact} {ours}");
            assert!(log2_q8(value) <= log2_q8(value + 1));
        }
    }

    #[test]
    fn scopes() {
        assert_eq!(scope(Addr::v4([10, 1, 2, 3])), 0);
        assert_eq!(scope(Addr::v4([172, 32, 0, 1])), 2);
        assert_eq!(scope(Addr::v4([239, 255, 255, 250])), 1);
        assert_eq!(scope(Addr::v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])), 0);
        assert_eq!(scope(Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfb])), 1);
    }

    proptest! {
        /// Whatever a table holds, even counters torn by another CPU, gives a vector in range.
        #[test]
        fn any_record_gives_small_numbers(key: [u8; size_of::<FlowKey>()], bytes in proptest::collection::vec(any::<u8>(), size_of::<FlowRecord>())) {
            let key: FlowKey = bytemuck::pod_read_unaligned(&key);
            let mut record: FlowRecord = bytemuck::pod_read_unaligned(&bytes);
            for side in [&mut record.out, &mut record.inward] {
                side.packets >>= 16;
                side.bytes >>= 16;
            }
            for value in flow_features(&key, &record) {
                prop_assert!(value < 1 << 15, "{value}");
            }
        }
    }
}
