//! Seeded isolation forest: training on integer rows, scores between 0 and 1.
//!
//! Growing is bounded: eight levels and one pass over a node's rows a level, whatever the values. The same rows and seed give
//! the same forest on every machine. Two things differ from the paper, see docs/decisions/0010:
//!
//! - A cut may lie a little outside the values of its node's rows and leave one side empty, so that a row from outside is
//!   isolated at once. A column that is constant there may be drawn, too; its cut goes just above or just below the constant.
//!   Columns constant in the whole table are drawn at most as often as the others.
//! - Root columns are dealt like cards, every column once before any comes again, which takes noise out of small forests.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tidegate_common::forest::{DEPTH, LEVEL, NODES, TREES};

use super::grid::Rows;

/// Columns a forest may have.
pub(super) const MAX_COLUMNS: usize = 1_024;
/// Trees a forest may have.
pub(super) const MAX_TREES: usize = 4_096;
/// Rows a tree is grown from, unless asked otherwise.
pub(super) const SAMPLE: u32 = NODES as u32;
/// Rows a tree may be grown from at most. Trees stay eight levels deep; leaves count the rows left in them.
pub(super) const MAX_SAMPLE: u32 = 65_536;

/// Cuts lie at most this part of the range of a node's values outside it.
const MARGIN_PART: u32 = 5;

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

impl Growth {
    /// Rows to draw for each tree of a table with so many columns and rows, or why it cannot be grown.
    pub(super) fn check(self, width: usize, rows: usize) -> Result<u32, GrowthError> {
        let sample = self.sample.min(u32::try_from(rows).unwrap_or(u32::MAX));
        match self {
            _ if width == 0 || width > MAX_COLUMNS => Err(GrowthError::Columns(width)),
            _ if rows == 0 => Err(GrowthError::NoRows),
            Self { trees, .. } if trees == 0 || trees > MAX_TREES => Err(GrowthError::Trees(trees)),
            _ if sample == 0 || sample > MAX_SAMPLE => Err(GrowthError::Sample(sample)),
            _ => Ok(sample),
        }
    }
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
    /// A value that is no finite number.
    #[error("cannot train on row {0}: it holds a value that is not a finite number")]
    NotFinite(usize),
}

/// One comparison of any column, on the whole grid: right when the value is above the threshold, else left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// Highest value that goes left.
    pub(super) threshold: u32,
    /// Column.
    pub(super) column: u32,
}

/// One tree, in the heap layout of `tidegate_common::forest`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tree {
    pub(super) nodes: [Node; NODES],
    /// Path lengths in 1/[`LEVEL`] of a level.
    pub(super) leaves: [u16; NODES],
}

impl Tree {
    /// A tree that is one leaf of no length.
    pub(super) const fn empty() -> Self {
        Self { nodes: [UNUSED; NODES], leaves: [0; NODES] }
    }
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
        let sample = growth.check(rows.width(), rows.len())?;
        let mut grower = Grower::new(rows, growth.seed);
        let trees = (0..growth.trees).map(|_| grower.tree(sample as usize)).collect();
        Ok(Self { trees, width: rows.width(), sample })
    }

    /// A forest from stored parts; `None` when they do not fit together.
    pub(super) fn from_parts(trees: Vec<Tree>, width: usize, sample: u32) -> Option<Self> {
        let fits = (1..=MAX_COLUMNS).contains(&width)
            && (1..=MAX_TREES).contains(&trees.len())
            && (1..=MAX_SAMPLE).contains(&sample)
            && trees.iter().all(|tree| tree.nodes.iter().all(|node| (node.column as usize) < width));
        fits.then_some(Self { trees, width, sample })
    }

    /// The trees.
    pub(super) fn trees(&self) -> &[Tree] {
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
        score(sum, self.trees.len(), self.sample)
    }

    /// The summed path length that scores `score`: what the kernel compares with.
    pub fn sum_of_score(&self, score: f64) -> u32 {
        let normal = unsuccessful_search(self.sample as usize);
        (-score.log2() * normal * f64::from(LEVEL) * self.trees.len() as f64) as u32
    }
}

/// Anomaly score of a path length summed over so many trees, each grown from so many rows.
pub(super) fn score(sum: u32, trees: usize, sample: u32) -> f64 {
    let mean = f64::from(sum) / f64::from(LEVEL) / trees as f64;
    // A forest grown from one row has c = 0 and tells nothing: every row scores one half.
    let normal = unsuccessful_search(sample as usize);
    if normal > 0.0 { (-mean / normal).exp2() } else { 0.5 }
}

/// c(n): mean path of an unsuccessful search in a binary search tree of n keys (Liu et al., eq. 1), with exact harmonic numbers.
pub(super) fn unsuccessful_search(n: usize) -> f64 {
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

/// A node below an early leaf: always left, whatever the row. No cut has this threshold, for none would lie right of it.
pub(super) const UNUSED: Node = Node { threshold: u32::MAX, column: 0 };

/// The leaves below heap slot `at` of level `depth`.
pub(super) const fn leaves_below(at: usize, depth: u32) -> std::ops::Range<usize> {
    let span = 1 << (DEPTH - depth);
    let first = at * span - NODES;
    first..first + span
}

struct Grower<'a> {
    rows: &'a Rows<u32>,
    random: Pcg64Mcg,
    /// Row numbers; the front is the current tree's sample, ordered by node.
    order: Vec<u32>,
    /// Columns whose values differ in the table, then those that are constant.
    columns: Vec<u16>,
    /// How many differ.
    varying: usize,
    /// Root columns still to be dealt.
    deck: Vec<u16>,
    /// Leaf value by rows left, so that no tree computes a logarithm.
    corrections: Vec<f64>,
}

impl<'a> Grower<'a> {
    fn new(rows: &'a Rows<u32>, seed: u64) -> Self {
        let first = rows.row(0);
        let mut differs = vec![false; rows.width()];
        for row in rows.iter() {
            for ((differs, value), first) in differs.iter_mut().zip(row).zip(first) {
                *differs |= value != first;
            }
        }
        let (mut columns, constant): (Vec<u16>, Vec<u16>) =
            (0..rows.width() as u16).partition(|column| differs[usize::from(*column)]);
        let varying = columns.len();
        columns.extend(constant);
        Self {
            rows,
            random: Pcg64Mcg::seed_from_u64(seed),
            order: (0..rows.len() as u32).collect(),
            columns,
            varying,
            deck: Vec::new(),
            corrections: (0..=NODES).map(unsuccessful_search).collect(),
        }
    }

    /// A number below `bound`, by multiplication; the bias is below 2^-32.
    fn below(&mut self, bound: u64) -> u64 {
        ((self.random.next_u64() >> 32) * bound) >> 32
    }

    /// Columns to draw from: the varying ones, and no more constant ones than those.
    fn choices(&self) -> usize {
        let constant = self.columns.len() - self.varying;
        self.varying + if self.varying == 0 { constant } else { constant.min(self.varying) }
    }

    fn column(&mut self, choice: usize) -> u16 {
        let constant = (self.columns.len() - self.varying) as u64;
        let place = if choice < self.varying { choice } else { self.varying + self.below(constant) as usize };
        self.columns[place]
    }

    /// The next root column.
    fn deal(&mut self) -> u16 {
        if self.deck.is_empty() {
            for choice in 0..self.choices() {
                let column = self.column(choice);
                let place = self.below(choice as u64 + 1) as usize;
                self.deck.insert(place, column);
            }
        }
        self.deck.pop().unwrap_or_default()
    }

    fn tree(&mut self, sample: usize) -> Tree {
        let rows = self.order.len();
        for place in 0..sample {
            let other = place + self.below((rows - place) as u64) as usize;
            self.order.swap(place, other);
        }
        let mut tree = Tree::empty();
        let root = self.deal();
        self.node(&mut tree, 1, 0, 0..sample, Some(root));
        tree
    }

    /// Grows the subtree of heap slot `at` from the rows in `range`, cutting through `column` first.
    fn node(
        &mut self,
        tree: &mut Tree,
        at: usize,
        depth: u32,
        range: std::ops::Range<usize>,
        column: Option<u16>,
    ) {
        if depth == DEPTH || range.len() <= 1 {
            let rest = self.corrections.get(range.len()).copied();
            let rest = rest.unwrap_or_else(|| unsuccessful_search(range.len()));
            let path = ((f64::from(depth) + rest) * f64::from(LEVEL)).round() as u16;
            tree.leaves[leaves_below(at, depth)].fill(path);
            return;
        }
        let column = column.unwrap_or_else(|| {
            let choice = self.below(self.choices() as u64) as usize;
            self.column(choice)
        });
        let (low, high) = self.extent(column, range.clone());
        let threshold = if low < high {
            let margin = (high - low) / MARGIN_PART;
            let (from, to) = (low.saturating_sub(margin), high.saturating_add(margin));
            from + self.below(u64::from(to - from)) as u32
        } else if low == 0 || (low < u32::MAX && self.below(2) == 0) {
            low
        } else {
            low - 1
        };
        tree.nodes[at] = Node { threshold, column: u32::from(column) };
        let middle = self.partition(column, threshold, range.clone());
        self.node(tree, 2 * at, depth + 1, range.start..middle, None);
        self.node(tree, 2 * at + 1, depth + 1, middle..range.end, None);
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
