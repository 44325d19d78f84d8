//! Flow logs as a stream of flows: Zeek's conn.log (tab-separated, JSON, and tables with a header row, labelled or not)
//! and Suricata's EVE JSON (`flow`, `netflow`; alerts are handed over as such). Recognised by content alone.
//!
//! Invariants: memory is bounded whatever a line's length; entries come in the order of the log; every line is an entry, is
//! no business of ours (comment, other event), or is counted under one reason with the first line's number. A log is
//! refused by its header, or when not one of its lines can be read; never half-way.

mod csv;
mod eve;
mod flow;
mod json;
mod line;
mod tsv;
mod value;
mod zeek;

use std::{
    collections::BTreeMap,
    io::{self, Read},
    net::IpAddr,
};

pub use flow::{Class, Label, LoggedFlow, LoggedSide};
use line::{Line, Lines};
use serde::Serialize;

/// One thing a log tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A flow.
    Flow(Box<LoggedFlow>),
    /// An alert of Suricata.
    Alert(LoggedAlert),
}

/// An alert as EVE has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedAlert {
    /// When, nanoseconds since the epoch.
    pub time_ns: u64,
    /// Source of the packet that the signature matched.
    pub src: IpAddr,
    /// Its destination.
    pub dst: IpAddr,
    /// The signature's number.
    pub signature_id: u64,
    /// The signature's words.
    pub signature: String,
    /// 1 (grave) to 4; 0 when the log does not say.
    pub severity: u8,
}

/// Why a line could not be read. The name stands in the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BadLine {
    /// Longer than any record is.
    LineTooLong,
    /// Not UTF-8.
    LineNotText,
    /// Another number of fields than the header names.
    LineFields,
    /// Not a JSON object.
    LineJson,
    /// An address is missing or none.
    LineAddress,
    /// A port is missing or none.
    LinePort,
    /// No protocol known.
    LineProtocol,
    /// A time or duration is missing or none.
    LineTime,
    /// A count is missing or none.
    LineCount,
}

impl BadLine {
    /// The reason's name in the account.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LineTooLong => "line_too_long",
            Self::LineNotText => "line_not_text",
            Self::LineFields => "line_fields",
            Self::LineJson => "line_json",
            Self::LineAddress => "line_address",
            Self::LinePort => "line_port",
            Self::LineProtocol => "line_protocol",
            Self::LineTime => "line_time",
            Self::LineCount => "line_count",
        }
    }
}

/// Lines that could not be read for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BadLines {
    /// How many.
    pub count: u64,
    /// Number of the first, from 1.
    pub first_line: u64,
}

/// What became of every line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LineTally {
    /// Lines read, empty ones left out.
    pub lines: u64,
    /// Flows among them.
    pub flows: u64,
    /// Alerts among them.
    pub alerts: u64,
    /// Comments, other events, and records of the kind (`flow`, `netflow`) that the log did not begin with.
    pub other: u64,
    /// Lines that could not be read, by reason.
    pub bad: BTreeMap<BadLine, BadLines>,
}

impl LineTally {
    /// Another log's lines, too.
    pub fn add(&mut self, other: &Self) {
        self.lines += other.lines;
        self.flows += other.flows;
        self.alerts += other.alerts;
        self.other += other.other;
        for (reason, lines) in &other.bad {
            self.bad.entry(*reason).or_insert(BadLines { count: 0, ..*lines }).count += lines.count;
        }
    }

    fn note(&mut self, reason: BadLine, line: u64) {
        self.bad.entry(reason).or_insert(BadLines { count: 0, first_line: line }).count += 1;
    }
}

/// Why a log was refused.
#[derive(Debug, thiserror::Error)]
pub enum FlowLogError {
    /// The operating system could not read it.
    #[error("reading failed at line {line}: {cause}")]
    Io {
        /// Number of the line, from 1.
        line: u64,
        /// What the system said.
        cause: io::Error,
    },
    /// Its beginning is that of no flow log.
    #[error(
        "not a flow log: {0}; expected Zeek conn.log (tab-separated or JSON), Suricata EVE JSON, or a table with a header row"
    )]
    Unknown(String),
    /// It is a log of something else, or lacks what a flow needs.
    #[error("line {line}: {cause}")]
    Header {
        /// Number of the line, from 1.
        line: u64,
        /// What is wrong, with a hint.
        cause: String,
    },
    /// Not one line could be read.
    #[error("not one of its {lines} lines is a flow; the first problem is {reason} at line {line}")]
    Nothing {
        /// Lines read.
        lines: u64,
        /// Why the first could not be read.
        reason: &'static str,
        /// Its number.
        line: u64,
    },
}

/// How the lines are to be read.
enum Format {
    Tsv(tsv::Columns),
    Csv(csv::Table),
    ZeekJson,
    Eve(eve::Kind),
}

/// A log being read.
pub struct FlowLog<R> {
    lines: Lines<R>,
    format: Format,
    tally: LineTally,
    /// The first data line, read to recognise the format.
    held: Option<(u64, String)>,
}

/// What one line holds besides entries.
enum Parsed {
    Entry(Entry),
    Other,
}

impl<R: Read> FlowLog<R> {
    /// Reads the beginning and recognises the format.
    pub fn open(input: R) -> Result<Self, FlowLogError> {
        let mut lines = Lines::new(input);
        let mut tally = LineTally::default();
        let mut columns = tsv::Columns::default();
        loop {
            let (number, text) = match lines.next()? {
                None if tally.lines == 0 => {
                    return Err(FlowLogError::Unknown("the file is empty".to_owned()));
                }
                None if columns.is_ready() => {
                    return Ok(Self { lines, format: Format::Tsv(columns), tally, held: None });
                }
                None => return Err(FlowLogError::Unknown("it ends before any record".to_owned())),
                Some(Line { number, text: Ok(text) }) => (number, text.to_owned()),
                Some(Line { text: Err(reason), .. }) => {
                    return Err(FlowLogError::Unknown(format!(
                        "its beginning is no text ({})",
                        reason.name()
                    )));
                }
            };
            let header = |cause| FlowLogError::Header { line: number, cause };
            if let Some(directive) = text.strip_prefix('#') {
                tally.lines += 1;
                tally.other += 1;
                columns.directive(directive).map_err(header)?;
                continue;
            }
            if columns.is_ready() {
                return Ok(Self { lines, format: Format::Tsv(columns), tally, held: Some((number, text)) });
            }
            if text.trim_start().starts_with('{') {
                let format = json::recognise(&text).map_err(header)?;
                return Ok(Self { lines, format, tally, held: Some((number, text)) });
            }
            let table = csv::Table::of_header(&text).map_err(header)?;
            tally.lines += 1;
            tally.other += 1;
            return Ok(Self { lines, format: Format::Csv(table), tally, held: None });
        }
    }

    /// The next entry; `None` at the end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, FlowLogError> {
        loop {
            let parsed = if let Some((number, text)) = self.held.take() {
                (number, parse(&mut self.format, &text))
            } else {
                match self.lines.next()? {
                    None => return self.ended(),
                    Some(Line { number, text }) => {
                        (number, text.and_then(|text| parse(&mut self.format, text)))
                    }
                }
            };
            self.tally.lines += 1;
            match parsed {
                (_, Ok(Parsed::Entry(entry))) => {
                    match entry {
                        Entry::Flow(_) => self.tally.flows += 1,
                        Entry::Alert(_) => self.tally.alerts += 1,
                    }
                    return Ok(Some(entry));
                }
                (_, Ok(Parsed::Other)) => self.tally.other += 1,
                (number, Err(reason)) => self.tally.note(reason, number),
            }
        }
    }

    /// What became of the lines so far.
    pub const fn tally(&self) -> &LineTally {
        &self.tally
    }

    fn ended(&self) -> Result<Option<Entry>, FlowLogError> {
        let LineTally { lines, flows: 0, alerts: 0, ref bad, .. } = self.tally else { return Ok(None) };
        match bad.iter().min_by_key(|(_, lines)| lines.first_line) {
            Some((reason, first)) => {
                Err(FlowLogError::Nothing { lines, reason: reason.name(), line: first.first_line })
            }
            None => Ok(None),
        }
    }
}

fn parse(format: &mut Format, text: &str) -> Result<Parsed, BadLine> {
    match format {
        Format::Tsv(columns) => match text.strip_prefix('#') {
            // Logs put one after the other bring their headers along; one that cannot be read leaves the old in force.
            Some(directive) => {
                columns.directive(directive).map(|()| Parsed::Other).map_err(|_| BadLine::LineFields)
            }
            None => columns.flow(text).map(found),
        },
        Format::Csv(table) => table.flow(text).map(found),
        Format::ZeekJson => json::zeek(text).map(found),
        Format::Eve(kind) => eve::event(kind, text),
    }
}

/// The alert in one line of EVE JSON; `None` for any other event.
pub fn eve_alert(line: &str) -> Result<Option<LoggedAlert>, BadLine> {
    // An alert's line says so somewhere; most others need not be read.
    if !line.contains("\"alert\"") && line.starts_with('{') && line.ends_with('}') {
        return Ok(None);
    }
    match eve::event(&mut eve::Kind::default(), line)? {
        Parsed::Entry(Entry::Alert(alert)) => Ok(Some(alert)),
        _ => Ok(None),
    }
}

fn found(flow: LoggedFlow) -> Parsed {
    Parsed::Entry(Entry::Flow(Box::new(flow)))
}

/// Whether a file that begins like this may be a flow log: text, as far as it can be seen.
pub fn may_begin(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0xef | 0xbb | 0xbf))
}

#[cfg(test)]
mod tests;
