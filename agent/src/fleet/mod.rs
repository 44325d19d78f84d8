//! The gateway as one of a fleet: what it reports, and to whom.
//!
//! `report` writes records in the words of `tidegate-wire`. Messages wait in the store's outbox; nothing here decides about
//! traffic, and no verdict waits for anything here.

pub mod report;
