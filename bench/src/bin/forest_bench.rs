//! Times training and scoring of the flow forest in one process, for `cargo xtask bench scoring`.
//!
//! Arguments: rows to score, then pairs of CSV files, one to train on and one to score. Prints one JSON line: mean time to
//! train, and rows scored a second over all pairs, the way from floats onto the integer grid included.

use std::{env, fs::File, hint::black_box, io::BufReader, time::Instant};

use anyhow::{Context as _, Result, bail};
use tidegate::learn::{Forest, Grid, Growth, Rows, Table};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [rows, files @ ..] = &arguments[..] else { bail!("usage: forest_bench ROWS TRAIN.csv TEST.csv ...") };
    let wanted: usize = rows.parse().context("the number of rows")?;
    let (pairs, []) = files.as_chunks::<2>() else { bail!("every training file needs a file to score") };
    let (mut train_s, mut score_s, mut scored) = (0.0, 0.0, 0);
    for [train, test] in pairs {
        let (train, test) = (read(train)?, read(test)?);
        let started = Instant::now();
        let grid = Grid::fit(&train);
        let forest = Forest::grow(&grid.place_all(&train), Growth::default())?;
        train_s += started.elapsed().as_secs_f64();

        let mut rows = Rows::new(test.width());
        (0..wanted).for_each(|row| rows.push(test.row(row % test.len())));
        let started = Instant::now();
        black_box(forest.score_rows(&grid, &rows));
        score_s += started.elapsed().as_secs_f64();
        scored += rows.len();
    }
    let report = serde_json::json!({
        "train_ms": train_s * 1e3 / pairs.len() as f64,
        "rows_per_s": scored as f64 / score_s,
    });
    #[allow(clippy::print_stdout, reason = "the report is the program's output")]
    {
        println!("{report}");
    }
    Ok(())
}

fn read(path: &str) -> Result<Rows<f64>> {
    let file = File::open(path).with_context(|| format!("cannot open {path}"))?;
    Ok(Table::open(BufReader::new(file))?.read_sampled(1)?)
}
