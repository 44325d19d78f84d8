//! The operator's policy: signed, versioned, expiring settings that lie over the configuration file.
//!
//! A policy is a [`Document`] in a COSE_Sign1 envelope (RFC 9052) with an Ed25519 signature; see docs/decisions/0024. [`open`]
//! verifies an envelope against the trust anchors, [`Policies`] decides whether a document may take the place of the one in force,
//! and [`Document::over`] is what it does to the settings. A refusal has one [`Reason`] of a closed set, is counted, and changes
//! nothing else. Files, clocks and the kernel are the callers'.

mod document;
mod envelope;
mod keys;
pub mod sealed;
mod state;
#[cfg(test)]
mod tests;

pub use document::{Change, Document, Isolation, NeverBlock, Settings, changes};
pub use envelope::{MAX_BYTES, open, seal};
pub use keys::{KeyError, KeyId, SigningKey, TrustAnchors, nonce};
pub use state::{Accepted, Held, Identity, Policies, Reason, Refused, Terms};
