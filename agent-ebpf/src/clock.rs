//! The kernel's monotonic clock: coarse where the kernel has it, the capture's own time in replay.

use aya_ebpf::{
    Global,
    helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
};

use crate::maps;

/// Set by the loader on kernels from 5.11 on. Constants of this section are known to the verifier: the branch not
/// taken is removed, so older kernels never see the helper they lack.
#[unsafe(no_mangle)]
static COARSE_CLOCK: Global<u32> = Global::new(0);

/// Set by the loader for replay and tests.
#[unsafe(no_mangle)]
static REPLAY: Global<u32> = Global::new(0);

#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    if REPLAY.load() != 0 {
        return maps::replay_clock_ns();
    }
    if COARSE_CLOCK.load() != 0 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_ktime_get_coarse_ns() }
    } else {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_ktime_get_ns() }
    }
}
