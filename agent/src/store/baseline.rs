//! Baselines of devices, with earlier versions to go back to. What is in them is the detector's business.

use jiff::Timestamp;

use super::database::{Store, StoreError};

/// Versions of a device's baseline that are kept, the one in force included.
const KEPT: i64 = 5;

/// One version of a device's baseline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baseline {
    /// Whose; any text that names the device for good.
    pub device: String,
    /// Number, from 1; never used twice for a device.
    pub version: u32,
    /// When it was trained.
    pub created: Timestamp,
    /// The baseline.
    pub document: Vec<u8>,
}

/// The versions that are in force or can be gone back to.
const USABLE: &str = "SELECT device, version, created_us, document FROM baseline WHERE NOT retired";

impl Store {
    /// Puts a new version in force and forgets the oldest. Returns its number.
    pub fn save_baseline(
        &self,
        device: &str,
        created: Timestamp,
        document: &[u8],
    ) -> Result<u32, StoreError> {
        const OPERATION: &str = "save a baseline";
        const ADD: &str = "INSERT INTO baseline (device, version, created_us, document)
            SELECT ?1, coalesce(max(version), 0) + 1, ?2, ?3 FROM baseline WHERE device = ?1 RETURNING version";
        const TRIM: &str = "DELETE FROM baseline WHERE device = ?1 AND version <= ?2 - ?3";
        let created = created.as_microsecond();
        let versions: Vec<u32> =
            self.rows(OPERATION, ADD, &[&device, &created, &document], |row| row.get(0))?;
        let version = versions.first().copied().unwrap_or(0);
        self.write(OPERATION, TRIM, &[&device, &i64::from(version), &KEPT])?;
        Ok(version)
    }

    /// The version in force.
    pub fn baseline(&self, device: &str) -> Result<Option<Baseline>, StoreError> {
        let query = format!("{USABLE} AND device = ?1 ORDER BY version DESC LIMIT 1");
        Ok(self.rows("read a baseline", &query, &[&device], read)?.pop())
    }

    /// The version in force of every device.
    pub fn baselines(&self) -> Result<Vec<Baseline>, StoreError> {
        let query = format!(
            "{USABLE} AND version = (SELECT max(version) FROM baseline newest
                WHERE newest.device = baseline.device AND NOT newest.retired) ORDER BY device"
        );
        self.rows("read baselines", &query, &[], read)
    }

    /// How many earlier versions a rollback can reach.
    pub fn earlier_baselines(&self, device: &str) -> Result<u32, StoreError> {
        const QUERY: &str = "SELECT count(*) FROM baseline WHERE device = ?1 AND NOT retired";
        let counts: Vec<u32> = self.rows("count baselines", QUERY, &[&device], |row| row.get(0))?;
        Ok(counts.first().map_or(0, |count| count.saturating_sub(1)))
    }

    /// Retires the version in force and returns the one before it, which is in force now; `None` changes nothing.
    pub fn rollback_baseline(&self, device: &str) -> Result<Option<Baseline>, StoreError> {
        const RETIRE: &str = "UPDATE baseline SET retired = 1 WHERE device = ?1 AND NOT retired
            AND version = (SELECT max(version) FROM baseline WHERE device = ?1 AND NOT retired)";
        if self.earlier_baselines(device)? == 0 {
            return Ok(None);
        }
        self.write("retire a baseline", RETIRE, &[&device])?;
        self.baseline(device)
    }

    /// Forgets every version of a device's baseline; how many there were.
    pub fn delete_baselines(&self, device: &str) -> Result<usize, StoreError> {
        self.write("delete baselines", "DELETE FROM baseline WHERE device = ?1", &[&device])
    }
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Baseline> {
    Ok(Baseline {
        device: row.get(0)?,
        version: row.get(1)?,
        created: Timestamp::from_microsecond(row.get(2)?).unwrap_or_default(),
        document: row.get(3)?,
    })
}
