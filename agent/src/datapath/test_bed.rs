//! The real programs on frames of our choosing, through `BPF_PROG_TEST_RUN`: no interface, no traffic.

use aya::{
    maps::{Array, MapData},
    programs::{SchedClassifier, TestRun, TestRunOptions, Xdp},
};
use tidegate_common::maps;

use super::{
    Datapath, DatapathError, VerdictTables, chain,
    load::{EGRESS, INGRESS, LoadOptions, open},
};

/// The longest frame a test run takes: a page less headroom and tail, and the 17 further pages of a fragmented frame.
/// Measured on 6.18; the programs see the first 3,520 bytes.
pub const MAX_TEST_FRAME: usize = 3_520 + 17 * 4_096;

/// The shortest frame a test run takes: an Ethernet header.
pub const MIN_TEST_FRAME: usize = 14;

/// Private programs and tables whose clock is set by hand.
pub struct TestBed {
    /// What the programs measured.
    pub datapath: Datapath,
    /// What they enforce.
    pub verdicts: VerdictTables,
    clock: Array<MapData, u64>,
}

impl TestBed {
    /// Loads a private copy with room for `max_flows` flows.
    pub fn new(max_flows: u32) -> Result<Self, DatapathError> {
        let options = LoadOptions { max_flows, replay: true, ..LoadOptions::default() };
        let mut datapath = Datapath::load(&options)?;
        let clock = open(&mut datapath.programs, maps::REPLAY_CLOCK)?;
        let verdicts = datapath.take_verdicts()?;
        Ok(Self { datapath, verdicts, clock })
    }

    /// Sets the clock that the programs read, in nanoseconds.
    pub fn set_clock(&mut self, now_ns: u64) -> Result<(), DatapathError> {
        self.clock.set(0, now_ns, 0).map_err(super::table(maps::REPLAY_CLOCK))
    }

    /// Runs the ingress program on `frame`; whether it passes.
    pub fn ingress(&self, frame: &[u8]) -> Result<bool, DatapathError> {
        const XDP_PASS: u32 = 2;
        let program: &Xdp = self
            .datapath
            .programs
            .program(INGRESS)
            .ok_or_else(|| DatapathError::TestRun("no program".to_owned()))?
            .try_into()
            .map_err(failed)?;
        Ok(program.test_run(on(frame)).map_err(failed)?.return_value == XDP_PASS)
    }

    /// Runs the egress program on `frame`; whether it passes.
    pub fn egress(&self, frame: &[u8]) -> Result<bool, DatapathError> {
        const TC_ACT_SHOT: u32 = 2;
        let program: &SchedClassifier = self
            .datapath
            .programs
            .program(EGRESS)
            .ok_or_else(|| DatapathError::TestRun("no program".to_owned()))?
            .try_into()
            .map_err(failed)?;
        Ok(program.test_run(on(frame)).map_err(failed)?.return_value != TC_ACT_SHOT)
    }
}

fn on(frame: &[u8]) -> TestRunOptions<'_> {
    TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() }
}

fn failed(error: impl std::error::Error) -> DatapathError {
    DatapathError::TestRun(chain(&error))
}

#[cfg(test)]
#[path = "test_bed_tests.rs"]
mod tests;
