//! XDP and TC programs: measure every flow, enforce verdicts, report.
//!
//! `ingress` runs on frames that enter the gateway from a protected-side interface, `egress` on frames that leave
//! through one. Both hand the frame to [`gate::pass`]; everything they know about packets, flows and verdicts is in
//! `tidegate-common`, so the host runs the same logic.

#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the program macros export an undocumented public function each"
)]

mod account;
mod clock;
mod devices;
mod emit;
mod enforce;
mod gate;
mod hello;
mod maps;
mod packet;
mod profile;
mod score;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use tidegate_common::flow::ObservationPoint;

use crate::packet::{TcFrame, XdpFrame};

/// Frames from the protected side.
#[xdp]
pub fn ingress(ctx: XdpContext) -> u32 {
    let frame = XdpFrame::new(&ctx);
    if gate::pass(&frame, ObservationPoint::ingress(frame.ifindex())) {
        xdp_action::XDP_PASS
    } else {
        xdp_action::XDP_DROP
    }
}

/// Frames to the protected side. Passing means "ask the next program", so that others may be attached as well.
#[classifier]
pub fn egress(ctx: TcContext) -> i32 {
    let frame = TcFrame::new(&ctx);
    if gate::pass(&frame, ObservationPoint::egress(frame.ifindex())) { TC_ACT_UNSPEC } else { TC_ACT_SHOT }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
