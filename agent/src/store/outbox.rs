//! Messages on their way to the cloud: kept until they are acknowledged.
//!
//! A message is added in the transaction of the record it reports, so neither exists without the other. Its sequence number is
//! one for the whole gateway and is never used twice, so it orders the messages of each device too, and a number that is missing
//! is a message that was dropped. Delivery is at least once: a message leaves when its acknowledgement is stored, and comes
//! again with the same id and sequence until then.
//!
//! Rows and bytes are bounded. Where a message finds no room, the oldest of the least kind make it, see [`MessageKind`]; a
//! message of less worth than all that wait is dropped itself. What was dropped is counted by kind in the same transaction.
//! It sends nothing and knows no topic.

use jiff::Timestamp;
use serde::Serialize;
use tidegate_wire::Report;

use super::database::{Store, StoreError, document, sql};

/// What a message is about, in the order in which room is made: the first go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MessageKind {
    /// What devices measured: the next one says more of it.
    Telemetry,
    /// The gateway is there: the next one says it again.
    Heartbeat,
    /// An enforcement began or ended.
    Block,
    /// What became of a policy.
    Policy,
    /// An incident: goes last.
    Incident,
}

impl MessageKind {
    /// Every kind, least first.
    pub const ALL: [Self; 5] = [Self::Telemetry, Self::Heartbeat, Self::Block, Self::Policy, Self::Incident];

    /// Its name in metrics and topics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Telemetry => "telemetry",
            Self::Heartbeat => "heartbeat",
            Self::Block => "block",
            Self::Policy => "policy",
            Self::Incident => "incident",
        }
    }

    /// The kind of a report.
    pub const fn of(report: &Report) -> Self {
        match report {
            Report::Telemetry(_) => Self::Telemetry,
            Report::Heartbeat(_) => Self::Heartbeat,
            Report::Block(_) => Self::Block,
            Report::Policy(_) => Self::Policy,
            Report::Incident(_) => Self::Incident,
        }
    }

    fn from_rank(rank: i64) -> Self {
        usize::try_from(rank).ok().and_then(|rank| Self::ALL.get(rank).copied()).unwrap_or(Self::Incident)
    }
}

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxLimits {
    /// Messages.
    pub rows: u64,
    /// Bytes of their bodies and names.
    pub bytes: u64,
}

/// A message to be kept.
#[derive(Debug, Clone, Copy)]
pub struct NewMessage<'a> {
    /// Its id for ever.
    pub id: &'a str,
    /// Whom it is about, in the words of its subject.
    pub device: &'a str,
    /// When it was written.
    pub at: Timestamp,
    /// What it says.
    pub report: &'a Report,
}

/// A message that waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Queued {
    /// Its place in the gateway's order; grows.
    pub sequence: u64,
    /// Its id.
    pub id: String,
    /// Whom it is about.
    pub device: String,
    /// What it is about.
    pub kind: MessageKind,
    /// When it was written.
    pub at: Timestamp,
    /// The report as JSON.
    pub body: String,
}

/// Counts of one kind of message since the database was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct OutboxTally {
    /// Messages accepted.
    pub added: u64,
    /// Messages delivered and acknowledged.
    pub acknowledged: u64,
    /// Messages that found no room or had to make it.
    pub dropped: u64,
    /// Messages waiting.
    pub waiting: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Store {
    /// Keeps a message, making room by the policy above. Whether it was kept: `false` when it was the one of least worth. Call it
    /// in the [`Store::batch`] that writes what it reports.
    pub fn enqueue(&self, message: &NewMessage<'_>, limits: OutboxLimits) -> Result<bool, StoreError> {
        const OPERATION: &str = "keep a message";
        const ADD: &str =
            "INSERT INTO outbox (id, device, kind, bytes, at_us, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        const COUNT: &str = "INSERT INTO outbox_tally (kind, added, waiting, bytes) VALUES (?1, 1, 1, ?2)
            ON CONFLICT DO UPDATE SET added = added + 1, waiting = waiting + 1, bytes = bytes + excluded.bytes";
        let kind = MessageKind::of(message.report);
        let body = document(OPERATION, message.report)?;
        let bytes = (message.id.len() + message.device.len() + body.len()) as u64;
        if !self.make_room(kind, bytes, limits)? {
            const DROPPED: &str = "INSERT INTO outbox_tally (kind, dropped) VALUES (?1, 1)
                ON CONFLICT DO UPDATE SET dropped = dropped + 1";
            self.write(OPERATION, DROPPED, &[&(kind as i64)])?;
            return Ok(false);
        }
        let at = message.at.as_microsecond();
        self.write(
            OPERATION,
            ADD,
            &[&message.id, &message.device, &(kind as i64), &(bytes as i64), &at, &body],
        )?;
        self.write(OPERATION, COUNT, &[&(kind as i64), &(bytes as i64)])?;
        Ok(true)
    }

    /// Drops the oldest of the least kinds until `bytes` more fit; whether they do without dropping anything above `kind`.
    fn make_room(&self, kind: MessageKind, bytes: u64, limits: OutboxLimits) -> Result<bool, StoreError> {
        const OPERATION: &str = "make room for a message";
        const VICTIM: &str = "SELECT sequence, kind, bytes FROM outbox WHERE kind <= ?1
            ORDER BY kind, sequence LIMIT 1";
        const DELETE: &str = "DELETE FROM outbox WHERE sequence = ?1";
        const COUNT: &str = "UPDATE outbox_tally
            SET dropped = dropped + 1, waiting = waiting - 1, bytes = bytes - ?2 WHERE kind = ?1";
        if limits.rows == 0 || bytes > limits.bytes {
            return Ok(false);
        }
        let tallies = self.outbox_tallies()?;
        let mut rows: u64 = tallies.iter().map(|(_, tally)| tally.waiting).sum();
        let mut held: u64 = tallies.iter().map(|(_, tally)| tally.bytes).sum();
        let of_greater = tallies.iter().filter(|(other, _)| *other > kind);
        let (greater_rows, greater_bytes) =
            of_greater.fold((0, 0), |(rows, bytes), (_, tally)| (rows + tally.waiting, bytes + tally.bytes));
        if greater_rows >= limits.rows || greater_bytes + bytes > limits.bytes {
            return Ok(false);
        }
        while rows >= limits.rows || held + bytes > limits.bytes {
            let victim = self.rows(OPERATION, VICTIM, &[&(kind as i64)], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
            })?;
            let Some((sequence, of, size)) = victim.first().copied() else { return Ok(false) };
            self.write(OPERATION, DELETE, &[&sequence])?;
            self.write(OPERATION, COUNT, &[&of, &size])?;
            rows = rows.saturating_sub(1);
            held = held.saturating_sub(size as u64);
        }
        Ok(true)
    }

    /// The messages after `sequence`, in order, at most `limit`.
    pub fn outbox_after(&self, sequence: u64, limit: u32) -> Result<Vec<Queued>, StoreError> {
        const QUERY: &str = "SELECT sequence, id, device, kind, at_us, body FROM outbox
            WHERE sequence > ?1 ORDER BY sequence LIMIT ?2";
        self.rows("read the outbox", QUERY, &[&(sequence as i64), &limit], |row| {
            Ok(Queued {
                sequence: row.get::<_, i64>(0)? as u64,
                id: row.get(1)?,
                device: row.get(2)?,
                kind: MessageKind::from_rank(row.get(3)?),
                at: Timestamp::from_microsecond(row.get(4)?).unwrap_or_default(),
                body: row.get(5)?,
            })
        })
    }

    /// Forgets messages that were delivered; how many of them still waited. An acknowledgement that comes again changes nothing.
    pub fn acknowledge(&self, sequences: &[u64]) -> Result<usize, StoreError> {
        const OPERATION: &str = "forget a delivered message";
        const DELETE: &str = "DELETE FROM outbox WHERE sequence = ?1 RETURNING kind, bytes";
        const COUNT: &str = "UPDATE outbox_tally
            SET acknowledged = acknowledged + 1, waiting = waiting - 1, bytes = bytes - ?2 WHERE kind = ?1";
        let mut done = 0;
        for sequence in sequences {
            let gone = self.rows(OPERATION, DELETE, &[&(*sequence as i64)], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            })?;
            for (kind, bytes) in gone {
                self.write(OPERATION, COUNT, &[&kind, &bytes])?;
                done += 1;
            }
        }
        Ok(done)
    }

    /// Drops a message that can never be sent, and counts it as dropped.
    pub fn discard(&self, sequence: u64) -> Result<(), StoreError> {
        const OPERATION: &str = "drop a message that cannot be sent";
        const DELETE: &str = "DELETE FROM outbox WHERE sequence = ?1 RETURNING kind, bytes";
        const COUNT: &str = "UPDATE outbox_tally
            SET dropped = dropped + 1, waiting = waiting - 1, bytes = bytes - ?2 WHERE kind = ?1";
        let gone = self.rows(OPERATION, DELETE, &[&(sequence as i64)], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })?;
        gone.iter().try_for_each(|(kind, bytes)| self.write(OPERATION, COUNT, &[kind, bytes]).map(drop))
    }

    /// What became of the messages of every kind there were any of.
    pub fn outbox_tallies(&self) -> Result<Vec<(MessageKind, OutboxTally)>, StoreError> {
        const QUERY: &str =
            "SELECT kind, added, acknowledged, dropped, waiting, bytes FROM outbox_tally ORDER BY kind";
        let count = |row: &rusqlite::Row<'_>, index| row.get::<_, i64>(index).map(|value| value as u64);
        self.connection
            .prepare_cached(QUERY)
            .and_then(|mut statement| {
                statement
                    .query_map([], |row| {
                        Ok((
                            MessageKind::from_rank(row.get(0)?),
                            OutboxTally {
                                added: count(row, 1)?,
                                acknowledged: count(row, 2)?,
                                dropped: count(row, 3)?,
                                waiting: count(row, 4)?,
                                bytes: count(row, 5)?,
                            },
                        ))
                    })?
                    .collect()
            })
            .map_err(sql("count the outbox"))
    }
}
