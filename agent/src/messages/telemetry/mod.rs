//! Telemetry: what devices measure, read out of what they publish, and what does not fit what they measured before.
//!
//! Every message on a telemetry topic that a client may publish is read and judged where it passes, in microseconds, by the models of
//! its topic: fields by themselves ([`field`]), all together ([`joint`]), and which there are ([`topic`]). Only what fits trains.
//! Normal ones are batched for the cloud, others are marked with the reason, told to the loop, and refused if so configured.
//! Forests are grown elsewhere ([`mod@nursery`]).
//! Nothing here waits, does IO or reads a clock: the guard's beat takes away what is to be told ([`watch`]), and what finds no
//! room then is merged into the next batch or counted. Memory is bounded by [`Settings`].

mod batch;
mod episode;
mod field;
mod joint;
mod nursery;
mod payload;
mod range;
mod recent;
#[cfg(test)]
mod simulation_tests;
mod spread;
mod tallies;
mod topic;
mod units;
mod watch;
mod whiten;

pub(crate) use self::watch::{Watch, Watched};

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::{
    nursery::{Grower, Nursery, nursery},
    payload::{Kind, Reading, Shape, Unreadable},
    tallies::Tallies,
    topic::Topic,
    watch::{Alarm, Stored},
};
use crate::learn::Technique;

/// What becomes of a message that does not fit, besides being told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Anomalous {
    /// It is delivered here, and goes to the cloud with a mark.
    Mark,
    /// It is delivered nowhere here; the cloud is told of it with a mark.
    Refuse,
}

/// How telemetry is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Topic filters; the first `+` stands for the device.
    pub topics: Vec<String>,
    /// What becomes of messages that do not fit.
    pub anomalous: Anomalous,
    /// When something is known.
    pub learning: Learning,
    /// How long something may go on not to fit before it is learned as the new normal.
    pub relearn_after: Duration,
    /// Devices.
    pub devices: usize,
    /// Topics of one device.
    pub topics_per_device: usize,
    /// Topics of all devices together.
    pub models: usize,
    /// How much of a payload is looked at.
    pub shape: Shape,
    /// How often measurements go to the cloud, if they do.
    pub forward_every: Option<Duration>,
    /// Measurements of a topic within that time that go there one by one; of further ones only the summary.
    pub readings: usize,
}

/// When enough was seen to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learning {
    /// Messages.
    pub messages: u32,
    /// And milliseconds from the first to the last.
    pub period_ms: u64,
}

/// In which way a message does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sign {
    /// A field is new, gone, or of another kind; or nothing can be read any more.
    Schema,
    /// A field has drifted far from where it was learned to be.
    Range,
    /// A field does not change any more.
    Stuck,
    /// The fields do not fit each other.
    Joint,
    /// A field changes faster than it ever did.
    Rate,
    /// A field is suddenly far outside.
    Spike,
    /// A field is what was expected in another unit.
    UnitJump,
}

impl Sign {
    /// Every sign, in the order of the counters.
    pub const ALL: [Self; 7] =
        [Self::Schema, Self::Range, Self::Stuck, Self::Joint, Self::Rate, Self::Spike, Self::UnitJump];

    /// Its word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Schema => "schema",
            Self::Range => "range",
            Self::Stuck => "stuck",
            Self::Joint => "joint",
            Self::Rate => "rate",
            Self::Spike => "spike",
            Self::UnitJump => "unit-jump",
        }
    }

    /// The rule that incidents name.
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Schema => "telemetry-schema",
            Self::Range => "telemetry-range",
            Self::Stuck => "telemetry-stuck",
            Self::Joint => "telemetry-joint",
            Self::Rate => "telemetry-rate",
            Self::Spike => "telemetry-spike",
            Self::UnitJump => "telemetry-unit-jump",
        }
    }

    /// What it is when somebody does it on purpose.
    pub const fn technique(self) -> Technique {
        match self {
            Self::Schema | Self::Stuck => Technique::MANIPULATED_VIEW,
            _ => Technique::FORGED_REPORT,
        }
    }

    /// How sure that is, 0–1, of a single message and of one among several within few. What sensors do when they break or are
    /// updated is told, and never acted upon by default.
    pub const fn confidence(self, is_repeated: bool) -> f64 {
        match self {
            Self::Schema | Self::Range => 0.4,
            Self::Stuck => 0.5,
            _ if is_repeated => 0.65,
            _ => 0.5,
        }
    }
}
