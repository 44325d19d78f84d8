//! A bounded, even sample of the vectors that a device produced.

use std::{
    collections::VecDeque,
    io::{Read as _, Write as _},
};

use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tidegate_common::feature::{FEATURES, FeatureVector};

/// A vector as it is kept: features are below 2^15.
pub type Row = [u16; FEATURES];

pub(super) fn narrow(vector: &FeatureVector) -> Row {
    vector.map(|value| u16::try_from(value).unwrap_or(u16::MAX))
}

pub(super) fn wide(rows: &[Row]) -> Vec<FeatureVector> {
    rows.iter().map(|row| row.map(u32::from)).collect()
}

/// Samples kept evenly from an endless stream (Vitter's algorithm R), in the order in which they came.
pub(super) struct Samples {
    rows: VecDeque<Row>,
    /// All rows, packed; then `rows` is empty.
    packed: Option<Packed>,
    seen: u64,
    random: Pcg64Mcg,
}

/// Rows that nobody asks for until a baseline is renewed or stored.
struct Packed {
    bytes: Box<[u8]>,
    rows: usize,
}

impl Samples {
    pub(super) fn new(seed: u64) -> Self {
        Self { rows: VecDeque::new(), packed: None, seen: 0, random: Pcg64Mcg::seed_from_u64(seed) }
    }

    pub(super) fn add(&mut self, row: Row, most: usize) {
        if let Some(packed) = self.packed.take() {
            self.rows = packed.unpack().into();
        }
        self.seen += 1;
        if self.rows.len() >= most.max(1) {
            let place = self.random.next_u64() % self.seen;
            if place >= self.rows.len() as u64 {
                return;
            }
            self.rows.remove(place as usize);
        }
        self.rows.push_back(row);
    }

    pub(super) fn len(&self) -> usize {
        self.packed.as_ref().map_or(self.rows.len(), |packed| packed.rows)
    }

    /// Oldest first.
    pub(super) fn rows(&self) -> Vec<Row> {
        self.packed.as_ref().map_or_else(|| self.rows.iter().copied().collect(), Packed::unpack)
    }

    /// Takes less memory from now on, until something is added.
    pub(super) fn pack(&mut self) {
        if self.packed.is_none() {
            self.packed = Packed::of(self.rows.make_contiguous());
        }
        if self.packed.is_some() {
            self.rows = VecDeque::new();
        }
    }
}

impl Packed {
    /// Column by column, because a feature's values are alike; high bytes before low ones. `None` when that would gain nothing.
    fn of(rows: &[Row]) -> Option<Self> {
        let mut plain = Vec::with_capacity(size_of_val(rows));
        for column in 0..FEATURES {
            plain.extend(rows.iter().map(|row| (row[column] >> 8) as u8));
            plain.extend(rows.iter().map(|row| row[column] as u8));
        }
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&plain).ok()?;
        let bytes = encoder.finish().ok()?;
        (bytes.len() < plain.len()).then(|| Self { bytes: bytes.into(), rows: rows.len() })
    }

    fn unpack(&self) -> Vec<Row> {
        let mut rows = vec![Row::default(); self.rows];
        let mut decoder = DeflateDecoder::new(&*self.bytes);
        let mut plain = vec![0; 2 * self.rows];
        for column in 0..FEATURES {
            // What was packed here can be unpacked.
            let read = decoder.read_exact(&mut plain);
            debug_assert!(read.is_ok());
            let (high, low) = plain.split_at(self.rows);
            for (row, (high, low)) in rows.iter_mut().zip(high.iter().zip(low)) {
                row[column] = u16::from_be_bytes([*high, *low]);
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_stream_is_sampled_evenly_and_in_order() {
        let mut samples = Samples::new(1);
        (0..10_000).for_each(|step| samples.add([step; FEATURES], 200));
        let first: Vec<u16> = samples.rows().iter().map(|row| row[0]).collect();
        assert!(first.len() == 200 && first.is_sorted(), "{first:?}");
        let early = first.iter().filter(|step| **step < 5_000).count();
        assert!((70..=130).contains(&early), "{early} of the first half");
    }

    #[test]
    fn packed_samples_of_like_traffic_take_a_fraction() {
        let mut samples = Samples::new(1);
        (0..512_u16)
            .for_each(|step| samples.add(std::array::from_fn(|column| column as u16 * 900 + step % 7), 512));
        samples.pack();
        let packed = samples.packed.as_ref().map(|packed| packed.bytes.len());
        assert!(packed.is_some_and(|bytes| bytes < 512 * size_of::<Row>() / 4), "{packed:?}");
    }

    proptest! {
        #[test]
        fn packing_changes_nothing(
            rows in proptest::collection::vec(any::<Row>(), 0..40),
            alike in 0..200_usize,
            more in proptest::collection::vec(any::<Row>(), 0..3),
        ) {
            let (mut plain, mut packed) = (Samples::new(3), Samples::new(3));
            for row in rows.iter().copied().chain(std::iter::repeat_n([7; FEATURES], alike)) {
                plain.add(row, 100);
                packed.add(row, 100);
            }
            packed.pack();
            prop_assert_eq!((plain.len(), plain.rows()), (packed.len(), packed.rows()));
            for row in more {
                plain.add(row, 100);
                packed.add(row, 100);
            }
            packed.pack();
            prop_assert_eq!((plain.len(), plain.rows()), (packed.len(), packed.rows()));
        }
    }
}
