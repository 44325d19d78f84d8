//! What a command ends with.

use std::{fmt, process::ExitCode};

use crate::{
    api::{ClientError, RefusalKind},
    config::ConfigError,
    replay::{ReplayError, detect::WatchError},
};

/// Exit code of the process; scripts rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// Done.
    Ok = 0,
    /// It could not be done.
    Failure = 1,
    /// The command was written wrongly.
    Usage = 2,
    /// Done, and something is wrong with the gateway.
    Degraded = 3,
    /// There is no such thing.
    NotFound = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command could not be done, and what to do about it.
#[derive(Debug)]
pub(super) struct CliError {
    pub(super) exit: Exit,
    cause: String,
    hint: String,
}

impl CliError {
    pub(super) fn failure(cause: impl Into<String>) -> Self {
        Self { exit: Exit::Failure, cause: cause.into(), hint: String::new() }
    }

    pub(super) fn usage(cause: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, cause: cause.into(), hint: String::new() }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.cause)?;
        if !self.hint.is_empty() {
            write!(f, "\nhint: {}", self.hint)?;
        }
        Ok(())
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Refused(refusal) if refusal.kind == RefusalKind::NotFound => Exit::NotFound,
            _ => Exit::Failure,
        };
        Self { exit, hint: error.hint(), cause: error.to_string() }
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::failure(error.to_string()).hint(error.hint())
    }
}

impl From<ReplayError> for CliError {
    fn from(error: ReplayError) -> Self {
        Self::failure(error.to_string())
    }
}

impl From<WatchError> for CliError {
    fn from(error: WatchError) -> Self {
        Self::failure(error.to_string())
    }
}

impl From<anyhow::Error> for CliError {
    fn from(error: anyhow::Error) -> Self {
        Self::failure(format!("{error:#}"))
    }
}
