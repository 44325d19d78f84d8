//! Replay: recorded traffic through the same accounting that guards live traffic.
//!
//! Captures go in as one stream of frames; flow records and an exact account of every packet come out. What neither the
//! kernel's test run nor an Ethernet parser can take is counted here, before any engine, so that engines agree. Flow logs
//! of other programs go in as flows (`flowlog`) and come out as the same records (`logs`).
//! Replay never touches a network or a running agent.

pub mod capture;
pub mod detect;
pub mod engine;
pub mod flowlog;
pub mod input;
pub mod kernel;
pub mod link;
pub mod logs;
pub mod report;

use std::{io::Read, path::PathBuf};

use capture::{CaptureError, Captured, End};
use engine::{Engine, EngineError};
use flowlog::FlowLogError;
use input::CaptureFile;
use link::Framer;
use report::Report;
use tidegate_common::parse::{UNPARSED_REASONS, Unparsed};

use crate::datapath::{MAX_TEST_FRAME, MIN_TEST_FRAME};

/// Why a replay failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file could not be opened.
    #[error("cannot open {}: {cause} (hint: check the path and that you may read it)", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The file was refused.
    #[error("cannot replay {}: {cause}", path.display())]
    Capture {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: CaptureError,
    },
    /// The flow log was refused.
    #[error("cannot replay {}: {cause}", path.display())]
    FlowLog {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: FlowLogError,
    },
    /// Packets and flows cannot be one stream.
    #[error(
        "{} is a flow log and {} a capture (hint: replay them one after the other)", log.display(), capture.display()
    )]
    Mixed {
        /// The first flow log.
        log: PathBuf,
        /// The first capture.
        capture: PathBuf,
    },
    /// The records could not be printed.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
    /// The engine gave up.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Something the operator should know about a file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutOff {
    /// The file.
    pub path: PathBuf,
    /// Where its last, incomplete record starts.
    pub at: u64,
}

/// One replay: an engine and what was counted before it.
pub struct Replay<E> {
    engine: E,
    framer: Framer,
    packets: u64,
    unparsed: [u64; UNPARSED_REASONS],
}

/// Either kind of failure while frames flow.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The capture was refused.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The engine gave up.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl<E: Engine> Replay<E> {
    /// A replay on `engine`.
    pub fn new(engine: E) -> Self {
        Self { engine, framer: Framer::default(), packets: 0, unparsed: [0; UNPARSED_REASONS] }
    }

    /// Replays one file after those before it; returns where it was cut off, if it was.
    pub fn file(&mut self, file: CaptureFile) -> Result<Option<CutOff>, ReplayError> {
        let CaptureFile { path, input } = file;
        match self.stream(input) {
            Ok(End::Complete) => Ok(None),
            Ok(End::CutOff(at)) => Ok(Some(CutOff { path, at })),
            Err(StreamError::Capture(cause)) => Err(ReplayError::Capture { path, cause }),
            Err(StreamError::Engine(error)) => Err(error.into()),
        }
    }

    /// Replays one capture after those before it; how it ended.
    pub fn stream(&mut self, input: impl Read) -> Result<End, StreamError> {
        capture::read(input, |captured| Ok(self.push(captured)?))
    }

    /// Accounts one frame.
    #[inline]
    pub fn push(&mut self, captured: Captured<'_>) -> Result<(), EngineError> {
        self.packets += 1;
        let refused = match self.framer.ethernet(captured) {
            Ok(frame) if frame.len() < MIN_TEST_FRAME => Unparsed::FrameTooShort,
            Ok(frame) if frame.len() > MAX_TEST_FRAME => Unparsed::FrameTooLong,
            Ok(frame) => return self.engine.push(captured.time_ns, frame),
            Err(reason) => reason,
        };
        self.unparsed[refused as usize] += 1;
        Ok(())
    }

    /// The flows and the account.
    pub fn finish(self) -> Result<Report, EngineError> {
        let outcome = self.engine.finish()?;
        let mut unparsed = self.unparsed;
        for (mine, engine) in unparsed.iter_mut().zip(outcome.counters.unparsed) {
            *mine += engine;
        }
        Ok(Report::new(outcome.flows, self.packets, &unparsed, outcome.counters.folded))
    }
}

/// Replays `files` as one stream on `engine`.
pub fn replay<E: Engine>(files: Vec<CaptureFile>, engine: E) -> Result<(Report, Vec<CutOff>), ReplayError> {
    let mut replay = Replay::new(engine);
    let mut cut_off = Vec::new();
    for file in files {
        cut_off.extend(replay.file(file)?);
    }
    Ok((replay.finish()?, cut_off))
}

#[cfg(test)]
mod tests;
