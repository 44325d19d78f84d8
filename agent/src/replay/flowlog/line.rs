//! Lines of bounded length, numbered from 1.

use std::io::{BufRead, BufReader, ErrorKind, Read};

use super::{BadLine, FlowLogError};

/// Longest line that is kept; EVE's longest events carry payloads, flows are far below.
const MAX_LINE: usize = 1 << 20;
const BUFFER: usize = 1 << 17;

pub(super) struct Line<'a> {
    pub(super) number: u64,
    /// Without the line end.
    pub(super) text: Result<&'a str, BadLine>,
}

pub(super) struct Lines<R> {
    input: BufReader<R>,
    buffer: Vec<u8>,
    number: u64,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input: BufReader::with_capacity(BUFFER, input), buffer: Vec::new(), number: 0 }
    }

    /// The next line that is not empty; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Line<'_>>, FlowLogError> {
        loop {
            let Some(whole) = self.fill()? else { return Ok(None) };
            if whole && self.buffer.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let number = self.number;
            let bytes = self.buffer.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.buffer);
            let text = if whole {
                std::str::from_utf8(bytes).map_err(|_| BadLine::LineNotText)
            } else {
                Err(BadLine::LineTooLong)
            };
            return Ok(Some(Line { number, text }));
        }
    }

    /// Reads one line into the buffer, as much of it as is kept; whether it fitted.
    fn fill(&mut self) -> Result<Option<bool>, FlowLogError> {
        self.buffer.clear();
        let mut length = 0;
        loop {
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(cause) => return Err(FlowLogError::Io { line: self.number + 1, cause }),
            };
            if chunk.is_empty() && length == 0 {
                return Ok(None);
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let part = end.map_or(chunk, |end| &chunk[..end]);
            let room = MAX_LINE.saturating_sub(self.buffer.len());
            self.buffer.extend_from_slice(&part[..part.len().min(room)]);
            length += part.len();
            let (used, last) = (part.len() + usize::from(end.is_some()), end.is_some() || chunk.is_empty());
            self.input.consume(used);
            // An empty line has no bytes but is one.
            length = length.max(usize::from(last));
            if last {
                self.number += 1;
                if self.buffer.last() == Some(&b'\r') {
                    self.buffer.pop();
                }
                return Ok(Some(length <= MAX_LINE));
            }
        }
    }
}
