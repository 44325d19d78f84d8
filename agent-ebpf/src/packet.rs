//! Frames as the two hooks see them.

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::{bpf_skb_load_bytes, bpf_skb_pull_data, bpf_xdp_load_bytes},
    programs::{TcContext, XdpContext},
};
use tidegate_common::{
    event::SAMPLE_BYTES,
    parse::{Frame, Header},
    sample::HELLO_PREFIX,
};

use crate::gate::HookFrame;

/// The directly readable bytes of a frame.
#[derive(Clone, Copy)]
struct Linear {
    start: usize,
    end: usize,
}

impl Linear {
    #[inline(always)]
    fn header<H: Header>(self, offset: usize) -> Option<H> {
        let at = self.start + offset;
        if at + size_of::<H>() > self.end {
            return None;
        }
        // SAFETY: the bounds were checked against the frame's end, as the verifier checks again, and `Header` allows
        // every bit pattern. Alignment does not matter: the kernel lets programs read packets at any address on
        // machines that can, and reads byte by byte for them on others.
        Some(unsafe { (at as *const H).read() })
    }
}

/// A frame at the XDP hook.
pub(crate) struct XdpFrame {
    md: *mut xdp_md,
    linear: Linear,
}

impl XdpFrame {
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext) -> Self {
        Self { md: ctx.ctx, linear: Linear { start: ctx.data(), end: ctx.data_end() } }
    }

    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid for the program's run.
        unsafe { (*self.md).ingress_ifindex }
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn header<H: Header>(&self, offset: usize) -> Option<H> {
        self.linear.header(offset)
    }

    #[inline(always)]
    fn size(&self) -> usize {
        self.linear.end - self.linear.start
    }
}

impl HookFrame for XdpFrame {
    #[inline(always)]
    fn stripped_vlan(&self) -> u16 {
        0
    }

    #[inline(always)]
    fn segments(&self) -> u32 {
        1
    }

    #[inline(always)]
    fn sample(&self, into: &mut [u8; SAMPLE_BYTES], most: usize) -> u16 {
        copy_start(self.size(), into, most, |to, length| {
            // SAFETY: `to` holds `SAMPLE_BYTES` bytes and `length` is at most that.
            unsafe { bpf_xdp_load_bytes(self.md, 0, to, length) as i64 }
        })
    }

    #[inline(always)]
    fn prefix(&self, offset: u16) -> Option<[u8; HELLO_PREFIX]> {
        let mut bytes = [0; HELLO_PREFIX];
        // SAFETY: `bytes` is as long as the helper is told.
        let code = unsafe {
            bpf_xdp_load_bytes(self.md, u32::from(offset), bytes.as_mut_ptr().cast(), HELLO_PREFIX as u32)
        };
        if code == 0 { Some(bytes) } else { None }
    }
}

/// A frame at the TC hook.
pub(crate) struct TcFrame {
    skb: *mut __sk_buff,
    linear: Linear,
}

/// Bytes made directly readable when a socket buffer keeps its headers elsewhere.
const PULL_BYTES: u32 = 192;

impl TcFrame {
    #[inline(always)]
    pub(crate) fn new(ctx: &TcContext) -> Self {
        const FEWEST_BYTES: usize = 54;
        let skb = ctx.skb.skb;
        if ctx.data_end() - ctx.data() < FEWEST_BYTES {
            let whole = ctx.len();
            let wanted = if whole < PULL_BYTES { whole } else { PULL_BYTES };
            // SAFETY: the context is valid; on failure the bytes stay as they are.
            unsafe { bpf_skb_pull_data(skb, wanted) };
        }
        Self { skb, linear: Linear { start: ctx.data(), end: ctx.data_end() } }
    }

    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid for the program's run.
        unsafe { (*self.skb).ifindex }
    }
}

impl Frame for TcFrame {
    #[inline(always)]
    fn header<H: Header>(&self, offset: usize) -> Option<H> {
        self.linear.header(offset)
    }

    #[inline(always)]
    fn size(&self) -> usize {
        // SAFETY: the context is valid for the program's run.
        unsafe { (*self.skb).len as usize }
    }
}

impl HookFrame for TcFrame {
    #[inline(always)]
    fn stripped_vlan(&self) -> u16 {
        // SAFETY: the context is valid for the program's run.
        let (present, tci) = unsafe { ((*self.skb).vlan_present, (*self.skb).vlan_tci) };
        if present == 0 { 0 } else { tci as u16 & 0x0fff }
    }

    #[inline(always)]
    fn segments(&self) -> u32 {
        // SAFETY: the context is valid for the program's run.
        let segments = unsafe { (*self.skb).gso_segs };
        if segments == 0 { 1 } else { segments }
    }

    #[inline(always)]
    fn sample(&self, into: &mut [u8; SAMPLE_BYTES], most: usize) -> u16 {
        copy_start(self.size(), into, most, |to, length| {
            // SAFETY: `to` holds `SAMPLE_BYTES` bytes and `length` is at most that.
            unsafe { bpf_skb_load_bytes(self.skb.cast(), 0, to, length) as i64 }
        })
    }

    #[inline(always)]
    fn prefix(&self, offset: u16) -> Option<[u8; HELLO_PREFIX]> {
        let mut bytes = [0; HELLO_PREFIX];
        // SAFETY: `bytes` is as long as the helper is told.
        let code = unsafe {
            bpf_skb_load_bytes(
                self.skb.cast(),
                u32::from(offset),
                bytes.as_mut_ptr().cast(),
                HELLO_PREFIX as u32,
            )
        };
        if code == 0 { Some(bytes) } else { None }
    }
}

/// Copies the first bytes of a frame with a helper; 0 when it refuses.
#[inline(always)]
fn copy_start(
    size: usize,
    into: &mut [u8; SAMPLE_BYTES],
    most: usize,
    load: impl FnOnce(*mut core::ffi::c_void, u32) -> i64,
) -> u16 {
    let mut length = opaque(size as u64);
    if length > most as u64 {
        length = most as u64;
    }
    // The verifier must see that the length is never 0.
    if length < 14 || load(into.as_mut_ptr().cast(), length as u32) != 0 { 0 } else { length as u16 }
}

/// The same number, of which the compiler no longer knows that it has 32 bits: compared in half a register, its bounds would
/// be lost on the verifier, who follows whole ones.
#[inline(always)]
pub(crate) fn opaque(mut number: u64) -> u64 {
    // SAFETY: the instruction copies a register to itself.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) number, options(nomem, nostack, preserves_flags)) };
    number
}
