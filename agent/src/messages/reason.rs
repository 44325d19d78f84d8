//! Why the guard refuses something, and how often it did.
//!
//! A closed set: every refusal of the guard has one of these, a counter, and a word in metrics and logs.

use std::sync::atomic::{AtomicU64, Ordering};

use super::telemetry::Tallies;
use crate::learn::Technique;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $word:literal,)+) => {
        /// Why something was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Its word.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $word),+ }
            }
        }
    };
}

reasons! {
    /// More connections than the guard takes.
    Connections = "connections",
    /// More connections than one source may have.
    SourceConnections = "source-connections",
    /// Connections of one source came too fast.
    ConnectRate = "connect-rate",
    /// Connections of sources that nobody knows came too fast together.
    StrangerRate = "stranger-rate",
    /// The source guessed too often and has to wait.
    LockedOut = "locked-out",
    /// No CONNECT within the time for it.
    ConnectTimeout = "connect-timeout",
    /// The TLS handshake failed: no certificate, a wrong authority, expired, revoked, or no TLS at all.
    Tls = "tls",
    /// Neither MQTT 3.1.1 nor 5.
    Version = "version",
    /// Bytes that are not MQTT, or packets out of order.
    Malformed = "malformed",
    /// A packet larger than allowed.
    PacketSize = "packet-size",
    /// A client id that is missing, too long or has forbidden characters.
    ClientId = "client-id",
    /// User name or password wrong or missing.
    Credentials = "credentials",
    /// A bound identity from another device than its own.
    WrongDevice = "wrong-device",
    /// A will that the client may not publish, or that is too large.
    Will = "will",
    /// The broker behind does not answer.
    BrokerAway = "broker-away",
    /// Published to a topic that is not granted.
    PublishTopic = "publish-topic",
    /// Subscribed to a filter that is not granted.
    SubscribeTopic = "subscribe-topic",
    /// A topic that is too long or too deep.
    TopicShape = "topic-shape",
    /// More subscriptions than one client may have.
    Subscriptions = "subscriptions",
    /// More retained topics than one identity may have.
    Retained = "retained",
    /// A delivery that the client may not have (any more).
    Delivery = "delivery",
    /// The client does not read what it subscribed to.
    SlowReader = "slow-reader",
    /// A packet was begun and not finished in time.
    PacketTimeout = "packet-timeout",
    /// Silent for longer than the client promised.
    KeepAlive = "keep-alive",
    /// Certificate or password no longer count.
    Revoked = "revoked",
    /// The device is cut off.
    Isolated = "isolated",
    /// No memory is left for unfinished packets.
    Memory = "memory",
    /// A command that nobody signed.
    CommandUnsigned = "command-unsigned",
    /// A command that is cut short, too large, or in no known format.
    CommandFormat = "command-format",
    /// A command whose signature does not fit.
    CommandSignature = "command-signature",
    /// A command whose signer nobody trusts.
    CommandKey = "command-key",
    /// A command on a topic of another device than it is for.
    CommandDevice = "command-device",
    /// A command whose time is over, or a clock that is fast.
    CommandExpired = "command-expired",
    /// A command of the future, or a clock that is slow.
    CommandEarly = "command-early",
    /// A command that is valid for too long.
    CommandLifetime = "command-lifetime",
    /// A command that was seen, or may have been.
    CommandReplayed = "command-replayed",
    /// A command that the broker was to keep.
    CommandRetained = "command-retained",
    /// A command by a sender or signer whom no rule lets.
    CommandSender = "command-sender",
    /// A verb that no rule allows.
    CommandVerb = "command-verb",
    /// A parameter outside what the rules allow.
    CommandParameter = "command-parameter",
    /// A command at a time of day that no rule allows.
    CommandHours = "command-hours",
    /// More commands than a rule allows within a minute.
    CommandRate = "command-rate",
    /// No room for another device, or for what was seen.
    CommandRoom = "command-room",
    /// A command unlike the device's normal ones.
    CommandUnusual = "command-unusual",
    /// Such a command that waits for an operator.
    CommandHeld = "command-held",
    /// Telemetry that does not fit what the device measured before.
    Telemetry = "telemetry",
}

/// What so many refusals of one source within a minute mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Meaning {
    /// Refusals within a minute from which on it is reported.
    pub threshold: u32,
    /// What it is then.
    pub technique: Technique,
    /// How sure that is, 0–1.
    pub confidence: f64,
}

impl Reason {
    /// What repeated refusals for this reason mean; `None` when they mean nothing by themselves.
    pub const fn meaning(self) -> Option<Meaning> {
        let (threshold, technique, confidence) = match self {
            Self::Credentials => (8, Technique::BRUTE_FORCE, 0.8),
            Self::ConnectRate => (200, Technique::SERVICE_FLOOD, 0.7),
            Self::SourceConnections | Self::ConnectTimeout | Self::PacketTimeout => {
                (60, Technique::SERVICE_FLOOD, 0.6)
            }
            Self::Malformed | Self::PacketSize | Self::Tls | Self::Version => {
                (30, Technique::MESSAGE_EXPLOIT, 0.5)
            }
            Self::WrongDevice => (1, Technique::BORROWED_ACCOUNT, 0.7),
            Self::PublishTopic | Self::Will => (20, Technique::FOREIGN_COMMAND, 0.5),
            Self::SubscribeTopic => (20, Technique::EAVESDROPPING, 0.5),
            _ => return None,
        };
        Some(Meaning { threshold, technique, confidence })
    }
}

/// What the guard counts. Shared between its thread and whoever asks.
#[derive(Debug)]
pub struct Counters {
    /// Connections taken.
    pub accepted: AtomicU64,
    /// Sessions open now.
    pub sessions: AtomicU64,
    /// Messages passed from clients to the broker.
    pub published: AtomicU64,
    /// Messages passed from the broker to clients.
    pub delivered: AtomicU64,
    /// Bytes passed from clients to the broker.
    pub bytes_in: AtomicU64,
    /// Bytes passed from the broker to clients.
    pub bytes_out: AtomicU64,
    /// How often a client had to wait because it published too fast.
    pub throttled: AtomicU64,
    /// Starts of the broker after the first.
    pub broker_restarts: AtomicU64,
    /// 1 while the broker that the agent runs does not run.
    pub broker_down: AtomicU64,
    /// Reports that the loop had no room for.
    pub reports_lost: AtomicU64,
    /// What is counted of telemetry.
    pub telemetry: Tallies,
    refused: Vec<AtomicU64>,
}

impl Default for Counters {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            accepted: zero(),
            sessions: zero(),
            published: zero(),
            delivered: zero(),
            bytes_in: zero(),
            bytes_out: zero(),
            throttled: zero(),
            broker_restarts: zero(),
            broker_down: zero(),
            reports_lost: zero(),
            telemetry: Tallies::default(),
            refused: Reason::ALL.iter().map(|_| zero()).collect(),
        }
    }
}

impl Counters {
    /// Counts one refusal.
    pub fn refuse(&self, reason: Reason) {
        add(&self.refused[reason as usize], 1);
    }

    /// Refusals for `reason` so far.
    pub fn refused(&self, reason: Reason) -> u64 {
        read(&self.refused[reason as usize])
    }
}

/// Adds to a counter; nothing is ordered by it.
pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// Reads a counter.
pub fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_and_a_word_of_its_own() {
        let counters = Counters::default();
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            counters.refuse(*reason);
            assert_eq!(counters.refused(*reason), 1);
        }
        let mut words: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}
