//! A flow forest without the slots that its trees leave unused: what the agent keeps of it for every device.
//!
//! The kernel's layout takes 160 kB a forest whatever its trees hold; this one takes a fraction. Walks end in the same leaves, and the
//! kernel's trees can be had back from it.

use std::hash::{DefaultHasher, Hash, Hasher};

use tidegate_common::{
    feature::{FEATURES, FeatureVector},
    forest::{DEPTH, Node, Tree},
};

use super::forest::{self, Forest, UNUSED, leaves_below, score};

/// One split in a word, in the order in which a walk that goes left first meets them. What is below on the left stands next; so the
/// number of leaves there, one more than its splits, leads past both to what is below on the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Split(u32);

/// A split, and the leaf that is leftmost below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    split: usize,
    leaf: usize,
}

/// Where a branch of a walk leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Child {
    Split(Place),
    /// Path length in 1/256 of a level.
    Leaf(u32),
}

/// A forest over flow features.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Compact {
    splits: Box<[Split]>,
    /// Path lengths, a tree's leaves from left to right.
    leaves: Box<[u16]>,
    /// Where each tree begins among the splits, and among the leaves.
    trees: Box<[(u32, u32)]>,
    sample: u32,
    /// Hash of all splits and leaves.
    fingerprint: u64,
}

impl Split {
    const fn new(threshold: u16, feature: u8, leaves_left: usize, right_is_leaf: bool) -> Self {
        Self(
            threshold as u32
                | (feature as u32) << 16
                | (leaves_left as u32) << 20
                | (right_is_leaf as u32) << 28,
        )
    }

    const fn threshold(self) -> u16 {
        self.0 as u16
    }

    const fn feature(self) -> usize {
        (self.0 >> 16 & 0xf) as usize
    }

    const fn leaves_left(self) -> usize {
        (self.0 >> 20 & 0xff) as usize
    }

    const fn right_is_leaf(self) -> bool {
        self.0 >> 28 & 1 == 1
    }
}

const _: () =
    assert!(FEATURES == 16 && 1 << DEPTH <= 1 << 8, "a split's feature has 4 bits, its leaves on the left 8");

impl Compact {
    pub(super) fn of(forest: &Forest) -> Self {
        let (mut splits, mut leaves, mut trees) = (Vec::new(), Vec::new(), Vec::new());
        for tree in forest.trees() {
            trees.push((splits.len() as u32, leaves.len() as u32));
            prune(tree, 1, 0, &mut splits, &mut leaves);
        }
        let mut hasher = DefaultHasher::new();
        (&splits, &leaves).hash(&mut hasher);
        Self {
            splits: splits.into_boxed_slice(),
            leaves: leaves.into_boxed_slice(),
            trees: trees.into_boxed_slice(),
            sample: forest.sample(),
            fingerprint: hasher.finish(),
        }
    }

    /// The same for the same trees, within one process.
    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Bytes that its trees take.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.splits) + size_of_val(&*self.leaves) + size_of_val(&*self.trees)
    }

    /// Where walks begin: the root of each tree.
    pub(super) fn roots(&self) -> impl Iterator<Item = Child> {
        (0..self.trees.len()).map(|tree| {
            let (split, leaf) = self.trees[tree];
            let next = self.trees.get(tree + 1).map_or(self.splits.len(), |(split, _)| *split as usize);
            let place = Place { split: split as usize, leaf: leaf as usize };
            if place.split == next { self.leaf(place.leaf) } else { Child::Split(place) }
        })
    }

    /// The feature that a split asks for.
    pub(super) fn feature(&self, at: Place) -> usize {
        self.splits[at.split].feature()
    }

    /// Where a value of that feature leads: right when it is above the threshold.
    pub(super) fn child(&self, at: Place, value: u32) -> Child {
        let split = self.splits[at.split];
        let skipped = split.leaves_left();
        let right = Place { split: at.split + skipped, leaf: at.leaf + skipped };
        match value > u32::from(split.threshold()) {
            true if split.right_is_leaf() => self.leaf(right.leaf),
            true => Child::Split(right),
            false if skipped == 1 => self.leaf(at.leaf),
            false => Child::Split(Place { split: at.split + 1, leaf: at.leaf }),
        }
    }

    fn leaf(&self, leaf: usize) -> Child {
        Child::Leaf(u32::from(self.leaves[leaf]))
    }

    /// Summed path length of a vector.
    pub(super) fn sum(&self, vector: &FeatureVector) -> u32 {
        let path = |mut child| {
            loop {
                match child {
                    Child::Split(at) => child = self.child(at, vector[self.feature(at)]),
                    Child::Leaf(path) => return path,
                }
            }
        };
        self.roots().map(path).sum()
    }

    /// Anomaly score of a summed path length.
    pub(super) fn score_of_sum(&self, sum: u32) -> f64 {
        score(sum, self.trees.len(), self.sample)
    }

    /// The trees as the kernel walks them.
    pub(super) fn kernel_trees(&self) -> Vec<Tree> {
        let expand = |root| {
            let mut tree = Tree::EMPTY;
            self.grow_back(root, &mut tree, 1, 0);
            tree
        };
        self.roots().map(expand).collect()
    }

    fn grow_back(&self, child: Child, tree: &mut Tree, at: usize, depth: u32) {
        match child {
            Child::Leaf(path) => tree.leaves_mut()[leaves_below(at, depth)].fill(path as u16),
            Child::Split(place) => {
                let split = self.splits[place.split];
                *tree.node_mut(at) = Node::new(split.threshold(), split.feature() as u16);
                self.grow_back(self.child(place, 0), tree, 2 * at, depth + 1);
                self.grow_back(self.child(place, u32::MAX), tree, 2 * at + 1, depth + 1);
            }
        }
    }
}

/// Appends the subtree of heap slot `at`.
fn prune(tree: &forest::Tree, at: usize, depth: u32, splits: &mut Vec<Split>, leaves: &mut Vec<u16>) {
    if depth == DEPTH || tree.nodes[at] == UNUSED {
        return leaves.push(tree.leaves[leaves_below(at, depth).start]);
    }
    let forest::Node { threshold, column } = tree.nodes[at];
    let threshold = u16::try_from(threshold).unwrap_or(u16::MAX);
    let (index, before) = (splits.len(), leaves.len());
    splits.push(Split(0));
    prune(tree, 2 * at, depth + 1, splits, leaves);
    let leaves_left = leaves.len() - before;
    let splits_before = splits.len();
    prune(tree, 2 * at + 1, depth + 1, splits, leaves);
    splits[index] = Split::new(threshold, column as u8, leaves_left, splits.len() == splits_before);
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
