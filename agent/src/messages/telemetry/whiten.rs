//! Takes out of fields what other fields say already, so that what is left over tells when they stop going together.
//!
//! Each column becomes what a linear guess from the columns before it leaves unexplained, in units of how much that was in training
//! (the inverse of the Cholesky factor of the correlations). A forest cuts through clouds of points and hardly sees that a point
//! beside a thin, slanted one is not in it; made round, it does.

use crate::learn::Rows;

/// Least part of a column's variance that is taken to be its own: readings are rounded, and no two fields are the same for ever.
const OWN: f64 = 2e-3;

/// Means, scales and the factor.
#[derive(Clone, Debug)]
pub(super) struct Whitening {
    means: Vec<f64>,
    scales: Vec<f64>,
    /// Lower triangle, row by row.
    factor: Vec<Vec<f64>>,
}

impl Whitening {
    /// Fits it to rows of finite numbers.
    pub(super) fn fit(rows: &Rows<f64>) -> Self {
        let (width, count) = (rows.width(), rows.len().max(1) as f64);
        let mean = |column: usize| rows.iter().map(|row| row[column] / count).sum::<f64>();
        let means: Vec<f64> = (0..width).map(mean).collect();
        let scale = |column: usize| {
            let variance: f64 = rows.iter().map(|row| (row[column] - means[column]).powi(2) / count).sum();
            // A column that did not vary stays as it is.
            if variance > 0.0 && variance.is_finite() { variance.sqrt() } else { 1.0 }
        };
        let scales: Vec<f64> = (0..width).map(scale).collect();
        let mut fitted = Self { means, scales, factor: Vec::with_capacity(width) };
        let standard: Vec<Vec<f64>> = rows.iter().map(|row| fitted.standard(row)).collect();
        for i in 0..width {
            let mut line = Vec::with_capacity(i + 1);
            for j in 0..=i {
                let together: f64 = standard.iter().map(|row| row[i] * row[j] / count).sum();
                let before = if j == i { &line } else { &fitted.factor[j] };
                let explained: f64 = line.iter().zip(before.iter()).take(j).map(|(a, b)| a * b).sum();
                let rest = together - explained;
                line.push(if j == i { rest.max(OWN).sqrt() } else { rest / fitted.factor[j][j] });
            }
            fitted.factor.push(line);
        }
        fitted
    }

    fn standard(&self, row: &[f64]) -> Vec<f64> {
        row.iter()
            .zip(&self.means)
            .zip(&self.scales)
            .map(|((value, mean), scale)| (value - mean) / scale)
            .collect()
    }

    /// What is left over of a row, column by column.
    pub(super) fn apply(&self, row: &[f64]) -> Vec<f64> {
        let mut rest = self.standard(row);
        for i in 0..rest.len() {
            let line = &self.factor[i];
            let explained: f64 = line[..i].iter().zip(&rest).map(|(a, b)| a * b).sum();
            rest[i] = (rest[i] - explained) / line[i];
        }
        rest
    }

    /// All rows.
    pub(super) fn apply_all(&self, rows: &Rows<f64>) -> Rows<f64> {
        let mut whitened = Rows::new(rows.width());
        rows.iter().for_each(|row| whitened.push(&self.apply(row)));
        whitened
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_goes_together_is_told_apart_from_what_does_not() {
        let mut rows = Rows::new(3);
        for step in 0..200_i32 {
            let (x, noise) = (f64::from(step % 37), f64::from(step * 7 % 11) / 10.0);
            rows.push(&[x, 100.0 - 2.0 * x + noise, 5.0]);
        }
        let whitening = Whitening::fit(&rows);
        let left = |row: [f64; 3]| whitening.apply(&row).iter().map(|rest| rest.abs()).fold(0.0, f64::max);
        assert!(left([30.0, 40.5, 5.0]) < 3.0 && left([3.0, 94.5, 5.0]) < 3.0);
        assert!(left([30.0, 80.0, 5.0]) > 20.0);
    }

    proptest! {
        #[test]
        fn finite_rows_stay_finite(rows in prop::collection::vec(prop::array::uniform4(-1e30..1e30_f64), 1..40)) {
            let mut table = Rows::new(4);
            for row in &rows {
                table.push(row);
            }
            let whitening = Whitening::fit(&table);
            for row in table.iter() {
                prop_assert!(whitening.apply(row).iter().all(|rest| rest.is_finite()));
            }
        }
    }
}
