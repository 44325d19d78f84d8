//! How much each feature moved a path length: Shapley values against rows of the device's own normal traffic.
//!
//! The question is interventional (Janzing, Minorics, Blöbaum, 2020): what if this feature had the value of a normal row? For
//! trees of single-feature splits the answer is exact, and found in one walk that follows both rows and branches only where they
//! part. Cuts across all columns have no such short way; there, features are exchanged one after the other in drawn orders
//! (Castro, Gómez, Tejada, 2009), each order forwards and backwards, which halves the spread. Shorter paths are more anomalous,
//! so a negative value speaks against the row.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tidegate_common::feature::{FEATURES, FeatureVector};

use super::compact::{Child, Compact};

/// What the features add to a path length, in 1/256 of a level; their sum is the difference from the normal rows' mean.
pub(super) type Shares = [f64; FEATURES];

/// Exact values for a flow forest, averaged over the `normal` rows.
pub(super) fn exact(forest: &Compact, row: &FeatureVector, normal: &[FeatureVector]) -> Shares {
    let mut shares = [0.0; FEATURES];
    for reference in normal {
        let mut walk = Walk { forest, row, reference, from: [From::Either; FEATURES], shares: &mut shares };
        forest.roots().for_each(|root| walk.follow(root, 0, 0));
    }
    shares.map(|share| share / normal.len().max(1) as f64)
}

/// Which of the two rows a feature has been taken from on the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Either,
    Row,
    Reference,
}

struct Walk<'a> {
    forest: &'a Compact,
    row: &'a FeatureVector,
    reference: &'a FeatureVector,
    from: [From; FEATURES],
    shares: &'a mut Shares,
}

impl Walk<'_> {
    /// A leaf is reached by exactly those mixtures of both rows that take `ours` features from the row and `theirs` from the
    /// reference; the rest does not matter, which is what the weights count.
    fn follow(&mut self, child: Child, ours: u32, theirs: u32) {
        let at = match child {
            Child::Leaf(path) => return self.leaf(f64::from(path), ours, theirs),
            Child::Split(at) => at,
        };
        let feature = self.forest.feature(at);
        let (by_row, by_reference) =
            (self.forest.child(at, self.row[feature]), self.forest.child(at, self.reference[feature]));
        match self.from[feature] {
            From::Row => self.follow(by_row, ours, theirs),
            From::Reference => self.follow(by_reference, ours, theirs),
            From::Either if by_row == by_reference => self.follow(by_row, ours, theirs),
            From::Either => {
                self.from[feature] = From::Row;
                self.follow(by_row, ours + 1, theirs);
                self.from[feature] = From::Reference;
                self.follow(by_reference, ours, theirs + 1);
                self.from[feature] = From::Either;
            }
        }
    }

    fn leaf(&mut self, path: f64, ours: u32, theirs: u32) {
        for (share, from) in self.shares.iter_mut().zip(self.from) {
            match from {
                From::Either => {}
                From::Row => *share += path * weight(ours - 1, theirs),
                From::Reference => *share -= path * weight(theirs - 1, ours),
            }
        }
    }
}

/// a! b! / (a + b + 1)!
fn weight(a: u32, b: u32) -> f64 {
    let product = |from: u32, to: u32| (from..=to).map(f64::from).product::<f64>();
    product(1, a) / product(b + 1, a + b + 1)
}

/// Estimated values for any model: `sums` gives the summed path lengths of rows, `normal` the rows to compare with.
pub(super) fn estimated(
    sums: impl Fn(&[FeatureVector]) -> Vec<u32>,
    row: &FeatureVector,
    normal: &[FeatureVector],
) -> Shares {
    let mut random = Pcg64Mcg::seed_from_u64(normal.len() as u64);
    let mut order: [usize; FEATURES] = std::array::from_fn(|index| index);
    let mut mixtures = Vec::with_capacity(normal.len() * 2 * (FEATURES + 1));
    let mut orders = Vec::with_capacity(normal.len() * 2);
    for reference in normal {
        for place in (1..FEATURES).rev() {
            order.swap(place, (random.next_u64() % (place as u64 + 1)) as usize);
        }
        let mut backwards = order;
        backwards.reverse();
        for order in [order, backwards] {
            let mut mixture = *reference;
            mixtures.push(mixture);
            for feature in order {
                mixture[feature] = row[feature];
                mixtures.push(mixture);
            }
            orders.push(order);
        }
    }
    let sums = sums(&mixtures);
    let mut shares = [0.0; FEATURES];
    for (order, sums) in orders.iter().zip(sums.chunks_exact(FEATURES + 1)) {
        for (feature, pair) in order.iter().zip(sums.windows(2)) {
            shares[*feature] += f64::from(pair[1]) - f64::from(pair[0]);
        }
    }
    shares.map(|share| share / orders.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::{
        extended::Extended,
        forest::{Forest, Growth},
        grid::Rows,
    };

    /// Features that the small forests know; the others are 0 everywhere.
    const FEW: usize = 5;

    fn vectors(count: usize, seed: u64) -> Vec<FeatureVector> {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let mut draw = |_| {
            let mut vector = [0; FEATURES];
            vector[..FEW].fill_with(|| (0..4).map(|_| (random.next_u64() % 1_000) as u32).sum());
            vector
        };
        (0..count).map(&mut draw).collect()
    }

    /// The definition: every set of features, weighted.
    fn by_enumeration(
        sum: impl Fn(&FeatureVector) -> u32,
        row: &FeatureVector,
        normal: &[FeatureVector],
    ) -> Shares {
        let mut shares = [0.0; FEATURES];
        for reference in normal {
            let mixed = |set: usize| {
                let mut mixture = *reference;
                for feature in (0..FEW).filter(|feature| set >> feature & 1 == 1) {
                    mixture[feature] = row[feature];
                }
                f64::from(sum(&mixture))
            };
            for (feature, share) in shares[..FEW].iter_mut().enumerate() {
                for set in (0..1 << FEW).filter(|set: &usize| set >> feature & 1 == 0) {
                    let weight = weight(set.count_ones(), FEW as u32 - set.count_ones() - 1);
                    *share += weight * (mixed(set | 1 << feature) - mixed(set)) / normal.len() as f64;
                }
            }
        }
        shares
    }

    #[test]
    fn the_walk_is_the_enumeration_of_all_sets() {
        let rows = vectors(300, 1);
        let mut table = Rows::new(FEATURES);
        for row in &rows {
            table.push(row);
        }
        let forest = Forest::grow(&table, Growth { trees: 20, ..Growth::default() }).unwrap();
        let forest = Compact::of(&forest);
        let normal = &rows[..6];
        for odd in [[3_900; FEATURES], [0; FEATURES], rows[50], rows[200]] {
            let mut row = [0; FEATURES];
            row[..FEW].copy_from_slice(&odd[..FEW]);
            let (found, expected) =
                (exact(&forest, &row, normal), by_enumeration(|row| forest.sum(row), &row, normal));
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{found} {expected}");
            }
            let mean = normal.iter().map(|row| f64::from(forest.sum(row))).sum::<f64>() / 6.0;
            assert!((found.iter().sum::<f64>() - (f64::from(forest.sum(&row)) - mean)).abs() < 1e-6);
        }
    }

    #[test]
    fn drawn_orders_come_close_to_it() {
        let rows = vectors(300, 2);
        let mut table = Rows::new(FEATURES);
        let place = |row: &FeatureVector| row.map(|value| value as i16 * 4 - 8_000);
        for row in &rows {
            table.push(&place(row));
        }
        let forest = Extended::grow(&table, Growth { trees: 20, ..Growth::default() }).unwrap();
        let normal = &rows[..16];
        let mut row = [0; FEATURES];
        row[..FEW].copy_from_slice(&[3_900, 2_000, 2_000, 100, 2_000]);
        let sum = |row: &FeatureVector| forest.sum(&place(row));
        let found = estimated(|rows| rows.iter().map(sum).collect(), &row, normal);
        let expected = by_enumeration(sum, &row, normal);
        let scale = expected.iter().map(|share| share.abs()).fold(0.0, f64::max);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 0.15 * scale, "{found} {expected}, of {scale}");
        }
        // Whatever the orders, nothing is lost on the way.
        let mean = normal.iter().map(|row| f64::from(sum(row))).sum::<f64>() / 16.0;
        assert!((found.iter().sum::<f64>() - (f64::from(sum(&row)) - mean)).abs() < 1e-6);
    }
}
