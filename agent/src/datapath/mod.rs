//! The kernel programs as the agent sees them: loads, pins and attaches them, reads what they measured and writes what
//! `enforce` wants. The only room that names aya.
//!
//! Tables and links are pinned under a directory named after the layout hash, so verdicts keep holding while no agent
//! runs, and the next agent takes over links atomically: no packet passes unenforced in between.

mod abi;
mod attach;
mod clock;
mod devices;
mod events;
mod filter;
mod flows;
mod forests;
mod load;
mod log;
mod profiles;
mod test_bed;
mod verdicts;

use std::{io, os::fd::OwnedFd, path::PathBuf};

pub use attach::{Attached, EgressHook, IngressMode, TcChoice, XdpChoice};
pub use clock::now_ns;
pub use events::{DecodeError, Event, EventStream, Events, decode};
pub use flows::IdleLimits;
pub use forests::{KernelForests, Placed};
pub use load::{LoadOptions, kernel_version, object_is_embedded};
pub use log::KernelLog;
pub use test_bed::{MAX_TEST_FRAME, MIN_TEST_FRAME, TestBed};
pub use verdicts::VerdictTables;

use aya::{
    Ebpf,
    maps::{HashMap, MapData, PerCpuArray},
};
use tidegate_common::{
    counter::Counters,
    device::DeviceRecord,
    flow::{FlowKey, FlowRecord},
    maps,
};

use abi::Abi;

/// What can go wrong between the agent and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The binary was built without the programs.
    #[error("this binary holds no kernel programs: build it with `cargo xtask build`")]
    NoObject,
    /// The kernel or the verifier refused the programs.
    #[error(
        "cannot load the kernel programs: {0}; root or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are needed"
    )]
    Load(String),
    /// A table is missing or of another shape.
    #[error(
        "cannot use table {table}: {cause}; pins of another build may be in the way, see `tidegate doctor`"
    )]
    Table {
        /// Name of the table.
        table: &'static str,
        /// What aya said.
        cause: String,
    },
    /// A program could not be attached.
    #[error("cannot attach to interface {interface}: {cause}")]
    Attach {
        /// The interface.
        interface: String,
        /// Why, and what to do about it.
        cause: String,
    },
    /// The BPF file system is missing or not writable.
    #[error("cannot pin under {}: {cause}; mount it with `mount -t bpf bpf /sys/fs/bpf`", path.display())]
    Pin {
        /// Directory of the pins.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The kernel refused to run a program on a test frame.
    #[error("cannot run a program on a test frame: {0}")]
    TestRun(String),
}

/// The loaded programs and their tables.
pub struct Datapath {
    programs: Ebpf,
    pins: Option<PathBuf>,
    tables: Tables,
    attached: Vec<Attached>,
}

struct Tables {
    counters: PerCpuArray<MapData, Abi<Counters>>,
    flows: HashMap<MapData, Abi<FlowKey>, Abi<FlowRecord>>,
    /// The same table once more, for the one operation that aya lacks.
    flow_fd: OwnedFd,
    devices: PerCpuArray<MapData, Abi<DeviceRecord>>,
}

impl Datapath {
    /// The interfaces the programs are attached to.
    pub fn attached(&self) -> &[Attached] {
        &self.attached
    }

    /// The programs' counters, summed over all CPUs.
    pub fn counters(&self) -> Result<Counters, DatapathError> {
        let mut sum = Counters::default();
        for block in self.tables.counters.get(&0, 0).map_err(table(maps::COUNTERS))?.iter() {
            sum.merge(&block.0);
        }
        Ok(sum)
    }
}

/// Names the table in an error of aya's.
fn table(name: &'static str) -> impl Fn(aya::maps::MapError) -> DatapathError {
    move |error| DatapathError::Table { table: name, cause: chain(&error) }
}

/// An error with all its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
