//! The classic pcap format (draft-ietf-opsawg-pcap), record by record.

use std::io::Read;

use pcap_parser::{
    LegacyPcapBlock, PcapError, PcapHeader,
    nom::IResult,
    pcap::{parse_pcap_frame, parse_pcap_frame_be, parse_pcap_frame_modified, parse_pcap_header},
};

use super::{CaptureError, Captured, End, window::Window};

/// First four bytes, read as little-endian: microseconds and nanoseconds in both byte orders, and the modified format.
pub(super) const MAGICS: [u32; 5] = [0xa1b2_c3d4, 0xd4c3_b2a1, 0xa1b2_3c4d, 0x4d3c_b2a1, 0xa1b2_cd34];

const HEADER_LEN: usize = 24;
const RECORD_LEN: usize = 16;
/// The modified format adds interface, protocol and packet type to each record.
const MODIFIED_RECORD_LEN: usize = 24;
/// libpcap's own bound for a record, unless the file's header announces a larger one.
const MAX_FRAME: u32 = 262_144;
/// No link type in the registry has longer records.
const MAX_SNAPLEN: u32 = 128 << 20;

type ParseRecord = for<'a> fn(&'a [u8]) -> IResult<&'a [u8], LegacyPcapBlock<'a>, PcapError<&'a [u8]>>;

pub(super) fn read<R: Read, E: From<CaptureError>>(
    mut window: Window<R>,
    mut each: impl FnMut(Captured<'_>) -> Result<(), E>,
) -> Result<End, E> {
    if !window.fill(HEADER_LEN)? {
        return Err(window.broken("the pcap file header is cut off").into());
    }
    let Ok((_, header)) = parse_pcap_header(window.data()) else {
        return Err(window.broken("the pcap file header is not valid").into());
    };
    if header.version_major != 2 {
        let version = format!("pcap version {}.{}, expected 2.x", header.version_major, header.version_minor);
        return Err(window.broken(version).into());
    }
    window.consume(HEADER_LEN);

    let (parse, record_len): (ParseRecord, usize) = if header.is_modified_format() {
        (parse_pcap_frame_modified, MODIFIED_RECORD_LEN)
    } else if header.is_bigendian() {
        (parse_pcap_frame_be, RECORD_LEN)
    } else {
        (parse_pcap_frame, RECORD_LEN)
    };
    let link = link_type(&header);
    let fraction_ns = if header.is_nanosecond_precision() { 1 } else { 1_000 };
    let limit = header.snaplen.clamp(MAX_FRAME, MAX_SNAPLEN);

    loop {
        match parse(window.data()) {
            Ok((rest, record)) if record.caplen <= limit => {
                let time_ns =
                    u64::from(record.ts_sec) * 1_000_000_000 + u64::from(record.ts_usec) * fraction_ns;
                each(Captured { time_ns, link, frame: record.data })?;
                let used = window.data().len() - rest.len();
                window.consume(used);
            }
            // More bytes are needed: first the record's header, then as many as it announces.
            Err(_) if window.data().len() < record_len => {
                if !window.fill(record_len)? {
                    let at = window.at();
                    return Ok(if window.data().is_empty() { End::Complete } else { End::CutOff(at) });
                }
            }
            _ => {
                let announced = announced_len(&header, window.data());
                if announced > limit {
                    let what = format!("a record of {announced} bytes, over the limit of {limit}");
                    return Err(window.broken(what).into());
                }
                if !window.fill(record_len + announced as usize)? {
                    return Ok(End::CutOff(window.at()));
                }
            }
        }
    }
}

/// The link type proper: the upper bits of the field describe the frame check sequence.
fn link_type(header: &PcapHeader) -> u16 {
    header.network.0 as u16
}

fn announced_len(header: &PcapHeader, record: &[u8]) -> u32 {
    let field = record.get(8..12).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
    if header.is_bigendian() { u32::from_be_bytes(field) } else { u32::from_le_bytes(field) }
}
