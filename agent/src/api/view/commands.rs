//! Commands in the words of the API.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::messages::commands::Tally;

/// Held commands, and what was done so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandsView {
    /// Commands that went on.
    pub passed: u64,
    /// Commands that were held since the start.
    pub held: u64,
    /// Of these, released by an operator.
    pub released: u64,
    /// Of these, dropped by an operator.
    pub dropped: u64,
    /// Of these, waited too long.
    pub expired: u64,
    /// Released by an earlier run, and not known to be delivered.
    pub interrupted: u64,
    /// Devices that commands were for.
    pub devices: u64,
    /// Of these, with a known habit.
    pub known: u64,
    /// Commands that wait, oldest first.
    pub waiting: Vec<HeldCommandView>,
}

impl CommandsView {
    /// What was done and what waits.
    pub fn of(tally: Tally, waiting: Vec<HeldCommandView>) -> Self {
        let Tally { passed, held, released, dropped, expired, interrupted, devices, known, .. } = tally;
        Self { passed, held, released, dropped, expired, interrupted, devices, known, waiting }
    }
}

/// A command that waits for an operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldCommandView {
    /// Its name here.
    pub id: String,
    /// The topic it came on.
    pub topic: String,
    /// The device it is for.
    pub device: String,
    /// Who sent it.
    pub sender: String,
    /// Its signer's name for it.
    pub command: Option<String>,
    /// Who signed it.
    pub key: Option<String>,
    /// What is to be done.
    pub verb: String,
    /// With what.
    pub params: BTreeMap<String, String>,
    /// When it came.
    pub since: Timestamp,
    /// Seconds that it still waits.
    pub left_s: u64,
    /// Share of normal commands at least as unusual.
    pub p_value: f64,
    /// Why it is held.
    pub why: String,
    /// What it waits for.
    pub state: HeldState,
}

/// What a held command waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldState {
    /// Nobody has decided yet.
    Waiting,
    /// It was released, and the gateway ended before it was known to be delivered: it may have got to its device or not.
    Interrupted,
}

impl HeldState {
    /// Its word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Interrupted => "interrupted",
        }
    }
}
