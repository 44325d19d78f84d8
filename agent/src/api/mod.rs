//! The local interface: HTTP over a Unix socket for operators, Prometheus text over loopback for monitoring.
//!
//! This room translates. It holds no state of the gateway: every question becomes a [`Request`] to the loop and waits for
//! the reply. Bodies are bounded, every answer has a deadline, and who asked is taken from the socket, never from the
//! request. It does not decide, store or spawn.

mod body;
mod client;
mod metrics;
mod request;
mod routes;
mod server;
#[cfg(test)]
mod tests;
pub mod view;

pub use self::{
    client::{Client, ClientError, Follow},
    metrics::{LATENCY_BUCKETS_US, Latency, Neighbours, Snapshot, TechniqueCount, VerdictCount, render},
    request::{
        AllowOrder, BlockOrder, DeviceRef, IncidentFilter, IsolationOrder, Operator, Refusal, RefusalKind,
        Reply, Request,
    },
    server::{ApiError, Handle, Listeners, Settings},
};
