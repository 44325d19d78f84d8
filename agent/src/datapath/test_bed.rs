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
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::print_stdout,
        reason = "a failed run is the test's failure; a skip is said aloud"
    )]

    use tidegate_common::verdict::{Action, Config, Mode, Verdict};

    use super::*;
    use crate::enforce::{Target, VerdictTable};

    /// Ethernet, IPv4, UDP from 10.0.0.1:1000 to 10.0.0.2:2000, 4 bytes of payload.
    fn frame() -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend([0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x03, 0xe8, 0x07, 0xd0, 0, 12, 0, 0, 1, 2, 3, 4]);
        frame
    }

    #[test]
    fn a_packet_is_counted_and_a_blocked_one_dropped() {
        if !nix::unistd::geteuid().is_root() || !super::super::object_is_embedded() {
            println!(
                "SKIPPED a_packet_is_counted_and_a_blocked_one_dropped: needs root and the kernel programs"
            );
            return;
        }
        let mut bed = TestBed::new(1_024).unwrap();
        bed.set_clock(5_000_000_000).unwrap();
        assert!(bed.ingress(&frame()).unwrap());
        assert!(bed.egress(&frame()).unwrap());
        let counters = bed.datapath.counters().unwrap();
        assert_eq!((counters.seen, counters.in_flow, counters.flows), (2, 1, 1), "{counters:?}");
        assert_eq!(counters.repeated, 1, "the way in counts, the way out is the same packet");

        let target: Target = "10.0.0.2".parse().unwrap();
        let block = Verdict { action: Action::Block as u8, expires_ns: 9_000_000_000, ..Verdict::default() };
        bed.verdicts.put(&target, &block).unwrap();
        assert!(bed.ingress(&frame()).unwrap(), "monitor mode passes");
        let enforce = Config { mode: Mode::Enforce as u32, ..Config::default() };
        bed.verdicts.configure(&enforce).unwrap();
        assert!(!bed.ingress(&frame()).unwrap());
        assert!(!bed.egress(&frame()).unwrap());
        bed.set_clock(9_000_000_000).unwrap();
        assert!(bed.ingress(&frame()).unwrap(), "an expired entry is absent");
        let counters = bed.datapath.counters().unwrap();
        assert_eq!((counters.dropped_address, counters.would_drop, counters.unaccounted()), (2, 1, 0));
        let entries = bed.verdicts.entries().unwrap();
        assert_eq!(
            entries.iter().map(|(target, verdict)| (*target, verdict.hits)).collect::<Vec<_>>(),
            [(target, 3)]
        );
    }

    #[test]
    fn an_operators_entry_at_the_other_end_spares_a_blocked_source() {
        if !nix::unistd::geteuid().is_root() || !super::super::object_is_embedded() {
            println!(
                "SKIPPED an_operators_entry_at_the_other_end_spares_a_blocked_source: needs root and the kernel programs"
            );
            return;
        }
        let mut bed = TestBed::new(1_024).unwrap();
        let enforce = Config { mode: Mode::Enforce as u32, ..Config::default() };
        bed.verdicts.configure(&enforce).unwrap();
        let block = Verdict { action: Action::Block as u8, expires_ns: u64::MAX, ..Verdict::default() };
        bed.verdicts.put(&"10.0.0.1".parse().unwrap(), &block).unwrap();
        assert!(!bed.ingress(&frame()).unwrap());
        let operators = Verdict {
            action: Action::NeverBlock as u8,
            roles: tidegate_common::verdict::role::OPERATOR,
            expires_ns: u64::MAX,
            ..Verdict::default()
        };
        bed.verdicts.put(&"10.0.0.2".parse().unwrap(), &operators).unwrap();
        assert!(bed.ingress(&frame()).unwrap());
        bed.verdicts.remove(&"10.0.0.2".parse().unwrap()).unwrap();
        assert!(!bed.ingress(&frame()).unwrap());
    }

    #[test]
    fn the_longest_test_frame_is_what_the_kernel_says() {
        if !nix::unistd::geteuid().is_root() || !super::super::object_is_embedded() {
            println!(
                "SKIPPED the_longest_test_frame_is_what_the_kernel_says: needs root and the kernel programs"
            );
            return;
        }
        let bed = TestBed::new(64).unwrap();
        let mut long = frame();
        long.resize(MAX_TEST_FRAME, 0);
        assert!(bed.ingress(&long).is_ok());
        long.push(0);
        assert!(bed.ingress(&long).is_err());
        assert!(bed.ingress(&frame()[..MIN_TEST_FRAME]).is_ok());
        assert!(bed.ingress(&frame()[..MIN_TEST_FRAME - 1]).is_err());
    }
}
