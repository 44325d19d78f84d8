//! The way of one frame: parse, enforce, account.

use tidegate_common::{
    event::SAMPLE_BYTES,
    flow::ObservationPoint,
    parse::{self, Frame, Packet},
    sample::HELLO_PREFIX,
    verdict::{Config, Mode},
};

use crate::{
    account, clock, enforce,
    maps::{self, Scratch},
};

/// A frame and what its hook knows beside its bytes.
pub(crate) trait HookFrame: Frame {
    /// VLAN id that is no longer in the bytes, 0 for none.
    fn stripped_vlan(&self) -> u16;
    /// Wire packets the frame stands for, and the header bytes that each but the first adds to the length.
    fn segments(&self) -> u32;
    /// Copies up to `most` bytes from the start of the frame; how many.
    fn sample(&self, into: &mut [u8; SAMPLE_BYTES], most: usize) -> u16;
    /// Copies the bytes at `offset`, wherever the kernel keeps them; `None` when the frame ends before they do.
    fn prefix(&self, offset: u16) -> Option<[u8; HELLO_PREFIX]>;
}

/// What is known about one frame on its way through the programs.
pub(crate) struct Passage<'a> {
    pub(crate) packet: &'a Packet,
    pub(crate) config: &'a Config,
    pub(crate) point: ObservationPoint,
    pub(crate) frame_len: u32,
    pub(crate) now_ns: u64,
    /// Monitor mode has counted the frame as one that it would drop.
    pub(crate) would_drop: bool,
}

/// Whether the frame may go on. A table that cannot be read lets it pass: detection fails open.
#[inline(always)]
pub(crate) fn pass<F: HookFrame>(frame: &F, point: ObservationPoint) -> bool {
    let (Some(counters), Some(config), Some(scratch)) = (maps::counters(), maps::config(), maps::scratch())
    else {
        return true;
    };
    let Scratch { packet, workspace } = scratch;
    parse::parse_into(frame, frame.stripped_vlan(), packet);
    let segments = frame.segments();
    if segments > 1 {
        expand(packet, segments);
    }
    counters.seen += u64::from(packet.segments);
    let frame_len = frame.size() as u32;
    let mut passage =
        Passage { packet, config, point, frame_len, now_ns: clock::now_ns(), would_drop: false };
    if config.mode != Mode::Bypass as u32 && config.present != 0 && enforce::refuses(&mut passage, counters) {
        return false;
    }
    account::account(&passage, frame, counters, workspace)
}

/// A super-packet is counted as the packets it will be cut into, each with its own headers.
#[inline(always)]
fn expand(packet: &mut Packet, segments: u32) {
    if packet.unparsed.is_none() && packet.ip_len > packet.payload_len {
        packet.ip_len += (segments - 1) * (packet.ip_len - packet.payload_len);
    }
    packet.segments = segments;
}
