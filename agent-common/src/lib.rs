//! Kernel ABI and the pure logic that runs bit-exact in the kernel programs, in the agent and in replay.
//!
//! Nothing here allocates, does IO, reads a clock or uses floats: time is always an argument, in nanoseconds of the
//! kernel's monotonic clock (`_ns`). Every type that crosses the kernel border is `repr(C)`, has no implicit padding
//! (asserted by `bytemuck::Pod`) and holds addresses in network byte order.

#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![cfg_attr(not(test), deny(clippy::float_arithmetic))]

#[cfg(test)]
extern crate std;

pub mod counter;
pub mod device;
pub mod event;
pub mod feature;
pub mod flow;
pub mod forest;
pub mod maps;
pub mod parse;
pub mod pod;
pub mod profile;
pub mod sample;
pub mod verdict;
