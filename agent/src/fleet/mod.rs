//! The gateway as one of a fleet: what it reports, to whom, and what it is told.
//!
//! `report` writes records in the words of `tidegate-wire`, `drain` puts waiting messages into envelopes, `link` carries them over
//! MQTT with mutual TLS and brings the shadow's wishes back, `fetch` gets policies. `limits`, `topics`, `shadow` and `backoff`
//! are pure. Messages wait in the store's outbox; nothing here decides about traffic, and no verdict waits for anything here.

pub mod backoff;
pub mod drain;
pub mod fetch;
pub mod limits;
pub mod link;
#[cfg(test)]
mod link_tests;
pub mod report;
pub mod shadow;
pub mod tls;
pub mod topics;
