//! Scores of the crate `extended-isolation-forest` at full extension, one a line, for the detection bench.
//!
//! Arguments: a CSV to train on and one to score, both with a header row. 100 trees from 256 rows each; the crate has no seed.
//! Columns are rounded to 1/65,536 of their range first: values one rounding step apart can keep its training from ending.

use std::{env, error::Error, fs, process::ExitCode};

use extended_isolation_forest::{Forest, ForestOptions};

const STEPS: f64 = 65_536.0;

type Table = Vec<Vec<f64>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments) {
        Ok(scores) => {
            print(&scores);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, reason = "the scores are its result")]
fn print(scores: &[f64]) {
    for score in scores {
        println!("{score}");
    }
}

fn run(arguments: &[String]) -> Result<Vec<f64>, Box<dyn Error>> {
    let [train, test] = arguments else { return Err("usage: TRAIN.csv TEST.csv".into()) };
    let (mut train, mut test) = (read(train)?, read(test)?);
    let width = train.first().map_or(0, Vec::len);
    for column in 0..width {
        let low = train.iter().map(|row| row[column]).fold(f64::INFINITY, f64::min);
        let high = train.iter().map(|row| row[column]).fold(f64::NEG_INFINITY, f64::max);
        let step = if high > low { (high - low) / STEPS } else { 1.0 };
        for row in train.iter_mut().chain(&mut test) {
            row[column] = ((row[column] - low) / step).round() * step;
        }
    }
    // The crate wants the width at compile time.
    macro_rules! of_width {
        ($($width:literal)*) => {
            match width {
                $($width => scores::<$width>(&train, &test),)*
                other => Err(format!("{other} columns are more than this example is made for").into()),
            }
        };
    }
    of_width!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48)
}

fn scores<const N: usize>(train: &Table, test: &Table) -> Result<Vec<f64>, Box<dyn Error>> {
    let rows = |table: &Table| -> Result<Vec<[f64; N]>, Box<dyn Error>> {
        table
            .iter()
            .map(|row| row.as_slice().try_into().map_err(|_| "a row of another width".into()))
            .collect()
    };
    let (train, test) = (rows(train)?, rows(test)?);
    let options = ForestOptions {
        n_trees: 100,
        sample_size: train.len().min(256),
        max_tree_depth: None,
        extension_level: N - 1,
    };
    let forest =
        Forest::from_slice(&train, &options).map_err(|error| format!("training failed: {error:?}"))?;
    Ok(test.iter().map(|row| forest.score(row)).collect())
}

fn read(path: &str) -> Result<Table, Box<dyn Error>> {
    let text = fs::read_to_string(path)?;
    let rows = text.lines().skip(1).filter(|line| !line.is_empty());
    rows.map(|line| line.split(',').map(|field| Ok(field.trim().parse()?)).collect()).collect()
}
