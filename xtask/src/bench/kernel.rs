//! The few calls of bpf(2) that the datapath suite needs: load a handful of instructions, attach them, run programs on
//! frames, send frames at full speed.
//!
//! Knows nothing of what is measured. Programs are held open, and attached, for as long as their owner keeps them.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result};

const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const OBJ_GET: libc::c_long = 7;
const PROG_TEST_RUN: libc::c_long = 10;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const LINK_CREATE: libc::c_long = 28;

const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const DRIVER_MODE: u32 = 1 << 2;
const LIVE_FRAMES: u32 = 1 << 1;

/// What an XDP program returns to drop a frame, and to let it pass.
pub(super) const XDP_DROP: u32 = 1;
pub(super) const XDP_PASS: u32 = 2;

/// A loaded program.
pub(super) struct Program(OwnedFd);

/// A table of another process.
pub(super) struct Table(OwnedFd);

/// A program's place on an interface; dropping it detaches the program.
pub(super) struct Link {
    _fd: OwnedFd,
}

/// `attr` of BPF_PROG_LOAD, as far as used here.
#[repr(C)]
struct LoadAttributes {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

/// `attr` of BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct RunAttributes {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    reserved: u32,
}

/// `attr` of BPF_LINK_CREATE, as far as used here.
#[repr(C)]
struct LinkAttributes {
    prog_fd: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// `attr` of BPF_PROG_GET_FD_BY_ID.
#[repr(C)]
struct IdAttributes {
    id: u32,
    next_id: u32,
    open_flags: u32,
    reserved: u32,
}

/// `attr` of BPF_OBJ_GET.
#[repr(C)]
struct PinAttributes {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `attr` of BPF_MAP_UPDATE_ELEM.
#[repr(C)]
struct UpdateAttributes {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is a live structure of the layout that `command` takes, its size is passed along, and all
    // memory its fields point to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel just returned this descriptor, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

impl Table {
    /// The table pinned at `path`.
    pub(super) fn pinned(path: &Path) -> Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        let mut attributes = PinAttributes { path: name.as_ptr() as u64, fd: 0, flags: 0 };
        let fd = bpf(OBJ_GET, &mut attributes).with_context(|| format!("no table at {}", path.display()))?;
        Ok(Self(owned(fd)))
    }

    /// Writes an entry; key and value must be of the table's sizes.
    pub(super) fn put<K: bytemuck::Pod, V: bytemuck::Pod>(&self, key: &K, value: &V) -> Result<()> {
        let mut attributes = UpdateAttributes {
            map_fd: self.0.as_raw_fd() as u32,
            reserved: 0,
            key: std::ptr::from_ref(key) as u64,
            value: std::ptr::from_ref(value) as u64,
            flags: 0,
        };
        bpf(MAP_UPDATE_ELEM, &mut attributes).map(drop).context("cannot write an entry of a table")
    }
}

impl Program {
    /// Loads `instructions` as an XDP program.
    fn load(instructions: &[u64]) -> Result<Self> {
        let mut attributes = LoadAttributes {
            prog_type: PROG_TYPE_XDP,
            insn_cnt: instructions.len() as u32,
            insns: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
        };
        Ok(Self(owned(bpf(PROG_LOAD, &mut attributes).context("cannot load a program of the benchmark")?)))
    }

    /// The program with this id.
    pub(super) fn open(id: u32) -> Result<Self> {
        let mut attributes = IdAttributes { id, next_id: 0, open_flags: 0, reserved: 0 };
        let fd =
            bpf(PROG_GET_FD_BY_ID, &mut attributes).with_context(|| format!("no program has id {id}"))?;
        Ok(Self(owned(fd)))
    }

    /// The least XDP program: it returns `verdict`.
    pub(super) fn constant(verdict: u32) -> Result<Self> {
        Self::load(&[set(0, verdict), EXIT])
    }

    /// Redirects every frame to `ifindex`.
    pub(super) fn sender(ifindex: u32) -> Result<Self> {
        Self::load(&redirect(ifindex))
    }

    /// Redirects every frame to `ifindex`, each with one of 65,536 source ports, drawn at random. Frames must be IPv4
    /// without options; their UDP checksum is left alone.
    pub(super) fn flow_sender(ifindex: u32) -> Result<Self> {
        const PORT_END: u32 = 36;
        let mut program = vec![
            copy(6, 1),
            call(HELPER_RANDOM),
            load_word(2, 6, 0),
            load_word(3, 6, 4),
            copy(4, 2),
            add(4, PORT_END),
            // Too short a frame goes out as it is.
            skip_if_greater(4, 3, 1),
            store_half(2, PORT_END as i16 - 2, 0),
        ];
        program.extend(redirect(ifindex));
        Self::load(&program)
    }

    /// Attaches the program in driver mode to an interface of the caller's network namespace.
    pub(super) fn attach(&self, ifindex: u32) -> Result<Link> {
        let mut attributes =
            LinkAttributes { prog_fd: self.fd(), ifindex, attach_type: ATTACH_XDP, flags: DRIVER_MODE };
        let fd = bpf(LINK_CREATE, &mut attributes).context("cannot attach a program of the benchmark")?;
        Ok(Link { _fd: owned(fd) })
    }

    /// Runs the program `repeat` times on a copy of `frame`; what it returned and the mean time of a run in nanoseconds.
    pub(super) fn time(&self, frame: &[u8], repeat: u32) -> Result<(u32, f64)> {
        let mut attributes = RunAttributes { repeat, ..self.on(frame) };
        bpf(PROG_TEST_RUN, &mut attributes).context("cannot run a program on a test frame")?;
        Ok((attributes.retval, f64::from(attributes.duration)))
    }

    /// Has the program send `count` copies of `frame` as real frames (kernel commit b530e9e1063e, Linux 5.18).
    pub(super) fn send(&self, frame: &[u8], count: u32) -> Result<()> {
        let mut attributes = RunAttributes { repeat: count, flags: LIVE_FRAMES, ..self.on(frame) };
        bpf(PROG_TEST_RUN, &mut attributes)
            .map(drop)
            .context("cannot send live frames; they need Linux 5.18 or later")
    }

    fn on(&self, frame: &[u8]) -> RunAttributes {
        RunAttributes {
            prog_fd: self.fd(),
            data_size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            ..RunAttributes::default()
        }
    }

    fn fd(&self) -> u32 {
        self.0.as_raw_fd() as u32
    }
}

// Instructions, as of the kernel's Documentation/bpf/standardization/instruction-set.rst.
const HELPER_RANDOM: u32 = 7;
const HELPER_REDIRECT: u32 = 23;
const EXIT: u64 = instruction(0x95, 0, 0, 0, 0);

const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: u32) -> u64 {
    (value as u64) << 32 | (offset as u16 as u64) << 16 | (from as u64) << 12 | (to as u64) << 8 | code as u64
}

const fn set(to: u8, value: u32) -> u64 {
    instruction(0xb7, to, 0, 0, value)
}

const fn copy(to: u8, from: u8) -> u64 {
    instruction(0xbf, to, from, 0, 0)
}

const fn add(to: u8, value: u32) -> u64 {
    instruction(0x07, to, 0, 0, value)
}

const fn call(helper: u32) -> u64 {
    instruction(0x85, 0, 0, 0, helper)
}

const fn load_word(to: u8, from: u8, offset: i16) -> u64 {
    instruction(0x61, to, from, offset, 0)
}

const fn store_half(to: u8, offset: i16, from: u8) -> u64 {
    instruction(0x6b, to, from, offset, 0)
}

const fn skip_if_greater(left: u8, right: u8, skipped: i16) -> u64 {
    instruction(0x2d, left, right, skipped, 0)
}

const fn redirect(ifindex: u32) -> [u64; 4] {
    [set(1, ifindex), set(2, 0), call(HELPER_REDIRECT), EXIT]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_laid_out_as_the_kernel_reads_them() {
        assert_eq!(set(0, 2).to_le_bytes(), [0xb7, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(store_half(2, 34, 0).to_le_bytes(), [0x6b, 0x02, 34, 0, 0, 0, 0, 0]);
        assert_eq!(skip_if_greater(4, 3, 1).to_le_bytes(), [0x2d, 0x34, 1, 0, 0, 0, 0, 0]);
    }
}
