//! What must outlive a restart of what is known of commands: nonces seen, floors of time, histories of devices, commands that wait for an
//! operator, and whether the end was one that everything was written down before.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::database::{Store, StoreError, document};
use crate::{
    messages::commands::{Changes, Fact, Held, Seen},
    policy::KeyId,
};

/// What an earlier run left.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StoredCommands {
    /// Commands seen.
    pub seen: Vec<Seen>,
    /// Floors of their keys.
    pub floors: BTreeMap<KeyId, Timestamp>,
    /// What devices were given, oldest first.
    pub histories: Vec<(String, Vec<Fact>)>,
    /// Commands that wait for an operator, or were released and are not known to be delivered, oldest first.
    pub held: Vec<(u64, Held)>,
    /// When it was known to run last, and whether it ended with everything written down; none when nothing is known.
    pub ended: Option<(Timestamp, bool)>,
}

impl Store {
    /// What earlier runs left of commands.
    pub fn commands(&self) -> Result<StoredCommands, StoreError> {
        const SEEN: &str = "SELECT key, nonce, issued_us FROM command_seen";
        const FLOORS: &str = "SELECT key, floor_us FROM command_floor";
        const HABITS: &str = "SELECT device, document FROM command_habit ORDER BY device";
        const HELD: &str = "SELECT id, document, packet, released_us FROM command_held ORDER BY id";
        const DESK: &str = "SELECT alive_us, is_clean FROM command_desk";
        let at = |us| Timestamp::from_microsecond(us).unwrap_or_default();
        let seen = self.rows("list commands seen", SEEN, &[], |row| {
            Ok(Seen { key: KeyId(row.get(0)?), nonce: row.get(1)?, issued: at(row.get(2)?) })
        })?;
        let floors = self
            .rows("list floors of commands", FLOORS, &[], |row| Ok((KeyId(row.get(0)?), at(row.get(1)?))))?;
        let habits: Vec<(String, String)> =
            self.rows("list histories of commands", HABITS, &[], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let waiting: Vec<(i64, String, Vec<u8>, Option<i64>)> =
            self.rows("list held commands", HELD, &[], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
        let ended =
            self.rows("read the end of commands", DESK, &[], |row| Ok((at(row.get(0)?), row.get(1)?)))?;
        // A history that cannot be read is learned anew.
        let histories = habits
            .into_iter()
            .filter_map(|(device, text)| Some((device, serde_json::from_str(&text).ok()?)))
            .collect();
        // One that cannot be read cannot be shown to anybody who could release it.
        let held = waiting
            .into_iter()
            .filter_map(|(id, text, packet, released)| {
                let held: Held = serde_json::from_str(&text).ok()?;
                let held = held.with_packet(packet).with_released(released.map(at));
                Some((u64::try_from(id).ok()?, held))
            })
            .collect();
        Ok(StoredCommands {
            held,
            seen,
            floors: floors.into_iter().collect(),
            histories,
            ended: ended.into_iter().next(),
        })
    }

    /// Writes down that it runs at `now`, or ends with everything written down. Call it in a [`super::Durability::Disk`] batch.
    pub fn save_commands_alive(&self, now: Timestamp, is_clean: bool) -> Result<(), StoreError> {
        const SQL: &str = "INSERT INTO command_desk (one, alive_us, is_clean) VALUES (1, ?1, ?2)
            ON CONFLICT DO UPDATE SET alive_us = max(alive_us, excluded.alive_us), is_clean = excluded.is_clean";
        self.write("save the state of commands", SQL, &[&now.as_microsecond(), &is_clean]).map(drop)
    }

    /// Writes down commands that were seen. Call it in a [`super::Durability::Disk`] batch.
    pub fn save_commands_seen(&self, seen: &[Seen]) -> Result<(), StoreError> {
        const SQL: &str = "INSERT OR REPLACE INTO command_seen (key, nonce, issued_us) VALUES (?1, ?2, ?3)";
        seen.iter().try_for_each(|seen| {
            let issued = seen.issued.as_microsecond();
            self.write("save a command seen", SQL, &[&seen.key.0, &seen.nonce, &issued]).map(drop)
        })
    }

    /// Writes down commands that wait for an operator or are about to go on, and forgets those that do neither. Call it in a [`super::Durability::Disk`] batch.
    pub fn save_commands_held(&self, changes: &Changes) -> Result<(), StoreError> {
        const OPERATION: &str = "save a held command";
        const PUT: &str = "INSERT OR REPLACE INTO command_held (id, document, packet, released_us)
            VALUES (?1, ?2, ?3, ?4)";
        const FORGET: &str = "DELETE FROM command_held WHERE id = ?1";
        for (id, held) in &changes.held {
            let text = document(OPERATION, held)?;
            let released = held.released.map(Timestamp::as_microsecond);
            self.write(OPERATION, PUT, &[&id.cast_signed(), &text, &held.packet, &released])?;
        }
        changes
            .gone
            .iter()
            .try_for_each(|id| self.write("forget a held command", FORGET, &[&id.cast_signed()]).map(drop))
    }

    /// Writes down floors, and forgets what lies below them. Call it in a [`super::Durability::Disk`] batch.
    pub fn save_command_floors(&self, floors: &BTreeMap<KeyId, Timestamp>) -> Result<(), StoreError> {
        const PUT: &str = "INSERT INTO command_floor (key, floor_us) VALUES (?1, ?2)
            ON CONFLICT DO UPDATE SET floor_us = max(floor_us, excluded.floor_us)";
        const FORGET: &str = "DELETE FROM command_seen WHERE key = ?1 AND issued_us <= ?2";
        floors.iter().try_for_each(|(key, floor)| {
            let floor = floor.as_microsecond();
            self.write("save a floor of commands", PUT, &[&key.0, &floor])?;
            self.write("forget commands seen", FORGET, &[&key.0, &floor]).map(drop)
        })
    }

    /// Writes down what a device was given.
    pub fn save_command_history(&self, device: &str, history: &[Fact]) -> Result<(), StoreError> {
        const OPERATION: &str = "save a history of commands";
        const SQL: &str = "INSERT INTO command_habit (device, document) VALUES (?1, ?2)
            ON CONFLICT DO UPDATE SET document = excluded.document";
        let text = document(OPERATION, &history)?;
        self.write(OPERATION, SQL, &[&device, &text]).map(drop)
    }

    /// Forgets histories of devices that are not among `known`.
    pub fn retain_command_histories(&self, known: &[String]) -> Result<(), StoreError> {
        const SQL: &str = "DELETE FROM command_habit WHERE device NOT IN (SELECT value FROM json_each(?1))";
        let list = document("list devices", &known)?;
        self.write("forget histories of commands", SQL, &[&list]).map(drop)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed store operation is the test's failure")]

    use super::*;
    use crate::messages::commands::body::{Body, Value};

    #[test]
    fn what_was_seen_and_given_is_found_again() {
        let store = Store::in_memory().unwrap();
        assert_eq!(store.commands().unwrap(), StoredCommands::default());
        let at = |second| Timestamp::from_second(second).unwrap();
        let seen = |number: u8, second| Seen { key: KeyId([1; 8]), nonce: [number; 16], issued: at(second) };
        let body = Body::new("set".to_owned(), &Value::Number(5.0)).unwrap();
        let history = vec![Fact::of(&body, "hub", 10, at(5)); 3];
        store.save_commands_alive(at(9), false).unwrap();
        store.save_commands_seen(&[seen(1, 5), seen(2, 8)]).unwrap();
        store.save_command_history("lamp", &history).unwrap();
        store.save_command_history("pump", &[]).unwrap();
        store.save_command_floors(&[(KeyId([1; 8]), at(6))].into()).unwrap();
        store.retain_command_histories(&["lamp".to_owned()]).unwrap();
        let found = store.commands().unwrap();
        assert_eq!(found.seen, [seen(2, 8)]);
        assert_eq!(found.floors, [(KeyId([1; 8]), at(6))].into());
        assert_eq!(found.histories, [("lamp".to_owned(), history)]);
        assert_eq!(found.ended, Some((at(9), false)));
        store.save_commands_alive(at(7), true).unwrap();
        assert_eq!(store.commands().unwrap().ended, Some((at(9), true)), "time does not go back");
    }
}
