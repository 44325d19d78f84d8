//! Routes of commands that wait for an operator.

use axum::{
    Router,
    extract::{ConnectInfo, Query, State},
    routing::{get, post},
};

use super::{Answer, OfId, Ops, Shared, answer};
use crate::api::request::Request;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route(
            "/v1/commands",
            get(async |State(s): State<Shared>| -> Answer<_> {
                s.ask(|reply| Request::Commands { reply }).await.map(answer)
            }),
        )
        .route(
            "/v1/command",
            get(async |State(s): State<Shared>, Query(OfId { id }): Query<OfId>| -> Answer<_> {
                s.ask(|reply| Request::Command { id, reply }).await.map(answer)
            }),
        )
        .route(
            "/v1/command/release",
            post(
                async |State(s): State<Shared>,
                       ConnectInfo(operator): Ops,
                       Query(OfId { id }): Query<OfId>|
                       -> Answer<_> {
                    s.ask(|reply| Request::ReleaseCommand { id, operator, reply }).await.map(answer)
                },
            ),
        )
        .route(
            "/v1/command/drop",
            post(
                async |State(s): State<Shared>,
                       ConnectInfo(operator): Ops,
                       Query(OfId { id }): Query<OfId>|
                       -> Answer<_> {
                    s.ask(|reply| Request::DropCommand { id, operator, reply }).await.map(answer)
                },
            ),
        )
}
