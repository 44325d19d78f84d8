//! The gateway as one of a fleet: what it reports, to whom, and what it is told.
//!
//! `report` writes records in the words of `tidegate-wire`, `drain` puts waiting messages into envelopes, `link` carries them over
//! MQTT with mutual TLS and brings the wishes of shadow and jobs back, `fetch` gets policies. `limits`, `topics`, `shadow`, `jobs` and `backoff`
//! are pure. `neighbours` tells other gateways of the site, cloud or no cloud. `provision` makes a gateway a thing of AWS IoT Core and `watch` brings its numbers to CloudWatch; `aws` sets up the clients
//! and `role` gets credentials for the gateway's certificate. Messages wait in the store's outbox; nothing here decides about traffic, and no verdict waits for anything here.

pub mod aws;
pub mod backoff;
pub mod defender;
pub mod drain;
pub mod fetch;
pub mod jobs;
pub mod limits;
pub mod link;
#[cfg(test)]
mod link_tests;
pub mod neighbours;
pub mod provision;
pub mod report;
pub mod role;
pub mod shadow;
pub mod sockets;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod topics;
pub mod watch;
