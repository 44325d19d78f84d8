//! Enforcements, from their installation to their end, and what became of them in between.

use jiff::Timestamp;
use serde::Serialize;

use super::database::{Store, StoreError, document};
use crate::enforce::{AllowEntry, Enforcement, Target};

/// Which enforcements to list. Newest first.
#[derive(Debug, Clone, Default)]
pub struct EnforcementFilter {
    /// Those in the kernel (`true`) or those that have ended.
    pub live: Option<bool>,
    /// On exactly this target.
    pub target: Option<Target>,
    /// That answer this incident.
    pub incident: Option<String>,
    /// At most so many; `None` for all.
    pub limit: Option<u32>,
}

/// One step in the life of an enforcement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// State reached.
    pub state: String,
    /// When.
    pub at: Timestamp,
    /// Packets that had matched by then.
    pub hits: u64,
    /// Their bytes.
    pub hit_bytes: u64,
}

impl Store {
    /// Writes an enforcement as it stands `now`, and remembers that it has reached that state.
    pub fn save_enforcement(&self, record: &Enforcement, now: Timestamp) -> Result<(), StoreError> {
        const OPERATION: &str = "save an enforcement";
        const RECORD: &str = "INSERT INTO enforcement (id, target, state, live, incident, ended_us, document)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
            ON CONFLICT DO UPDATE SET state = excluded.state, live = excluded.live, ended_us = excluded.ended_us,
                document = excluded.document";
        const STEP: &str = "INSERT INTO enforcement_step (enforcement, state, at_us, hits, hit_bytes)
            VALUES (?1, ?2, ?3, ?4, ?5)
            ON CONFLICT DO UPDATE SET hits = excluded.hits, hit_bytes = excluded.hit_bytes";
        self.write(
            OPERATION,
            RECORD,
            &[
                &record.id,
                &record.target.to_string(),
                &record.state.name(),
                &record.state.is_live(),
                &record.incident,
                &record.ended_at.map(Timestamp::as_microsecond),
                &document(OPERATION, record)?,
            ],
        )?;
        self.write(
            OPERATION,
            STEP,
            &[
                &record.id,
                &record.state.name(),
                &now.as_microsecond(),
                &(record.hits as i64),
                &(record.hit_bytes as i64),
            ],
        )?;
        Ok(())
    }

    /// Enforcements by filter, newest first.
    pub fn enforcements(&self, filter: &EnforcementFilter) -> Result<Vec<Enforcement>, StoreError> {
        const QUERY: &str = "SELECT document FROM enforcement
            WHERE (?1 IS NULL OR live = ?1) AND (?2 IS NULL OR target = ?2) AND (?3 IS NULL OR incident = ?3)
            ORDER BY id DESC LIMIT ?4";
        let target = filter.target.map(|target| target.to_string());
        let limit = filter.limit.map_or(-1, i64::from);
        self.documents("list enforcements", QUERY, &[&filter.live, &target, &filter.incident, &limit])
    }

    /// What the enforcer needs to take up again: what is in force, and what ended since `since`. Oldest first.
    pub fn enforcements_to_restore(&self, since: Timestamp) -> Result<Vec<Enforcement>, StoreError> {
        const QUERY: &str = "SELECT document FROM enforcement WHERE live OR ended_us >= ?1 ORDER BY id";
        self.documents("list enforcements", QUERY, &[&since.as_microsecond()])
    }

    /// One enforcement by its id.
    pub fn enforcement(&self, id: &str) -> Result<Option<Enforcement>, StoreError> {
        const QUERY: &str = "SELECT document FROM enforcement WHERE id = ?1";
        Ok(self.documents("read an enforcement", QUERY, &[&id])?.pop())
    }

    /// The states an enforcement went through, oldest first.
    pub fn enforcement_steps(&self, id: &str) -> Result<Vec<Step>, StoreError> {
        const QUERY: &str = "SELECT state, at_us, hits, hit_bytes FROM enforcement_step
            WHERE enforcement = ?1 ORDER BY at_us, state = 'pending' DESC";
        self.rows("list the steps of an enforcement", QUERY, &[&id], |row| {
            Ok(Step {
                state: row.get(0)?,
                at: Timestamp::from_microsecond(row.get(1)?).unwrap_or_default(),
                hits: row.get::<_, i64>(2)? as u64,
                hit_bytes: row.get::<_, i64>(3)? as u64,
            })
        })
    }

    /// Writes a never-block entry of an operator.
    pub fn save_allow(&self, entry: &AllowEntry) -> Result<(), StoreError> {
        const OPERATION: &str = "save a never-block entry";
        const SQL: &str = "INSERT INTO allow (target, document) VALUES (?1, ?2)
            ON CONFLICT DO UPDATE SET document = excluded.document";
        self.write(OPERATION, SQL, &[&entry.target.to_string(), &document(OPERATION, entry)?]).map(drop)
    }

    /// Deletes a never-block entry; whether there was one.
    pub fn delete_allow(&self, target: &Target) -> Result<bool, StoreError> {
        let sql = "DELETE FROM allow WHERE target = ?1";
        Ok(self.write("delete a never-block entry", sql, &[&target.to_string()])? > 0)
    }

    /// Every never-block entry of an operator.
    pub fn allowed(&self) -> Result<Vec<AllowEntry>, StoreError> {
        self.documents("list never-block entries", "SELECT document FROM allow ORDER BY target", &[])
    }
}
