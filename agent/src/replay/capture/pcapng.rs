//! The pcapng format (draft-ietf-opsawg-pcapng), block by block.
//!
//! Blocks without packets are stepped over by their length alone, so a name resolution or vendor block that its own
//! format would not allow does not cost the packets around it.

use std::io::Read;

use pcap_parser::{
    InterfaceDescriptionBlock, OptionCode,
    pcapng::{
        parse_enhancedpacketblock_be, parse_enhancedpacketblock_le, parse_interfacedescriptionblock_be,
        parse_interfacedescriptionblock_le, parse_sectionheaderblock, parse_simplepacketblock_be,
        parse_simplepacketblock_le,
    },
};

use super::{CaptureError, Captured, End, window::Window};

/// Type of a section header block, the same in both byte orders.
pub(super) const MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const OLD_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER: [u8; 4] = 0x1a2b_3c4d_u32.to_be_bytes();
/// Type, length and the length again at the end.
const EMPTY_BLOCK: u32 = 12;
/// libpcap's own bound.
const MAX_BLOCK: u32 = 16 << 20;
const NANOS: u64 = 1_000_000_000;

/// What a packet needs to know about its interface.
struct Interface {
    link: u16,
    snaplen: u32,
    clock: Clock,
}

/// An interface's unit of time.
struct Clock {
    ticks_per_second: u64,
    offset_s: i64,
}

impl Clock {
    /// Nanoseconds since the epoch, held at the ends of the range.
    fn nanos(&self, ticks: u64) -> u64 {
        let since = match self.ticks_per_second {
            1_000_000 if ticks <= u64::MAX / 1_000 => i128::from(ticks * 1_000),
            NANOS => i128::from(ticks),
            units => i128::from(ticks) * i128::from(NANOS) / i128::from(units),
        };
        let nanos = since + i128::from(self.offset_s) * i128::from(NANOS);
        u64::try_from(nanos).unwrap_or(if nanos < 0 { 0 } else { u64::MAX })
    }
}

#[derive(Default)]
struct Section {
    big_endian: bool,
    interfaces: Vec<Interface>,
}

impl Section {
    fn u32(&self, bytes: &[u8], at: usize) -> u32 {
        let field = bytes.get(at..at + 4).and_then(|field| field.try_into().ok()).unwrap_or_default();
        if self.big_endian { u32::from_be_bytes(field) } else { u32::from_le_bytes(field) }
    }

    fn u16(&self, bytes: &[u8], at: usize) -> u16 {
        let field = bytes.get(at..at + 2).and_then(|field| field.try_into().ok()).unwrap_or_default();
        if self.big_endian { u16::from_be_bytes(field) } else { u16::from_le_bytes(field) }
    }

    fn interface(&self, index: u32) -> Result<&Interface, String> {
        self.interfaces
            .get(index as usize)
            .ok_or_else(|| format!("a packet of interface {index}, which no block describes"))
    }

    fn begin(&mut self, block: &[u8]) -> Result<(), String> {
        let (_, header) = parse_sectionheaderblock(block).map_err(|_| "a malformed section header")?;
        if header.major_version != 1 {
            return Err(format!("pcapng version {}, expected 1", header.major_version));
        }
        self.interfaces.clear();
        Ok(())
    }

    fn describe(&mut self, block: &[u8]) -> Result<(), String> {
        let parse = if self.big_endian {
            parse_interfacedescriptionblock_be
        } else {
            parse_interfacedescriptionblock_le
        };
        let (_, interface) = parse(block).map_err(|_| "a malformed interface description")?;
        let clock = self.clock(&interface)?;
        let link = interface.linktype.0 as u16;
        self.interfaces.push(Interface { link, snaplen: interface.snaplen, clock });
        Ok(())
    }

    /// Resolution and offset, read here because the library takes neither powers of two nor big-endian offsets.
    fn clock(&self, interface: &InterfaceDescriptionBlock<'_>) -> Result<Clock, String> {
        let option = |code| interface.options.iter().find(|option| option.code == code);
        let resolution = option(OptionCode::IfTsresol).and_then(|option| option.value.first().copied());
        let ticks_per_second = match resolution.unwrap_or(6) {
            power @ 0..=19 => 10_u64.checked_pow(u32::from(power)),
            power @ 0x80..=0xbf => Some(1 << (power & 0x7f)),
            _ => None,
        }
        .ok_or_else(|| format!("a time resolution of {:#04x}", resolution.unwrap_or(6)))?;
        let offset_s = option(OptionCode::IfTsoffset)
            .and_then(|option| option.value.get(..8)?.try_into().ok())
            .map_or(
                0,
                |bytes| if self.big_endian { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) },
            );
        Ok(Clock { ticks_per_second, offset_s })
    }

    fn enhanced<'a>(&self, block: &'a [u8]) -> Result<Captured<'a>, String> {
        let parse = if self.big_endian { parse_enhancedpacketblock_be } else { parse_enhancedpacketblock_le };
        let (_, packet) = parse(block).map_err(|_| "a malformed enhanced packet")?;
        let interface = self.interface(packet.if_id)?;
        let time_ns = interface.clock.nanos(u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low));
        let frame = packet.data.get(..packet.caplen as usize).ok_or("a malformed enhanced packet")?;
        Ok(Captured { time_ns, link: interface.link, frame })
    }

    fn simple<'a>(&self, block: &'a [u8], time_ns: u64) -> Result<Captured<'a>, String> {
        let parse = if self.big_endian { parse_simplepacketblock_be } else { parse_simplepacketblock_le };
        let (_, packet) = parse(block).map_err(|_| "a malformed simple packet")?;
        let interface = self.interface(0)?;
        // The block does not say how much was captured: all of it, unless the interface cuts frames.
        let captured = match interface.snaplen {
            0 => packet.origlen,
            snaplen => packet.origlen.min(snaplen),
        };
        let data = packet.data;
        let frame = &data[..data.len().min(captured as usize)];
        Ok(Captured { time_ns, link: interface.link, frame })
    }

    /// The packet block that pcapng had before the enhanced one; the library does not know it.
    fn old<'a>(&self, block: &'a [u8]) -> Result<Captured<'a>, String> {
        const HEADER: usize = 28;
        let interface = self.interface(u32::from(self.u16(block, 8)))?;
        let ticks = u64::from(self.u32(block, 12)) << 32 | u64::from(self.u32(block, 16));
        let captured = self.u32(block, 20) as usize;
        let frame = block
            .get(HEADER..block.len().saturating_sub(4))
            .and_then(|data| data.get(..captured))
            .ok_or("a malformed packet block")?;
        Ok(Captured { time_ns: interface.clock.nanos(ticks), link: interface.link, frame })
    }
}

pub(super) fn read<R: Read, E: From<CaptureError>>(
    mut window: Window<R>,
    mut each: impl FnMut(Captured<'_>) -> Result<(), E>,
) -> Result<End, E> {
    let mut section = Section::default();
    let mut time_ns = 0;
    let mut first = true;
    loop {
        if !window.fill(EMPTY_BLOCK as usize)? {
            let at = window.at();
            return match window.data() {
                _ if first => Err(window.broken("the section header is cut off").into()),
                [] => Ok(End::Complete),
                _ => Ok(End::CutOff(at)),
            };
        }
        let head = window.data();
        let is_section = head[..4] == MAGIC;
        if is_section {
            section.big_endian = head[8..12] == BYTE_ORDER;
        }
        let kind = if is_section { SECTION } else { section.u32(head, 0) };
        let length = section.u32(head, 4);
        if !(EMPTY_BLOCK..=MAX_BLOCK).contains(&length) {
            return Err(window.broken(format!("a block of {length} bytes")).into());
        }
        let length = length as usize;
        if !window.fill(length)? {
            let at = window.at();
            let cut = if first {
                Err(window.broken("the section header is cut off").into())
            } else {
                Ok(End::CutOff(at))
            };
            return cut;
        }
        let block = &window.data()[..length];
        if section.u32(block, length - 4) as usize != length {
            return Err(window.broken("a block whose two lengths differ").into());
        }
        let packet = match kind {
            SECTION => section.begin(block).map(|()| None),
            INTERFACE => section.describe(block).map(|()| None),
            ENHANCED_PACKET => section.enhanced(block).map(Some),
            SIMPLE_PACKET => section.simple(block, time_ns).map(Some),
            OLD_PACKET => section.old(block).map(Some),
            _ => Ok(None),
        };
        match packet {
            Ok(Some(captured)) => {
                time_ns = captured.time_ns;
                each(captured)?;
            }
            Ok(None) => {}
            Err(what) => return Err(window.broken(what).into()),
        }
        window.consume(length);
        first = false;
    }
}
