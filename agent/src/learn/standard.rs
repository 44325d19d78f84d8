//! Standard grid: every column in standard deviations from its mean, as small integers.
//!
//! An extended forest cuts across all columns at once, so they need a common measure. Values end eight deviations out: what
//! lies farther is no more telling, and sums of products over all columns stay within 32 bits. A column that is constant in
//! training still tells same from different.

use serde::{Deserialize, Serialize};

use super::grid::Rows;

/// Steps of one standard deviation.
const UNIT: f64 = 2_048.0;
/// Largest value on the grid, eight deviations.
pub(super) const FARTHEST: i16 = 16_383;
/// Deviations that a value counts for which differs from a column constant in training.
const DIFFERENT: f64 = 4.0;

/// One column's mean and standard deviation in the training data, both halved to stay finite.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Column {
    half_mean: f64,
    half_deviation: f64,
}

/// The standard grid of a whole table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standard {
    columns: Vec<Column>,
}

impl Standard {
    /// The grid that fits `rows`, whose values must be finite. No deviation is taken to be below `finest`, in the columns' unit.
    pub fn fit(rows: &Rows<f64>, finest: f64) -> Self {
        let width = rows.width();
        let count = rows.len().max(1) as f64;
        // Row by row, as the table lies in memory.
        let (mut lows, mut highs) = (vec![f64::MAX; width], vec![f64::MIN; width]);
        for row in rows.iter() {
            for ((low, high), value) in lows.iter_mut().zip(&mut highs).zip(row) {
                *low = low.min(value / 2.0);
                *high = high.max(value / 2.0);
            }
        }
        // Shares of the range keep squares in range, whatever the unit.
        let ranges: Vec<f64> = lows.iter().zip(&highs).map(|(low, high)| high - low).collect();
        let mut means = vec![0.0; width];
        for row in rows.iter() {
            for (((mean, value), low), range) in means.iter_mut().zip(row).zip(&lows).zip(&ranges) {
                *mean += (value / 2.0 - low) / range;
            }
        }
        for mean in &mut means {
            *mean /= count;
        }
        let mut variances = vec![0.0; width];
        for row in rows.iter() {
            let columns = variances.iter_mut().zip(row).zip(&lows).zip(&ranges).zip(&means);
            for ((((variance, value), low), range), mean) in columns {
                let apart = (value / 2.0 - low) / range - mean;
                *variance += apart * apart;
            }
        }
        let column = |index: usize| {
            let (low, range) = (lows[index], ranges[index]);
            if range <= 0.0 {
                return Column {
                    half_mean: if low <= highs[index] { low } else { 0.0 },
                    half_deviation: finest / 2.0,
                };
            }
            Column {
                half_mean: low + means[index] * range,
                half_deviation: ((variances[index] / count).sqrt() * range).max(finest / 2.0),
            }
        };
        Self { columns: (0..width).map(column).collect() }
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// Whether every column is as [`Self::fit`] makes them.
    pub fn is_sound(&self) -> bool {
        self.columns.iter().all(|column| {
            column.half_mean.is_finite() && (0.0..f64::INFINITY).contains(&column.half_deviation)
        })
    }

    /// Appends the grid values of one row to `out`.
    pub fn place(&self, row: &[f64], out: &mut Vec<i16>) {
        out.extend(self.columns.iter().zip(row).map(|(column, value)| column.place(*value)));
    }

    /// All rows on the grid.
    pub fn place_all(&self, rows: &Rows<f64>) -> Rows<i16> {
        let mut placed = Rows::new(self.width());
        let mut row = Vec::with_capacity(self.width());
        for values in rows.iter() {
            row.clear();
            self.place(values, &mut row);
            placed.push(&row);
        }
        placed
    }
}

impl Column {
    fn place(self, value: f64) -> i16 {
        let far = value / 2.0 - self.half_mean;
        let deviations = if self.half_deviation > 0.0 {
            far / self.half_deviation
        } else if far == 0.0 {
            0.0
        } else {
            DIFFERENT.copysign(far)
        };
        let farthest = f64::from(FARTHEST);
        let steps = (deviations * UNIT).clamp(-farthest, farthest);
        // To the nearest: the cast drops what is behind the point, and makes NaN 0.
        (steps + 0.5_f64.copysign(steps)) as i16
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column(values: &[f64]) -> Vec<i16> {
        let mut rows = Rows::new(1);
        for value in values {
            rows.push(&[*value]);
        }
        let standard = Standard::fit(&rows, 0.0);
        assert!(standard.is_sound(), "{standard:?}");
        standard.place_all(&rows).iter().map(|row| row[0]).collect()
    }

    #[test]
    fn deviations_are_counted_from_the_mean() {
        assert_eq!(column(&[1.0, 3.0]), [-2_048, 2_048]);
        assert_eq!(column(&[f64::MIN, f64::MAX]), [-2_048, 2_048]);
        assert_eq!(column(&[7.0, 7.0]), [0, 0]);
        let ulp = column(&[1.0, 1.0_f64.next_up()]);
        assert!(ulp[0] < ulp[1], "{ulp:?}");
    }

    #[test]
    fn what_differs_from_a_constant_is_seen() {
        let mut rows = Rows::new(1);
        rows.push(&[7.0]);
        let placed = |standard: &Standard, value| {
            let mut out = Vec::new();
            standard.place(&[value], &mut out);
            out[0]
        };
        let standard = Standard::fit(&rows, 0.0);
        assert_eq!([7.0, 7.1, -1e300].map(|value| placed(&standard, value)), [0, 8_192, -8_192]);
        let standard = Standard::fit(&rows, 0.5);
        assert_eq!([7.0, 8.0, 1e300].map(|value| placed(&standard, value)), [0, 4_096, FARTHEST]);
    }

    proptest! {
        #[test]
        fn any_finite_numbers_have_a_place(
            values in proptest::collection::vec(any::<f64>().prop_filter("finite", |value| value.is_finite()), 1..50),
            asked: f64,
        ) {
            let placed = column(&values);
            for (a, x) in values.iter().zip(&placed) {
                for (b, y) in values.iter().zip(&placed) {
                    prop_assert!(a > b || x <= y, "{a} {b} became {x} {y}");
                }
            }
            let mut rows = Rows::new(1);
            for value in &values { rows.push(&[*value]); }
            Standard::fit(&rows, 0.0).place(&[asked], &mut Vec::new());
        }
    }
}
