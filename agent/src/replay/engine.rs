//! What turns frames into flow records: the interface both engines share, and the one that runs in this process.
//!
//! [`HostEngine`] is the kernel programs' accounting on the host: the same parser, key and record, in the same order, with
//! a table that folds new flows once it is full. It differs from the kernel only in where the table lives.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use tidegate_common::{
    counter::Counters,
    flow::{FlowKey, FlowRecord, ObservationPoint},
    parse::{Frame, Header, parse},
};

use crate::datapath::DatapathError;

/// Flows an engine keeps; packets of further flows are counted as folded.
pub const FLOW_CAPACITY: usize = 1 << 20;

/// Where replayed frames are seen: entering through the first interface.
pub const POINT: ObservationPoint = ObservationPoint::ingress(1);

/// Why an engine gave up.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The kernel refused a program, a table or a packet.
    #[error(transparent)]
    Kernel(#[from] DatapathError),
}

/// Everything an engine measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// One record per flow, in no particular order.
    pub flows: Vec<(FlowKey, FlowRecord)>,
    /// What became of every packet.
    pub counters: Counters,
}

/// Accounts frames.
pub trait Engine {
    /// Accounts one frame, captured at `time_ns`.
    fn push(&mut self, time_ns: u64, frame: &[u8]) -> Result<(), EngineError>;

    /// Hands over what was measured.
    fn finish(self) -> Result<Outcome, EngineError>;
}

/// Bytes of a frame that the kernel's test run puts into the first buffer, the only one an XDP program reads headers from.
const FIRST_BUFFER: usize = 4_096 - 256 - 320;

/// A frame as an XDP program sees it in a test run.
struct TestRunFrame<'a>(&'a [u8]);

impl Frame for TestRunFrame<'_> {
    #[inline]
    fn header<H: Header>(&self, offset: usize) -> Option<H> {
        self.0[..self.0.len().min(FIRST_BUFFER)].header(offset)
    }

    #[inline]
    fn size(&self) -> usize {
        self.0.len()
    }
}

/// A place in the table: the key's hash, kept so that growing never touches the records, and where the record is.
struct Slot {
    hash: u64,
    index: u32,
}

/// The engine that runs in this process.
pub struct HostEngine {
    table: HashTable<Slot>,
    flows: Vec<(FlowKey, FlowRecord)>,
    capacity: usize,
    hasher: RandomState,
    counters: Counters,
    /// The flow of the last packet, which is most often that of the next one.
    last: usize,
}

impl Default for HostEngine {
    fn default() -> Self {
        Self::with_capacity(FLOW_CAPACITY)
    }
}

impl HostEngine {
    /// An engine that keeps at most `flows` flows.
    pub fn with_capacity(flows: usize) -> Self {
        Self {
            table: HashTable::new(),
            flows: Vec::new(),
            capacity: flows.min(u32::MAX as usize),
            hasher: RandomState::default(),
            counters: Counters::default(),
            last: 0,
        }
    }

    /// Where the flow of `key` is; `None` when it is not in the table.
    #[inline]
    fn find(&self, key: &FlowKey, hash: u64) -> Option<usize> {
        let found =
            self.table.find(hash, |slot| slot.hash == hash && self.flows[slot.index as usize].0 == *key)?;
        Some(found.index as usize)
    }

    #[inline]
    fn hash(&self, key: &FlowKey) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(bytemuck::bytes_of(key));
        hasher.finish()
    }

    /// Accounts one frame; nothing can go wrong on the host.
    #[inline]
    pub fn account(&mut self, time_ns: u64, frame: &[u8]) {
        let packet = parse(&TestRunFrame(frame), 0);
        self.counters.seen += 1;
        if let Some(reason) = packet.unparsed {
            self.counters.unparsed[reason as usize] += 1;
            return;
        }
        let (key, sender) = FlowKey::of(&packet);
        let index = if self.flows.get(self.last).is_some_and(|(last, _)| *last == key) {
            self.last
        } else {
            let hash = self.hash(&key);
            match self.find(&key, hash) {
                Some(index) => index,
                None if self.flows.len() >= self.capacity => {
                    self.counters.folded += 1;
                    self.counters.flow_table_full += 1;
                    return;
                }
                None => {
                    let index = self.flows.len();
                    let mut record = FlowRecord::default();
                    record.begin(&packet, sender, time_ns);
                    self.flows.push((key, record));
                    let slot = Slot { hash, index: index as u32 };
                    self.table.insert_unique(hash, slot, |slot| slot.hash);
                    self.counters.flows += 1;
                    index
                }
            }
        };
        self.last = index;
        self.flows[index].1.observe(&packet, sender, POINT, time_ns);
        self.counters.in_flow += 1;
        self.counters.fragments += u64::from(packet.fragment as u8 != 0);
    }
}

impl Engine for HostEngine {
    #[inline]
    fn push(&mut self, time_ns: u64, frame: &[u8]) -> Result<(), EngineError> {
        self.account(time_ns, frame);
        Ok(())
    }

    fn finish(self) -> Result<Outcome, EngineError> {
        Ok(Outcome { flows: self.flows, counters: self.counters })
    }
}
