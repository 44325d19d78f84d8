//! The engine that pushes every frame through the real XDP program with `BPF_PROG_TEST_RUN`.
//!
//! Programs and tables are private to the run: nothing is attached, and an agent that guards this machine is not touched.

use crate::datapath::TestBed;

use super::engine::{Engine, EngineError, FLOW_CAPACITY, Outcome};

/// The kernel's accounting.
pub struct KernelEngine {
    bed: TestBed,
}

impl KernelEngine {
    /// Loads the programs with a table of the host engine's size.
    pub fn new() -> Result<Self, EngineError> {
        Self::with_capacity(FLOW_CAPACITY as u32)
    }

    /// Loads the programs with room for `flows` flows.
    pub fn with_capacity(flows: u32) -> Result<Self, EngineError> {
        Ok(Self { bed: TestBed::new(flows)? })
    }
}

impl Engine for KernelEngine {
    fn push(&mut self, time_ns: u64, frame: &[u8]) -> Result<(), EngineError> {
        self.bed.set_clock(time_ns)?;
        self.bed.ingress(frame)?;
        Ok(())
    }

    fn finish(self) -> Result<Outcome, EngineError> {
        let datapath = &self.bed.datapath;
        Ok(Outcome { flows: datapath.flows()?, counters: datapath.counters()? })
    }
}
