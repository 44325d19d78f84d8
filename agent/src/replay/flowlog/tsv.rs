//! Zeek's own form: a header of `#` lines, fields apart by one separator.
//!
//! Labelled logs often have their last columns appended with other blanks: a name in `#fields` that holds blanks or bars
//! is several columns, and its fields are cut the same way.

use std::borrow::Cow;

use super::{
    BadLine,
    flow::LoggedFlow,
    zeek::{self, Column, NEEDED},
};

/// Header of a log.
pub(super) struct Columns {
    separator: char,
    unset: String,
    empty: String,
    /// How many columns each field holds, in order; empty before `#fields`.
    fields: Vec<usize>,
    /// Where each known column stands.
    places: [Option<usize>; Column::COUNT],
    width: usize,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            separator: '\t',
            unset: "-".to_owned(),
            empty: "(empty)".to_owned(),
            fields: Vec::new(),
            places: [None; Column::COUNT],
            width: 0,
        }
    }
}

impl Columns {
    pub(super) const fn is_ready(&self) -> bool {
        !self.fields.is_empty()
    }

    /// Takes a header line, without its `#`.
    pub(super) fn directive(&mut self, line: &str) -> Result<(), String> {
        if let Some(separator) = line.strip_prefix("separator ") {
            self.separator = character(separator).ok_or_else(|| format!("`{separator}` is no separator"))?;
            return Ok(());
        }
        let (name, rest) = line.split_once(self.separator).unwrap_or((line, ""));
        match name {
            "unset_field" => rest.clone_into(&mut self.unset),
            "empty_field" => rest.clone_into(&mut self.empty),
            "path" if !rest.starts_with("conn") => {
                return Err(format!("this is Zeek's {rest}.log (hint: flows stand in conn.log)"));
            }
            "fields" => return self.take_fields(rest),
            _ => {}
        }
        Ok(())
    }

    fn take_fields(&mut self, names: &str) -> Result<(), String> {
        let names: Vec<Vec<&str>> = names.split(self.separator).map(|field| parts(field).collect()).collect();
        let mut places = [None; Column::COUNT];
        for (place, name) in names.iter().flatten().enumerate() {
            if let Some(column) = Column::named(name) {
                places[column as usize] = places[column as usize].or(Some(place));
            }
        }
        let lacking: Vec<&str> = NEEDED
            .into_iter()
            .filter(|column| places[*column as usize].is_none())
            .map(Column::name)
            .collect();
        if !lacking.is_empty() {
            return Err(format!("#fields lacks {} (hint: flows stand in conn.log)", lacking.join(", ")));
        }
        self.places = places;
        self.fields = names.iter().map(Vec::len).collect();
        self.width = self.fields.iter().sum();
        Ok(())
    }

    /// The flow of a data line.
    pub(super) fn flow(&self, line: &str) -> Result<LoggedFlow, BadLine> {
        let mut values: Vec<&str> = Vec::with_capacity(self.width);
        let mut fields = line.split(self.separator);
        for columns in &self.fields {
            let field = fields.next().ok_or(BadLine::LineFields)?;
            if *columns == 1 {
                values.push(field);
            } else {
                values.extend(parts(field));
            }
        }
        if fields.next().is_some() || values.len() != self.width {
            return Err(BadLine::LineFields);
        }
        zeek::flow(|column| {
            let value = values[self.places[column as usize]?];
            (value != self.unset && value != self.empty && !value.is_empty()).then_some(Cow::Borrowed(value))
        })
    }
}

/// The columns within one field.
fn parts(field: &str) -> impl Iterator<Item = &str> {
    field.split([' ', '|']).filter(|part| !part.is_empty())
}

/// `\x09` or the character itself.
fn character(text: &str) -> Option<char> {
    match text.strip_prefix("\\x") {
        Some(code) => u8::from_str_radix(code.trim(), 16).ok().map(char::from),
        None => text.chars().next(),
    }
}
