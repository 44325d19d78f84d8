//! What the programs send through the ring buffer. Readers check kind, version and length before they trust a byte.

use bytemuck::{Pod, Zeroable};

use crate::flow::{FlowKey, FlowRecord, ObservationPoint};

/// Layout version of every event.
pub const EVENT_VERSION: u16 = 1;

/// What an event is.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// [`FlowEvent`]
    Flow = 1,
    /// [`SampleEvent`]
    Sample = 2,
}

/// Stands first in every event.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct EventHeader {
    /// [`EventKind`] code.
    pub kind: u16,
    /// [`EVENT_VERSION`].
    pub version: u16,
    /// Length of the whole event in bytes.
    pub length: u32,
    /// When, kernel clock.
    pub time_ns: u64,
}

/// Why a flow is reported.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowCause {
    /// First packet.
    Start = 1,
    /// 8, 64, 512, … packets.
    Checkpoint = 2,
    /// FIN from both ends, or RST.
    Closed = 3,
    /// Busy for longer than the active timeout.
    ActiveTimeout = 4,
    /// The kernel's forest found the flow so unlike its device that the kernel cuts it.
    Cut = 5,
}

impl FlowCause {
    /// The cause with this code.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Start,
            2 => Self::Checkpoint,
            3 => Self::Closed,
            4 => Self::ActiveTimeout,
            5 => Self::Cut,
            _ => return None,
        })
    }
}

/// A flow, as it stands now.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowEvent {
    /// Header.
    pub header: EventHeader,
    /// Key.
    pub key: FlowKey,
    /// Counters.
    pub record: FlowRecord,
    /// [`FlowCause`] code.
    pub cause: u8,
    /// Always zero.
    pub reserved: [u8; 7],
}

/// Bytes of a frame that any sample carries at most; see [`SampleCause::most_bytes`].
pub const SAMPLE_BYTES: usize = 2_048;

/// Why a frame was sampled.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SampleCause {
    /// ARP that shows a new or changed binding.
    Arp = 1,
    /// DHCP, either version.
    Dhcp = 2,
    /// Multicast DNS.
    Mdns = 3,
    /// IPv6 neighbour discovery.
    Nd = 4,
    /// DNS: what a device asks, and what it is answered.
    Dns = 5,
    /// The beginning of a TLS connection: ClientHello or ServerHello.
    Hello = 6,
}

impl SampleCause {
    /// The cause with this code.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Arp,
            2 => Self::Dhcp,
            3 => Self::Mdns,
            4 => Self::Nd,
            5 => Self::Dns,
            6 => Self::Hello,
            _ => return None,
        })
    }

    /// Bytes of such a frame that are sent at most, its headers included.
    #[inline(always)]
    pub const fn most_bytes(self) -> usize {
        match self {
            Self::Arp | Self::Dhcp | Self::Mdns | Self::Nd => 512,
            // A message of 512 bytes, the most without EDNS, behind Ethernet, two tags and IPv6.
            Self::Dns => 640,
            Self::Hello => SAMPLE_BYTES,
        }
    }
}

/// The first bytes of a frame that tells who a device is or whom it looks for. Only the `captured` first bytes of `data` are sent.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SampleEvent {
    /// Header.
    pub header: EventHeader,
    /// Where it was seen.
    pub point: ObservationPoint,
    /// Length of the frame on the wire.
    pub wire_len: u32,
    /// Valid bytes in `data`.
    pub captured: u16,
    /// [`SampleCause`] code.
    pub cause: u8,
    /// Always zero.
    pub reserved: [u8; 5],
    /// The frame from its Ethernet header on.
    pub data: [u8; SAMPLE_BYTES],
}

/// Length of a [`SampleEvent`] without its data.
pub const SAMPLE_HEADER_BYTES: usize = size_of::<SampleEvent>() - SAMPLE_BYTES;
