//! Neighbours' notices that were taken, until they expire: none is taken twice, and each can be withdrawn after a restart too.

use jiff::Timestamp;

use super::database::{Store, StoreError};
use crate::{enforce::Target, fleet::neighbours::Known, policy::KeyId};

impl Store {
    /// Remembers a notice, or what became of it since.
    pub fn save_neighbour_notice(&self, known: &Known) -> Result<(), StoreError> {
        const SQL: &str = "INSERT INTO neighbour_notice (key, id, until_us, target, enforcement)
            VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET enforcement = excluded.enforcement";
        let (until, target) = (known.until.as_microsecond(), known.target.to_string());
        self.write(
            "save a neighbour's notice",
            SQL,
            &[&known.key.0, &known.id, &until, &target, &known.enforcement],
        )
        .map(drop)
    }

    /// Notices that have not expired; the others are forgotten.
    pub fn neighbour_notices(&self, now: Timestamp) -> Result<Vec<Known>, StoreError> {
        const FORGET: &str = "DELETE FROM neighbour_notice WHERE until_us <= ?1";
        const QUERY: &str =
            "SELECT key, id, until_us, target, enforcement FROM neighbour_notice ORDER BY key, id";
        self.write("forget neighbours' notices", FORGET, &[&now.as_microsecond()])?;
        let rows = self.rows("list neighbours' notices", QUERY, &[], |row| {
            // What no version wrote is no target.
            let target = row.get::<_, String>(3)?.parse::<Target>().ok();
            let (key, id, enforcement) = (KeyId(row.get(0)?), row.get(1)?, row.get(4)?);
            let until = Timestamp::from_microsecond(row.get(2)?).unwrap_or_default();
            Ok(target.map(|target| Known { key, id, until, target, enforcement }))
        })?;
        Ok(rows.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed store operation is the test's failure")]

    use super::*;

    #[test]
    fn notices_are_kept_until_they_expire() {
        let store = Store::in_memory().unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        let known = |id: &str, until, enforcement: Option<&str>| Known {
            key: KeyId([1; 8]),
            id: id.to_owned(),
            until: at(until),
            target: "203.0.113.9".parse().unwrap(),
            enforcement: enforcement.map(str::to_owned),
        };
        store.save_neighbour_notice(&known("a", 10, Some("e-1"))).unwrap();
        store.save_neighbour_notice(&known("b", 20, Some("e-2"))).unwrap();
        store.save_neighbour_notice(&known("b", 20, None)).unwrap();
        assert_eq!(store.neighbour_notices(at(9)).unwrap().len(), 2);
        assert_eq!(store.neighbour_notices(at(10)).unwrap(), [known("b", 20, None)]);
    }
}
