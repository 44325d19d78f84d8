//! The kernel tables. Names and meanings are in `tidegate_common::maps`.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
    helpers::{bpf_ringbuf_output, bpf_ringbuf_query},
    macros::btf_map,
};
use tidegate_common::{
    counter::Counters,
    device::DeviceKey,
    event::{FlowEvent, SampleEvent},
    flow::{FlowKey, FlowRecord},
    forest::{DeviceModel, TREES, Tree},
    maps::{
        ALLOW_CAPACITY, BINDING_CAPACITY, EVENT_BYTES, FEED_CAPACITY, FILTER_WORDS, FLOW_CAPACITY,
        FOREST_CAPACITY, HELLO_CAPACITY, MODEL_CAPACITY, PREFIX_CAPACITY, PROFILE_NET_CAPACITY,
        PROFILE_RULE_CAPACITY, VERDICT_CAPACITY, VERDICT_DEVICE_CAPACITY,
    },
    parse::Packet,
    pod::{Addr, MacKey},
    profile::RuleKey,
    verdict::{Binding, Config, FeedEntry, Verdict, filter_bit},
};

use crate::{packet::opaque, score::Judged};

/// Entries without memory of their own before they exist (decision 0014).
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;
/// Begins on a page, and so on a cache line: other tables begin somewhere within one.
const ON_PAGES: usize = BPF_F_MMAPABLE as usize;

#[btf_map(name = "CONFIG")]
static CONFIG: Array<Config, 1> = Array::new();
#[btf_map(name = "COUNTERS")]
static COUNTERS: PerCpuArray<Counters, 1> = PerCpuArray::new();
#[btf_map(name = "FLOWS")]
pub(crate) static FLOWS: HashMap<FlowKey, FlowRecord, { FLOW_CAPACITY as usize }, ON_DEMAND> = HashMap::new();
#[btf_map(name = "VERDICT_V4")]
pub(crate) static VERDICT_V4: HashMap<u32, Verdict, { VERDICT_CAPACITY as usize }, ON_DEMAND> =
    HashMap::new();
#[btf_map(name = "VERDICT_V6")]
pub(crate) static VERDICT_V6: HashMap<[u64; 2], Verdict, { VERDICT_CAPACITY as usize }, ON_DEMAND> =
    HashMap::new();
#[btf_map(name = "VERDICT_FILTER")]
static VERDICT_FILTER: Array<u64, { FILTER_WORDS as usize }> = Array::new();
#[btf_map(name = "PREFIXES")]
pub(crate) static PREFIXES: LpmTrie<[u64; 2], Verdict, { PREFIX_CAPACITY as usize }> = LpmTrie::new();
#[btf_map(name = "ALLOWED")]
pub(crate) static ALLOWED: LpmTrie<[u64; 2], Verdict, { ALLOW_CAPACITY as usize }> = LpmTrie::new();
#[btf_map(name = "VERDICT_DEVICE")]
pub(crate) static VERDICT_DEVICE: HashMap<MacKey, Verdict, { VERDICT_DEVICE_CAPACITY as usize }, ON_DEMAND> =
    HashMap::new();
#[btf_map(name = "PROFILE_NETS")]
pub(crate) static PROFILE_NETS: LpmTrie<[u64; 3], u32, { PROFILE_NET_CAPACITY as usize }> = LpmTrie::new();
#[btf_map(name = "PROFILE_RULES")]
pub(crate) static PROFILE_RULES: HashMap<RuleKey, u32, { PROFILE_RULE_CAPACITY as usize }, ON_DEMAND> =
    HashMap::new();
#[btf_map(name = "FEED_V4")]
pub(crate) static FEED_V4: HashMap<u32, FeedEntry, { FEED_CAPACITY as usize }, ON_DEMAND> = HashMap::new();
#[btf_map(name = "FEED_V6")]
pub(crate) static FEED_V6: HashMap<[u64; 2], FeedEntry, { FEED_CAPACITY as usize }, ON_DEMAND> =
    HashMap::new();
#[btf_map(name = "FORESTS")]
static FORESTS: Array<Tree, { FOREST_CAPACITY as usize * TREES }, ON_PAGES> = Array::new();
#[btf_map(name = "MODELS")]
static MODELS: HashMap<DeviceKey, DeviceModel, { MODEL_CAPACITY as usize }, ON_DEMAND> = HashMap::new();
#[btf_map(name = "EVENTS")]
pub(crate) static EVENTS: RingBuf<FlowEvent, { EVENT_BYTES as usize }> = RingBuf::new();
#[btf_map(name = "BINDINGS")]
pub(crate) static BINDINGS: LruHashMap<u32, Binding, { BINDING_CAPACITY as usize }> = LruHashMap::new();
#[btf_map(name = "HELLOS")]
pub(crate) static HELLOS: LruHashMap<FlowKey, u32, { HELLO_CAPACITY as usize }> = LruHashMap::new();
#[btf_map(name = "REPLAY_CLOCK")]
static REPLAY_CLOCK: Array<u64, 1> = Array::new();
#[btf_map(name = "SCRATCH")]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// What a CPU needs beside its 512 bytes of stack.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) packet: Packet,
    pub(crate) workspace: Workspace,
}

/// Where records are built before they go into a table, and the CPU's own limits.
#[repr(C)]
pub(crate) struct Workspace {
    pub(crate) record: FlowRecord,
    pub(crate) judged: Judged,
    pub(crate) new_flows: Quota,
    pub(crate) samples: Quota,
    pub(crate) dns: Quota,
    pub(crate) hellos: Quota,
    pub(crate) sample: SampleEvent,
}

/// How many of something one CPU may do in a second.
#[repr(C)]
pub(crate) struct Quota {
    second_started_ns: u64,
    used: u64,
}

impl Quota {
    /// Takes one; `false` when this second's are used up.
    #[inline(always)]
    pub(crate) fn take(&mut self, limit: u32, now_ns: u64) -> bool {
        const SECOND_NS: u64 = 1_000_000_000;
        if now_ns.wrapping_sub(self.second_started_ns) >= SECOND_NS {
            self.second_started_ns = now_ns;
            self.used = 0;
        }
        self.used += 1;
        self.used <= u64::from(limit)
    }

    /// Whether exactly the first one too many was just asked for.
    #[inline(always)]
    pub(crate) fn just_exceeded(&self, limit: u32) -> bool {
        self.used == u64::from(limit) + 1
    }
}

#[inline(always)]
pub(crate) fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// Whether the address may have an exact entry. A filter that cannot be read hides nothing.
#[inline(always)]
pub(crate) fn may_have_verdict(address: Addr) -> bool {
    let (word, bit) = filter_bit(address);
    VERDICT_FILTER.get(word).is_none_or(|bits| *bits & bit != 0)
}

#[inline(always)]
pub(crate) fn model(device: &DeviceKey) -> Option<&'static DeviceModel> {
    // SAFETY: the agent replaces entries whole, and an old one stays readable until the program ends.
    unsafe { MODELS.get(device) }
}

#[inline(always)]
pub(crate) fn tree(index: u32) -> Option<&'static Tree> {
    FORESTS.get(index)
}

#[inline(always)]
pub(crate) fn counters() -> Option<&'static mut Counters> {
    // SAFETY: the block belongs to this CPU, and programs are not preempted by programs of the same kind.
    COUNTERS.get_ptr_mut(0).map(|counters| unsafe { &mut *counters })
}

#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: as for `counters`.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

/// Sends the first `length` bytes of a sample; whether there was room.
#[inline(always)]
pub(crate) fn send(event: &SampleEvent, length: usize) -> bool {
    let mut length = opaque(length as u64);
    if length > size_of::<SampleEvent>() as u64 {
        length = size_of::<SampleEvent>() as u64;
    }
    let ring = core::ptr::from_ref(&EVENTS).cast_mut().cast();
    let data = core::ptr::from_ref(event).cast_mut().cast();
    // SAFETY: `event` has at least `length` bytes, and the helper only reads them.
    unsafe { bpf_ringbuf_output(ring, data, length, 0) == 0 }
}

/// Whether more than half of the ring buffer waits to be read.
#[inline(always)]
pub(crate) fn events_are_crowded() -> bool {
    const AVAILABLE: u64 = 0;
    const SIZE: u64 = 1;
    let ring = core::ptr::from_ref(&EVENTS).cast_mut().cast();
    // SAFETY: the map is valid for the program's run, and the helper only reads its positions.
    let (waiting, size) = unsafe { (bpf_ringbuf_query(ring, AVAILABLE), bpf_ringbuf_query(ring, SIZE)) };
    waiting > size / 2
}

#[inline(always)]
pub(crate) fn replay_clock_ns() -> u64 {
    match REPLAY_CLOCK.get(0) {
        Some(now_ns) => *now_ns,
        None => 0,
    }
}
