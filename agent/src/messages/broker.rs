//! The broker behind the guard: mosquitto with a configuration of the guard's making on a socket in the state directory,
//! started, watched and stopped here; or one that the operator names and runs.
//!
//! Nobody but the guard reaches the supervised one: its directory is open to the agent's user alone. Retained messages and sessions are
//! kept in that directory and outlive restarts.

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::Ordering,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use tokio::{
    process::{Child, Command},
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    Report,
    guard::{Hub, limits::Limits},
    reason::add,
};
use crate::config::values::Endpoint;

/// Pause before the first new start; doubled by each further one.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between starts.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A broker that ran for so long was healthy.
const HEALTHY: Duration = Duration::from_mins(1);
/// How long it may take to save its state and end.
const TO_END: Duration = Duration::from_secs(5);
/// Heap of the broker at most.
const MEMORY: usize = 128 << 20;
/// Seconds between two saves of its state; a broker that is killed loses what came since.
const SAVE_EVERY_S: u32 = 15;

/// Where the broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket of this machine.
    Unix(PathBuf),
    /// A port somewhere.
    Tcp(Endpoint),
}

/// Which broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerSettings {
    /// Ours.
    Supervised {
        /// The program, by path or by name.
        program: PathBuf,
        /// Directory of its socket, configuration and state; created if absent.
        directory: PathBuf,
    },
    /// The operator's.
    Named(Address),
}

impl BrokerSettings {
    /// Where the guard reaches it.
    pub fn address(&self) -> Address {
        match self {
            Self::Supervised { directory, .. } => Address::Unix(directory.join("broker.sock")),
            Self::Named(address) => address.clone(),
        }
    }
}

/// Starts the broker, and starts it again when it dies.
#[derive(Debug)]
pub(super) struct Supervisor {
    program: PathBuf,
    directory: PathBuf,
    configuration: String,
}

impl Supervisor {
    /// The supervisor of `settings`; `None` when the operator runs the broker.
    pub(super) fn new(settings: &BrokerSettings, limits: &Limits) -> Option<Self> {
        let BrokerSettings::Supervised { program, directory } = settings else { return None };
        Some(Self {
            program: program.clone(),
            directory: directory.clone(),
            configuration: configuration(directory, limits),
        })
    }

    /// Keeps the broker running until told to stop; trouble is reported and never ends it.
    pub(super) async fn run(&self, hub: &Hub, mut stop: watch::Receiver<bool>) {
        let mut pause = PAUSE;
        let mut is_first = true;
        while !*stop.borrow() {
            let started = Instant::now();
            if !is_first {
                add(&hub.counters().broker_restarts, 1);
            }
            is_first = false;
            let trouble = match self.start().await {
                Ok(mut child) => {
                    let pid = child.id().unwrap_or_default();
                    tracing::info!(pid, "the broker runs");
                    hub.counters().broker_down.store(0, Ordering::Relaxed);
                    tokio::select! {
                        ended = child.wait() => match ended {
                            Ok(status) => format!("the broker ended: {status}"),
                            Err(error) => format!("the broker cannot be watched: {error}"),
                        },
                        _ = stop.wait_for(|stop| *stop) => return end(&mut child).await,
                    }
                }
                Err(error) => format!("cannot start {}: {error}", self.program.display()),
            };
            hub.counters().broker_down.store(1, Ordering::Relaxed);
            if started.elapsed() >= HEALTHY {
                pause = PAUSE;
            }
            tracing::warn!("{trouble}; it is started again in {pause:?}");
            hub.report(Report::Trouble(trouble));
            tokio::select! {
                () = sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn start(&self) -> io::Result<Child> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))?;
        let configuration = self.directory.join("mosquitto.conf");
        fs::write(&configuration, &self.configuration)?;
        let pid = self.directory.join("broker.pid");
        end_orphan(&pid, &configuration).await;
        let child = Command::new(&self.program)
            .arg("-c")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        fs::write(&pid, child.id().unwrap_or_default().to_string())?;
        Ok(child)
    }
}

/// Asks it to save and end, and insists after a while.
async fn end(child: &mut Child) {
    let Some(pid) = child.id() else { return };
    // It may have ended by itself.
    let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
    if timeout(TO_END, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// Ends the broker of an agent that was killed: it holds the socket and the state.
async fn end_orphan(pid_file: &Path, configuration: &Path) {
    let Some(pid) = fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse::<i32>().ok()) else {
        return;
    };
    // The number may belong to somebody else by now; the command line says whose it is.
    let is_ours = || {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let wanted = configuration.as_os_str().as_encoded_bytes();
        pid > 1 && line.split(|byte| *byte == 0).any(|word| word == wanted)
    };
    let began = Instant::now();
    while is_ours() {
        let signal = if began.elapsed() < TO_END { Signal::SIGTERM } else { Signal::SIGKILL };
        // It may be gone at any moment, which is what is wanted.
        let _ = kill(Pid::from_raw(pid), signal);
        sleep(Duration::from_millis(20)).await;
    }
}

/// The configuration of mosquitto (2.0 or later). Who may do what is the guard's affair; this only bounds memory.
fn configuration(directory: &Path, limits: &Limits) -> String {
    let directory = directory.display();
    let hours = limits.session_expiry.as_secs().div_ceil(3_600).max(1);
    let mut text = format!(
        "# Written by Tidegate at every start; changes are lost.\n\
         listener 0 {directory}/broker.sock\n\
         allow_anonymous true\n\
         persistence true\n\
         persistence_location {directory}/\n\
         persistence_file broker.db\n\
         autosave_interval {SAVE_EVERY_S}\n\
         persistent_client_expiration {hours}h\n\
         max_inflight_messages {}\n\
         max_queued_messages {}\n\
         max_queued_bytes {}\n\
         max_packet_size {}\n\
         memory_limit {MEMORY}\n\
         log_dest stderr\n\
         log_type error\n\
         log_type warning\n",
        limits.inflight,
        limits.queued_messages,
        limits.packet_bytes.saturating_mul(8),
        // The client id that the guard gives is longer than the client's own.
        limits.packet_bytes + 1_024,
    );
    if geteuid().is_root() {
        // Else it would change to a user who may not enter the directory; the agent's own bounds hold for it.
        let _ = writeln!(text, "user root");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::guard::limits::tests::limits;

    #[test]
    fn the_configuration_listens_on_the_socket_alone_and_bounds_memory() {
        let text = configuration(Path::new("/var/lib/tidegate/broker"), &limits());
        assert_eq!(text.matches("listener ").count(), 1);
        for line in [
            "listener 0 /var/lib/tidegate/broker/broker.sock",
            "persistence_location /var/lib/tidegate/broker/",
            "max_inflight_messages 4",
            "max_queued_messages 10",
            "max_packet_size 2024",
            "persistent_client_expiration 1h",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
