//! What waits in each direction of a session, and how far it was judged. Bytes in, bytes out; time is an argument.

use std::time::Instant;

use jiff::Timestamp;
use tokio_util::bytes::BytesMut;

use super::{
    limits::{Bucket, Limits},
    talk::{Fate, Talk},
};
use crate::messages::{
    codec::{self, Kind, Malformed},
    reason::Reason,
};

/// Answers of the guard that may wait for the client.
pub(super) const ANSWERS: usize = 16 << 10;
/// Longest packet of the broker that is read whole, far more than 65,535 bytes of topic or a SUBACK can need.
const LONGEST_CONTROL: usize = 256 << 10;

/// From the client: the first `passed` bytes may go out, the others wait for more or for their turn.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) bytes: BytesMut,
    pub(super) passed: usize,
    /// The client has closed.
    pub(super) is_ended: bool,
    /// Judging stopped because the client has to wait.
    pub(super) is_held: bool,
    /// Since when a packet lacks its end.
    pub(super) unfinished: Option<Instant>,
    messages: Bucket,
    volume: Bucket,
}

impl Up {
    /// A client that has sent `bytes` after its CONNECT, which are to be judged before anything is read.
    pub(super) fn new(bytes: BytesMut, limits: &Limits, now: Instant) -> Self {
        Self {
            bytes,
            passed: 0,
            is_ended: false,
            is_held: true,
            unfinished: None,
            messages: Bucket::new(limits.messages_per_second, now),
            volume: Bucket::new(limits.bytes_per_second, now),
        }
    }

    /// Until when the client has published enough; `None` when it need not wait.
    pub(super) fn debt(&self) -> Option<Instant> {
        self.messages.until().max(self.volume.until())
    }

    /// Judges the client's whole packets, as long as it has not to wait; how often it had to begin waiting.
    pub(super) fn judge(
        &mut self,
        talk: &mut Talk,
        limits: &Limits,
        (now, wall): (Instant, Timestamp),
    ) -> Result<u64, Reason> {
        let malformed = |cause: Malformed| {
            tracing::debug!(%cause, "a client sends what is not MQTT");
            Reason::Malformed
        };
        let (mut kept, mut at, mut waits) = (self.passed, self.passed, 0);
        self.is_held = false;
        while let Some(frame) = codec::frame(&self.bytes[at..]).map_err(malformed)? {
            if frame.len > limits.packet_bytes {
                return Err(Reason::PacketSize);
            }
            let Some(packet) = self.bytes.get(at..at + frame.len) else { break };
            let is_publish = frame.kind == Kind::Publish;
            let is_in_debt = is_publish && self.debt().is_some_and(|then| then > now);
            if is_in_debt || talk.must_wait(packet, frame) || talk.answers.len() >= ANSWERS {
                self.is_held = true;
                break;
            }
            let fate = talk.up(packet, frame, wall).map_err(malformed)?;
            if is_publish {
                self.messages.take(1, now);
                self.volume.take(frame.len, now);
                waits += u64::from(self.debt().is_some());
            }
            match fate {
                Fate::Pass => {
                    if kept != at {
                        self.bytes.copy_within(at..at + frame.len, kept);
                    }
                    kept += frame.len;
                }
                Fate::Drop => {}
                Fate::Replace(bytes) if bytes.len() <= frame.len => {
                    self.bytes[kept..kept + bytes.len()].copy_from_slice(&bytes);
                    kept += bytes.len();
                }
                Fate::Replace(_) => return Err(malformed(Malformed("a packet that grows"))),
            }
            at += frame.len;
        }
        let is_unfinished = self.bytes.len() > at && !self.is_held;
        let since = self.unfinished.filter(|_| at == self.passed).unwrap_or(now);
        self.unfinished = is_unfinished.then_some(since);
        close_gap(&mut self.bytes, kept, at);
        self.passed = kept;
        Ok(waits)
    }
}

/// From the broker: likewise.
#[derive(Debug)]
pub(super) struct Down {
    pub(super) bytes: BytesMut,
    pub(super) passed: usize,
    /// The broker has closed.
    pub(super) is_ended: bool,
    /// Judging stopped until the guard has said an answer that comes first.
    pub(super) is_held: bool,
    /// Bytes to come of a packet whose head was judged, and whether they pass.
    rest: (usize, bool),
}

impl Down {
    /// A broker that has sent `bytes`.
    pub(super) fn new(bytes: BytesMut) -> Self {
        Self { bytes, passed: 0, is_ended: false, is_held: false, rest: (0, true) }
    }

    /// Whether the client has whole packets of the broker, so that something else may be said.
    pub(super) fn is_between_packets(&self) -> bool {
        self.passed == 0 && (self.rest.0 == 0 || !self.rest.1)
    }

    /// Judges what the broker sent: of a delivery the head, of other packets all.
    pub(super) fn judge(&mut self, talk: &mut Talk) -> Result<(), Malformed> {
        let (mut kept, mut at) = (self.passed, self.passed);
        self.is_held = false;
        while at < self.bytes.len() && !self.is_held {
            let (left, passes) = self.rest;
            if left > 0 {
                let now = left.min(self.bytes.len() - at);
                if passes {
                    if kept != at {
                        self.bytes.copy_within(at..at + now, kept);
                    }
                    kept += now;
                }
                at += now;
                self.rest.0 -= now;
                continue;
            }
            let bytes = &self.bytes[at..];
            let Some(frame) = codec::frame(bytes)? else { break };
            let needed = Talk::needed(frame, bytes);
            if needed > LONGEST_CONTROL {
                return Err(Malformed("a control packet of unusual length"));
            }
            if bytes.len() < needed {
                break;
            }
            let here = bytes.len().min(frame.len);
            self.rest = (frame.len, talk.down(&bytes[..here], frame)? == Fate::Pass);
            // What replaces these is said as an answer, before whatever follows them: CONNACK is the first packet of all.
            if matches!(frame.kind, Kind::ConnAck | Kind::SubAck) && !self.rest.1 {
                (at, self.rest.0, self.is_held) = (at + frame.len, 0, true);
            }
        }
        close_gap(&mut self.bytes, kept, at);
        self.passed = kept;
        Ok(())
    }
}

/// Moves what begins at `at` to `kept`.
fn close_gap(bytes: &mut BytesMut, kept: usize, at: usize) {
    if kept != at {
        let left = bytes.len() - at;
        bytes.copy_within(at.., kept);
        bytes.truncate(kept + left);
    }
}

#[cfg(test)]
#[path = "flow_tests.rs"]
mod tests;
