//! The MQTT guard in the words of the API.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::messages::{
    Counters, Reason,
    commands::Tally,
    read,
    telemetry::{Sign, Tallies},
};

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
    /// Telemetry.
    #[serde(default)]
    pub telemetry: TelemetryView,
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
            telemetry: TelemetryView::of(&counters.telemetry),
        }
    }
}

/// What was seen of telemetry since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TelemetryView {
    /// Topics that are known now.
    pub topics: u64,
    /// Those that are judged: learning is over.
    pub judged_topics: u64,
    /// Messages.
    pub messages: u64,
    /// Messages of no format that is read.
    pub unreadable: u64,
    /// Messages whose device or topic found no room.
    pub no_room: u64,
    /// Messages that do not fit, by sign, those that happened.
    pub odd: BTreeMap<String, u64>,
}

impl TelemetryView {
    fn of(tallies: &Tallies) -> Self {
        let odd = Sign::ALL.iter().map(|sign| (sign.name().to_owned(), read(tallies.odd(*sign))));
        Self {
            topics: read(&tallies.topics),
            judged_topics: read(&tallies.judged_topics),
            messages: read(&tallies.messages),
            unreadable: read(&tallies.unreadable),
            no_room: read(&tallies.no_room),
            odd: odd.filter(|(_, count)| *count > 0).collect(),
        }
    }
}
