//! Follows a file that another program appends lines to, over its rotations. Reads a bounded share at a time and never waits.
//!
//! Begins at the end of the file that is there at first: what was written before has been told before. A file that was moved away is
//! read to its end before the new one is begun; one that was truncated is read from its start. Whoever falls too far behind skips to
//! the end, and what was skipped is counted.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Longest line that is kept.
const MAX_LINE: usize = 1 << 18;
/// Bytes read in one go.
const SHARE: usize = 1 << 20;
/// Bytes that may wait to be read.
const BACKLOG: u64 = 16 << 20;

/// What was read, and what was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Lines too long to be kept, or no text.
    pub(super) unreadable: u64,
    /// Bytes skipped because too many waited.
    pub(super) skipped_bytes: u64,
}

/// A file being followed.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    open: Option<Open>,
    /// Whether a file was there before: the next one is read from its start.
    began: bool,
    /// The beginning of a line whose end is still to come.
    partial: Vec<u8>,
    /// The rest of the line is not wanted.
    skipping: bool,
    pub(super) tally: Tally,
}

#[derive(Debug)]
struct Open {
    file: File,
    inode: (u64, u64),
    offset: u64,
}

impl Tail {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            open: None,
            began: false,
            partial: Vec::new(),
            skipping: false,
            tally: Tally::default(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Hands every whole line that is new to `each`. An error is told once a call; the next call tries again.
    pub(super) fn poll(&mut self, mut each: impl FnMut(&str)) -> io::Result<()> {
        let mut left = SHARE;
        if self.open.is_none() {
            self.open = Some(self.reopen()?);
        }
        left -= self.read(left, &mut each)?;
        let moved = match fs::metadata(&self.path) {
            Ok(meta) => self.open.as_ref().is_some_and(|open| open.inode != (meta.dev(), meta.ino())),
            // Between a rotation's two steps there is no file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if moved && left > 0 {
            self.forget_line();
            self.open = Some(self.reopen()?);
            self.read(left, &mut each)?;
        }
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<Open> {
        // A pipe or a device would make the agent wait.
        if !fs::metadata(&self.path)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.path)?;
        let meta = file.metadata()?;
        let offset = if self.began { 0 } else { file.seek(SeekFrom::End(0))? };
        self.began = true;
        Ok(Open { file, inode: (meta.dev(), meta.ino()), offset })
    }

    fn forget_line(&mut self) {
        self.partial.clear();
        self.skipping = false;
    }

    /// Reads at most `most` bytes; how many.
    fn read(&mut self, most: usize, each: &mut impl FnMut(&str)) -> io::Result<usize> {
        let Some(open) = &mut self.open else { return Ok(0) };
        let length = open.file.metadata()?.len();
        if length < open.offset {
            open.offset = open.file.seek(SeekFrom::Start(0))?;
            self.partial.clear();
            self.skipping = false;
        }
        let waiting = length.saturating_sub(open.offset);
        if waiting > BACKLOG {
            self.tally.skipped_bytes += waiting;
            open.offset = open.file.seek(SeekFrom::Start(length))?;
            self.partial.clear();
            // The end of the file may be in the middle of a line.
            self.skipping = true;
        }
        let mut bytes = Vec::new();
        let read = open.file.by_ref().take(most as u64).read_to_end(&mut bytes)?;
        open.offset += read as u64;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.piece(piece, each);
        }
        Ok(read)
    }

    fn piece(&mut self, piece: &[u8], each: &mut impl FnMut(&str)) {
        let whole = piece.ends_with(b"\n");
        if !self.skipping {
            self.partial.extend_from_slice(piece);
            if self.partial.len() > MAX_LINE {
                self.tally.unreadable += 1;
                self.partial.clear();
                self.skipping = true;
            }
        }
        if !whole {
            return;
        }
        if !std::mem::take(&mut self.skipping) {
            match std::str::from_utf8(&self.partial).map(str::trim) {
                Ok("") => {}
                Ok(line) => each(line),
                Err(_) => self.tally.unreadable += 1,
            }
        }
        self.partial.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed file operation is the test's failure")]

    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn append(path: &Path, text: &[u8]) {
        OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text).unwrap();
    }

    fn lines(tail: &mut Tail) -> Vec<String> {
        let mut found = Vec::new();
        tail.poll(|line| found.push(line.to_owned())).unwrap();
        found
    }

    #[test]
    fn lines_are_followed_over_rotation_and_truncation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("eve.json");
        append(&path, b"told before\n");
        let mut tail = Tail::new(&path);
        assert_eq!(lines(&mut tail), [""; 0]);
        append(&path, b"one\ntw");
        assert_eq!(lines(&mut tail), ["one"]);
        append(&path, b"o\r\n");
        assert_eq!(lines(&mut tail), ["two"]);
        append(&path, b"three\n");
        fs::rename(&path, directory.path().join("eve.json.1")).unwrap();
        assert_eq!(lines(&mut tail), ["three"], "the rest of the file that was moved away");
        append(&path, b"four\n");
        assert_eq!(lines(&mut tail), ["four"]);
        fs::write(&path, b"5\n").unwrap();
        assert_eq!(lines(&mut tail), ["5"], "truncated and written anew");
    }

    #[test]
    fn what_is_too_long_or_too_much_is_counted_and_the_rest_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("eve.json");
        append(&path, b"");
        let mut tail = Tail::new(&path);
        lines(&mut tail);
        append(&path, &[vec![b'x'; MAX_LINE + 10], b"\nshort\n\xff\n".to_vec()].concat());
        assert_eq!(lines(&mut tail), ["short"]);
        assert_eq!(tail.tally, Tally { unreadable: 2, skipped_bytes: 0 });
        append(&path, &vec![b'y'; BACKLOG as usize + 1]);
        assert_eq!(lines(&mut tail), [""; 0]);
        append(&path, b"rest of it\nafter\n");
        assert_eq!(lines(&mut tail), ["after"]);
        assert_eq!(tail.tally.skipped_bytes, BACKLOG + 1);
    }

    #[test]
    fn what_cannot_be_followed_is_an_error_until_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let mut tail = Tail::new(directory.path());
        assert!(tail.poll(|_| {}).is_err(), "a directory");
        let path = directory.path().join("late.json");
        let mut tail = Tail::new(&path);
        assert!(tail.poll(|_| {}).is_err());
        append(&path, b"before it was seen\n");
        assert_eq!(lines(&mut tail), [""; 0]);
    }

    proptest! {
        #[test]
        fn whatever_is_written_in_whatever_pieces_every_line_comes_once(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20)
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("eve.json");
            append(&path, b"");
            let mut tail = Tail::new(&path);
            lines(&mut tail);
            let mut found = Vec::new();
            for piece in &pieces {
                append(&path, piece);
                found.extend(lines(&mut tail));
            }
            let all = pieces.concat();
            let end = all.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let expected: Vec<String> = all[..end]
                .split(|byte| *byte == b'\n')
                .filter_map(|line| std::str::from_utf8(line).ok())
                .map(|line| line.trim().to_owned())
                .filter(|line| !line.is_empty())
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
