//! Forest models in files: magic, version, a JSON header of bounded length, the trees as they stand in the kernel, checksum.
//!
//! All numbers are little-endian. A file is refused with the reason unless every byte of it makes sense.

use std::io::{self, Read, Write};

use bytemuck::Zeroable;
use serde::{Deserialize, Serialize};
use tidegate_common::forest::{NODES, Node, Tree};

use super::{
    forest::{Forest, MAX_COLUMNS, MAX_TREES},
    grid::Grid,
};

const MAGIC: [u8; 8] = *b"TGFOREST";
const VERSION: u32 = 1;
const MAX_HEADER: u32 = 1 << 20;
const TREE_BYTES: usize = size_of::<Tree>();

/// What a model's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// One row a flow.
    Flow,
    /// One row a window of time.
    Window,
}

/// A forest with the grid and the columns it was trained on.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// What its rows are.
    pub kind: ModelKind,
    /// Names of the columns, in order.
    pub columns: Vec<String>,
    /// Seed it was grown from.
    pub seed: u64,
    /// Where the columns' values lie.
    pub grid: Grid,
    /// The trees.
    pub forest: Forest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    kind: ModelKind,
    columns: Vec<String>,
    seed: u64,
    sample: u32,
    trees: u32,
    grid: Grid,
}

/// The model cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Reading or writing failed.
    #[error("cannot access the model file")]
    Io(#[from] io::Error),
    /// Some other file.
    #[error("not a model file: it does not begin with {}; write one with `tidegate model train`", MAGIC.escape_ascii())]
    Foreign,
    /// A version this program does not know.
    #[error("model file of version {0}: this program reads version {VERSION}; train the model again")]
    Version(u32),
    /// The file ends early.
    #[error("the model file is cut off in its {0}: copy it again or train the model again")]
    Truncated(&'static str),
    /// The content contradicts itself.
    #[error("the model file is damaged ({0}): copy it again or train the model again")]
    Damaged(String),
}

impl Model {
    /// Writes the model.
    pub fn write(&self, mut out: impl Write) -> Result<(), ModelError> {
        let header = Header {
            kind: self.kind,
            columns: self.columns.clone(),
            seed: self.seed,
            sample: self.forest.sample(),
            trees: self.forest.trees().len() as u32,
            grid: self.grid.clone(),
        };
        let header = serde_json::to_vec(&header).map_err(io::Error::from)?;
        let mut bytes = Vec::with_capacity(header.len() + self.forest.trees().len() * TREE_BYTES + 32);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((header.len() as u32).to_le_bytes());
        bytes.extend(header);
        for tree in self.forest.trees() {
            for node in &tree.nodes {
                bytes.extend(node.threshold.to_le_bytes());
                bytes.extend(node.feature.to_le_bytes());
            }
            tree.leaves.iter().for_each(|leaf| bytes.extend(leaf.to_le_bytes()));
        }
        let sum = checksum(&bytes);
        bytes.extend(sum.to_le_bytes());
        out.write_all(&bytes)?;
        Ok(out.flush()?)
    }

    /// Reads a model; never more than one of the largest possible size.
    pub fn read(input: impl Read) -> Result<Self, ModelError> {
        let most = MAX_HEADER as usize + MAX_TREES * TREE_BYTES + 64;
        let mut bytes = Vec::new();
        input.take(most as u64 + 1).read_to_end(&mut bytes)?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self, ModelError> {
        let damaged = |what: String| ModelError::Damaged(what);
        let mut rest = bytes;
        if take(&mut rest, MAGIC.len()).is_none_or(|magic| magic != MAGIC) {
            return Err(ModelError::Foreign);
        }
        let version = take_u32(&mut rest).ok_or(ModelError::Truncated("version"))?;
        if version != VERSION {
            return Err(ModelError::Version(version));
        }
        let length = take_u32(&mut rest).ok_or(ModelError::Truncated("header"))?;
        if length > MAX_HEADER {
            return Err(damaged(format!("a header of {length} bytes")));
        }
        let header = take(&mut rest, length as usize).ok_or(ModelError::Truncated("header"))?;
        let header: Header =
            serde_json::from_slice(header).map_err(|error| damaged(format!("header: {error}")))?;
        let width = header.columns.len();
        if width == 0 || width > MAX_COLUMNS || header.grid.width() != width || !header.grid.is_sound() {
            return Err(damaged(format!("{width} columns on a grid of {}", header.grid.width())));
        }
        if header.trees as usize > MAX_TREES {
            return Err(damaged(format!("{} trees", header.trees)));
        }
        let body =
            take(&mut rest, header.trees as usize * TREE_BYTES).ok_or(ModelError::Truncated("trees"))?;
        let sum = take(&mut rest, 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        let sum = sum.ok_or(ModelError::Truncated("checksum"))?;
        if !rest.is_empty() {
            return Err(damaged(format!("{} bytes behind its end", rest.len())));
        }
        if sum != checksum(&bytes[..bytes.len() - 8]) {
            return Err(damaged("wrong checksum".to_owned()));
        }
        let trees = body.chunks_exact(TREE_BYTES).map(parse_tree).collect();
        let forest = Forest::from_parts(trees, width, header.sample)
            .ok_or_else(|| damaged("trees that do not fit the columns".to_owned()))?;
        let Header { kind, columns, seed, grid, .. } = header;
        Ok(Self { kind, columns, seed, grid, forest })
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(length)?;
    *bytes = tail;
    Some(head)
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    take(bytes, 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn parse_tree(bytes: &[u8]) -> Tree {
    let mut tree = Tree::zeroed();
    let (nodes, leaves) = bytes.split_at(NODES * size_of::<Node>());
    let (nodes, _) = nodes.as_chunks::<4>();
    for (node, [threshold, feature]) in tree.nodes.iter_mut().zip(nodes.as_chunks::<2>().0) {
        *node = Node { threshold: u32::from_le_bytes(*threshold), feature: u32::from_le_bytes(*feature) };
    }
    for (leaf, bytes) in tree.leaves.iter_mut().zip(leaves.as_chunks::<2>().0) {
        *leaf = u16::from_le_bytes(*bytes);
    }
    tree
}

/// FNV-1a, 64 bits: finds damage, not malice.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::learn::{forest::Growth, grid::Rows};

    fn model() -> Model {
        let mut rows = Rows::new(2);
        (0..300).for_each(|row| rows.push(&[f64::from(row), f64::from(row % 7)]));
        let grid = Grid::fit(&rows);
        let forest = Forest::grow(&grid.place_all(&rows), Growth { trees: 3, ..Growth::default() }).unwrap();
        let columns = vec!["bytes".to_owned(), "packets".to_owned()];
        Model { kind: ModelKind::Flow, columns, seed: 1, grid, forest }
    }

    fn written() -> Vec<u8> {
        let mut bytes = Vec::new();
        model().write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_model_survives_the_file() {
        assert_eq!(Model::read(&written()[..]).unwrap(), model());
    }

    #[test]
    fn every_cut_is_refused() {
        let bytes = written();
        for length in 0..bytes.len() {
            assert!(Model::parse(&bytes[..length]).is_err(), "{length} bytes were enough");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |bytes: &[u8]| Model::read(bytes).unwrap_err().to_string();
        let bytes = written();
        assert!(error(b"PK\x03\x04 something else").contains("not a model file"));
        assert!(error(&bytes[..bytes.len() / 2]).contains("cut off in its trees"));
        let mut newer = bytes.clone();
        newer[8] = 9;
        assert!(error(&newer).contains("version 9"));
        let mut flipped = bytes.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        assert!(error(&flipped).contains("wrong checksum"));
        let longer = [&bytes[..], b"x"].concat();
        assert!(error(&longer).contains("1 bytes behind its end"));
    }

    proptest! {
        /// Even with a right checksum, no content makes reading panic or gives a model that panics.
        #[test]
        fn no_damage_makes_it_panic(at in any::<prop::sample::Index>(), byte: u8, length in any::<prop::sample::Index>()) {
            let mut bytes = written();
            bytes.truncate(bytes.len() - 8);
            let place = at.index(bytes.len());
            bytes[place] = byte;
            bytes.truncate(length.index(bytes.len() + 1).max(place + 1));
            let sum = checksum(&bytes);
            bytes.extend(sum.to_le_bytes());
            if let Ok(model) = Model::parse(&bytes) {
                let score = model.forest.score(&vec![1; model.forest.width()]);
                prop_assert!(score.is_finite());
            }
        }
    }
}
