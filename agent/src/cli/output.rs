//! Tables for people, JSON for scripts.

use std::{
    fmt::Display,
    io::{self, Write},
    time::Duration,
};

use comfy_table::{Table, presets::NOTHING};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::{
    api::view::Versioned,
    cli::error::{CliError, Exit},
};

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Aligned columns.
    Table,
    /// One JSON document with a `schema` number; streams print one a line.
    Json,
}

/// Prints results in the form that was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    format: Format,
}

impl Output {
    pub(super) const fn new(format: Format) -> Self {
        Self { format }
    }

    /// Whether JSON was asked for.
    pub(super) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Prints `view` as JSON, or what `text` makes of it.
    pub(super) fn show<T: Serialize>(
        self,
        view: T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<Exit, CliError> {
        match self.format {
            Format::Table => print(&text(&view))?,
            Format::Json => {
                let json = serde_json::to_string_pretty(&Versioned::from(view))
                    .map_err(|error| CliError::failure(format!("cannot write JSON: {error}")))?;
                print(&json)?;
            }
        }
        Ok(Exit::Ok)
    }

    /// Prints one element of a stream on one line.
    pub(super) fn line<T: Serialize>(self, view: T, text: impl FnOnce(&T) -> String) -> Result<(), CliError> {
        match self.format {
            Format::Table => print(&text(&view)),
            Format::Json => {
                let json = serde_json::to_string(&Versioned::from(view))
                    .map_err(|error| CliError::failure(format!("cannot write JSON: {error}")))?;
                print(&json)
            }
        }
    }
}

/// Writes `text` and a line end to standard output. A reader that has gone away has seen enough.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(CliError::failure(format!("cannot write to standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Columns under `header`, or `empty` when there are no rows.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    empty: &str,
) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header);
    table.add_rows(rows);
    if table.is_empty() {
        return empty.to_owned();
    }
    let text = table.to_string();
    text.lines()
        .map(|line| line.trim_end().strip_prefix(' ').unwrap_or(line.trim_end()))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The value, or `-`.
pub(super) fn or_dash<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `3m ago`, in the largest unit that fits.
pub(super) fn ago(time: Timestamp) -> String {
    let seconds = Timestamp::now().duration_since(time).as_secs();
    if seconds <= 0 { "now".to_owned() } else { format!("{} ago", short(seconds.unsigned_abs())) }
}

/// `9m`, in the largest unit that fits; `never` for no end.
pub(super) fn remaining(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "never".to_owned(), short)
}

fn short(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A length of time in full, such as `1h 30m`.
pub(super) fn long(seconds: u64) -> String {
    SignedDuration::try_from(Duration::from_secs(seconds))
        .map_or_else(|_| format!("{seconds}s"), |duration| format!("{duration:#}"))
}

/// `1.4 MiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1_024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1_024.0;
    let mut unit = 0;
    while value >= 1_024.0 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Names from outside, shown without control characters: a device chooses its own name and must not move the cursor.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_without_borders() {
        let rows = [["a".to_owned(), "1".to_owned()], ["long".to_owned(), "22".to_owned()]];
        assert_eq!(table(["NAME", "N"], rows, "nothing"), "NAME  N\na     1\nlong  22");
        assert_eq!(table(["NAME"], [], "nothing"), "nothing");
    }

    #[test]
    fn lengths_of_time_and_bytes_are_short() {
        assert_eq!([short(59), short(600), short(7_200), short(900_000)], ["59s", "10m", "2h", "10d"]);
        assert_eq!([bytes(9), bytes(1_536), bytes(3 << 30)], ["9 B", "1.5 KiB", "3.0 GiB"]);
        assert_eq!(remaining(None), "never");
    }

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(printable("cam\u{1b}[2Jera\n"), "cam?[2Jera?");
    }
}
