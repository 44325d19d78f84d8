//! A forest and its calibration for rows of any width: how unusual a row is among rows that were held out.
//!
//! For what is judged one row at a time and has features of its own, such as the commands of a device.

use super::{
    calibration::Calibration,
    forest::{Forest, Growth, GrowthError},
    grid::{Grid, Rows},
};

/// A forest with the ranks of the rows held out.
#[derive(Clone, Debug)]
pub struct Ranked {
    grid: Grid,
    forest: Forest,
    calibration: Calibration,
}

/// What is said about one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rank {
    /// Anomaly score, 0–1, higher = more anomalous.
    pub score: f64,
    /// Share of normal rows at least as anomalous, never 0.
    pub p_value: f64,
    /// Whether it is far from all that was held out.
    pub is_far: bool,
}

impl Ranked {
    /// Grows a forest on `train` and ranks `held`, whose values must be finite.
    pub fn fit(train: &Rows<f64>, held: &Rows<f64>, growth: Growth) -> Result<Self, GrowthError> {
        growth.check(train.width(), train.len())?;
        let grid = Grid::fit(train);
        let forest = Forest::grow(&grid.place_all(train), growth)?;
        let placed = grid.place_all(held);
        let sums: Vec<u32> = placed.iter().map(|row| forest.sum(row)).collect();
        Ok(Self { calibration: Calibration::new(&sums, sums.len()), grid, forest })
    }

    /// Ranks one row.
    pub fn rank(&self, row: &[f64]) -> Rank {
        let sum = self.sum(row);
        Rank {
            score: self.forest.score_of_sum(sum),
            p_value: self.calibration.p_value(sum),
            is_far: self.calibration.is_far(sum),
        }
    }

    /// How much each column shortens the row's path beside `usual`: what its path gains when the column has the usual value. Their
    /// sum is 1 unless no column does.
    pub fn shares(&self, row: &[f64], usual: &[f64]) -> Vec<f64> {
        let sum = self.sum(row);
        let mut gains: Vec<f64> = (0..row.len())
            .map(|column| {
                let mut other = row.to_vec();
                other[column] = usual[column];
                f64::from(self.sum(&other).saturating_sub(sum))
            })
            .collect();
        let whole: f64 = gains.iter().sum();
        if whole > 0.0 {
            for gain in &mut gains {
                *gain /= whole;
            }
        }
        gains
    }

    fn sum(&self, row: &[f64]) -> u32 {
        let mut placed = Vec::with_capacity(row.len());
        self.grid.place(row, &mut placed);
        self.forest.sum(&placed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_outside_is_ranked_first_and_its_column_is_named() {
        let mut rows = Rows::new(3);
        for step in 0..120 {
            rows.push(&[f64::from(step % 7), f64::from(step % 11), 5.0]);
        }
        let ranked = Ranked::fit(&rows, &rows, Growth { trees: 40, ..Growth::default() }).unwrap();
        let usual = [3.0, 5.0, 5.0];
        let strange = [3.0, 900.0, 5.0];
        assert!(ranked.rank(&usual).p_value > 0.1 && !ranked.rank(&usual).is_far);
        assert!(ranked.rank(&strange).score > ranked.rank(&usual).score);
        assert!(ranked.rank(&strange).p_value < 0.05);
        let shares = ranked.shares(&strange, &usual);
        assert!(shares[1] > 0.9, "{shares:?}");
        assert!(ranked.shares(&usual, &usual).iter().all(|share| *share == 0.0));
    }
}
