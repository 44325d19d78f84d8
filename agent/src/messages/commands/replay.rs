//! Which signed commands were seen: a bounded window of nonces for every key, and below it a floor of time that refuses all.
//!
//! A nonce is kept for as long as its command could be valid by any clock; what leaves the window raises the floor to the time it was
//! issued at, so nothing that was ever let through passes again, whatever becomes of the clock. After an end that nobody could
//! prepare for, [`Window::close_before`] refuses what may have been seen and not been written down. Pure.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::policy::KeyId;

/// Nonces kept for one key; beyond, the oldest raises the floor.
const MOST: usize = 4_096;
/// Commands seen that may wait to be written down.
const MOST_UNWRITTEN: usize = 4_096;

/// A command that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who signed it.
    pub key: KeyId,
    /// Digest of its nonce.
    pub nonce: [u8; 16],
    /// When it was signed.
    pub issued: Timestamp,
}

/// Why a command is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// It was seen.
    Seen,
    /// It may have been seen: it was signed before this.
    Before(Timestamp),
    /// What was seen is not written down, and there is no more room for it.
    NoRoom,
}

#[derive(Clone, Debug, Default)]
struct OfKey {
    nonces: HashMap<[u8; 16], Timestamp>,
    floor: Option<Timestamp>,
}

impl OfKey {
    fn raise(&mut self, to: Timestamp) {
        self.floor = self.floor.max(Some(to));
    }

    /// Forgets what is older than `oldest`, and more if there is no room.
    fn trim(&mut self, oldest: Timestamp, most: usize) {
        let mut gone = None;
        self.nonces.retain(|_, issued| {
            let stays = *issued >= oldest;
            if !stays {
                gone = gone.max(Some(*issued));
            }
            stays
        });
        while self.nonces.len() > most {
            let Some((nonce, issued)) = self
                .nonces
                .iter()
                .min_by_key(|(_, issued)| **issued)
                .map(|(nonce, issued)| (*nonce, *issued))
            else {
                break;
            };
            self.nonces.remove(&nonce);
            gone = gone.max(Some(issued));
        }
        if let Some(gone) = gone {
            self.raise(gone);
        }
    }
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Window {
    keys: HashMap<KeyId, OfKey>,
    /// Nothing signed before this is taken, whoever signed it.
    closed_before: Option<Timestamp>,
    unwritten: Vec<Seen>,
}

/// The digest that a nonce is known by.
pub(super) fn digest(nonce: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&Sha256::digest(nonce)[..16]);
    short
}

impl Window {
    /// What an earlier run saw, and its floors.
    pub fn restore(seen: Vec<Seen>, floors: &BTreeMap<KeyId, Timestamp>) -> Self {
        let mut window = Self::default();
        for seen in seen {
            window.keys.entry(seen.key).or_default().nonces.insert(seen.nonce, seen.issued);
        }
        for (key, floor) in floors {
            window.keys.entry(*key).or_default().raise(*floor);
        }
        window
    }

    /// Takes nothing that was signed before `then`.
    pub fn close_before(&mut self, then: Timestamp) {
        self.closed_before = self.closed_before.max(Some(then));
    }

    /// Whether a command may be new.
    pub fn check(&self, seen: &Seen) -> Result<(), Stale> {
        if let Some(then) = self.closed_before.filter(|then| seen.issued < *then) {
            return Err(Stale::Before(then));
        }
        if self.unwritten.len() >= MOST_UNWRITTEN {
            return Err(Stale::NoRoom);
        }
        let Some(of_key) = self.keys.get(&seen.key) else { return Ok(()) };
        if of_key.nonces.contains_key(&seen.nonce) {
            return Err(Stale::Seen);
        }
        match of_key.floor {
            Some(floor) if seen.issued <= floor => Err(Stale::Before(floor)),
            _ => Ok(()),
        }
    }

    /// Takes in a command that [`Self::check`] let through; those issued more than `life` ago can no longer be valid.
    pub fn note(&mut self, seen: Seen, now: Timestamp, life: SignedDuration) {
        let of_key = self.keys.entry(seen.key).or_default();
        if of_key.nonces.len() >= MOST {
            of_key.trim(now.saturating_sub(life).unwrap_or(Timestamp::MIN), MOST - 1);
        }
        of_key.nonces.insert(seen.nonce, seen.issued);
        self.unwritten.push(seen);
    }

    /// Forgets what can no longer be valid.
    pub fn trim(&mut self, now: Timestamp, life: SignedDuration) {
        let oldest = now.saturating_sub(life).unwrap_or(Timestamp::MIN);
        for of_key in self.keys.values_mut() {
            of_key.trim(oldest, MOST);
        }
    }

    /// What is still to be written down, in order.
    pub fn unwritten(&self) -> &[Seen] {
        &self.unwritten
    }

    /// The first `count` of these are written down.
    pub fn written(&mut self, count: usize) {
        self.unwritten.drain(..count.min(self.unwritten.len()));
    }

    /// The floor of every key.
    pub fn floors(&self) -> BTreeMap<KeyId, Timestamp> {
        self.keys.iter().filter_map(|(key, of_key)| Some((*key, of_key.floor?))).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "fixed times are valid")]
    use proptest::prelude::*;

    use super::*;

    const LIFE: SignedDuration = SignedDuration::from_secs(100);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn seen(key: u8, number: u32, second: i64) -> Seen {
        Seen { key: KeyId([key; 8]), nonce: digest(&number.to_string()), issued: at(second) }
    }

    #[test]
    fn a_command_is_taken_once_by_each_key() {
        let mut window = Window::default();
        let first = seen(1, 1, 0);
        assert_eq!(window.check(&first), Ok(()));
        window.note(first, at(0), LIFE);
        assert_eq!(window.check(&first), Err(Stale::Seen));
        assert_eq!(window.check(&seen(2, 1, 0)), Ok(()));
        let restored = Window::restore(window.unwritten().to_vec(), &window.floors());
        assert_eq!(restored.check(&first), Err(Stale::Seen));
    }

    #[test]
    fn what_was_forgotten_stays_refused_when_the_clock_goes_back() {
        let mut window = Window::default();
        window.note(seen(1, 1, 0), at(0), LIFE);
        window.note(seen(1, 2, 90), at(90), LIFE);
        window.trim(at(150), LIFE);
        assert_eq!(window.check(&seen(1, 1, 0)), Err(Stale::Before(at(0))));
        assert_eq!(window.check(&seen(1, 2, 90)), Err(Stale::Seen));
        assert_eq!(window.check(&seen(1, 3, 1)), Ok(()), "late, and never seen");
        let restored = Window::restore(Vec::new(), &window.floors());
        assert_eq!(restored.check(&seen(1, 1, 0)), Err(Stale::Before(at(0))));
    }

    #[test]
    fn an_unclean_end_closes_the_time_before() {
        let mut window = Window::default();
        window.close_before(at(30));
        assert_eq!(window.check(&seen(1, 1, 29)), Err(Stale::Before(at(30))));
        assert_eq!(window.check(&seen(1, 1, 30)), Ok(()));
    }

    #[test]
    fn many_commands_take_bounded_room_and_none_passes_twice() {
        let mut window = Window::default();
        let all: Vec<Seen> = (0..6_000).map(|number| seen(1, number, i64::from(number) / 100)).collect();
        for one in &all {
            if window.unwritten.len() >= MOST_UNWRITTEN {
                assert_eq!(window.check(one), Err(Stale::NoRoom));
                window.written(MOST_UNWRITTEN);
            }
            if window.check(one).is_ok() {
                window.note(*one, at(60), LIFE);
            }
        }
        assert!(window.keys[&KeyId([1; 8])].nonces.len() <= MOST);
        window.written(MOST_UNWRITTEN);
        assert!(all.iter().all(|one| window.check(one).is_err()));
    }

    proptest! {
        #[test]
        fn nothing_passes_twice_whatever_the_clock_does(
            steps in proptest::collection::vec((0..20_u32, -200..200_i64, 0..100_i64), 1..200),
        ) {
            let mut window = Window::default();
            let mut passed = std::collections::HashSet::new();
            for (number, now, ago) in steps {
                let one = seen(1, number, i64::from(number));
                if window.check(&one).is_ok() {
                    prop_assert!(passed.insert(number), "{number} passed twice");
                    window.note(one, at(now), LIFE);
                }
                window.trim(at(now - ago), LIFE);
            }
        }
    }
}
