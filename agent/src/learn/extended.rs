//! Seeded extended isolation forest (Hariri, Carrasco Kind, Brunner, TKDE 2019) at full extension: cuts across all columns.
//!
//! Rows are integers on the standard grid, so the same rows and seed give the same forest on every machine, and growing is
//! bounded: eight levels, one pass over a node's rows a level, whatever the values. A cut's direction is not stored: the seed,
//! the tree and the cut give it again, so that a cut takes eight bytes for any number of columns.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tidegate_common::forest::{DEPTH, LEVEL, NODES};

use super::{
    forest::{Growth, GrowthError, MAX_COLUMNS, score, unsuccessful_search},
    grid::Rows,
    standard::FARTHEST,
};

/// Set in the place of a child that is a leaf; the rest is its path length in 1/[`LEVEL`] of a level.
const LEAF: u16 = 1 << 15;
/// Numbers that are compared, multiplied and summed side by side; rows in growing are filled up with zeros to a multiple of it.
const LANES: usize = 8;
/// Rows scored while one tree's directions are at hand.
const BLOCK: usize = 1_024;

/// One cut: right when the row's product with the direction is above the threshold, else left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) threshold: i32,
    /// Index of the cut, or [`LEAF`] and a path length.
    pub(super) left: u16,
    pub(super) right: u16,
}

/// A trained forest.
#[derive(Clone, Debug, PartialEq)]
pub struct Extended {
    /// Cuts of each tree, the root first; none in a tree of one row.
    trees: Vec<Box<[Cut]>>,
    width: usize,
    sample: u32,
    seed: u64,
}

impl Extended {
    /// Grows a forest on `rows`.
    pub fn grow(rows: &Rows<i16>, growth: Growth) -> Result<Self, GrowthError> {
        let sample = growth.check(rows.width(), rows.len())?;
        let mut grower = Grower {
            rows,
            random: Pcg64Mcg::seed_from_u64(growth.seed),
            order: (0..rows.len() as u32).collect(),
            places: Vec::new(),
            stride: rows.width().next_multiple_of(LANES),
            sampled: Vec::new(),
            direction: Vec::new(),
            extents: Vec::new(),
        };
        let trees =
            (0..growth.trees).map(|tree| grower.tree(key(growth.seed, tree), sample as usize)).collect();
        Ok(Self { trees, width: rows.width(), sample, seed: growth.seed })
    }

    /// A forest from stored parts; `None` when they do not fit together.
    pub(super) fn from_parts(trees: Vec<Box<[Cut]>>, width: usize, sample: u32, seed: u64) -> Option<Self> {
        let growth = Growth { trees: trees.len(), sample, seed };
        // A child comes after its parent, so every walk ends.
        let leads_on = |tree: &[Cut], index: usize, child: u16| {
            child & LEAF != 0 || (index < usize::from(child) && usize::from(child) < tree.len())
        };
        let sound = |tree: &[Cut]| {
            tree.len() < NODES
                && tree
                    .iter()
                    .enumerate()
                    .all(|(index, cut)| leads_on(tree, index, cut.left) && leads_on(tree, index, cut.right))
        };
        let fits = growth.check(width, sample as usize).is_ok() && trees.iter().all(|tree| sound(tree));
        fits.then_some(Self { trees, width, sample, seed })
    }

    /// Cuts of each tree.
    pub(super) fn trees(&self) -> &[Box<[Cut]>] {
        &self.trees
    }

    /// Columns.
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Rows each tree was grown from.
    pub const fn sample(&self) -> u32 {
        self.sample
    }

    /// Summed path length of one row.
    pub fn sum(&self, row: &[i16]) -> u32 {
        let mut sum = 0;
        for (number, tree) in self.trees.iter().enumerate() {
            let key = key(self.seed, number);
            sum += path(tree, |index| {
                direction(key, index, self.width)
                    .zip(row)
                    .map(|(weight, value)| product(weight, *value))
                    .sum()
            });
        }
        sum
    }

    /// Anomaly score of a summed path length, 0–1, higher = more anomalous.
    pub fn score_of_sum(&self, sum: u32) -> f64 {
        score(sum, self.trees.len(), self.sample)
    }

    /// Anomaly scores of rows on the grid.
    pub fn score_rows(&self, rows: &Rows<i16>) -> Vec<f64> {
        self.sums(rows).into_iter().map(|sum| self.score_of_sum(sum)).collect()
    }

    /// Summed path lengths of rows on the grid.
    pub fn sums(&self, rows: &Rows<i16>) -> Vec<u32> {
        let mut sums = vec![0_u32; rows.len()];
        let mut directions = Vec::new();
        for first in (0..rows.len()).step_by(BLOCK) {
            let block = first..rows.len().min(first + BLOCK);
            for (number, tree) in self.trees.iter().enumerate() {
                directions.clear();
                let key = key(self.seed, number);
                (0..tree.len()).for_each(|index| directions.extend(direction(key, index, self.width)));
                for row in block.clone() {
                    sums[row] += path(tree, |index| {
                        dot(&directions[index * self.width..][..self.width], rows.row(row))
                    });
                }
            }
        }
        sums
    }
}

/// Where one tree's directions come from; the low eight bits are the cut's.
const fn key(seed: u64, tree: usize) -> u64 {
    seed.rotate_left(32) ^ (tree as u64) << 8
}

/// A cut's direction, column by column: a bell over -127 … 127, made of the four bytes of one draw. In 16 bits, as products of
/// two such numbers are summed eight at a time.
fn direction(key: u64, cut: usize, width: usize) -> impl Iterator<Item = i16> {
    let mut random = Pcg64Mcg::seed_from_u64(key ^ cut as u64);
    std::iter::repeat_with(move || {
        let bytes = random.next_u32().to_le_bytes();
        let sum: i32 = bytes.iter().map(|byte| i32::from(*byte)).sum();
        ((sum - 510) / 4) as i16
    })
    .take(width)
}

fn product(weight: i16, value: i16) -> i32 {
    i32::from(weight) * i32::from(value)
}

/// At most 1,024 columns · 127 · 16,383, which is below 2^31.
fn dot(direction: &[i16], row: &[i16]) -> i32 {
    direction.iter().zip(row).map(|(weight, value)| product(*weight, *value)).sum()
}

/// The same for rows filled up to whole lanes.
fn dot_in_lanes(direction: &[i16], row: &[i16]) -> i32 {
    let lanes = direction.as_chunks::<LANES>().0.iter().zip(row.as_chunks::<LANES>().0);
    let of_lanes = |(weights, values): (&[i16; LANES], &[i16; LANES])| -> i32 {
        weights.iter().zip(values).map(|(weight, value)| product(*weight, *value)).sum()
    };
    lanes.map(of_lanes).sum()
}

const _: () = assert!(MAX_COLUMNS as i64 * 127 * (FARTHEST as i64) < i32::MAX as i64);

fn path(tree: &[Cut], position: impl Fn(usize) -> i32) -> u32 {
    let mut at = 0;
    while let Some(cut) = tree.get(at) {
        let child = if position(at) > cut.threshold { cut.right } else { cut.left };
        if child & LEAF != 0 {
            return u32::from(child ^ LEAF);
        }
        at = usize::from(child);
    }
    0
}

struct Grower<'a> {
    rows: &'a Rows<i16>,
    random: Pcg64Mcg,
    /// Row numbers; the front is the current tree's sample.
    order: Vec<u32>,
    /// Numbers from one sampled row to the next.
    stride: usize,
    /// The sample's rows, one after the other: they fit the first-level cache together.
    sampled: Vec<i16>,
    /// Their places in it, ordered by node.
    places: Vec<u32>,
    direction: Vec<i16>,
    /// Smallest and largest value of each column in a node.
    extents: Vec<(i16, i16)>,
}

impl Grower<'_> {
    /// A number from 0 to `most`; the bias is below 2^-15.
    fn up_to(&mut self, most: u32) -> u32 {
        (((self.random.next_u64() >> 32) * (u64::from(most) + 1)) >> 32) as u32
    }

    fn tree(&mut self, key: u64, sample: usize) -> Box<[Cut]> {
        for place in 0..sample {
            let other = place + self.up_to((self.order.len() - place - 1) as u32) as usize;
            self.order.swap(place, other);
        }
        self.sampled.clear();
        for row in &self.order[..sample] {
            self.sampled.extend_from_slice(self.rows.row(*row as usize));
            self.sampled.resize(self.sampled.len().next_multiple_of(self.stride), 0);
        }
        self.places.clear();
        self.places.extend(0..sample as u32);
        let mut cuts = Vec::with_capacity(NODES);
        self.node(&mut cuts, key, 0, 0..sample);
        cuts.into_boxed_slice()
    }

    /// Grows the subtree of the rows in `range`; what its parent is to refer to it by.
    fn node(&mut self, cuts: &mut Vec<Cut>, key: u64, depth: u32, range: std::ops::Range<usize>) -> u16 {
        if depth == DEPTH || range.len() <= 1 {
            let levels = f64::from(depth) + unsuccessful_search(range.len());
            return LEAF | (levels * f64::from(LEVEL)).round() as u16;
        }
        let index = cuts.len();
        let threshold = self.threshold(key, index, range.clone());
        cuts.push(Cut { threshold, left: LEAF, right: LEAF });
        let middle = self.partition(threshold, range.clone());
        let left = self.node(cuts, key, depth + 1, range.start..middle);
        let right = self.node(cuts, key, depth + 1, middle..range.end);
        cuts[index] = Cut { threshold, left, right };
        index as u16
    }

    /// Draws a direction and a point in the box around the rows: the point's product with the direction. A column constant
    /// here stays part of the direction, so that rows which differ in it are cut off.
    fn threshold(&mut self, key: u64, index: usize, range: std::ops::Range<usize>) -> i32 {
        let width = self.rows.width();
        self.direction.clear();
        self.direction.extend(direction(key, index, width));
        self.direction.resize(self.stride, 0);
        self.extents.clear();
        for first in (0..self.stride).step_by(LANES) {
            let (mut lows, mut highs) = ([i16::MAX; LANES], [i16::MIN; LANES]);
            for place in &self.places[range.clone()] {
                let values = &self.sampled[*place as usize * self.stride + first..][..LANES];
                for ((low, high), value) in lows.iter_mut().zip(&mut highs).zip(values) {
                    *low = (*low).min(*value);
                    *high = (*high).max(*value);
                }
            }
            self.extents.extend(lows.into_iter().zip(highs));
        }
        (0..width)
            .map(|column| {
                let (low, high) = self.extents[column];
                let inside = self.up_to(u32::from(high.abs_diff(low))) as i32;
                i32::from(self.direction[column]) * (i32::from(low) + inside)
            })
            .sum()
    }

    /// Rows at or below the threshold to the front; the end of that part.
    fn partition(&mut self, threshold: i32, range: std::ops::Range<usize>) -> usize {
        let mut middle = range.start;
        for index in range {
            let row = &self.sampled[self.places[index] as usize * self.stride..][..self.stride];
            if dot_in_lanes(&self.direction, row) <= threshold {
                self.places.swap(index, middle);
                middle += 1;
            }
        }
        middle
    }
}

#[cfg(test)]
#[path = "extended_tests.rs"]
mod tests;
