//! Routes: from HTTP to the closed set of requests, and back.
//!
//! Bodies are bounded, every answer has a deadline, and a stop ends every wait.

mod commands;
mod policy;
mod profiles;

use axum::{
    Json, Router,
    body::Body,
    extract::{ConnectInfo, DefaultBodyLimit, Query, Request as HttpRequest, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    api::{
        body::EventBody,
        metrics::render,
        request::{
            ANSWER_WITHIN, AllowOrder, BlockOrder, DeviceRef, IncidentFilter, IsolationOrder, Operator,
            Refusal, RefusalKind, Reply, Request,
        },
        server::Handle,
        view::{Allowed, Blocks, Devices, Events, Models, SCHEMA, Versioned},
    },
    enforce::Target,
    mud::MAX_BYTES,
    policy::MAX_BYTES as POLICY_BYTES,
};

/// Largest body of an order.
const ORDER_BYTES: usize = 64 << 10;
/// Largest baseline that is imported.
const MODEL_BYTES: usize = 16 << 20;

#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) handle: Handle,
    pub(super) shutdown: watch::Receiver<bool>,
}

impl Shared {
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refusal> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let stopping =
            || Refusal::unavailable("the daemon is stopping", "start it again: systemctl start tidegate");
        let exchange = async {
            self.handle.requests.send(request(reply)).await.map_err(|_| stopping())?;
            answer.await.unwrap_or_else(|_| {
                let hint = "its log says why: journalctl -u tidegate";
                Err(Refusal::failed("the daemon dropped the request", hint))
            })
        };
        let mut shutdown = self.shutdown.clone();
        // The loop answers nobody once it is told to stop, and nobody should wait for it.
        tokio::select! {
            biased;
            answered = exchange => answered,
            _ = shutdown.wait_for(|stop| *stop) => Err(stopping()),
        }
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

/// What operators may ask.
pub(super) fn operators(shared: Shared) -> Router {
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
        .merge(commands::routes())
        .route(
            "/v1/neighbours",
            get(async |State(s): State<Shared>| -> Answer<_> {
                s.ask(|reply| Request::Neighbours { reply }).await.map(answer)
            }),
        )
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
    let profiles = profiles::routes().layer(DefaultBodyLimit::max(MAX_BYTES));
    let policy = policy::routes().layer(DefaultBodyLimit::max(POLICY_BYTES));
    bounded(orders.merge(import).merge(profiles).merge(policy).with_state(shared))
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
                s.ask(|reply| Request::Incidents { filter, reply }).await.map(answer)
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

/// What monitoring may ask.
pub(super) fn scrapers(shared: Shared) -> Router {
    bounded(Router::new().route("/metrics", get(metrics_text)).with_state(shared))
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
