//! What the kernel programs say for people: few lines, at most one a second and CPU, passed on to the agent's own log.

use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};

use super::{Datapath, DatapathError, chain};

/// Passes records of the programs on to `tracing`.
struct Forward;

impl Log for Forward {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        tracing::info!(program = "kernel", "{}", record.args());
    }

    fn flush(&self) {}
}

/// The reading end of the programs' log.
pub struct KernelLog {
    logger: EbpfLogger<Forward>,
}

impl KernelLog {
    /// Passes on what has been said since the last call.
    pub fn flush(&mut self) {
        self.logger.flush();
    }
}

impl Datapath {
    /// Takes the programs' log out; there is one reader.
    pub fn take_log(&mut self) -> Result<KernelLog, DatapathError> {
        let logger = EbpfLogger::init_with_logger(&mut self.programs, Forward)
            .map_err(|error| DatapathError::Table { table: "AYA_LOGS", cause: chain(&error) })?;
        Ok(KernelLog { logger })
    }
}
