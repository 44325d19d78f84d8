//! Seeded isolation forest: training on integer rows, scores between 0 and 1.
//!
//! Growing is bounded: at most 256 rows a tree, eight levels, one pass over a node's rows for every column tried, and a
//! column found constant is never tried again below. The same rows and seed give the same forest on every machine.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tidegate_common::forest::{DEPTH, LEVEL, NODES, Node, TREES, Tree};

use super::grid::Rows;

/// Columns a forest may have.
pub(super) const MAX_COLUMNS: usize = 1_024;
/// Trees a forest may have.
pub(super) const MAX_TREES: usize = 4_096;
/// Rows a tree is grown from, unless asked otherwise.
pub(super) const SAMPLE: u32 = NODES as u32;
/// Rows a tree may be grown from at most. Trees stay eight levels deep; leaves count the rows left in them.
pub(super) const MAX_SAMPLE: u32 = 65_536;

/// How a forest is grown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Trees.
    pub trees: usize,
    /// Rows for each tree, drawn without replacement; fewer when there are fewer.
    pub sample: u32,
    /// Seed.
    pub seed: u64,
}

impl Default for Growth {
    fn default() -> Self {
        Self { trees: TREES, sample: SAMPLE, seed: 1 }
    }
}

/// The forest cannot be grown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrowthError {
    /// No rows.
    #[error("cannot train on no rows: the file needs at least one row below its header")]
    NoRows,
    /// No columns, or too many.
    #[error("cannot train on {0} columns: between 1 and {MAX_COLUMNS} are possible")]
    Columns(usize),
    /// No trees, or too many.
    #[error("cannot grow {0} trees: between 1 and {MAX_TREES} are possible")]
    Trees(usize),
    /// Sample too small or too large.
    #[error("cannot grow a tree from a sample of {0} rows: between 1 and {MAX_SAMPLE} are possible")]
    Sample(u32),
}

/// A trained forest.
#[derive(Clone, Debug, PartialEq)]
pub struct Forest {
    trees: Vec<Tree>,
    width: usize,
    sample: u32,
}

impl Forest {
    /// Grows a forest on `rows`.
    pub fn grow(rows: &Rows<u32>, growth: Growth) -> Result<Self, GrowthError> {
        if rows.width() == 0 || rows.width() > MAX_COLUMNS {
            return Err(GrowthError::Columns(rows.width()));
        }
        if rows.is_empty() {
            return Err(GrowthError::NoRows);
        }
        if growth.trees == 0 || growth.trees > MAX_TREES {
            return Err(GrowthError::Trees(growth.trees));
        }
        if growth.sample == 0 || growth.sample > MAX_SAMPLE {
            return Err(GrowthError::Sample(growth.sample));
        }
        let sample = growth.sample.min(u32::try_from(rows.len()).unwrap_or(u32::MAX));
        let mut grower = Grower::new(rows, growth.seed);
        let trees = (0..growth.trees).map(|_| grower.tree(sample as usize)).collect();
        Ok(Self { trees, width: rows.width(), sample })
    }

    /// A forest from stored parts; `None` when they do not fit together.
    pub fn from_parts(trees: Vec<Tree>, width: usize, sample: u32) -> Option<Self> {
        let fits = (1..=MAX_COLUMNS).contains(&width)
            && (1..=MAX_TREES).contains(&trees.len())
            && (1..=MAX_SAMPLE).contains(&sample)
            && trees.iter().all(|tree| tree.nodes.iter().all(|node| (node.feature as usize) < width));
        fits.then_some(Self { trees, width, sample })
    }

    /// The trees, as the kernel takes them.
    pub fn trees(&self) -> &[Tree] {
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

    /// Anomaly score for a summed path length: 2^(-E\[h\] / c(sample)), 1 for the shortest paths (Liu et al., eq. 2).
    pub fn score_of_sum(&self, sum: u32) -> f64 {
        let mean = f64::from(sum) / f64::from(LEVEL) / self.trees.len() as f64;
        // A forest grown from one row has c = 0 and tells nothing: every row scores one half.
        let normal = unsuccessful_search(self.sample as usize);
        if normal > 0.0 { (-mean / normal).exp2() } else { 0.5 }
    }

    /// The summed path length that scores `score`: what the kernel compares with.
    pub fn sum_of_score(&self, score: f64) -> u32 {
        let normal = unsuccessful_search(self.sample as usize);
        (-score.log2() * normal * f64::from(LEVEL) * self.trees.len() as f64) as u32
    }
}

/// c(n): mean path of an unsuccessful search in a binary search tree of n keys (Liu et al., eq. 1), with exact harmonic numbers.
fn unsuccessful_search(n: usize) -> f64 {
    const EULER: f64 = 0.577_215_664_901_532_9;
    if n < 2 {
        return 0.0;
    }
    let m = n as f64 - 1.0;
    let harmonic = if n <= NODES {
        (1..n).map(|k| 1.0 / k as f64).sum::<f64>()
    } else {
        m.ln() + EULER + 1.0 / (2.0 * m) - 1.0 / (12.0 * m * m)
    };
    2.0 * harmonic - 2.0 * m / n as f64
}

struct Grower<'a> {
    rows: &'a Rows<u32>,
    random: Pcg64Mcg,
    /// Row numbers; the front is the current tree's sample, ordered by node.
    order: Vec<u32>,
    /// Column numbers; those not yet found constant come first.
    columns: Vec<u16>,
    /// Leaf value by rows left and depth, so that no tree computes a logarithm.
    corrections: Vec<f64>,
}

impl<'a> Grower<'a> {
    fn new(rows: &'a Rows<u32>, seed: u64) -> Self {
        Self {
            rows,
            random: Pcg64Mcg::seed_from_u64(seed),
            order: (0..rows.len() as u32).collect(),
            columns: (0..rows.width() as u16).collect(),
            corrections: (0..=NODES).map(unsuccessful_search).collect(),
        }
    }

    /// A number below `bound`, by multiplication; the bias is below 2^-32.
    fn below(&mut self, bound: u64) -> u64 {
        ((self.random.next_u64() >> 32) * bound) >> 32
    }

    fn tree(&mut self, sample: usize) -> Tree {
        let rows = self.order.len();
        for place in 0..sample {
            let other = place + self.below((rows - place) as u64) as usize;
            self.order.swap(place, other);
        }
        let mut tree = Tree { nodes: [Node { threshold: u32::MAX, feature: 0 }; NODES], leaves: [0; NODES] };
        self.node(&mut tree, 1, 0, 0..sample, self.columns.len());
        tree
    }

    /// Grows the subtree of heap slot `at` from the rows in `range`; `live` columns may still differ.
    fn node(
        &mut self,
        tree: &mut Tree,
        at: usize,
        depth: u32,
        range: std::ops::Range<usize>,
        mut live: usize,
    ) {
        while depth < DEPTH && range.len() > 1 && live > 0 {
            let drawn = self.below(live as u64) as usize;
            let column = self.columns[drawn];
            let (low, high) = self.extent(column, range.clone());
            if low == high {
                live -= 1;
                self.columns.swap(drawn, live);
                continue;
            }
            let threshold = low + self.below(u64::from(high - low)) as u32;
            tree.nodes[at] = Node { threshold, feature: u32::from(column) };
            let middle = self.partition(column, threshold, range.clone());
            self.node(tree, 2 * at, depth + 1, range.start..middle, live);
            self.node(tree, 2 * at + 1, depth + 1, middle..range.end, live);
            return;
        }
        let rest =
            self.corrections.get(range.len()).copied().unwrap_or_else(|| unsuccessful_search(range.len()));
        let path = ((f64::from(depth) + rest) * f64::from(LEVEL)).round() as u16;
        let span = 1usize << (DEPTH - depth);
        let first = (at << (DEPTH - depth)) - NODES;
        tree.leaves[first..first + span].fill(path);
    }

    fn extent(&self, column: u16, range: std::ops::Range<usize>) -> (u32, u32) {
        self.order[range].iter().fold((u32::MAX, 0), |(low, high), row| {
            let value = self.rows.row(*row as usize)[usize::from(column)];
            (low.min(value), high.max(value))
        })
    }

    /// Rows at or below the threshold to the front; the end of that part.
    fn partition(&mut self, column: u16, threshold: u32, range: std::ops::Range<usize>) -> usize {
        let mut middle = range.start;
        for place in range {
            if self.rows.row(self.order[place] as usize)[usize::from(column)] <= threshold {
                self.order.swap(place, middle);
                middle += 1;
            }
        }
        middle
    }
}

#[cfg(test)]
#[path = "forest_tests.rs"]
mod tests;
