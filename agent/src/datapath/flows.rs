//! The flow table: listing and sweeping.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use tidegate_common::{
    flow::{FlowKey, FlowRecord},
    maps,
};

use super::{Abi, Datapath, DatapathError, table};

/// How long a flow may be silent before it is swept.
#[derive(Clone, Copy, Debug)]
pub struct IdleLimits {
    /// Flows that may go on.
    pub open_ns: u64,
    /// Connections that were closed or reset.
    pub closed_ns: u64,
}

impl Datapath {
    /// Every flow in the table, as it stands.
    pub fn flows(&self) -> Result<Vec<(FlowKey, FlowRecord)>, DatapathError> {
        self.tables
            .flows
            .iter()
            .map(|entry| entry.map(|(key, record)| (key.0, record.0)).map_err(table(maps::FLOWS)))
            .collect()
    }

    /// How many flows are in the table.
    pub fn flow_count(&self) -> Result<u64, DatapathError> {
        self.tables.flows.keys().try_fold(0, |count, key| key.map(|_| count + 1).map_err(table(maps::FLOWS)))
    }

    /// Takes flows that have been silent for longer than `limits` out of the table.
    pub fn sweep_flows(
        &mut self,
        now_ns: u64,
        limits: IdleLimits,
    ) -> Result<Vec<(FlowKey, FlowRecord)>, DatapathError> {
        let idle: Vec<FlowKey> = self
            .tables
            .flows
            .iter()
            // An entry that is deleted while the table is walked is not there to be swept.
            .filter_map(Result::ok)
            .filter(|(_, record)| {
                let limit_ns = if record.0.is_closed() { limits.closed_ns } else { limits.open_ns };
                // A flow that is cut is not silent, only unheard; forgotten, it would begin anew and uncut.
                now_ns.saturating_sub(record.0.last_ns()) > limit_ns && record.0.cut_until_ns <= now_ns
            })
            .map(|(key, _)| key.0)
            .collect();
        let mut swept = Vec::with_capacity(idle.len());
        for key in idle {
            if let Some(record) = self.take_flow(&key)? {
                swept.push((key, record));
            }
        }
        Ok(swept)
    }

    /// Removes a flow and returns its record as it was at that moment, so that no packet falls between the two.
    fn take_flow(&mut self, key: &FlowKey) -> Result<Option<FlowRecord>, DatapathError> {
        match lookup_and_delete(self.tables.flow_fd.as_raw_fd(), key) {
            Ok(record) => Ok(Some(record)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            // Before 5.14 hash tables lack the operation, and the packets between reading and removing are lost.
            Err(error) if error.raw_os_error() != Some(libc::EPERM) => {
                let record = self.tables.flows.get(&Abi(*key), 0).ok();
                self.tables.flows.remove(&Abi(*key)).map_err(table(maps::FLOWS))?;
                Ok(record.map(|record| record.0))
            }
            Err(error) => Err(DatapathError::Table { table: maps::FLOWS, cause: error.to_string() }),
        }
    }
}

/// `BPF_MAP_LOOKUP_AND_DELETE_ELEM` (kernel commit 3e87f192b405 for hash tables), which aya does not offer for them.
fn lookup_and_delete(map: RawFd, key: &FlowKey) -> io::Result<FlowRecord> {
    const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;

    #[repr(C)]
    struct Attributes {
        map_fd: u32,
        reserved: u32,
        key: u64,
        value: u64,
        flags: u64,
    }

    let mut record = FlowRecord::default();
    let attributes = Attributes {
        map_fd: map as u32,
        reserved: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_mut(&mut record) as u64,
        flags: 0,
    };
    // SAFETY: key and value point to memory of the sizes the table was opened with, and both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_AND_DELETE_ELEM,
            std::ptr::from_ref(&attributes),
            size_of::<Attributes>(),
        )
    };
    if result == 0 { Ok(record) } else { Err(io::Error::last_os_error()) }
}
