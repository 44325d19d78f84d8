//! Names, sizes and the layout hash of the kernel tables.

use crate::{
    counter::Counters,
    device::{DeviceKey, DeviceRecord},
    event::{FlowEvent, SampleEvent},
    feature::FEATURE_VERSION,
    flow::{FlowKey, FlowRecord},
    forest::{DeviceModel, TREES, Tree},
    profile::RuleKey,
    verdict::{Binding, Config, FeedEntry, Verdict},
};

/// One [`Config`].
pub const CONFIG: &str = "CONFIG";
/// One [`Counters`] a CPU.
pub const COUNTERS: &str = "COUNTERS";
/// [`FlowKey`] → [`FlowRecord`].
pub const FLOWS: &str = "FLOWS";
/// [`DeviceRecord`]s of each CPU, in sets as of [`crate::device`].
pub const DEVICES: &str = "DEVICES";
/// IPv4 address → [`Verdict`].
pub const VERDICT_V4: &str = "VERDICT_V4";
/// IPv6 address → [`Verdict`].
pub const VERDICT_V6: &str = "VERDICT_V6";
/// [`FILTER_WORDS`] words of bits: without its bit set an address has no exact entry, see [`crate::verdict::filter_bit`].
pub const VERDICT_FILTER: &str = "VERDICT_FILTER";
/// Prefix of either family, IPv4 mapped → [`Verdict`].
pub const PREFIXES: &str = "PREFIXES";
/// Never-block prefix of either family → [`Verdict`], looked up before anything else.
pub const ALLOWED: &str = "ALLOWED";
/// Hardware address → [`Verdict`].
pub const VERDICT_DEVICE: &str = "VERDICT_DEVICE";
/// Network of a profile → its number, see [`crate::profile::NetKey`].
pub const PROFILE_NETS: &str = "PROFILE_NETS";
/// [`RuleKey`] → [`crate::profile::may`] bits.
pub const PROFILE_RULES: &str = "PROFILE_RULES";
/// IPv4 address → [`FeedEntry`].
pub const FEED_V4: &str = "FEED_V4";
/// IPv6 address → [`FeedEntry`].
pub const FEED_V6: &str = "FEED_V6";
/// Trees of all forests, [`TREES`] in a row each.
pub const FORESTS: &str = "FORESTS";
/// [`DeviceKey`] → [`DeviceModel`].
pub const MODELS: &str = "MODELS";
/// Ring buffer of events.
pub const EVENTS: &str = "EVENTS";
/// IPv4 address → [`Binding`].
pub const BINDINGS: &str = "BINDINGS";
/// [`FlowKey`] → bytes of a TLS ClientHello still to come, for those that take more than one segment.
pub const HELLOS: &str = "HELLOS";
/// The clock that replay sets before each packet.
pub const REPLAY_CLOCK: &str = "REPLAY_CLOCK";

/// Read-only data: 1 when the programs take their time from [`REPLAY_CLOCK`].
pub const REPLAY: &str = "REPLAY";
/// Read-only data: 1 when the kernel has `bpf_ktime_get_coarse_ns` (5.11).
pub const COARSE_CLOCK: &str = "COARSE_CLOCK";

/// Read-only data: sets of the device table.
pub const DEVICE_SETS: &str = "DEVICE_SETS";

/// Flows the table holds by default.
pub const FLOW_CAPACITY: u32 = 65_536;
/// Devices the table holds by default.
pub const DEVICE_CAPACITY: u32 = 2_048;
/// Exact addresses, of each family.
pub const VERDICT_CAPACITY: u32 = 65_536;
/// Words of the filter before the exact addresses: 65,536 bits.
pub const FILTER_WORDS: u32 = 1_024;
/// Prefixes.
pub const PREFIX_CAPACITY: u32 = 16_384;
/// Never-block prefixes.
pub const ALLOW_CAPACITY: u32 = 1_024;
/// Isolated and never-block devices.
pub const VERDICT_DEVICE_CAPACITY: u32 = 4_096;
/// Networks of all profiles.
pub const PROFILE_NET_CAPACITY: u32 = 16_384;
/// Rules of all profiles.
pub const PROFILE_RULE_CAPACITY: u32 = 65_536;
/// Bulk list addresses, of each family.
pub const FEED_CAPACITY: u32 = 262_144;
/// Forests the kernel holds by default, 160 kB each.
pub const FOREST_CAPACITY: u32 = 32;
/// Devices whose flows the kernel may judge.
pub const MODEL_CAPACITY: u32 = 4_096;
/// Bytes of the ring buffer by default.
pub const EVENT_BYTES: u32 = 4 << 20;
/// Bindings remembered.
pub const BINDING_CAPACITY: u32 = 4_096;

/// Unfinished ClientHellos followed at the same time.
pub const HELLO_CAPACITY: u32 = 256;

/// Raise when a table changes its meaning without changing a size.
const LAYOUT_VERSION: u64 = 3;

/// Hash of every shared layout: pins of one layout are never opened by an agent of another.
pub const LAYOUT_HASH: u64 = {
    let sizes = [
        LAYOUT_VERSION,
        FEATURE_VERSION as u64,
        size_of::<Config>() as u64,
        size_of::<Counters>() as u64,
        size_of::<FlowKey>() as u64,
        size_of::<FlowRecord>() as u64,
        size_of::<DeviceKey>() as u64,
        size_of::<DeviceRecord>() as u64,
        size_of::<Verdict>() as u64,
        size_of::<FeedEntry>() as u64,
        size_of::<RuleKey>() as u64,
        size_of::<Binding>() as u64,
        size_of::<FlowEvent>() as u64,
        size_of::<DeviceModel>() as u64,
        (size_of::<Tree>() * TREES) as u64,
        size_of::<SampleEvent>() as u64,
    ];
    // FNV-1a, 64 bits.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut index = 0;
    while index < sizes.len() {
        hash = (hash ^ sizes[index]).wrapping_mul(0x0000_0100_0000_01b3);
        index += 1;
    }
    hash
};

const _: () = {
    assert!(size_of::<FlowKey>() == 48);
    assert!(size_of::<Verdict>() == 72);
    assert!(size_of::<FlowEvent>().is_multiple_of(8) && size_of::<SampleEvent>().is_multiple_of(8));
};
