//! A table with a header row that names conn.log's columns, or the usual other names for them. Fields may be quoted; the
//! separator is the one that finds the most columns.

use std::borrow::Cow;

use super::{
    BadLine,
    flow::LoggedFlow,
    zeek::{self, Column, NEEDED},
};

const SEPARATORS: [char; 4] = [',', '\t', '|', ';'];

/// Header of a table.
pub(super) struct Table {
    separator: char,
    width: usize,
    places: [Option<usize>; Column::COUNT],
}

impl Table {
    pub(super) fn of_header(line: &str) -> Result<Self, String> {
        let read = |separator: char| {
            let mut places = [None; Column::COUNT];
            let mut width = 0;
            for (place, name) in fields(line, separator).enumerate() {
                width = place + 1;
                if let Some(column) = Column::named(name.trim()) {
                    places[column as usize] = places[column as usize].or(Some(place));
                }
            }
            Self { separator, width, places }
        };
        let known = |table: &Self| table.places.iter().flatten().count();
        let best = SEPARATORS.map(read).into_iter().max_by_key(known);
        let table = best.filter(|table| known(table) > 0).ok_or_else(|| {
            "neither a log of Zeek or Suricata nor a table whose header row names conn.log's columns (hint: `file` tells what it is)"
                .to_owned()
        })?;
        let lacking: Vec<&str> = NEEDED
            .into_iter()
            .filter(|column| table.places[*column as usize].is_none())
            .map(Column::name)
            .collect();
        if lacking.is_empty() {
            Ok(table)
        } else {
            Err(format!(
                "the header row lacks {} (hint: name the columns as conn.log does)",
                lacking.join(", ")
            ))
        }
    }

    pub(super) fn flow(&self, line: &str) -> Result<LoggedFlow, BadLine> {
        let values: Vec<&str> = fields(line, self.separator).take(self.width + 1).collect();
        if values.len() != self.width {
            return Err(BadLine::LineFields);
        }
        zeek::flow(|column| {
            let value = values[self.places[column as usize]?].trim();
            let is_set = !value.is_empty() && !matches!(value, "-" | "(empty)" | "nan" | "NaN");
            is_set.then_some(Cow::Borrowed(value))
        })
    }
}

/// The fields of a line; quotes around a field are taken away, and separators inside them do not count.
fn fields(line: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let text = rest?;
        if let Some(quoted) = text.strip_prefix('"')
            && let Some((field, after)) = quoted.split_once('"')
        {
            rest = after.split_once(separator).map(|(_, after)| after);
            return Some(field);
        }
        let (field, after) =
            text.split_once(separator).map_or((text, None), |(field, after)| (field, Some(after)));
        rest = after;
        Some(field)
    })
}
