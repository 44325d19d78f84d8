//! Integer isolation forest (Liu, Ting, Zhou, ICDM 2008) in a fixed layout, as the kernel walks it; the agent's own walk gives the same sums.
//!
//! A tree is a complete binary heap of depth [`DEPTH`], so a walk is always eight comparisons and no branch. Leaves hold
//! the path length, c(n) correction included, in 1/256 levels; a score is the plain sum over all trees and is compared
//! with a limit, so nothing here needs floats, division or `exp2`. Trees that end early repeat their leaf below.
//! Four levels of a path stand in one block of 64 bytes: the trees are cold when a flow is judged, and a walk waits for two blocks
//! and a leaf instead of for every level. Training, and turning sums into scores between 0 and 1, is the agent's.

use bytemuck::{Pod, Zeroable};

use crate::feature::{FEATURES, FeatureVector};

/// Trees of a forest that the kernel runs; a multiple of four, because four are walked at once.
pub const TREES: usize = 100;
/// Comparisons on the way to a leaf: log2 of the 256 rows that a tree is grown from.
pub const DEPTH: u32 = 8;
/// Leaves of a tree, and numbers of its heap, of which 0 is unused.
pub const NODES: usize = 1 << DEPTH;
/// What one level of a path counts in a leaf.
pub const LEVEL: u32 = 256;

/// One comparison: right when the feature is above the threshold, else left. A word, so that a walk loads once a level.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Node(u32);

/// Place of the threshold in a node's word, above which feature values are put for a walk: then one subtraction compares.
const THRESHOLD_SHIFT: u32 = 16;

impl Node {
    /// Always left: features are below 2^15.
    pub const UNUSED: Self = Self::new(u16::MAX, 0);

    /// A comparison of a feature, below [`FEATURES`], with the highest value that goes left.
    pub const fn new(threshold: u16, feature: u16) -> Self {
        Self((threshold as u32) << THRESHOLD_SHIFT | feature as u32)
    }

    /// 1 when this comparison goes right, 0 when it goes left.
    #[inline(always)]
    fn goes_right<B: Barrier>(self, values: &Values) -> u32 {
        let value = values.0[self.0 as usize % FEATURES];
        // What stands below the threshold is less than one step of it.
        let below = B::opaque(u64::from(self.0).wrapping_sub(u64::from(value)));
        (below >> 63) as u32
    }
}

/// A vector as walks compare it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Values(FeatureVector);

impl Values {
    /// Features are below 2^15.
    #[inline(always)]
    pub fn of(features: &FeatureVector) -> Self {
        Self(features.map(|value| value << THRESHOLD_SHIFT))
    }
}

/// Levels of a block, comparisons of a block and one unused slot, and blocks of the lower half.
const BLOCK_LEVELS: u32 = DEPTH / 2;
const BLOCK: usize = 1 << BLOCK_LEVELS;

/// Comparisons of four levels as a heap: the root is slot 1, the children of slot `i` are `2i` and `2i + 1`; slot 0 is unused.
type Block = [Node; BLOCK];

/// One tree. Slot `16 + k` of the upper half's heap is block `k` of the lower half, slot `16 + l` of that one is leaf `l` of its
/// sixteen.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Tree {
    upper: Block,
    lower: [Block; BLOCK],
    leaves: [[u16; BLOCK]; BLOCK],
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

const _: () = assert!(
    size_of::<Tree>() == 1_600
        && DEPTH.is_multiple_of(2)
        && TREES.is_multiple_of(4)
        && FEATURES.is_power_of_two()
);

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
    /// Every comparison goes left, to leaves of length 0.
    pub const EMPTY: Self = Self {
        upper: [Node::UNUSED; BLOCK],
        lower: [[Node::UNUSED; BLOCK]; BLOCK],
        leaves: [[0; BLOCK]; BLOCK],
    };

    /// The comparison at `at` of the whole tree's heap, 1 to [`NODES`] - 1: the root is 1, the children of `i` are `2i` and `2i + 1`.
    pub fn node_mut(&mut self, at: usize) -> &mut Node {
        match at.checked_ilog2().unwrap_or(0) {
            level if level < BLOCK_LEVELS => &mut self.upper[at],
            level => {
                let within = 1 << (level - BLOCK_LEVELS);
                &mut self.lower[at / within % BLOCK][within + at % within]
            }
        }
    }

    /// Path lengths in 1/[`LEVEL`] of a level, from left to right.
    pub fn leaves_mut(&mut self) -> &mut [u16] {
        self.leaves.as_flattened_mut()
    }

    #[inline(always)]
    fn lower(&self, at: u32) -> &Block {
        &self.lower[at as usize % BLOCK]
    }

    #[inline(always)]
    const fn leaf(&self, upper: u32, lower: u32) -> u32 {
        self.leaves[upper as usize % BLOCK][lower as usize % BLOCK] as u32
    }

    /// Path length of one vector in this tree, in 1/[`LEVEL`] of a level.
    #[inline(always)]
    pub fn path<B: Barrier>(&self, values: &Values) -> u32 {
        let (mut at, mut below) = (1, 1);
        for _ in 0..BLOCK_LEVELS {
            at = step::<B>(&self.upper, values, at);
        }
        for _ in 0..BLOCK_LEVELS {
            below = step::<B>(self.lower(at), values, below);
        }
        self.leaf(at, below)
    }
}

/// The slot to which a comparison leads.
#[inline(always)]
fn step<B: Barrier>(block: &Block, values: &Values, at: u32) -> u32 {
    2 * at + block[at as usize % BLOCK].goes_right::<B>(values)
}

/// Summed path length of one vector in four trees, walked side by side so that their loads overlap.
#[inline(always)]
pub fn path_of_four<B: Barrier>(trees: [&Tree; 4], values: &Values) -> u32 {
    let [a, b, c, d] = trees;
    let [i, j, k, l] = walk_four::<B>([&a.upper, &b.upper, &c.upper, &d.upper], values);
    let lower = [a.lower(i), b.lower(j), c.lower(k), d.lower(l)];
    let [m, n, o, p] = walk_four::<B>(lower, values);
    a.leaf(i, m) + b.leaf(j, n) + c.leaf(k, o) + d.leaf(l, p)
}

#[inline(always)]
fn walk_four<B: Barrier>(blocks: [&Block; 4], values: &Values) -> [u32; 4] {
    let [a, b, c, d] = blocks;
    let (mut i, mut j, mut k, mut l) = (1, 1, 1, 1);
    let mut level = 0;
    while level < BLOCK_LEVELS {
        i = step::<B>(a, values, i);
        j = step::<B>(b, values, j);
        k = step::<B>(c, values, k);
        l = step::<B>(d, values, l);
        level += 1;
    }
    [i, j, k, l]
}

/// Summed path length of one vector over a forest: the lower, the more anomalous.
pub fn score_sum(trees: &[Tree], features: &FeatureVector) -> u32 {
    let values = Values::of(features);
    let (fours, rest) = trees.as_chunks::<4>();
    let whole: u32 = fours.iter().map(|[a, b, c, d]| path_of_four::<Host>([a, b, c, d], &values)).sum();
    whole + rest.iter().map(|tree| tree.path::<Host>(&values)).sum::<u32>()
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// A tree as it is defined.
    struct Heap {
        nodes: [(u16, usize); NODES],
        leaves: [u16; NODES],
    }

    fn grow(mut seed: u64) -> (Tree, Heap) {
        let mut tree = Tree::EMPTY;
        let mut next = || {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            crate::pod::mix64(seed)
        };
        let nodes = core::array::from_fn(|at| {
            let (threshold, feature) =
                ((next() >> (16 + next() % 16)) as u16, (next() % FEATURES as u32) as u16);
            if at > 0 {
                *tree.node_mut(at) = Node::new(threshold, feature);
            }
            (threshold, usize::from(feature))
        });
        let leaves = core::array::from_fn(|_| (next() % 5_000) as u16);
        tree.leaves_mut().copy_from_slice(&leaves);
        (tree, Heap { nodes, leaves })
    }

    /// The definition, with branches and bounds.
    fn plain_path(tree: &Heap, features: &FeatureVector) -> u32 {
        let mut at = 1usize;
        while at < NODES {
            let (threshold, feature) = tree.nodes[at];
            at = 2 * at + usize::from(features[feature] > u32::from(threshold));
        }
        u32::from(tree.leaves[at - NODES])
    }

    proptest! {
        #[test]
        fn the_branchless_walk_is_the_definition(seed: u64, features: [u16; FEATURES], count in 0usize..11) {
            let features = features.map(u32::from);
            let grown = (0..count as u64).map(|tree| grow(seed.wrapping_add(tree << 32)));
            let (trees, heaps): (Vec<Tree>, Vec<Heap>) = grown.unzip();
            let expected: u32 = heaps.iter().map(|tree| plain_path(tree, &features)).sum();
            prop_assert_eq!(score_sum(&trees, &features), expected);
        }
    }

    #[test]
    fn the_threshold_itself_goes_left() {
        let mut tree = Tree::EMPTY;
        *tree.node_mut(1) = Node::new(7, 3);
        tree.leaves_mut()[0] = 1;
        tree.leaves_mut()[128] = 2;
        let at = |value| {
            let mut features = [0; FEATURES];
            features[3] = value;
            tree.path::<Host>(&Values::of(&features))
        };
        assert_eq!((at(6), at(7), at(8), at((1 << 15) - 1)), (1, 1, 2, 2));
    }
}
