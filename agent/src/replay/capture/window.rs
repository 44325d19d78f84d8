//! A sliding window over an input: the part of it that is in memory.
//!
//! Grows only as far as bytes really arrive, so a length field that lies cannot reserve memory.

use std::io::{self, Read};

use super::CaptureError;

/// Large enough that moving the rest of a record to the front is rare.
const CHUNK: usize = 1 << 20;

pub(super) struct Window<R> {
    input: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset in the input of `buffer[0]`.
    base: u64,
}

impl<R: Read> Window<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, buffer: vec![0; CHUNK], start: 0, end: 0, base: 0 }
    }

    /// What is in memory and not yet consumed.
    #[inline]
    pub(super) fn data(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Offset in the input of the first byte of [`Self::data`].
    pub(super) fn at(&self) -> u64 {
        self.base + self.start as u64
    }

    /// Forgets the first `count` bytes of [`Self::data`].
    #[inline]
    pub(super) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Reads until `wanted` bytes are there; `false` when the input ends before.
    pub(super) fn fill(&mut self, wanted: usize) -> Result<bool, CaptureError> {
        if self.end - self.start >= wanted {
            return Ok(true);
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.base += self.start as u64;
        self.end -= self.start;
        self.start = 0;
        while self.end < wanted {
            if self.end == self.buffer.len() {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(CaptureError::Io { at: self.base + self.end as u64, cause }),
            }
        }
        Ok(true)
    }

    /// A refusal at the current place.
    pub(super) fn broken(&self, what: impl Into<String>) -> CaptureError {
        CaptureError::Broken { at: self.at(), what: what.into() }
    }
}
