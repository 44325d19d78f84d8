//! Plain numeric CSV with a header row: the tables that forests are trained and measured on outside the gateway.
//!
//! Fields are separated by commas, spaces around them and quotes around a whole field do not matter, empty lines are
//! skipped. Lines, columns and kept rows are bounded, so that no file exhausts memory.

use std::io::{self, BufRead, Read};

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::{forest::MAX_COLUMNS, grid::Rows};

/// Bytes of a line.
const MAX_LINE: u64 = 1 << 20;
/// Values kept for training; a longer file is sampled evenly.
const MAX_VALUES: usize = 16 << 20;

/// The table cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file cannot be read.
    #[error("cannot read the table at line {line}")]
    Io {
        /// Line.
        line: u64,
        /// Cause.
        source: io::Error,
    },
    /// No header.
    #[error("the table is empty: a header row with the names of the columns is expected")]
    Empty,
    /// The header is made of numbers.
    #[error("the first line holds numbers: a header row with the names of the columns is expected")]
    NoHeader,
    /// Too many columns.
    #[error("the header names {0} columns: at most {MAX_COLUMNS} are possible")]
    Columns(usize),
    /// A column name is there twice.
    #[error("the header names column `{0}` twice")]
    Twice(String),
    /// Line too long.
    #[error("line {0} is longer than {MAX_LINE} bytes")]
    Line(u64),
    /// Wrong number of fields.
    #[error("line {line} has {found} fields, the header {expected}")]
    Fields {
        /// Line.
        line: u64,
        /// Fields found.
        found: usize,
        /// Fields of the header.
        expected: usize,
    },
    /// Not a finite number.
    #[error("line {line}, column `{column}`: `{text}` is not a finite number")]
    Number {
        /// Line.
        line: u64,
        /// Column.
        column: String,
        /// What stands there.
        text: String,
    },
}

/// Reads a table line by line.
#[derive(Debug)]
pub struct Table<R> {
    reader: R,
    columns: Vec<String>,
    line: u64,
    text: String,
}

impl<R: BufRead> Table<R> {
    /// Reads the header.
    pub fn open(reader: R) -> Result<Self, TableError> {
        let mut table = Self { reader, columns: Vec::new(), line: 0, text: String::new() };
        if !table.advance()? {
            return Err(TableError::Empty);
        }
        let header = table.text.trim_start_matches('\u{feff}');
        let columns: Vec<String> = fields(header).map(str::to_owned).collect();
        if columns.len() > MAX_COLUMNS {
            return Err(TableError::Columns(columns.len()));
        }
        if columns.iter().all(|name| name.parse::<f64>().is_ok()) {
            return Err(TableError::NoHeader);
        }
        let mut sorted: Vec<&String> = columns.iter().collect();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(TableError::Twice(pair[0].clone()));
        }
        table.columns = columns;
        Ok(table)
    }

    /// Names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Reads the next row into `row`; `false` at the end.
    pub fn next_row(&mut self, row: &mut Vec<f64>) -> Result<bool, TableError> {
        row.clear();
        if !self.advance()? {
            return Ok(false);
        }
        for (index, text) in fields(&self.text).enumerate() {
            match (text.parse::<f64>(), self.columns.get(index)) {
                (_, None) => {}
                (Ok(value), Some(_)) if value.is_finite() => row.push(value),
                (_, Some(column)) => {
                    let text = text.chars().take(40).collect();
                    return Err(TableError::Number { line: self.line, column: column.clone(), text });
                }
            }
        }
        let found = fields(&self.text).count();
        if found == self.columns.len() {
            Ok(true)
        } else {
            Err(TableError::Fields { line: self.line, found, expected: self.columns.len() })
        }
    }

    /// All rows, or an even sample of them when they are too many to keep.
    pub fn read_sampled(&mut self, seed: u64) -> Result<Rows<f64>, TableError> {
        let width = self.columns.len();
        let keep = MAX_VALUES / width.max(1);
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let mut rows = Rows::new(width);
        let mut row = Vec::with_capacity(width);
        let mut seen = 0_u64;
        while self.next_row(&mut row)? {
            seen += 1;
            if rows.len() < keep {
                rows.push(&row);
            } else {
                let place = random.next_u64() % seen;
                if place < keep as u64 {
                    rows.replace(place as usize, &row);
                }
            }
        }
        Ok(rows)
    }

    /// Reads the next line that is not empty; `false` at the end.
    fn advance(&mut self) -> Result<bool, TableError> {
        loop {
            self.text.clear();
            self.line += 1;
            let line = self.line;
            let read = (&mut self.reader)
                .take(MAX_LINE + 1)
                .read_line(&mut self.text)
                .map_err(|source| TableError::Io { line, source })?;
            if read == 0 {
                return Ok(false);
            }
            if read as u64 > MAX_LINE {
                return Err(TableError::Line(line));
            }
            if !self.text.trim().is_empty() {
                return Ok(true);
            }
        }
    }
}

fn fields(line: &str) -> impl Iterator<Item = &str> {
    line.trim_end_matches(['\r', '\n']).split(',').map(|field| {
        let field = field.trim();
        field.strip_prefix('"').and_then(|field| field.strip_suffix('"')).unwrap_or(field)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &[u8]) -> Result<Rows<f64>, TableError> {
        Table::open(text)?.read_sampled(1)
    }

    #[test]
    fn a_plain_table_is_read() {
        let rows = read(b"\xef\xbb\xbf\"a\", b\r\n1,2.5\r\n\r\n -3 ,4e3\r\n").unwrap();
        assert_eq!(rows.iter().collect::<Vec<_>>(), [[1.0, 2.5], [-3.0, 4000.0]]);
    }

    #[test]
    fn errors_name_line_and_column() {
        let error = |text: &str| read(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(error("a,b\n1,2\n3,NaN\n"), "line 3, column `b`: `NaN` is not a finite number");
        assert_eq!(error("a,b\n1,inf\n"), "line 2, column `b`: `inf` is not a finite number");
        assert_eq!(error("a,b\n1,\n"), "line 2, column `b`: `` is not a finite number");
        assert_eq!(error("a,b\n1\n"), "line 2 has 1 fields, the header 2");
        assert_eq!(error("a,b\n1,2,3\n"), "line 2 has 3 fields, the header 2");
        assert_eq!(error("a,a\n1,2\n"), "the header names column `a` twice");
        assert!(error("1,2\n3,4\n").contains("a header row"));
        assert!(error("").contains("is empty"));
        assert!(read(b"a\n\xff\n").unwrap_err().to_string().contains("line 2"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes);
        }
    }
}
