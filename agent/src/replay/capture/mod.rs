//! Capture files as a stream of frames: pcap (micro- and nanoseconds, both byte orders, the modified format) and pcapng
//! (several sections, interfaces and resolutions, both byte orders).
//!
//! Invariants: constant memory whatever the file's size or its length fields claim; a frame is handed over exactly once
//! and in file order; a file is either read to its end, read to where it was cut off ([`End::CutOff`]), or refused with
//! the place and the cause. Nothing here knows what is inside a frame.

mod pcap;
mod pcapng;
mod window;

use std::io::{self, Read};

use window::Window;

/// Link-layer type of Ethernet (tcpdump.org, link-layer header types).
pub const LINK_ETHERNET: u16 = 1;

/// One captured frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured<'a> {
    /// When it was captured, in nanoseconds since the epoch; a packet without a time (pcapng simple packet block) takes
    /// that of the packet before it.
    pub time_ns: u64,
    /// Link-layer type, from the registry at tcpdump.org.
    pub link: u16,
    /// The bytes that were captured, which may be fewer than were on the wire.
    pub frame: &'a [u8],
}

/// How a capture ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After its last record.
    Complete,
    /// Inside the record that starts at this byte, which is not counted.
    CutOff(u64),
}

/// Why a capture was refused.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The operating system could not read it.
    #[error("reading failed at byte {at}: {cause}")]
    Io {
        /// Offset in the file.
        at: u64,
        /// What the system said.
        cause: io::Error,
    },
    /// The first bytes are those of no known capture format.
    #[error(
        "neither a capture nor a flow log: {0}; expected pcap, pcapng, Zeek conn.log or Suricata EVE JSON (hint: `file` tells what it is, `editcap -F pcapng` converts captures)"
    )]
    Unknown(String),
    /// A header or block contradicts the format, so that what follows cannot be found.
    #[error("broken at byte {at}: {what} (hint: `pcapfix` or `editcap` may save the records before it)")]
    Broken {
        /// Offset in the file of the record or block.
        at: u64,
        /// What is wrong there.
        what: String,
    },
}

/// Whether a file that begins like this is a capture.
pub fn begins(bytes: &[u8]) -> bool {
    bytes
        .first_chunk()
        .is_some_and(|magic| *magic == pcapng::MAGIC || pcap::MAGICS.contains(&u32::from_le_bytes(*magic)))
}

/// Reads a capture to its end and hands every frame to `each`, whose first error ends the reading.
pub fn read<R: Read, E: From<CaptureError>>(
    input: R,
    each: impl FnMut(Captured<'_>) -> Result<(), E>,
) -> Result<End, E> {
    let mut window = Window::new(input);
    window.fill(4)?;
    let magic = match *window.data() {
        [a, b, c, d, ..] => [a, b, c, d],
        [] => return Err(CaptureError::Unknown("the file is empty".to_owned()).into()),
        _ => return Err(CaptureError::Unknown("it is shorter than any header".to_owned()).into()),
    };
    match magic {
        pcapng::MAGIC => pcapng::read(window, each),
        _ if pcap::MAGICS.contains(&u32::from_le_bytes(magic)) => pcap::read(window, each),
        [a, b, c, d] => {
            Err(CaptureError::Unknown(format!("it begins with {a:02x} {b:02x} {c:02x} {d:02x}")).into())
        }
    }
}

#[cfg(test)]
mod tests;
