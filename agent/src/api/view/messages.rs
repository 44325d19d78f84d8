//! The MQTT guard in the words of the API.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::messages::{Counters, Reason, commands::Tally, read};

/// What the MQTT guard has done since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessagesView {
    /// Sessions open now.
    pub sessions: u64,
    /// Connections taken.
    pub accepted: u64,
    /// Messages passed from clients to the broker.
    pub published: u64,
    /// Messages passed from the broker to clients.
    pub delivered: u64,
    /// How often a client had to wait because it published too fast.
    pub throttled: u64,
    /// Starts of the broker after the first.
    pub broker_restarts: u64,
    /// Commands that went on to devices.
    pub commands_passed: u64,
    /// Commands that wait for an operator now.
    pub commands_waiting: u64,
    /// Refusals by reason, those that happened.
    pub refused: BTreeMap<String, u64>,
}

impl MessagesView {
    /// What `counters` say now.
    pub fn of(counters: &Counters, commands: Tally) -> Self {
        let refused = Reason::ALL.iter().map(|reason| (reason.name().to_owned(), counters.refused(*reason)));
        Self {
            sessions: read(&counters.sessions),
            accepted: read(&counters.accepted),
            published: read(&counters.published),
            delivered: read(&counters.delivered),
            throttled: read(&counters.throttled),
            broker_restarts: read(&counters.broker_restarts),
            commands_passed: commands.passed,
            commands_waiting: commands.waiting,
            refused: refused.filter(|(_, count)| *count > 0).collect(),
        }
    }
}
