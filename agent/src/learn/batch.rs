//! Scores many rows at once: tree after tree over blocks of rows, eight rows side by side.
//!
//! A block and one tree fit the first-level cache together, and eight walks hide each other's load latency. Rows are padded
//! to a power of two, so that a masked index needs no bounds check. The walk is that of `tidegate_common::forest`.

use tidegate_common::forest::{DEPTH, NODES};

use super::{
    forest::{Forest, MAX_COLUMNS, Tree},
    grid::{Grid, Rows},
};

/// Rows put on the grid at once.
const BATCH: usize = 1_024;
/// Rows of a block.
const BLOCK: usize = 128;
/// Rows walked side by side.
const LANES: usize = 8;

impl Forest {
    /// Summed path length of one row.
    pub fn sum(&self, row: &[u32]) -> u32 {
        let mut sums = [0];
        self.sums(row, &mut sums);
        sums[0]
    }

    /// Anomaly score of one row, 0–1, higher = more anomalous.
    pub fn score(&self, row: &[u32]) -> f64 {
        self.score_of_sum(self.sum(row))
    }

    /// Anomaly scores of rows that are not on the grid yet.
    pub fn score_rows(&self, grid: &Grid, rows: &Rows<f64>) -> Vec<f64> {
        let mut scores = Vec::with_capacity(rows.len());
        let mut placed = Vec::with_capacity(BATCH * self.width());
        let mut sums = [0; BATCH];
        for first in (0..rows.len()).step_by(BATCH) {
            let count = BATCH.min(rows.len() - first);
            placed.clear();
            (first..first + count).for_each(|row| grid.place(rows.row(row), &mut placed));
            self.sums(&placed, &mut sums[..count]);
            scores.extend(sums[..count].iter().map(|sum| self.score_of_sum(*sum)));
        }
        scores
    }

    /// Summed path lengths of as many rows as `sums` has places; `rows` holds them one after the other.
    pub fn sums(&self, rows: &[u32], sums: &mut [u32]) {
        assert!(rows.len() >= sums.len() * self.width(), "{} values for {} rows", rows.len(), sums.len());
        match self.width() {
            0..=16 => sums_padded::<16>(self, rows, sums),
            17..=64 => sums_padded::<64>(self, rows, sums),
            65..=256 => sums_padded::<256>(self, rows, sums),
            _ => sums_padded::<MAX_COLUMNS>(self, rows, sums),
        }
    }
}

fn sums_padded<const W: usize>(forest: &Forest, rows: &[u32], sums: &mut [u32]) {
    let width = forest.width();
    if let [sum] = sums {
        let mut row = [0; W];
        row[..width].copy_from_slice(&rows[..width]);
        *sum = forest.trees().iter().map(|tree| paths(tree, &[row])[0]).sum();
        return;
    }
    // On the heap: at the widest it is larger than a thread's stack should hold.
    #[allow(clippy::useless_vec, reason = "an array would stand on the stack")]
    let mut block = vec![[[0_u32; W]; LANES]; BLOCK / LANES];
    for (sums, rows) in sums.chunks_mut(BLOCK).zip(rows.chunks(BLOCK * width)) {
        for (place, row) in rows.chunks_exact(width).take(sums.len()).enumerate() {
            block[place / LANES][place % LANES][..width].copy_from_slice(row);
        }
        let used = &block[..sums.len().div_ceil(LANES)];
        let mut totals = [[0; LANES]; BLOCK / LANES];
        for tree in forest.trees() {
            for (group, total) in used.iter().zip(&mut totals) {
                for (sum, path) in total.iter_mut().zip(paths(tree, group)) {
                    *sum += path;
                }
            }
        }
        for (sum, total) in sums.iter_mut().zip(totals.as_flattened()) {
            *sum = *total;
        }
    }
}

#[inline(always)]
fn paths<const W: usize, const N: usize>(tree: &Tree, rows: &[[u32; W]; N]) -> [u32; N] {
    let mut at = [1_usize; N];
    for _ in 0..DEPTH {
        for (at, row) in at.iter_mut().zip(rows) {
            let node = tree.nodes[*at & (NODES - 1)];
            let value = row[node.column as usize & (W - 1)];
            *at = 2 * *at + usize::from(value > node.threshold);
        }
    }
    at.map(|at| u32::from(tree.leaves[at & (NODES - 1)]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::learn::forest::Growth;

    /// The definition, with branches and bounds.
    fn plain_path(tree: &Tree, row: &[u32]) -> u32 {
        let mut at = 1;
        while at < NODES {
            let node = tree.nodes[at];
            at = 2 * at + usize::from(row[node.column as usize] > node.threshold);
        }
        u32::from(tree.leaves[at - NODES])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn many_rows_are_scored_as_each_alone(rows in proptest::collection::vec(any::<[u32; 20]>(), 1..300), seed: u64, width in 1..=20usize) {
            let mut table = Rows::new(width);
            for row in &rows {
                table.push(row);
            }
            let forest = Forest::grow(&table, Growth { trees: 10, seed, ..Growth::default() }).unwrap();
            let flat: Vec<u32> = table.iter().flatten().copied().collect();
            let mut sums = vec![0; table.len()];
            forest.sums(&flat, &mut sums);
            for (row, sum) in table.iter().zip(sums) {
                prop_assert_eq!(sum, forest.trees().iter().map(|tree| plain_path(tree, row)).sum::<u32>());
                prop_assert_eq!(sum, forest.sum(row));
            }
        }
    }
}
