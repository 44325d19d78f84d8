//! A forest for plain tables of numbers: trained on rows of finite numbers, scores rows of the same columns.
//!
//! Flows are judged by the forest that the kernel runs as well; windows are few and may cost more, so they are judged by an
//! extended forest, which ranks better on nearly every table measured (docs/decisions/0011). Training is bounded for any numbers.

use serde::{Deserialize, Serialize};

use super::{
    extended::Extended,
    forest::{Forest, Growth, GrowthError},
    grid::{Grid, Rows},
    standard::Standard,
};

/// What a model's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// One row a flow.
    Flow,
    /// One row a window of time.
    Window,
}

/// A forest with the columns it was trained on.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Names of the columns, in order.
    pub columns: Vec<String>,
    /// Seed it was grown from.
    pub seed: u64,
    pub(super) trees: Trees,
}

/// The trees and the grid that rows are put on for them.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Trees {
    Flow(Grid, Forest),
    Window(Standard, Extended),
}

impl Model {
    /// Trains a model on `rows`, which have one value for each of `columns`.
    pub fn train(
        kind: ModelKind,
        columns: Vec<String>,
        rows: &Rows<f64>,
        growth: Growth,
    ) -> Result<Self, GrowthError> {
        if let Some(row) = rows.iter().position(|row| row.iter().any(|value| !value.is_finite())) {
            return Err(GrowthError::NotFinite(row));
        }
        growth.check(rows.width(), rows.len())?;
        let trees = match kind {
            ModelKind::Flow => {
                let grid = Grid::fit(rows);
                let forest = Forest::grow(&grid.place_all(rows), growth)?;
                Trees::Flow(grid, forest)
            }
            ModelKind::Window => {
                let grid = Standard::fit(rows, 0.0);
                let forest = Extended::grow(&grid.place_all(rows), growth)?;
                Trees::Window(grid, forest)
            }
        };
        Ok(Self { columns, seed: growth.seed, trees })
    }

    /// What its rows are.
    pub const fn kind(&self) -> ModelKind {
        match self.trees {
            Trees::Flow(..) => ModelKind::Flow,
            Trees::Window(..) => ModelKind::Window,
        }
    }

    /// Anomaly score of each row, 0–1, higher = more anomalous. Infinities count as far outside, NaN as some value inside.
    pub fn score_rows(&self, rows: &Rows<f64>) -> Vec<f64> {
        match &self.trees {
            Trees::Flow(grid, forest) => forest.score_rows(grid, rows),
            Trees::Window(grid, forest) => forest.score_rows(&grid.place_all(rows)),
        }
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
