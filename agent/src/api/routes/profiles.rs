//! Routes of descriptions and profiles.

use axum::{
    Json, Router,
    extract::{ConnectInfo, Query, State},
    routing::get,
};
use bytes::Bytes;

use super::{Answer, OfDevice, Ops, Shared, answer};
use crate::api::request::Request;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route(
            "/v1/device/description",
            get(async |State(s): State<Shared>, Query(OfDevice { device }): Query<OfDevice>| {
                s.ask(|reply| Request::Describe { device, reply }).await.map(Json)
            }),
        )
        .route(
            "/v1/device/profile",
            get(async |State(s): State<Shared>, Query(OfDevice { device }): Query<OfDevice>| -> Answer<_> {
                s.ask(|reply| Request::Profile { device, reply }).await.map(answer)
            })
            .post(
                async |State(s): State<Shared>,
                       ConnectInfo(operator): Ops,
                       Query(OfDevice { device }): Query<OfDevice>,
                       description: Bytes|
                       -> Answer<_> {
                    s.ask(|reply| Request::ApplyProfile { device, description, operator, reply })
                        .await
                        .map(answer)
                },
            )
            .delete(
                async |State(s): State<Shared>,
                       ConnectInfo(operator): Ops,
                       Query(OfDevice { device }): Query<OfDevice>|
                       -> Answer<_> {
                    s.ask(|reply| Request::RemoveProfile { device, operator, reply }).await.map(answer)
                },
            ),
        )
}
