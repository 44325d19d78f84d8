//! Integer grid: floats of any range become `u32` before a tree sees them.
//!
//! Each column is mapped affinely so that the training data's smallest and largest value take the middle half of 0 … 2^32-1;
//! what lies outside them stays apart from them, and ends at the ends. On integers a split of different values always exists
//! and always makes progress, so columns one ulp apart cannot stall training.

use serde::{Deserialize, Serialize};

/// Where the smallest value of the training data lies.
const LOW: f64 = (1_u64 << 30) as f64;
/// Where the largest value lies.
const HIGH: f64 = (3_u64 << 30) as f64;

/// A table of numbers, row by row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows<T> {
    width: usize,
    values: Vec<T>,
}

impl<T: Copy> Rows<T> {
    /// An empty table of `width` columns.
    pub const fn new(width: usize) -> Self {
        Self { width, values: Vec::new() }
    }

    /// Appends a row; values beyond the width are ignored, missing ones are refused.
    pub fn push(&mut self, row: &[T]) {
        assert!(row.len() >= self.width, "a row of {} values for {} columns", row.len(), self.width);
        self.values.extend_from_slice(&row[..self.width]);
    }

    /// Replaces a row.
    pub fn replace(&mut self, index: usize, row: &[T]) {
        self.values[index * self.width..][..self.width].copy_from_slice(&row[..self.width]);
    }

    /// Number of columns.
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// One row.
    pub fn row(&self, index: usize) -> &[T] {
        &self.values[index * self.width..][..self.width]
    }

    /// All rows, one after the other.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[T]> {
        self.values.chunks_exact(self.width.max(1))
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.values.clear();
    }
}

/// One column's range in the training data.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Column {
    low: f64,
    high: f64,
}

/// The grid of a whole table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    columns: Vec<Column>,
}

impl Grid {
    /// The grid that fits `rows`, whose values must be finite.
    pub fn fit(rows: &Rows<f64>) -> Self {
        let mut columns = vec![Column { low: f64::INFINITY, high: f64::NEG_INFINITY }; rows.width()];
        for row in rows.iter() {
            for (column, value) in columns.iter_mut().zip(row) {
                column.low = column.low.min(*value);
                column.high = column.high.max(*value);
            }
        }
        Self { columns }
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// Whether every range is finite and the right way round, as [`Self::fit`] makes them.
    pub fn is_sound(&self) -> bool {
        self.columns
            .iter()
            .all(|column| column.low.is_finite() && column.high.is_finite() && column.low <= column.high)
    }

    /// Appends the grid values of one row to `out`.
    pub fn place(&self, row: &[f64], out: &mut Vec<u32>) {
        out.extend(self.columns.iter().zip(row).map(|(column, value)| column.place(*value)));
    }

    /// All rows on the grid.
    pub fn place_all(&self, rows: &Rows<f64>) -> Rows<u32> {
        let mut values = Vec::with_capacity(rows.len() * self.width());
        for row in rows.iter() {
            self.place(row, &mut values);
        }
        Rows { width: self.width(), values }
    }
}

impl Column {
    fn place(self, value: f64) -> u32 {
        // Halves keep the difference of the largest finite numbers finite.
        let range = self.high / 2.0 - self.low / 2.0;
        if range <= 0.0 {
            // A constant, or a range below the smallest normal number: only the ends can be told apart.
            return match value {
                _ if value < self.low => 0,
                _ if value <= self.low => LOW as u32,
                _ if value <= self.high => HIGH as u32,
                _ => u32::MAX,
            };
        }
        let share = (value / 2.0 - self.low / 2.0) / range;
        // A float-to-integer cast cuts and saturates, so values far outside end at the ends and NaN at 0.
        let placed = (LOW + share * (HIGH - LOW) + 0.5) as u32;
        // Rounding must not put what is outside on the ends of the inside.
        match placed {
            _ if value < self.low => placed.min(LOW as u32 - 1),
            _ if value > self.high => placed.max(HIGH as u32 + 1),
            _ => placed,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column(values: &[f64]) -> Vec<u32> {
        let mut rows = Rows::new(1);
        for value in values {
            rows.push(&[*value]);
        }
        let placed = Grid::fit(&rows).place_all(&rows);
        placed.iter().map(|row| row[0]).collect()
    }

    #[test]
    fn the_ends_of_a_column_are_the_middle_half_of_the_grid() {
        let (low, high) = (1 << 30, 3 << 30);
        assert_eq!(column(&[1.0, 3.0, 2.0]), [low, high, 1 << 31]);
        assert_eq!(column(&[f64::MIN, f64::MAX]), [low, high]);
        assert_eq!(column(&[5.0, 5.0]), [low, low]);
        assert_eq!(column(&[1.0, 1.0_f64.next_up()]), [low, high]);
        assert_eq!(column(&[0.0, f64::from_bits(1)]), [low, high]);
    }

    #[test]
    fn what_lies_outside_stays_apart() {
        for (low, high) in [(1.0, 3.0), (5.0, 5.0), (0.0, f64::from_bits(1)), (-1e300, 1e300)] {
            let column = Column { low, high };
            let below = column.place(low.next_down());
            let above = column.place(high.next_up());
            assert!(below < column.place(low) && column.place(high) < above, "{below} {above}");
            assert_eq!((column.place(f64::MIN), column.place(f64::MAX)), (0, u32::MAX));
        }
    }

    proptest! {
        #[test]
        fn order_is_kept(values in proptest::collection::vec(proptest::num::f64::NORMAL | proptest::num::f64::ZERO | proptest::num::f64::SUBNORMAL, 2..50)) {
            let placed = column(&values);
            for (a, x) in values.iter().zip(&placed) {
                for (b, y) in values.iter().zip(&placed) {
                    prop_assert!(a > b || x <= y, "{a} {b} became {x} {y}");
                }
            }
        }
    }
}
