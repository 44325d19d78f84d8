//! Forest models in files: magic, version, a JSON header of bounded length, the trees, checksum.
//!
//! A tree is written root first, every cut before what is left and then what is right of it; leaves hold a path length. All
//! numbers are little-endian. A file is refused with the reason unless every byte of it makes sense.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use tidegate_common::forest::{DEPTH, NODES};

use super::{
    extended::{Cut, Extended},
    forest::{Forest, MAX_COLUMNS, MAX_TREES, Node, Tree, UNUSED, leaves_below},
    grid::Grid,
    model::{Model, Trees},
    standard::Standard,
};

const MAGIC: [u8; 8] = *b"TGFOREST";
const VERSION: u32 = 2;
const MAX_HEADER: u32 = 1 << 20;
/// Longest tree: 255 cuts and 256 leaves.
const TREE_BYTES: usize = NODES * (6 + 4);
/// In the place of a column: a leaf.
const NO_COLUMN: u16 = u16::MAX;
const UNFIT: &str = "trees that do not fit the columns";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    columns: Vec<String>,
    seed: u64,
    sample: u32,
    trees: u32,
    grid: Placement,
}

/// The grid by the kind of the model.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Placement {
    Flow(Grid),
    Window(Standard),
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
        let (grid, sample, trees) = match &self.trees {
            Trees::Flow(grid, forest) => {
                (Placement::Flow(grid.clone()), forest.sample(), forest.trees().len())
            }
            Trees::Window(grid, forest) => {
                (Placement::Window(grid.clone()), forest.sample(), forest.trees().len())
            }
        };
        let header =
            Header { columns: self.columns.clone(), seed: self.seed, sample, trees: trees as u32, grid };
        let header = serde_json::to_vec(&header).map_err(io::Error::from)?;
        let mut bytes = Vec::new();
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((header.len() as u32).to_le_bytes());
        bytes.extend(header);
        match &self.trees {
            Trees::Flow(_, forest) => {
                for tree in forest.trees() {
                    write_plain(tree, 1, 0, &mut bytes);
                }
            }
            Trees::Window(_, forest) => {
                for tree in forest.trees() {
                    write_cuts(tree, &mut bytes);
                }
            }
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
        if take(&mut rest).is_none_or(|magic| magic != MAGIC) {
            return Err(ModelError::Foreign);
        }
        let version = take(&mut rest).map(u32::from_le_bytes).ok_or(ModelError::Truncated("version"))?;
        if version != VERSION {
            return Err(ModelError::Version(version));
        }
        let length = take(&mut rest).map(u32::from_le_bytes).ok_or(ModelError::Truncated("header"))?;
        if length > MAX_HEADER {
            return Err(damaged(format!("a header of {length} bytes")));
        }
        let (header, behind) =
            rest.split_at_checked(length as usize).ok_or(ModelError::Truncated("header"))?;
        rest = behind;
        let header: Header =
            serde_json::from_slice(header).map_err(|error| damaged(format!("header: {error}")))?;
        let (width, count) = (header.columns.len(), header.trees as usize);
        let (on_grid, sound) = match &header.grid {
            Placement::Flow(grid) => (grid.width(), grid.is_sound()),
            Placement::Window(grid) => (grid.width(), grid.is_sound()),
        };
        if width == 0 || width > MAX_COLUMNS || on_grid != width || !sound {
            return Err(damaged(format!("{width} columns on a grid of {on_grid}")));
        }
        if count > MAX_TREES {
            return Err(damaged(format!("{count} trees")));
        }
        let cut_off = ModelError::Truncated("trees");
        let unfit = || damaged(UNFIT.to_owned());
        let Header { columns, seed, sample, grid, .. } = header;
        let trees = match grid {
            Placement::Flow(grid) => {
                let trees: Result<Vec<Tree>, _> = (0..count).map(|_| read_plain(&mut rest)).collect();
                let forest = Forest::from_parts(trees?, width, sample).ok_or_else(unfit)?;
                Trees::Flow(grid, forest)
            }
            Placement::Window(grid) => {
                let trees: Option<Vec<Box<[Cut]>>> = (0..count).map(|_| read_cuts(&mut rest)).collect();
                let trees = trees.ok_or(cut_off)?;
                Trees::Window(grid, Extended::from_parts(trees, width, sample, seed).ok_or_else(unfit)?)
            }
        };
        let sum = take(&mut rest).map(u64::from_le_bytes).ok_or(ModelError::Truncated("checksum"))?;
        if !rest.is_empty() {
            return Err(damaged(format!("{} bytes behind its end", rest.len())));
        }
        if sum != checksum(&bytes[..bytes.len() - 8]) {
            return Err(damaged("wrong checksum".to_owned()));
        }
        Ok(Self { columns, seed, trees })
    }
}

/// The subtree of heap slot `at`.
fn write_plain(tree: &Tree, at: usize, depth: u32, out: &mut Vec<u8>) {
    if depth == DEPTH || tree.nodes[at] == UNUSED {
        out.extend(NO_COLUMN.to_le_bytes());
        out.extend(tree.leaves[leaves_below(at, depth).start].to_le_bytes());
        return;
    }
    let Node { threshold, column } = tree.nodes[at];
    out.extend((column as u16).to_le_bytes());
    out.extend(threshold.to_le_bytes());
    write_plain(tree, 2 * at, depth + 1, out);
    write_plain(tree, 2 * at + 1, depth + 1, out);
}

fn read_plain(rest: &mut &[u8]) -> Result<Tree, ModelError> {
    fn number<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], ModelError> {
        take(rest).ok_or(ModelError::Truncated("trees"))
    }
    fn subtree(rest: &mut &[u8], tree: &mut Tree, at: usize, depth: u32) -> Result<(), ModelError> {
        let column = u16::from_le_bytes(number(rest)?);
        if column == NO_COLUMN {
            tree.leaves[leaves_below(at, depth)].fill(u16::from_le_bytes(number(rest)?));
            return Ok(());
        }
        let node = Node { threshold: u32::from_le_bytes(number(rest)?), column: u32::from(column) };
        // A cut that says there is none would hide what is below it.
        if depth == DEPTH || node == UNUSED {
            return Err(ModelError::Damaged(UNFIT.to_owned()));
        }
        tree.nodes[at] = node;
        subtree(rest, tree, 2 * at, depth + 1)?;
        subtree(rest, tree, 2 * at + 1, depth + 1)
    }
    let mut tree = Tree::empty();
    subtree(rest, &mut tree, 1, 0)?;
    Ok(tree)
}

/// The number of cuts, then each as it stands: the root first, children by their index.
fn write_cuts(tree: &[Cut], out: &mut Vec<u8>) {
    out.extend((tree.len() as u16).to_le_bytes());
    for cut in tree {
        out.extend(cut.threshold.to_le_bytes());
        out.extend(cut.left.to_le_bytes());
        out.extend(cut.right.to_le_bytes());
    }
}

fn read_cuts(rest: &mut &[u8]) -> Option<Box<[Cut]>> {
    let count = u16::from_le_bytes(take(rest)?);
    let cut = |_| {
        Some(Cut {
            threshold: i32::from_le_bytes(take(rest)?),
            left: u16::from_le_bytes(take(rest)?),
            right: u16::from_le_bytes(take(rest)?),
        })
    };
    (0..count).map(cut).collect()
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
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
    use crate::learn::{forest::Growth, grid::Rows, model::ModelKind};

    const KINDS: [ModelKind; 2] = [ModelKind::Flow, ModelKind::Window];

    fn model(kind: ModelKind) -> Model {
        let mut rows = Rows::new(2);
        (0..300).for_each(|row| rows.push(&[f64::from(row), f64::from(row % 7)]));
        let columns = vec!["bytes".to_owned(), "packets".to_owned()];
        Model::train(kind, columns, &rows, Growth { trees: 3, ..Growth::default() }).unwrap()
    }

    fn written(kind: ModelKind) -> Vec<u8> {
        let mut bytes = Vec::new();
        model(kind).write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_model_survives_the_file() {
        for kind in KINDS {
            assert_eq!(Model::read(&written(kind)[..]).unwrap(), model(kind));
        }
    }

    #[test]
    fn every_cut_is_refused() {
        for bytes in KINDS.map(written) {
            for length in 0..bytes.len() {
                assert!(Model::parse(&bytes[..length]).is_err(), "{length} bytes were enough");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |bytes: &[u8]| Model::read(bytes).unwrap_err().to_string();
        assert!(error(b"PK\x03\x04 something else").contains("not a model file"));
        for bytes in KINDS.map(written) {
            assert!(error(&bytes[..bytes.len() / 2]).contains("cut off in its trees"));
            let mut newer = bytes.clone();
            newer[8] = 9;
            assert!(error(&newer).contains("version 9"));
            let mut flipped = bytes.clone();
            let near_the_end = flipped.len() - 10;
            flipped[near_the_end] ^= 1;
            assert!(error(&flipped).contains("wrong checksum"));
            let longer = [&bytes[..], b"x"].concat();
            assert!(error(&longer).contains("1 bytes behind its end"));
        }
    }

    #[test]
    fn a_cut_that_says_there_is_none_is_refused() {
        let mut bytes = written(ModelKind::Flow);
        let length = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
        bytes.truncate(bytes.len() - 8);
        // The root: the first column, above everything.
        bytes[16 + length..][..6].copy_from_slice(&[0, 0, 255, 255, 255, 255]);
        let sum = checksum(&bytes);
        bytes.extend(sum.to_le_bytes());
        let error = Model::parse(&bytes).unwrap_err().to_string();
        assert!(error.contains(UNFIT), "{error}");
    }

    proptest! {
        /// Even with a right checksum, no content makes reading panic or gives a model that panics or never ends.
        #[test]
        fn no_damage_makes_it_panic(
            kind in proptest::sample::select(&KINDS[..]),
            at in any::<prop::sample::Index>(),
            byte: u8,
            length in any::<prop::sample::Index>(),
        ) {
            let mut bytes = written(kind);
            bytes.truncate(bytes.len() - 8);
            let place = at.index(bytes.len());
            bytes[place] = byte;
            bytes.truncate(length.index(bytes.len() + 1).max(place + 1));
            let sum = checksum(&bytes);
            bytes.extend(sum.to_le_bytes());
            if let Ok(model) = Model::parse(&bytes) {
                let mut rows = Rows::new(model.columns.len());
                rows.push(&vec![1.0; model.columns.len()]);
                prop_assert!(model.score_rows(&rows)[0].is_finite());
            }
        }
    }
}
