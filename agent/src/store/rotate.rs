//! An append-only file of lines that is renamed to `NAME.1`, `NAME.2`, … when it has grown to its limit.
//!
//! Every error leaves it usable: a line that did not fit on the disk is taken back whole, a file that could not be opened or renamed
//! is tried again with the next line. (The crates for this panic when the file is gone, or drop lines without a word.)

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The file.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    /// Bytes after which a new file is begun.
    limit: u64,
    /// Old files that are kept.
    keep: u32,
    open: Option<(File, u64)>,
}

impl RotatingFile {
    /// Nothing is opened before the first line.
    pub(super) fn new(path: &Path, limit: u64, keep: u32) -> Self {
        Self { path: path.to_owned(), limit: limit.max(1), keep, open: None }
    }

    /// Forgets the open file: the next line opens it by name again.
    pub(super) fn reopen(&mut self) {
        self.open = None;
    }

    /// Appends `line`, which ends with a line break, whole or not at all.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let full = |(_, size): &(File, u64)| *size > 0 && *size + line.len() as u64 > self.limit;
        if self.open.as_ref().is_some_and(full) {
            self.rotate()?;
        }
        let (file, size) = match &mut self.open {
            Some(open) => open,
            closed => closed.insert(open_file(&self.path)?),
        };
        if let Err(cause) = file.write_all(line) {
            // What was written of the line would spoil the next one.
            if file.set_len(*size).is_err() {
                self.open = None;
            }
            return Err(cause);
        }
        *size += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.open = None;
        for number in (1..self.keep).rev() {
            rename(&self.numbered(number), &self.numbered(number + 1))?;
        }
        if self.keep == 0 { fs::remove_file(&self.path) } else { rename(&self.path, &self.numbered(1)) }
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name: OsString = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn open_file(path: &Path) -> io::Result<(File, u64)> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed file operation is the test's failure")]

    use super::*;

    #[test]
    fn old_files_are_numbered_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/eve.json");
        let mut file = RotatingFile::new(&path, 10, 2);
        for line in ["one 1\n", "two 2\n", "three\n", "four\n", "a line longer than the limit\n", "six\n"] {
            file.append(line.as_bytes()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(directory.path().join("sub").join(name)).ok();
        assert_eq!(read("eve.json").unwrap(), "six\n");
        assert_eq!(read("eve.json.1").unwrap(), "a line longer than the limit\n");
        assert_eq!(read("eve.json.2").unwrap(), "four\n");
        assert_eq!(read("eve.json.3"), None);
    }

    #[test]
    fn a_file_that_was_taken_away_or_cannot_be_opened_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("eve.json");
        let mut file = RotatingFile::new(&path, 4, 1);
        file.append(b"abc\n").unwrap();
        fs::remove_file(&path).unwrap();
        file.append(b"def\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "def\n");

        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        file.reopen();
        assert!(file.append(b"ghi\n").is_err());
        fs::remove_dir(&path).unwrap();
        file.append(b"jkl\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "jkl\n");
    }

    #[test]
    fn a_full_disk_is_an_error_and_nothing_worse() {
        let mut file = RotatingFile::new(Path::new("/dev/full"), 1 << 20, 1);
        assert!(file.append(b"line\n").is_err());
        assert!(file.append(b"line\n").is_err());
    }
}
