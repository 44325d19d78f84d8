//! `tidegate model train|score --features`: forests on plain numeric CSV, without a daemon.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::learn::{Growth, Model, ModelKind, Rows, Table};

/// Trains a forest on a CSV of normal rows.
#[derive(Clone, Debug)]
pub struct TrainArgs {
    /// CSV with a header row and numbers below it; the rows are taken to be normal.
    pub features: PathBuf,
    /// Seed: the same rows and seed give the same model.
    pub seed: u64,
    /// Trees of the forest.
    pub trees: usize,
    /// Rows each tree is grown from; reduced when the file has fewer.
    pub sample: u32,
    /// What a row stands for.
    pub kind: ModelKind,
    /// File to write the model to.
    pub output: PathBuf,
}

/// Scores the rows of a CSV with a trained forest, one score a line, higher = more anomalous.
#[derive(Args, Clone, Debug)]
pub struct ScoreArgs {
    /// Model written by `model train`
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// CSV with the model's columns, in any order; further columns are ignored
    #[arg(long, value_name = "CSV")]
    pub features: PathBuf,
}

/// Rows scored at once.
const BATCH: usize = 4_096;

/// Runs `model train --features`.
pub fn train(args: &TrainArgs) -> Result<()> {
    let mut table = open(&args.features)?;
    let rows = table.read_sampled(args.seed).with_context(|| in_file(&args.features))?;
    let growth = Growth { trees: args.trees, sample: args.sample, seed: args.seed };
    let model = Model::train(args.kind, table.columns().to_vec(), &rows, growth)
        .with_context(|| in_file(&args.features))?;
    write_whole(&args.output, &model)
}

/// Runs `model score --features`, writing to standard output.
pub fn score(args: &ScoreArgs) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    match score_to(args, &mut out).and_then(|()| Ok(out.flush()?)) {
        // The reader of a pipe has seen enough.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(is_closed_pipe) => Ok(()),
        result => result,
    }
}

fn is_closed_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

fn score_to(args: &ScoreArgs, out: &mut impl Write) -> Result<()> {
    let file = File::open(&args.model).with_context(|| format!("cannot open {}", args.model.display()))?;
    let model = Model::read(file).with_context(|| in_file(&args.model))?;
    let mut table = open(&args.features)?;
    let places = places(&model, table.columns()).with_context(|| in_file(&args.features))?;

    let (mut row, mut ordered) = (Vec::new(), vec![0.0; places.len()]);
    let mut batch = Rows::new(places.len());
    loop {
        let more = table.next_row(&mut row).with_context(|| in_file(&args.features))?;
        if more {
            for (value, place) in ordered.iter_mut().zip(&places) {
                *value = row[*place];
            }
            batch.push(&ordered);
        }
        if batch.len() == BATCH || !more {
            for score in model.score_rows(&batch) {
                writeln!(out, "{score}")?;
            }
            batch.clear();
        }
        if !more {
            return Ok(());
        }
    }
}

/// Where the model's columns stand in the table.
fn places(model: &Model, columns: &[String]) -> Result<Vec<usize>> {
    let place = |name: &String| columns.iter().position(|column| column == name);
    let missing: Vec<&str> =
        model.columns.iter().filter(|name| place(name).is_none()).map(String::as_str).collect();
    if !missing.is_empty() {
        bail!("the table lacks {} of the model's columns: {}", missing.len(), missing.join(", "));
    }
    Ok(model.columns.iter().filter_map(place).collect())
}

fn open(path: &Path) -> Result<Table<BufReader<File>>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Table::open(BufReader::with_capacity(1 << 18, file)).with_context(|| in_file(path))
}

fn in_file(path: &Path) -> String {
    format!("in {}", path.display())
}

/// Through a second file, so that a full disk never leaves half a model behind the name.
fn write_whole(path: &Path, model: &Model) -> Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let write = || -> Result<()> {
        let file = File::create(&part).with_context(|| format!("cannot create {}", part.display()))?;
        model.write(&file)?;
        file.sync_all().with_context(|| format!("cannot write {}", part.display()))?;
        std::fs::rename(&part, path).with_context(|| format!("cannot write {}", path.display()))
    };
    write().inspect_err(|_| {
        // Nothing more can be done about a leftover than to try.
        let _ = std::fs::remove_file(&part);
    })
}
