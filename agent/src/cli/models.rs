//! `tidegate model`: baselines of the running daemon.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use crate::{
    api::{
        Client, DeviceRef,
        view::{BaselineState, ModelView, Models},
    },
    cli::{
        error::{CliError, Exit},
        model::{self, ScoreArgs, TrainArgs},
        output::{Output, ago, table},
    },
    learn::ModelKind,
};

/// Largest document that is read.
const MAX_DOCUMENT: u64 = 16 << 20;

/// Show, train, restore and move baselines.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show how far every device's baseline is.
    Status,
    /// Train a device's baseline now on what was collected, or everyone's; or a forest on a CSV, without a daemon.
    #[command(after_help = "\
Examples:
  tidegate model train camera-1
  tidegate model train --features train.csv --seed 7 --output forest.json")]
    Train {
        /// Hardware address, address or name; everyone when absent.
        #[arg(value_name = "DEVICE", conflicts_with = "features")]
        device: Option<DeviceRef>,
        #[command(flatten)]
        table: TableArgs,
    },
    /// Score the rows of a CSV with a forest that `train --features` wrote: one score a line, higher = more anomalous.
    Score(ScoreArgs),
    /// Go back to a device's previous baseline.
    Rollback {
        /// Hardware address, address or name.
        #[arg(value_name = "DEVICE")]
        device: DeviceRef,
    },
    /// Write a device's baseline to a file.
    Export {
        /// Hardware address, address or name.
        #[arg(value_name = "DEVICE")]
        device: DeviceRef,
        /// File to write; `-` for standard output.
        #[arg(long, value_name = "FILE", default_value = "-")]
        file: PathBuf,
    },
    /// Give a device the baseline of a file, for example of another device of its kind.
    Import {
        /// Hardware address, address or name.
        #[arg(value_name = "DEVICE")]
        device: DeviceRef,
        /// File that `export` wrote.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
}

/// The form of `train` that needs no daemon.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Training on a table")]
pub(super) struct TableArgs {
    /// CSV with a header row and numbers below it; the rows are taken to be normal.
    #[arg(long, value_name = "CSV", requires = "file")]
    features: Option<PathBuf>,
    /// File to write the forest to.
    #[arg(id = "file", long = "output", value_name = "FILE", requires = "features")]
    output: Option<PathBuf>,
    /// Seed: the same rows and seed give the same forest.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Trees of the forest.
    #[arg(long, default_value_t = 100, value_name = "N")]
    trees: usize,
    /// Rows each tree is grown from; reduced when the file has fewer.
    #[arg(long, default_value_t = 256, value_name = "N")]
    sample: u32,
    /// What a row stands for.
    #[arg(long, value_enum, default_value = "flow")]
    kind: ModelKind,
}

pub(super) async fn run(command: Command, output: Output, client: &Client) -> Result<Exit, CliError> {
    match command {
        Command::Status => {
            output.show(Models { models: client.models().await? }, |list| listing(&list.models))
        }
        Command::Train {
            table: TableArgs { features: Some(features), output: Some(output), seed, trees, sample, kind },
            ..
        } => {
            model::train(&TrainArgs { features, seed, trees, sample, kind, output })?;
            Ok(Exit::Ok)
        }
        Command::Score(args) => {
            model::score(&args)?;
            Ok(Exit::Ok)
        }
        Command::Train { device, .. } => {
            let models = client.train(device.as_ref()).await?;
            output.show(Models { models }, |list| listing(&list.models))
        }
        Command::Rollback { device } => output
            .show(client.rollback(&device).await?, |model| format!("version {} is in force", model.version)),
        Command::Export { device, file } => {
            let document = client.export(&device).await?;
            let written = if file == Path::new("-") {
                std::io::stdout().lock().write_all(&document)
            } else {
                fs::write(&file, &document)
            };
            written
                .map_err(|error| CliError::failure(format!("cannot write {}: {error}", file.display())))?;
            Ok(Exit::Ok)
        }
        Command::Import { device, file } => {
            let model = client.import(&device, read(&file)?.into()).await?;
            output.show(model, |model| format!("version {} is in force", model.version))
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let failed =
        |error: std::io::Error| CliError::failure(format!("cannot read {}: {error}", path.display()));
    let mut document = Vec::new();
    fs::File::open(path)
        .map_err(failed)?
        .take(MAX_DOCUMENT + 1)
        .read_to_end(&mut document)
        .map_err(failed)?;
    if document.len() as u64 > MAX_DOCUMENT {
        let cause = format!("{} is larger than a baseline can be", path.display());
        return Err(CliError::failure(cause).hint("name a file that `tidegate model export` wrote"));
    }
    Ok(document)
}

fn listing(models: &[ModelView]) -> String {
    let rows = models.iter().map(|model| {
        [
            model.device.map_or_else(|| "(fleet)".to_owned(), |mac| mac.to_string()),
            match model.state {
                BaselineState::Ready => "ready".to_owned(),
                BaselineState::Learning => format!("learning {:.0} %", model.learned * 100.0),
            },
            model.version.to_string(),
            model.trained.map_or_else(|| "-".to_owned(), ago),
            model.flows.to_string(),
            model.windows.to_string(),
        ]
    });
    table(["DEVICE", "STATE", "VERSION", "TRAINED", "FLOWS", "WINDOWS"], rows, "no baseline yet")
}
