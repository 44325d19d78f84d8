//! Models of devices' telemetry, one a topic: what was learned outlives a restart. What is in them is `messages::telemetry`'s.

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};

use super::database::{Store, StoreError, document};

impl Store {
    /// Writes the model of a topic or replaces the one before, and forgets those stored longest ago beyond `most`.
    pub fn save_telemetry(
        &self,
        device: &str,
        topic: &str,
        model: &impl Serialize,
        at: Timestamp,
        most: u32,
    ) -> Result<(), StoreError> {
        const OPERATION: &str = "save a model of telemetry";
        const SQL: &str = "INSERT INTO telemetry (topic, device, stored_us, document) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT DO UPDATE SET device = excluded.device, stored_us = excluded.stored_us, document = excluded.document";
        const TRIM: &str = "DELETE FROM telemetry WHERE topic IN
            (SELECT topic FROM telemetry ORDER BY stored_us DESC, topic LIMIT -1 OFFSET ?1)";
        let text = document(OPERATION, model)?;
        self.write(OPERATION, SQL, &[&topic, &device, &at.as_microsecond(), &text])?;
        self.write(OPERATION, TRIM, &[&most]).map(drop)
    }

    /// Device, topic and model of every topic; one that this version cannot read is left out and learned anew.
    pub fn telemetry<M: DeserializeOwned>(&self) -> Result<Vec<(String, String, M)>, StoreError> {
        const QUERY: &str = "SELECT device, topic, document FROM telemetry ORDER BY stored_us DESC, topic";
        let rows = self.rows("read models of telemetry", QUERY, &[], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?))
        })?;
        let read = |(device, topic, text): (String, String, String)| {
            serde_json::from_str(&text).ok().map(|model| (device, topic, model))
        };
        Ok(rows.into_iter().filter_map(read).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed store operation is the test's failure")]

    use super::*;

    #[test]
    fn a_topic_has_one_model_and_the_oldest_go() {
        let store = Store::in_memory().unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        for (second, topic, model) in [(1, "a", 1), (2, "b", 2), (3, "a", 3), (4, "c", 4)] {
            store.save_telemetry("lamp", topic, &model, at(second), 2).unwrap();
        }
        let found: Vec<(String, String, i64)> = store.telemetry().unwrap();
        let expected = [("lamp".to_owned(), "c".to_owned(), 4), ("lamp".to_owned(), "a".to_owned(), 3)];
        assert_eq!(found, expected);
        let unreadable: Vec<(String, String, String)> = store.telemetry().unwrap();
        assert_eq!(unreadable, []);
    }
}
