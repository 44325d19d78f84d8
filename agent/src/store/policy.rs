//! Policies that were in force, as they were sealed. The newest sixteen are kept.

use jiff::Timestamp;

use super::database::{Store, StoreError};

const KEPT: i64 = 16;

/// A policy that is or was in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPolicy {
    /// Its version.
    pub version: u64,
    /// When it was put in force last.
    pub since: Timestamp,
    /// Whether it is now.
    pub in_force: bool,
    /// Who put it there.
    pub who: String,
    /// The envelope.
    pub sealed: Vec<u8>,
}

impl Store {
    /// Puts a policy in force and every other out of it. Call it in a [`super::Durability::Disk`] batch.
    pub fn put_policy(&self, policy: &StoredPolicy) -> Result<(), StoreError> {
        const OPERATION: &str = "store a policy";
        const PUT: &str =
            "INSERT INTO policy (version, applied_us, in_force, who, document) VALUES (?1, ?2, 1, ?3, ?4)
            ON CONFLICT DO UPDATE SET applied_us = excluded.applied_us, in_force = 1, who = excluded.who";
        const TRIM: &str = "DELETE FROM policy WHERE NOT in_force AND version NOT IN
            (SELECT version FROM policy ORDER BY version DESC LIMIT ?1)";
        self.end_policies()?;
        self.write(
            OPERATION,
            PUT,
            &[&(policy.version as i64), &policy.since.as_microsecond(), &policy.who, &policy.sealed],
        )?;
        self.write(OPERATION, TRIM, &[&KEPT]).map(drop)
    }

    /// Puts every policy out of force.
    pub fn end_policies(&self) -> Result<(), StoreError> {
        self.write("end a policy", "UPDATE policy SET in_force = 0 WHERE in_force", &[]).map(drop)
    }

    /// The policies kept, newest version first.
    pub fn policies(&self) -> Result<Vec<StoredPolicy>, StoreError> {
        const QUERY: &str =
            "SELECT version, applied_us, in_force, who, document FROM policy ORDER BY version DESC";
        self.rows("list policies", QUERY, &[], |row| {
            Ok(StoredPolicy {
                version: row.get::<_, i64>(0)? as u64,
                since: Timestamp::from_microsecond(row.get(1)?).unwrap_or_default(),
                in_force: row.get(2)?,
                who: row.get(3)?,
                sealed: row.get(4)?,
            })
        })
    }
}
