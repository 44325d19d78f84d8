//! The audit: who did what, when, and what came of it. Entries are added and read, never changed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::database::{Store, StoreError};

/// One action of an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Login name.
    pub who: String,
    /// What was asked for, such as `block`, `release`, `allow`, `reload`.
    pub what: String,
    /// On what; empty when the action has no target.
    pub target: String,
    /// Its arguments, in plain words or JSON.
    pub detail: String,
    /// `ok`, or why not.
    pub result: String,
}

/// Which entries to list. Newest first.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Of this operator.
    pub who: Option<String>,
    /// About this target, as it was written.
    pub target: Option<String>,
    /// Since then.
    pub since: Option<Timestamp>,
    /// At most so many; `None` for all.
    pub limit: Option<u32>,
}

impl Store {
    /// Adds an entry. Call it in a [`super::Durability::Disk`] batch with what the action changed.
    pub fn audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        const SQL: &str = "INSERT INTO audit (at_us, who, what, target, detail, result)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        self.write(
            "write the audit",
            SQL,
            &[
                &entry.at.as_microsecond(),
                &entry.who,
                &entry.what,
                &entry.target,
                &entry.detail,
                &entry.result,
            ],
        )
        .map(drop)
    }

    /// Entries by filter, newest first.
    pub fn audit_entries(&self, filter: &AuditFilter) -> Result<Vec<AuditEntry>, StoreError> {
        const QUERY: &str = "SELECT at_us, who, what, target, detail, result FROM audit
            WHERE (?1 IS NULL OR who = ?1) AND (?2 IS NULL OR target = ?2) AND (?3 IS NULL OR at_us >= ?3)
            ORDER BY number DESC LIMIT ?4";
        let since = filter.since.map(Timestamp::as_microsecond);
        let limit = filter.limit.map_or(-1, i64::from);
        self.rows("read the audit", QUERY, &[&filter.who, &filter.target, &since, &limit], |row| {
            Ok(AuditEntry {
                at: Timestamp::from_microsecond(row.get(0)?).unwrap_or_default(),
                who: row.get(1)?,
                what: row.get(2)?,
                target: row.get(3)?,
                detail: row.get(4)?,
                result: row.get(5)?,
            })
        })
    }
}
