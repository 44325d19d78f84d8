#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

/// What a capture yields: (time, link, frame) in order, and how it ended.
type Yield = (Vec<(u64, u16, Vec<u8>)>, End);

fn read_all(bytes: &[u8]) -> Result<Yield, CaptureError> {
    let mut frames = Vec::new();
    let end = read(bytes, |captured| {
        frames.push((captured.time_ns, captured.link, captured.frame.to_vec()));
        Ok::<(), CaptureError>(())
    })?;
    Ok((frames, end))
}

fn refusal(bytes: &[u8]) -> String {
    read_all(bytes).unwrap_err().to_string()
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Little,
    Big,
}

/// Writes fields in one byte order.
struct Out {
    order: Order,
    bytes: Vec<u8>,
}

impl Out {
    fn new(order: Order) -> Self {
        Self { order, bytes: Vec::new() }
    }

    fn u32(mut self, value: u32) -> Self {
        let field = if self.order == Order::Big { value.to_be_bytes() } else { value.to_le_bytes() };
        self.bytes.extend(field);
        self
    }

    fn u16(mut self, value: u16) -> Self {
        let field = if self.order == Order::Big { value.to_be_bytes() } else { value.to_le_bytes() };
        self.bytes.extend(field);
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    fn padded(self, bytes: &[u8]) -> Self {
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        self.raw(bytes).raw(&[0; 3][..padding])
    }

    fn option(self, code: u16, value: &[u8]) -> Self {
        self.u16(code).u16(value.len() as u16).padded(value)
    }

    /// Frames what was written as a pcapng block.
    fn block(self, kind: u32) -> Vec<u8> {
        let length = self.bytes.len() as u32 + 12;
        Self::new(self.order).u32(kind).u32(length).raw(&self.bytes).u32(length).bytes
    }
}

fn pcap(order: Order, magic: u32, link: u32, records: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let mut out = Out::new(order).u32(magic).u16(2).u16(4).u32(0).u32(0).u32(65_535).u32(link);
    for (seconds, fraction, frame) in records {
        let length = frame.len() as u32;
        out = out.u32(*seconds).u32(*fraction).u32(length).u32(length);
        if magic == 0xa1b2_cd34 {
            out = out.u32(3).u16(0x0800).raw(&[0, 0]);
        }
        out = out.raw(frame);
    }
    out.bytes
}

fn section(order: Order) -> Vec<u8> {
    Out::new(order).u32(0x1a2b_3c4d).u16(1).u16(0).raw(&[0xff; 8]).block(0x0a0d_0d0a)
}

fn interface(order: Order, link: u16, snaplen: u32, options: Option<(u8, i64)>) -> Vec<u8> {
    let mut out = Out::new(order).u16(link).u16(0).u32(snaplen);
    if let Some((resolution, offset)) = options {
        let offset = if order == Order::Big { offset.to_be_bytes() } else { offset.to_le_bytes() };
        out = out.option(9, &[resolution]).option(14, &offset).option(0, &[]);
    }
    out.block(1)
}

fn enhanced(order: Order, interface: u32, ticks: u64, frame: &[u8]) -> Vec<u8> {
    let length = frame.len() as u32;
    let out = Out::new(order).u32(interface).u32((ticks >> 32) as u32).u32(ticks as u32);
    out.u32(length).u32(length).padded(frame).block(6)
}

fn simple(order: Order, original: u32, data: &[u8]) -> Vec<u8> {
    Out::new(order).u32(original).padded(data).block(3)
}

const ORDERS: [Order; 2] = [Order::Little, Order::Big];

#[test]
fn classic_captures_are_read_in_every_resolution_and_byte_order() {
    for order in ORDERS {
        for (magic, expected_ns) in [(0xa1b2_c3d4, 7_000_009_000), (0xa1b2_3c4d, 7_000_000_009)] {
            let bytes = pcap(order, magic, 1, &[(7, 9, b"first"), (8, 0, b"")]);
            let (frames, end) = read_all(&bytes).unwrap();
            assert_eq!(end, End::Complete);
            assert_eq!(frames[0], (expected_ns, 1, b"first".to_vec()));
            assert_eq!(frames[1], (8_000_000_000, 1, vec![]));
        }
    }
}

#[test]
fn modified_captures_are_read() {
    let bytes = pcap(Order::Little, 0xa1b2_cd34, 1, &[(7, 9, b"first"), (8, 0, b"second")]);
    let (frames, _) = read_all(&bytes).unwrap();
    assert_eq!(frames[1], (8_000_000_000, 1, b"second".to_vec()));
}

#[test]
fn the_link_type_is_read_without_the_check_sequence_bits() {
    let bytes = pcap(Order::Little, 0xa1b2_c3d4, 0x9400_0071, &[(0, 0, b"x")]);
    assert_eq!(read_all(&bytes).unwrap().0[0].1, 113);
}

#[test]
fn a_capture_cut_off_in_its_last_record_yields_the_records_before() {
    let bytes = pcap(Order::Little, 0xa1b2_c3d4, 1, &[(1, 0, b"first"), (2, 0, b"second")]);
    for length in 24 + 16 + 5 + 1..bytes.len() {
        let (frames, end) = read_all(&bytes[..length]).unwrap();
        assert_eq!((frames.len(), end), (1, End::CutOff(24 + 16 + 5)), "{length} bytes");
    }
    let mut bytes = [section(Order::Little), interface(Order::Little, 1, 0, None)].concat();
    let start = bytes.len() as u64;
    bytes.extend(enhanced(Order::Little, 0, 1, b"cut off"));
    let (frames, end) = read_all(&bytes[..bytes.len() - 1]).unwrap();
    assert_eq!((frames.len(), end), (0, End::CutOff(start)));
}

#[test]
fn blocks_of_every_kind_are_read_in_both_byte_orders() {
    for order in ORDERS {
        let old = Out::new(order).u16(0).u16(9).u32(0).u32(4_000_000).u32(3).u32(3).padded(b"old").block(2);
        let bytes = [
            section(order),
            interface(order, 1, 6, None),
            interface(order, 113, 0, Some((9, 0))),
            interface(order, 1, 0, Some((0x8a, -1))),
            enhanced(order, 0, 5, b"micro"),
            enhanced(order, 1, 5, b"nano"),
            enhanced(order, 2, 3 * 1_024 + 512, b"binary"),
            Out::new(order).raw(b"not what a name block holds").raw(&[0]).block(4),
            Out::new(order).u32(77).block(0x0bad_0000),
            simple(order, 5, b"whole"),
            simple(order, 60, b"cutoff"),
            old,
        ]
        .concat();
        let (frames, end) = read_all(&bytes).unwrap();
        assert_eq!(end, End::Complete);
        let expected: [(u64, u16, &[u8]); 6] = [
            (5_000, 1, b"micro"),
            (5, 113, b"nano"),
            (2_500_000_000, 1, b"binary"),
            (2_500_000_000, 1, b"whole"),
            (2_500_000_000, 1, b"cutoff"),
            (4_000_000_000, 1, b"old"),
        ];
        assert_eq!(frames.len(), expected.len());
        for (frame, (time_ns, link, data)) in frames.iter().zip(expected) {
            assert_eq!(*frame, (time_ns, link, data.to_vec()));
        }
    }
}

#[test]
fn a_new_section_forgets_the_interfaces_and_may_change_the_byte_order() {
    let bytes = [
        section(Order::Little),
        interface(Order::Little, 113, 0, None),
        enhanced(Order::Little, 0, 1, b"one"),
        section(Order::Big),
        interface(Order::Big, 1, 0, None),
        enhanced(Order::Big, 0, 2, b"two"),
    ]
    .concat();
    let (frames, _) = read_all(&bytes).unwrap();
    assert_eq!(frames, [(1_000, 113, b"one".to_vec()), (2_000, 1, b"two".to_vec())]);
}

#[test]
fn what_is_no_capture_is_refused_with_cause_and_hint() {
    let little = Order::Little;
    let no_interface = [section(little), enhanced(little, 3, 0, b"x")].concat();
    let mut two_lengths = [section(little), interface(little, 1, 0, None)].concat();
    *two_lengths.last_mut().unwrap() = 9;
    let mut huge = pcap(little, 0xa1b2_c3d4, 1, &[(0, 0, b"x")]);
    huge[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut version = pcap(little, 0xa1b2_c3d4, 1, &[]);
    version[4] = 3;
    let cases: [(&[u8], &str); 10] = [
        (b"", "the file is empty"),
        (b"\xd4\xc3", "shorter than any header"),
        (b"PK\x03\x04 and more", "it begins with 50 4b 03 04"),
        (&pcap(little, 0xa1b2_c3d4, 1, &[])[..23], "the pcap file header is cut off"),
        (&section(little)[..27], "the section header is cut off"),
        (&no_interface, "broken at byte 28: a packet of interface 3, which no block describes"),
        (&two_lengths, "a block whose two lengths differ"),
        (&huge, "broken at byte 24: a record of 4294967295 bytes"),
        (&version, "pcap version 3.4"),
        (&[section(little), interface(little, 1, 0, Some((20, 0)))].concat(), "a time resolution of 0x14"),
    ];
    for (bytes, cause) in cases {
        let message = refusal(bytes);
        assert!(message.contains(cause) && message.contains("hint"), "{message:?} lacks {cause:?}");
    }
}

#[test]
fn a_length_that_lies_reserves_no_memory() {
    let mut bytes = section(Order::Little);
    bytes.extend(Out::new(Order::Little).u32(6).u32(16 << 20).u32(0).bytes);
    assert_eq!(read_all(&bytes).unwrap(), (vec![], End::CutOff(28)));
}

#[test]
fn times_outside_the_range_stay_at_its_ends() {
    for (resolution, offset, ticks, expected) in [
        (6, -2, 1_000_000, 0),
        (6, i64::MAX, 1, u64::MAX),
        (0, 0, u64::MAX, u64::MAX),
        (0xbf, 0, 1 << 62, 500_000_000),
        (19, 0, u64::MAX, 1_844_674_407),
    ] {
        let bytes = [
            section(Order::Little),
            interface(Order::Little, 1, 0, Some((resolution, offset))),
            enhanced(Order::Little, 0, ticks, b""),
        ]
        .concat();
        assert_eq!(read_all(&bytes).unwrap().0[0].0, expected, "{resolution:#x} {offset} {ticks}");
    }
}

#[test]
fn records_larger_than_the_window_are_read_whole() {
    let frame = vec![0x5a; 3 << 20];
    let bytes = [
        section(Order::Little),
        interface(Order::Little, 1, 0, None),
        enhanced(Order::Little, 0, 1, &frame),
        enhanced(Order::Little, 0, 2, b"after"),
    ]
    .concat();
    let (frames, _) = read_all(&bytes).unwrap();
    assert_eq!((frames[0].2.len(), frames[1].2.as_slice()), (frame.len(), b"after".as_slice()));
}

/// Hands out a few bytes at a time, as a pipe does.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.len().min(self.1).min(buffer.len());
        let (now, later) = self.0.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}

fn well_formed(order: Order, ng: bool, frames: &[Vec<u8>]) -> Vec<u8> {
    if ng {
        let mut bytes = [section(order), interface(order, 1, 0, Some((9, 0)))].concat();
        for (index, frame) in frames.iter().enumerate() {
            bytes.extend(enhanced(order, 0, index as u64, frame));
        }
        bytes
    } else {
        let records: Vec<_> =
            frames.iter().enumerate().map(|(index, frame)| (index as u32, 0, frame.as_slice())).collect();
        pcap(order, 0xa1b2_c3d4, 1, &records)
    }
}

proptest! {
    #[test]
    fn every_frame_comes_back_whatever_the_reads_return(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 0..20),
        big: bool, ng: bool, step in 1_usize..40,
    ) {
        let order = if big { Order::Big } else { Order::Little };
        let bytes = well_formed(order, ng, &frames);
        let mut back = Vec::new();
        let end = read(Trickle(&bytes, step), |captured| {
            back.push(captured.frame.to_vec());
            Ok::<(), CaptureError>(())
        }).unwrap();
        prop_assert_eq!(end, End::Complete);
        prop_assert_eq!(back, frames);
    }

    #[test]
    fn mutated_captures_end_or_are_refused_and_never_panic(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..8),
        big: bool, ng: bool,
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        keep in any::<prop::sample::Index>(), cut: bool,
    ) {
        let order = if big { Order::Big } else { Order::Little };
        let mut bytes = well_formed(order, ng, &frames);
        for (at, value) in mutations {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cut {
            bytes.truncate(keep.index(bytes.len()));
        }
        let _ = read_all(&bytes);
    }
}
