//! Routes of policies.

use axum::{
    Router,
    extract::{ConnectInfo, State},
    routing::{get, post},
};
use bytes::Bytes;

use super::{Answer, Ops, Shared, answer};
use crate::api::request::Request;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route(
            "/v1/policy",
            get(async |State(s): State<Shared>| -> Answer<_> {
                s.ask(|reply| Request::Policy { reply }).await.map(answer)
            })
            .post(
                async |State(s): State<Shared>, ConnectInfo(operator): Ops, sealed: Bytes| -> Answer<_> {
                    s.ask(|reply| Request::ApplyPolicy { sealed, operator, reply }).await.map(answer)
                },
            ),
        )
        .route(
            "/v1/policy/check",
            post(async |State(s): State<Shared>, sealed: Bytes| -> Answer<_> {
                s.ask(|reply| Request::CheckPolicy { sealed, reply }).await.map(answer)
            }),
        )
        .route(
            "/v1/policy/rollback",
            post(async |State(s): State<Shared>, ConnectInfo(operator): Ops| -> Answer<_> {
                s.ask(|reply| Request::RollbackPolicy { operator, reply }).await.map(answer)
            }),
        )
}
