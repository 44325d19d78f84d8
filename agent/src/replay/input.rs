//! Opens files and tells captures from flow logs by their first bytes. Every file is opened, and a flow log's header and
//! first entry read, before anything is replayed, so that a refused file is refused before anything is printed.

use std::{
    fs::File,
    io::{self, Chain, Cursor, Read},
    path::{Path, PathBuf},
};

use indicatif::{ProgressBar, ProgressBarIter, ProgressFinish, ProgressStyle};

use super::{
    ReplayError, capture,
    flowlog::{self, Entry, FlowLog},
};

/// Bytes looked at.
const HEAD: u64 = 64;

/// A file from its first byte.
pub type Input = Chain<Cursor<Vec<u8>>, ProgressBarIter<File>>;

/// A capture, opened.
pub struct CaptureFile {
    /// Its name.
    pub path: PathBuf,
    /// Its bytes.
    pub input: Input,
}

/// A flow log, opened.
pub struct LogFile {
    /// Its name.
    pub path: PathBuf,
    /// The rest of it.
    pub log: FlowLog<Input>,
    /// Its first entry.
    pub first: Option<Entry>,
}

impl LogFile {
    /// The next entry; `None` at the end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ReplayError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let path = &self.path;
        self.log.next_entry().map_err(|cause| ReplayError::FlowLog { path: path.clone(), cause })
    }
}

/// An opened file.
pub enum Opened {
    /// Packets.
    Capture(CaptureFile),
    /// Flows.
    Log(Box<LogFile>),
}

/// Files of one kind.
pub enum Files {
    /// Packets.
    Captures(Vec<CaptureFile>),
    /// Flows.
    Logs(Vec<LogFile>),
}

/// Opens `files`, which must be of one kind. Progress shows on stderr when that is a terminal.
pub fn open_all(files: &[PathBuf]) -> Result<Files, ReplayError> {
    let progress = progress_of(files);
    let (mut captures, mut logs) = (Vec::new(), Vec::new());
    for path in files {
        match open(path, &progress)? {
            Opened::Capture(file) => captures.push(file),
            Opened::Log(file) => logs.push(*file),
        }
        if let (Some(capture), Some(log)) = (captures.first(), logs.first()) {
            return Err(ReplayError::Mixed { log: log.path.clone(), capture: capture.path.clone() });
        }
    }
    Ok(if logs.is_empty() { Files::Captures(captures) } else { Files::Logs(logs) })
}

/// A bar as long as `files`, which goes when the last of them is closed.
pub fn progress_of(files: &[PathBuf]) -> ProgressBar {
    let sizes = files.iter().filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len());
    let progress = ProgressBar::new(sizes.sum()).with_finish(ProgressFinish::AndClear);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        progress.set_style(style);
    }
    progress
}

/// Opens one file and tells what it is.
pub fn open(path: &Path, progress: &ProgressBar) -> Result<Opened, ReplayError> {
    let failed = |cause| ReplayError::Open { path: path.to_owned(), cause };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    let mut input = progress.wrap_read(file);
    let mut head = Vec::new();
    input.by_ref().take(HEAD).read_to_end(&mut head).map_err(failed)?;
    let is_log = !capture::begins(&head) && flowlog::may_begin(&head);
    let input = Cursor::new(head).chain(input);
    if !is_log {
        return Ok(Opened::Capture(CaptureFile { path: path.to_owned(), input }));
    }
    let refused = |cause| ReplayError::FlowLog { path: path.to_owned(), cause };
    let mut log = FlowLog::open(input).map_err(refused)?;
    let first = log.next_entry().map_err(refused)?;
    Ok(Opened::Log(Box::new(LogFile { path: path.to_owned(), log, first })))
}
