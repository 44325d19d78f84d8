//! The kernel's monotonic clock, read from user space.

use nix::time::{ClockId, clock_gettime};

/// Now, in nanoseconds on the clock that the programs use (`CLOCK_MONOTONIC`, coarse); 0 only if the kernel has none.
pub fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
