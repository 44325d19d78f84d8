//! Commands on their way to devices: who signed them, whether they are new, what the operator's rules and the device's habit say.
//!
//! A message on a topic that `[commands]` names passes the [`Desk`]: signature, device, time and replay of a sealed command; the
//! operator's [`Rule`]s; then the device's [`Habit`]. What is unusual is held for an operator or refused. Nothing here does IO or
//! reads a clock. The loop trains habits, writes down what was seen, and gives both back after a restart; see docs/decisions/0027.

pub mod body;
mod clock;
mod desk;
mod device;
mod envelope;
mod habit;
mod held;
mod reading;
mod replay;
mod rules;

use std::net::IpAddr;

use jiff::SignedDuration;

pub use self::{
    body::Value,
    clock::WallClock,
    desk::{Desk, Tally, Tick},
    envelope::{Command, CommandError, MAX_BYTES, open, seal},
    habit::{Fact, Habit},
    held::{Changes, Held},
    replay::{Seen, Window},
    rules::{Allowed, Asked, Hours, Limit, Rule, judge},
};
use super::{acl, codec::Version, reason::Reason};
use crate::learn::{FeatureNote, Technique};

/// How commands are judged; all of it may change while the guard runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Topics of commands; the first `+` of each stands for the device. None for no judging.
    pub topics: Vec<String>,
    /// Whether commands that nobody signed are judged at all.
    pub allow_unsigned: bool,
    /// Whether payloads that are neither JSON nor CBOR are judged, by topic and content, or refused.
    pub allow_unknown: bool,
    /// Whether unusual commands wait for an operator, or are refused.
    pub hold: bool,
    /// Where a command that nobody sealed may name its verb.
    pub verb_keys: Vec<String>,
    /// How far a signer's clock may be ahead.
    pub skew: SignedDuration,
    /// Longest time from signature to expiry.
    pub life: SignedDuration,
    /// How long a held command waits.
    pub hold_for: SignedDuration,
    /// Held commands that may wait.
    pub held: usize,
    /// Normal commands after which a device's habit is known.
    pub learn_after: usize,
    /// Share of normal commands that may be unusual.
    pub rate: f64,
    /// Devices whose commands are remembered.
    pub devices: usize,
    /// What hours of rules are by.
    pub clock: WallClock,
    /// What is allowed.
    pub rules: Vec<Rule>,
}

/// Where a command topic leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Route<'a> {
    device: &'a str,
    /// What stands after the device.
    verb: &'a str,
}

impl Settings {
    /// Where `topic` leads, if it is one of commands.
    fn route<'a>(&self, topic: &'a str) -> Option<Route<'a>> {
        let pattern = self.topics.iter().find(|pattern| acl::matches(pattern, topic))?;
        let place = pattern.split('/').position(|level| level == "+")?;
        let mut rest = topic;
        for _ in 0..place {
            rest = rest.split_once('/')?.1;
        }
        let (device, verb) = rest.split_once('/').unwrap_or((rest, ""));
        Some(Route { device, verb: if verb.is_empty() { "command" } else { verb } })
    }
}

/// A message on its way to a device.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// What it says.
    pub payload: &'a [u8],
    /// Whether the broker would keep it.
    pub retain: bool,
    /// The PUBLISH as it came.
    pub packet: &'a [u8],
    /// Version it is written in.
    pub version: Version,
    /// Who sends it.
    pub sender: &'a str,
    /// Where from.
    pub source: IpAddr,
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It ends here.
    Refuse(Reason),
    /// It waits for an operator, under this name.
    Hold(u64),
}

/// A command that was refused or held and that an operator should know of.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// Where it came from.
    pub source: IpAddr,
    /// Who sent it.
    pub sender: String,
    /// The device it is for.
    pub device: String,
    /// Why it did not pass.
    pub reason: Reason,
    /// What it is.
    pub technique: Technique,
    /// Its name while it is held.
    pub held: Option<u64>,
    /// Why, in plain words.
    pub why: String,
    /// Chance of one as unusual among normal ones; 0 for what rules and signatures refuse.
    pub p_value: f64,
    /// The features that made it unusual.
    pub notes: Vec<FeatureNote>,
}

/// The name of a held command, as operators write it.
pub fn id_text(id: u64) -> String {
    format!("{id:x}")
}

/// The name that an operator wrote.
pub fn id_of(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}
