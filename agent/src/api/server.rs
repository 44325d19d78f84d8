//! Listeners and routes.
//!
//! The socket is made under a temporary name, given its group and mode, and only then renamed to its place, so nobody ever
//! finds it with wider permissions. A socket on which a daemon still answers is never taken away.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{ConnectInfo, DefaultBodyLimit, Query, Request as HttpRequest, State, connect_info::Connected},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use bytes::Bytes;
use nix::unistd::{Group, Uid, User, chown};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{broadcast, mpsc, watch},
};

use crate::{
    api::{
        body::EventBody,
        metrics::render,
        request::{
            ANSWER_WITHIN, AllowOrder, BlockOrder, DeviceRef, IncidentFilter, IsolationOrder, Operator,
            Refusal, RefusalKind, Reply, Request,
        },
        view::{Allowed, Blocks, Devices, EventView, Events, Incidents, Models, SCHEMA, Versioned},
    },
    enforce::Target,
};

/// Largest body of an order.
const ORDER_BYTES: usize = 64 << 10;
/// Largest baseline that is imported.
const MODEL_BYTES: usize = 16 << 20;

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
        let operators =
            axum::serve(unix, routes(shared.clone()).into_make_service_with_connect_info::<Operator>())
                .with_graceful_shutdown(stopped(shutdown.clone()));
        let scrapers = async {
            match metrics {
                Some(listener) => {
                    let router =
                        bounded(Router::new().route("/metrics", get(metrics_text)).with_state(shared));
                    axum::serve(listener, router).with_graceful_shutdown(stopped(shutdown)).await
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

#[derive(Clone, Debug)]
struct Shared {
    handle: Handle,
    shutdown: watch::Receiver<bool>,
}

impl Shared {
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refusal> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let stopping =
            || Refusal::unavailable("the daemon is stopping", "start it again: systemctl start tidegate");
        self.handle.requests.send(request(reply)).await.map_err(|_| stopping())?;
        answer.await.unwrap_or_else(|_| {
            Err(Refusal::failed("the daemon dropped the request", "its log says why: journalctl -u tidegate"))
        })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.kind {
            RefusalKind::NotFound => StatusCode::NOT_FOUND,
            RefusalKind::Refused => StatusCode::UNPROCESSABLE_ENTITY,
            RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            RefusalKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(Versioned { schema: SCHEMA, view: self })).into_response()
    }
}

type Answer<T> = Result<Json<Versioned<T>>, Refusal>;

fn answer<T: Serialize>(view: T) -> Json<Versioned<T>> {
    Json(view.into())
}

#[derive(Debug, Deserialize)]
struct OfTarget {
    target: Target,
}

#[derive(Debug, Deserialize)]
struct OfDevice {
    device: DeviceRef,
}

#[derive(Debug, Deserialize)]
struct MaybeDevice {
    device: Option<DeviceRef>,
}

#[derive(Debug, Deserialize)]
struct OfId {
    id: String,
}

#[derive(Debug, Deserialize)]
struct Last {
    limit: Option<usize>,
}

/// Events that one request can ask for.
const MAX_EVENTS: usize = 10_000;

type Ops = ConnectInfo<Operator>;

fn routes(shared: Shared) -> Router {
    let orders = Router::new()
        .route(
            "/v1/status",
            get(async |State(s): State<Shared>| -> Answer<_> {
                s.ask(|reply| Request::Status { reply }).await.map(answer)
            }),
        )
        .route(
            "/v1/config",
            get(async |State(s): State<Shared>| s.ask(|reply| Request::Config { reply }).await),
        )
        .route(
            "/v1/reload",
            post(async |State(s): State<Shared>, ConnectInfo(operator): Ops| -> Answer<_> {
                s.ask(|reply| Request::Reload { operator, reply }).await.map(answer)
            }),
        )
        .merge(devices())
        .merge(blocks())
        .merge(allow())
        .merge(incidents())
        .merge(models())
        .layer(DefaultBodyLimit::max(ORDER_BYTES));
    let import = Router::new()
        .route(
            "/v1/models/import",
            post(
                async |State(s): State<Shared>,
                       ConnectInfo(operator): Ops,
                       Query(OfDevice { device }): Query<OfDevice>,
                       document: Bytes|
                       -> Answer<_> {
                    s.ask(|reply| Request::ImportModel { device, document, operator, reply })
                        .await
                        .map(answer)
                },
            ),
        )
        .layer(DefaultBodyLimit::max(MODEL_BYTES));
    bounded(orders.merge(import).with_state(shared))
}

fn devices() -> Router<Shared> {
    Router::new()
        .route(
            "/v1/devices",
            get(async |State(s): State<Shared>| -> Answer<_> {
                s.ask(|reply| Request::Devices { reply }).await.map(|devices| answer(Devices { devices }))
            }),
        )
        .route(
            "/v1/device",
            get(async |State(s): State<Shared>, Query(OfDevice { device }): Query<OfDevice>| -> Answer<_> {
                s.ask(|reply| Request::Device { device, reply }).await.map(answer)
            }),
        )
        .route(
            "/v1/device/isolation",
            post(
                async |State(s): State<Shared>,
                       ConnectInfo(operator): Ops,
                       Json(order): Json<IsolationOrder>|
                       -> Answer<_> {
                    s.ask(|reply| Request::Isolate { order, operator, reply }).await.map(answer)
                },
            )
            .delete(
                async |State(s): State<Shared>,
                       ConnectInfo(operator): Ops,
                       Query(OfDevice { device }): Query<OfDevice>|
                       -> Answer<_> {
                    s.ask(|reply| Request::Release { device, operator, reply }).await.map(answer)
                },
            ),
        )
}

fn blocks() -> Router<Shared> {
    Router::new()
        .route(
            "/v1/blocks",
            get(async |State(s): State<Shared>| -> Answer<_> {
                s.ask(|reply| Request::Blocks { reply }).await.map(|blocks| answer(Blocks { blocks }))
            })
            .post(
                async |State(s): State<Shared>,
                       ConnectInfo(operator): Ops,
                       Json(order): Json<BlockOrder>|
                       -> Answer<_> {
                    s.ask(|reply| Request::AddBlock { order, operator, reply }).await.map(answer)
                },
            )
            .delete(
                async |State(s): State<Shared>,
                       ConnectInfo(operator): Ops,
                       Query(OfTarget { target }): Query<OfTarget>|
                       -> Answer<_> {
                    s.ask(|reply| Request::DeleteBlock { target, operator, reply }).await.map(answer)
                },
            ),
        )
        .route(
            "/v1/blocks/flush",
            post(async |State(s): State<Shared>, ConnectInfo(operator): Ops| -> Answer<_> {
                s.ask(|reply| Request::FlushBlocks { operator, reply })
                    .await
                    .map(|blocks| answer(Blocks { blocks }))
            }),
        )
}

fn allow() -> Router<Shared> {
    Router::new()
        .route(
            "/v1/allow",
            get(async |State(s): State<Shared>| -> Answer<_> {
                s.ask(|reply| Request::Allowed { reply }).await.map(|allow| answer(Allowed { allow }))
            })
            .post(
                async |State(s): State<Shared>,
                       ConnectInfo(operator): Ops,
                       Json(order): Json<AllowOrder>|
                       -> Answer<_> {
                    s.ask(|reply| Request::Allow { order, operator, reply }).await.map(answer)
                },
            )
            .delete(
                async |State(s): State<Shared>,
                       ConnectInfo(operator): Ops,
                       Query(OfTarget { target }): Query<OfTarget>|
                       -> Answer<_> {
                    s.ask(|reply| Request::Disallow { target, operator, reply }).await.map(answer)
                },
            ),
        )
        .route(
            "/v1/allow/check",
            get(async |State(s): State<Shared>, Query(OfTarget { target }): Query<OfTarget>| -> Answer<_> {
                s.ask(|reply| Request::CheckAllowed { target, reply }).await.map(answer)
            }),
        )
}

fn incidents() -> Router<Shared> {
    Router::new()
        .route(
            "/v1/incidents",
            get(async |State(s): State<Shared>, Query(filter): Query<IncidentFilter>| -> Answer<_> {
                s.ask(|reply| Request::Incidents { filter, reply })
                    .await
                    .map(|incidents| answer(Incidents { incidents }))
            }),
        )
        .route(
            "/v1/incident",
            get(async |State(s): State<Shared>, Query(OfId { id }): Query<OfId>| -> Answer<_> {
                s.ask(|reply| Request::Incident { id, reply }).await.map(answer)
            }),
        )
        .route(
            "/v1/explain",
            get(async |State(s): State<Shared>, Query(OfId { id }): Query<OfId>| -> Answer<_> {
                s.ask(|reply| Request::Explain { id, reply }).await.map(answer)
            }),
        )
        .route(
            "/v1/events",
            get(async |State(s): State<Shared>, Query(Last { limit }): Query<Last>| -> Answer<_> {
                let limit = limit.unwrap_or(100).min(MAX_EVENTS);
                s.ask(|reply| Request::Events { limit, reply }).await.map(|events| answer(Events { events }))
            }),
        )
        .route(
            "/v1/events/follow",
            get(async |State(s): State<Shared>| {
                let body = EventBody::new(s.handle.events.subscribe(), s.shutdown.clone());
                ([(header::CONTENT_TYPE, "application/jsonl")], Body::new(body))
            }),
        )
}

fn models() -> Router<Shared> {
    Router::new()
        .route(
            "/v1/models",
            get(async |State(s): State<Shared>| -> Answer<_> {
                s.ask(|reply| Request::Models { reply }).await.map(|models| answer(Models { models }))
            }),
        )
        .route(
            "/v1/models/train",
            post(
                async |State(s): State<Shared>,
                       ConnectInfo(operator): Ops,
                       Query(MaybeDevice { device }): Query<MaybeDevice>|
                       -> Answer<_> {
                    s.ask(|reply| Request::TrainModel { device, operator, reply })
                        .await
                        .map(|models| answer(Models { models }))
                },
            ),
        )
        .route(
            "/v1/models/rollback",
            post(
                async |State(s): State<Shared>,
                       ConnectInfo(operator): Ops,
                       Query(OfDevice { device }): Query<OfDevice>|
                       -> Answer<_> {
                    s.ask(|reply| Request::RollbackModel { device, operator, reply }).await.map(answer)
                },
            ),
        )
        .route(
            "/v1/models/export",
            get(async |State(s): State<Shared>, Query(OfDevice { device }): Query<OfDevice>| {
                s.ask(|reply| Request::ExportModel { device, reply }).await
            }),
        )
}

async fn metrics_text(State(shared): State<Shared>) -> Result<impl IntoResponse, Refusal> {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let snapshot = shared.ask(|reply| Request::Metrics { reply }).await?;
    let text = render(*snapshot).map_err(|_| {
        Refusal::failed("metrics could not be written", "report this with `tidegate support dump`")
    })?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text))
}

/// Gives every answer of `router` a deadline; a stream's deadline is that of its beginning.
fn bounded(router: Router) -> Router {
    router.layer(middleware::from_fn(async |request: HttpRequest, next: Next| {
        let Ok(response) = tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await else {
            let cause = format!("the daemon did not answer within {} s", ANSWER_WITHIN.as_secs());
            return Refusal::unavailable(cause, "its log may say why: journalctl -u tidegate")
                .into_response();
        };
        response
    }))
}
