//! Ctrl-C and SIGTERM as a question that long work asks, so that namespaces and programs are removed on the way out.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static REQUESTED: AtomicBool = AtomicBool::new(false);

extern "C" fn remember(_signal: nix::libc::c_int) {
    REQUESTED.store(true, Ordering::Relaxed);
}

/// Turns SIGINT and SIGTERM into [`requested`].
pub fn watch() {
    let action = SigAction::new(SigHandler::Handler(remember), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        // A refusal is impossible for these two signals; if it happened, Ctrl-C would end the process as it does by default.
        let _ = unsafe { sigaction(signal, &action) };
    }
}

/// Whether the user wants to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// An error if the user wants to stop.
pub fn check() -> Result<()> {
    if requested() {
        bail!("interrupted");
    }
    Ok(())
}

/// Waits for `length`, unless the user wants to stop.
pub fn pause(length: Duration) -> Result<()> {
    let deadline = Instant::now() + length;
    while Instant::now() < deadline {
        check()?;
        thread::sleep((deadline - Instant::now()).min(Duration::from_millis(100)));
    }
    Ok(())
}
