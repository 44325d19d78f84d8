//! Listeners: the operators' socket and the metrics' port.
//!
//! The socket is made under a temporary name, given its group and mode, and only then renamed to its place, so nobody ever
//! finds it with wider permissions. A socket on which a daemon still answers is never taken away.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
};

use axum::{extract::connect_info::Connected, serve::IncomingStream};
use nix::unistd::{Group, Uid, User, chown};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{broadcast, mpsc, watch},
};

use crate::api::{
    request::{Operator, Request},
    routes::{self, Shared},
    view::EventView,
};

/// Where to listen.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// Group that may use it; none for root alone.
    pub group: Option<String>,
    /// Address of the metrics; none for none.
    pub metrics: Option<SocketAddr>,
}

/// The interface cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Another daemon is running.
    #[error("another tidegate answers on {0}: stop it first, or set another gateway.socket")]
    Taken(PathBuf),
    /// Something that is no socket is in the way.
    #[error("{0} exists and is no socket: move it away, or set another gateway.socket")]
    NotASocket(PathBuf),
    /// No such group.
    #[error(
        "group {0} does not exist: create it with `groupadd --system {0}`, or change gateway.socket_group"
    )]
    NoGroup(String),
    /// The system refused.
    #[error("cannot {operation} {object}: {cause}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// On what.
        object: String,
        /// What the system said.
        cause: io::Error,
    },
}

/// The way to the loop.
#[derive(Clone, Debug)]
pub struct Handle {
    /// Requests to the loop.
    pub requests: mpsc::Sender<Request>,
    /// Events for `events --follow`.
    pub events: broadcast::Sender<EventView>,
}

/// Open sockets that are not served yet.
#[derive(Debug)]
pub struct Listeners {
    unix: UnixListener,
    socket: PathBuf,
    metrics: Option<TcpListener>,
}

impl Listeners {
    /// Opens the sockets, so that a mistake is found before anything is attached.
    pub async fn bind(settings: &Settings) -> Result<Self, ApiError> {
        let unix = bind_unix(&settings.socket, settings.group.as_deref())?;
        let metrics = match settings.metrics {
            None => None,
            Some(address) => Some(TcpListener::bind(address).await.map_err(|cause| ApiError::System {
                operation: "listen for metrics on",
                object: address.to_string(),
                cause,
            })?),
        };
        Ok(Self { unix, socket: settings.socket.clone(), metrics })
    }

    /// Where metrics are served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Answers until `shutdown` becomes true, then finishes what was begun and takes the socket away.
    pub async fn serve(self, handle: Handle, shutdown: watch::Receiver<bool>) -> io::Result<()> {
        let Self { unix, socket, metrics } = self;
        let stopped = |mut shutdown: watch::Receiver<bool>| async move {
            // A dropped sender is a stop, too.
            let _ = shutdown.wait_for(|stop| *stop).await;
        };
        let shared = Shared { handle, shutdown: shutdown.clone() };
        let operators = axum::serve(
            unix,
            routes::operators(shared.clone()).into_make_service_with_connect_info::<Operator>(),
        )
        .with_graceful_shutdown(stopped(shutdown.clone()));
        let scrapers = async {
            match metrics {
                Some(listener) => {
                    axum::serve(listener, routes::scrapers(shared))
                        .with_graceful_shutdown(stopped(shutdown))
                        .await
                }
                None => Ok(()),
            }
        };
        let result = tokio::try_join!(operators.into_future(), scrapers).map(|_| ());
        let _ = fs::remove_file(&socket);
        result
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ApiError {
    move |cause| ApiError::System { operation, object: path.display().to_string(), cause }
}

fn bind_unix(path: &Path, group: Option<&str>) -> Result<UnixListener, ApiError> {
    let failed = |operation| failed(operation, path);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed("create the directory of"))?;
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("look at")(error)),
        Ok(metadata) if !std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()) => {
            return Err(ApiError::NotASocket(path.to_owned()));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(ApiError::Taken(path.to_owned())),
        // Nobody answers: the rename below replaces what a crashed daemon left.
        Ok(_) => {}
    }
    let mut making = path.as_os_str().to_owned();
    making.push(format!(".{}", std::process::id()));
    let making = PathBuf::from(making);
    let _ = fs::remove_file(&making);
    let listener = UnixListener::bind(&making).map_err(failed("listen on"))?;
    let dressed = dress(&making, group).and_then(|()| fs::rename(&making, path).map_err(failed("name")));
    if let Err(error) = dressed {
        let _ = fs::remove_file(&making);
        return Err(error);
    }
    Ok(listener)
}

fn dress(path: &Path, group: Option<&str>) -> Result<(), ApiError> {
    let failed = |operation| failed(operation, path);
    if let Some(name) = group {
        let found = Group::from_name(name).map_err(|errno| failed("find the group of")(errno.into()))?;
        let gid = found.ok_or_else(|| ApiError::NoGroup(name.to_owned()))?.gid;
        chown(path, None, Some(gid)).map_err(|errno| failed("set the group of")(errno.into()))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed("set the mode of"))
}

impl Connected<IncomingStream<'_, UnixListener>> for Operator {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        match stream.io().peer_cred() {
            Ok(peer) => {
                let name = User::from_uid(Uid::from_raw(peer.uid())).ok().flatten().map(|user| user.name);
                Self { uid: peer.uid(), pid: peer.pid(), name }
            }
            // The kernel always knows a connected peer; `nobody` is the least that can be claimed for one it does not.
            Err(_) => Self { uid: 65_534, pid: None, name: None },
        }
    }
}
