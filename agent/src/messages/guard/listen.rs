//! Takes connections, within limits, and keeps rules and files current. The future of [`Guard::serve`] owns every session: when it ends,
//! they end.

use std::{
    collections::HashMap,
    fs, io,
    net::{SocketAddr, TcpListener as StdListener},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    socket::{Backlog, listen},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{
    deliver::deliver_for_ever,
    hub::{Hub, Live},
    session::{self, Guest},
};
use crate::messages::{
    GuardError, Orders, Report, Settings,
    auth::Passwords,
    broker::Supervisor,
    commands::Desk,
    reason::{Counters, add},
    telemetry::{Nursery, Stored},
    tls::Tls,
};
use crate::policy::TrustAnchors;

/// Connections that may wait to be taken; the kernel may have a lower limit of its own.
const BACKLOG: i32 = 4_096;
/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often it is looked whether there is something to tell of telemetry.
const BEAT: Duration = Duration::from_millis(250);
/// Pause when the machine has no room for another connection.
const OUT_OF_FILES: Duration = Duration::from_millis(100);

/// The loop's end of the guard.
#[derive(Debug)]
pub struct Link {
    /// What the guard tells; never waited for.
    pub reports: mpsc::Sender<Report>,
    /// What the guard is told.
    pub orders: watch::Receiver<Arc<Orders>>,
    /// Becomes true when the guard should end.
    pub stop: watch::Receiver<bool>,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// Where it has commands judged.
    pub commands: Arc<Desk>,
    /// Where it has the models of telemetry grown.
    pub nursery: Nursery,
}

/// A guard whose sockets are bound and whose files are read.
pub struct Guard {
    settings: Settings,
    plain: Option<StdListener>,
    tls: Option<StdListener>,
    live: Live,
    learned: Vec<Stored>,
}

impl Guard {
    /// Binds the sockets of `settings` and reads its files, while there are privileges to do so.
    pub fn bind(settings: Settings) -> Result<Self, GuardError> {
        let live = read(&settings)?;
        let plain = settings.listen.map(bind).transpose()?;
        let tls = settings.tls.as_ref().map(|(address, _)| bind(*address)).transpose()?;
        raise_file_limit(settings.limits.connections);
        Ok(Self { settings, plain, tls, live, learned: Vec::new() })
    }

    /// Addresses in clear and with TLS that it listens on.
    pub fn addresses(&self) -> [Option<SocketAddr>; 2] {
        [&self.plain, &self.tls]
            .map(|listener| listener.as_ref().and_then(|listener| listener.local_addr().ok()))
    }

    /// Takes up what was learned of telemetry before.
    pub fn recall(&mut self, learned: Vec<Stored>) {
        self.learned = learned;
    }

    /// Guards until told to stop.
    pub async fn serve(self, link: Link) -> io::Result<()> {
        let listener = |listener: Option<StdListener>| listener.map(TcpListener::from_std).transpose();
        let (plain, tls) = (listener(self.plain)?, listener(self.tls)?);
        let supervisor = Supervisor::new(&self.settings.broker, &self.settings.limits);
        let stop = link.stop.clone();
        let rules = link.orders.borrow().rules.clone();
        let live = Live { rules, ..self.live };
        let hub = Arc::new(Hub::new(self.settings, live, self.learned, link));
        let broker = async {
            if let Some(supervisor) = supervisor {
                supervisor.run(&hub, stop.clone()).await;
            }
        };
        let mut stopping = stop.clone();
        let clients = async {
            tokio::select! {
                () = take(&hub, plain, tls) => {}
                () = deliver_for_ever(&hub) => {}
                () = tell_telemetry(&hub) => {}
                _ = stopping.wait_for(|stop| *stop) => {}
            }
        };
        tokio::join!(broker, clients);
        hub.tell_telemetry(true);
        Ok(())
    }
}

/// Tells what there is to tell of telemetry, for ever.
async fn tell_telemetry(hub: &Hub) {
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        hub.tell_telemetry(false);
    }
}

/// Takes connections and orders for ever.
async fn take(hub: &Arc<Hub>, plain: Option<TcpListener>, tls: Option<TcpListener>) {
    let mut sessions = JoinSet::new();
    let mut orders = hub.orders.clone();
    let mut files = Files::new(&hub.settings);
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            (taken, with_tls) = async { (accept(plain.as_ref()).await, false) } => {
                start(hub, &mut sessions, taken, with_tls).await;
            }
            (taken, with_tls) = async { (accept(tls.as_ref()).await, true) } => {
                start(hub, &mut sessions, taken, with_tls).await;
            }
            Some(_) = sessions.join_next() => {}
            Ok(()) = orders.changed() => {
                let orders = Arc::clone(&orders.borrow_and_update());
                hub.isolate(&orders);
                hub.commands.configure(&orders.commands);
                if orders.rules != hub.live().rules {
                    hub.renew(Live { rules: orders.rules.clone(), ..(*hub.live()).clone() });
                }
            }
            _ = look.tick() => if files.have_changed() {
                match read(&hub.settings) {
                    Ok(live) => {
                        tracing::info!("certificates, revocations and passwords were read again");
                        hub.renew(Live { rules: hub.live().rules.clone(), ..live });
                    }
                    Err(error) => hub.report(Report::Trouble(format!("{error}; what was read before stays"))),
                }
            },
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn start(
    hub: &Arc<Hub>,
    sessions: &mut JoinSet<()>,
    taken: io::Result<(TcpStream, SocketAddr)>,
    with_tls: bool,
) {
    let (stream, source) = match taken {
        Ok((stream, address)) => (stream, address.ip().to_canonical()),
        Err(error) => {
            tracing::debug!(%error, "a connection could not be taken");
            return tokio::time::sleep(OUT_OF_FILES).await;
        }
    };
    if hub.orders.borrow().is_cut(source) {
        return hub.refuse(source, None, crate::messages::Reason::Isolated);
    }
    match hub.shared.admit(source, hub.limits(), sessions.len(), Instant::now()) {
        Ok(()) => {
            add(&hub.counters.accepted, 1);
            let guest = Guest { hub: Arc::clone(hub), source };
            sessions.spawn(session::serve(guest, stream, with_tls));
        }
        Err(reason) => hub.refuse(source, None, reason),
    }
}

/// Reads every file of `settings`.
fn read(settings: &Settings) -> Result<Live, GuardError> {
    let tls = settings.tls.as_ref().map(|(_, tls)| Tls::load(tls)).transpose()?;
    let passwords = settings.passwords.as_deref().map(Passwords::load).transpose()?;
    let command_keys = settings.command_keys.as_ref().map(|path| {
        let keys = |cause| GuardError::Keys { path: path.clone(), cause };
        TrustAnchors::load(path).map_err(keys)
    });
    Ok(Live { tls, passwords, rules: Vec::new(), command_keys: command_keys.transpose()? })
}

fn bind(address: SocketAddr) -> Result<StdListener, GuardError> {
    let bound = StdListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        // The standard library leaves room for 128 that wait, which a storm fills at once.
        listen(&listener, Backlog::new(BACKLOG)?)?;
        Ok(listener)
    });
    bound.map_err(|cause| GuardError::Bind { address, cause })
}

/// Every client takes two descriptors, its own and the broker's; service managers often start with room for 1,024.
fn raise_file_limit(connections: usize) {
    let wanted = connections as u64 * 2 + 512;
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft >= wanted {
            return Ok(soft);
        }
        let soft = wanted.min(hard);
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map(|()| soft)
    });
    match raised {
        Ok(soft) if soft >= wanted => {}
        other => tracing::warn!(?other, wanted, "fewer files may be open than connections are allowed"),
    }
}

/// Files and when they were changed last.
struct Files {
    seen: HashMap<PathBuf, Option<SystemTime>>,
}

impl Files {
    fn new(settings: &Settings) -> Self {
        let tls = settings.tls.iter().flat_map(|(_, tls)| {
            [Some(&tls.certificate), Some(&tls.key), tls.client_ca.as_ref(), tls.revoked.as_ref()]
        });
        let paths = tls.flatten().chain(&settings.passwords).chain(&settings.command_keys).cloned();
        Self { seen: paths.map(|path| (path.clone(), changed(&path))).collect() }
    }

    fn have_changed(&mut self) -> bool {
        let mut differs = false;
        for (path, seen) in &mut self.seen {
            let now = changed(path);
            differs |= now != *seen;
            *seen = now;
        }
        differs
    }
}

fn changed(path: &PathBuf) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}
