//! A flow forest without the slots that its trees leave unused: what the agent keeps of it for every device.
//!
//! The kernel's layout takes 154 kB a forest whatever its trees hold; this one takes a fraction. Walks end in the same leaves, and the
//! kernel's trees can be had back from it.

use std::hash::{DefaultHasher, Hash, Hasher};

use tidegate_common::{
    feature::{FEATURES, FeatureVector},
    forest::{DEPTH, NODES, Node, Tree},
};

use super::forest::{self, Forest, UNUSED, leaves_below, score};

/// Set in the place of a child that is a leaf; the rest is its path length.
const LEAF: u16 = 1 << 15;

/// Right when the feature is above the threshold, else left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Split {
    /// Features are below 2^15, so thresholds that would not fit here are above every value.
    pub(super) threshold: u16,
    pub(super) feature: u8,
    left: u16,
    right: u16,
}

/// Where a branch of a walk leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Child {
    Split(usize),
    /// Path length in 1/256 of a level.
    Leaf(u32),
}

/// A forest over flow features.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Compact {
    /// Splits of each tree, every one before those below it.
    trees: Vec<Box<[Split]>>,
    sample: u32,
    /// Hash of all splits.
    fingerprint: u64,
}

impl Split {
    /// Where a value leads.
    pub(super) fn child(self, value: u32) -> Child {
        Child::of(if value > u32::from(self.threshold) { self.right } else { self.left })
    }
}

impl Child {
    fn of(stored: u16) -> Self {
        if stored & LEAF == 0 {
            Self::Split(usize::from(stored))
        } else {
            Self::Leaf(u32::from(stored ^ LEAF))
        }
    }
}

impl Compact {
    pub(super) fn of(forest: &Forest) -> Self {
        let trees = forest.trees().iter().map(|tree| {
            let mut splits = Vec::new();
            let root = prune(tree, 1, 0, &mut splits);
            if splits.is_empty() {
                // A tree that is one leaf still needs a place to begin.
                splits.push(Split { threshold: u16::MAX, feature: 0, left: root, right: root });
            }
            splits.into_boxed_slice()
        });
        let trees: Vec<Box<[Split]>> = trees.collect();
        let mut hasher = DefaultHasher::new();
        trees.hash(&mut hasher);
        Self { trees, sample: forest.sample(), fingerprint: hasher.finish() }
    }

    /// The same for the same trees, within one process.
    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Splits of each tree, the root first.
    pub(super) fn trees(&self) -> &[Box<[Split]>] {
        &self.trees
    }

    /// Summed path length of a vector.
    pub(super) fn sum(&self, vector: &FeatureVector) -> u32 {
        let path = |tree: &[Split]| {
            let mut at = 0;
            loop {
                let split = &tree[at];
                match split.child(vector[usize::from(split.feature) % FEATURES]) {
                    Child::Split(next) => at = next,
                    Child::Leaf(path) => return path,
                }
            }
        };
        self.trees.iter().map(|tree| path(tree)).sum()
    }

    /// Anomaly score of a summed path length.
    pub(super) fn score_of_sum(&self, sum: u32) -> f64 {
        score(sum, self.trees.len(), self.sample)
    }

    /// The trees as the kernel walks them.
    pub(super) fn kernel_trees(&self) -> Vec<Tree> {
        let expand = |splits: &[Split]| {
            let mut tree = Tree { nodes: [Node::UNUSED; NODES], leaves: [0; NODES] };
            grow_back(splits, Child::Split(0), &mut tree, 1, 0);
            tree
        };
        self.trees.iter().map(|splits| expand(splits)).collect()
    }
}

/// Appends the subtree of heap slot `at`; how its parent refers to it.
fn prune(tree: &forest::Tree, at: usize, depth: u32, splits: &mut Vec<Split>) -> u16 {
    if depth == DEPTH || tree.nodes[at] == UNUSED {
        return LEAF | tree.leaves[leaves_below(at, depth).start];
    }
    let forest::Node { threshold, column } = tree.nodes[at];
    let index = splits.len();
    let threshold = u16::try_from(threshold).unwrap_or(u16::MAX);
    splits.push(Split { threshold, feature: column as u8, left: LEAF, right: LEAF });
    splits[index].left = prune(tree, 2 * at, depth + 1, splits);
    splits[index].right = prune(tree, 2 * at + 1, depth + 1, splits);
    index as u16
}

fn grow_back(splits: &[Split], child: Child, tree: &mut Tree, at: usize, depth: u32) {
    match child {
        Child::Leaf(path) => tree.leaves[leaves_below(at, depth)].fill(path as u16),
        Child::Split(index) => {
            let Split { threshold, feature, left, right } = splits[index];
            tree.nodes[at] = Node::new(threshold, u16::from(feature));
            grow_back(splits, Child::of(left), tree, 2 * at, depth + 1);
            grow_back(splits, Child::of(right), tree, 2 * at + 1, depth + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidegate_common::forest::score_sum;

    use super::*;
    use crate::learn::{forest::Growth, grid::Rows};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// The forest as it was grown, the compact one and the kernel's judge alike.
        #[test]
        fn nothing_is_lost(
            rows in proptest::collection::vec(any::<[u16; FEATURES]>(), 1..300),
            asked in proptest::collection::vec(any::<[u16; FEATURES]>(), 20),
            seed: u64,
        ) {
            let vector = |row: &[u16; FEATURES]| row.map(|value| u32::from(value >> 1));
            let (rows, asked): (Vec<_>, Vec<_>) =
                (rows.iter().map(vector).collect(), asked.iter().map(vector).collect());
            let mut table = Rows::new(FEATURES);
            for row in &rows {
                table.push(row);
            }
            let forest = Forest::grow(&table, Growth { trees: 12, seed, ..Growth::default() }).unwrap();
            let compact = Compact::of(&forest);
            let back = compact.kernel_trees();
            for row in rows.iter().chain(&asked) {
                prop_assert_eq!(compact.sum(row), forest.sum(row));
                prop_assert_eq!(compact.sum(row), score_sum(&back, row));
            }
        }
    }
}
