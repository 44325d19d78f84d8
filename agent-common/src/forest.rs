//! Integer isolation forest (Liu, Ting, Zhou, ICDM 2008) in a fixed layout: the same walk in the kernel, the agent and replay.
//!
//! A tree is a complete binary heap of depth [`DEPTH`], so a walk is always eight comparisons and no branch. Leaves hold
//! the path length, c(n) correction included, in 1/256 levels; a score is the plain sum over all trees and is compared
//! with a limit, so nothing here needs floats, division or `exp2`. Trees that end early repeat their leaf below.
//! Training, and turning sums into scores between 0 and 1, is the agent's.

use bytemuck::{Pod, Zeroable};

use crate::feature::{FEATURES, FeatureVector};

/// Trees of a forest that the kernel runs; a multiple of four, because four are walked at once.
pub const TREES: usize = 100;
/// Comparisons on the way to a leaf: log2 of the 256 rows that a tree is grown from.
pub const DEPTH: u32 = 8;
/// Slots of a tree, of which slot 0 is unused, and leaves of a tree.
pub const NODES: usize = 1 << DEPTH;
/// What one level of a path counts in a leaf.
pub const LEVEL: u32 = 256;

/// One comparison: right when the feature is above the threshold, else left. A word, so that a walk loads once a level.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Node(u32);

impl Node {
    /// Always left: features are below 2^15.
    pub const UNUSED: Self = Self::new(u16::MAX, 0);

    /// A comparison of a feature with the highest value that goes left.
    pub const fn new(threshold: u16, feature: u16) -> Self {
        Self((threshold as u32) << 16 | feature as u32)
    }

    /// Highest value that goes left.
    #[inline(always)]
    pub const fn threshold(self) -> u32 {
        self.0 >> 16
    }

    /// Index of the feature, below [`FEATURES`] whatever was stored.
    #[inline(always)]
    pub const fn feature(self) -> usize {
        self.0 as usize & (FEATURES - 1)
    }
}

/// One tree: the root is node 1, the children of node `i` are `2i` and `2i + 1`, and slot `256 + k` of that heap is leaf `k`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Tree {
    /// Comparisons.
    pub nodes: [Node; NODES],
    /// Path lengths in 1/[`LEVEL`] of a level.
    pub leaves: [u16; NODES],
}

/// Which forest judges the flows that a device begins, and what its scores mean. A device without one is not judged.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct DeviceModel {
    /// Place of the forest's first tree in the table of trees; a multiple of [`TREES`].
    pub first_tree: u32,
    /// Tells this forest from the device's earlier ones.
    pub generation: u32,
    /// Flows that score below this are cut; 0 cuts none.
    pub cut_below: u32,
    /// Always zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Tree>() == 1_536 && TREES.is_multiple_of(4) && FEATURES.is_power_of_two());

/// Keeps a comparison's difference opaque, so that LLVM does not turn the walk into branches that explode in the verifier.
pub trait Barrier {
    /// Returns `value`.
    fn opaque(value: u64) -> u64;
}

/// No barrier: for the host, where branches do no harm.
#[derive(Clone, Copy, Debug)]
pub struct Host;

impl Barrier for Host {
    #[inline(always)]
    fn opaque(value: u64) -> u64 {
        value
    }
}

impl Tree {
    #[inline(always)]
    fn step<B: Barrier>(&self, features: &FeatureVector, at: u32) -> u32 {
        let node = self.nodes[at as usize & (NODES - 1)];
        let value = features[node.feature()];
        let below = B::opaque(u64::from(node.threshold()).wrapping_sub(u64::from(value)));
        2 * at + (below >> 63) as u32
    }

    #[inline(always)]
    const fn leaf(&self, at: u32) -> u32 {
        self.leaves[at as usize & (NODES - 1)] as u32
    }

    /// Path length of one vector in this tree, in 1/[`LEVEL`] of a level.
    #[inline(always)]
    pub fn path<B: Barrier>(&self, features: &FeatureVector) -> u32 {
        let mut at = 1;
        for _ in 0..DEPTH {
            at = self.step::<B>(features, at);
        }
        self.leaf(at)
    }
}

/// Summed path length of one vector in four trees, walked side by side so that their loads overlap.
#[inline(always)]
pub fn path_of_four<B: Barrier>(trees: [&Tree; 4], features: &FeatureVector) -> u32 {
    let [a, b, c, d] = trees;
    let (mut i, mut j, mut k, mut l) = (1, 1, 1, 1);
    let mut depth = 0;
    while depth < DEPTH {
        i = a.step::<B>(features, i);
        j = b.step::<B>(features, j);
        k = c.step::<B>(features, k);
        l = d.step::<B>(features, l);
        depth += 1;
    }
    a.leaf(i) + b.leaf(j) + c.leaf(k) + d.leaf(l)
}

/// Summed path length of one vector over a forest: the lower, the more anomalous.
pub fn score_sum(trees: &[Tree], features: &FeatureVector) -> u32 {
    let (fours, rest) = trees.as_chunks::<4>();
    let whole: u32 = fours.iter().map(|[a, b, c, d]| path_of_four::<Host>([a, b, c, d], features)).sum();
    whole + rest.iter().map(|tree| tree.path::<Host>(features)).sum::<u32>()
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn grow(mut seed: u64) -> Tree {
        let mut tree = Tree::zeroed();
        let mut next = || {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            crate::pod::mix64(seed)
        };
        for node in &mut tree.nodes {
            *node = Node::new((next() >> (16 + next() % 16)) as u16, (next() % FEATURES as u32) as u16);
        }
        for leaf in &mut tree.leaves {
            *leaf = (next() % 5_000) as u16;
        }
        tree
    }

    /// The definition, with branches and bounds.
    fn plain_path(tree: &Tree, features: &FeatureVector) -> u32 {
        let mut at = 1usize;
        while at < NODES {
            let node = tree.nodes[at];
            at = 2 * at + usize::from(features[node.feature()] > node.threshold());
        }
        u32::from(tree.leaves[at - NODES])
    }

    proptest! {
        #[test]
        fn the_branchless_walk_is_the_definition(seed: u64, features: [u16; FEATURES], count in 0usize..11) {
            let features = features.map(u32::from);
            let trees: Vec<Tree> = (0..count as u64).map(|tree| grow(seed.wrapping_add(tree << 32))).collect();
            let expected: u32 = trees.iter().map(|tree| plain_path(tree, &features)).sum();
            prop_assert_eq!(score_sum(&trees, &features), expected);
        }
    }

    #[test]
    fn the_threshold_itself_goes_left() {
        let mut tree = Tree::zeroed();
        tree.nodes.fill(Node::UNUSED);
        tree.nodes[1] = Node::new(7, 3);
        tree.leaves[0] = 1;
        tree.leaves[128] = 2;
        let at = |value| {
            let mut features = [0; FEATURES];
            features[3] = value;
            tree.path::<Host>(&features)
        };
        assert_eq!((at(6), at(7), at(8), at((1 << 15) - 1)), (1, 1, 2, 2));
    }
}
