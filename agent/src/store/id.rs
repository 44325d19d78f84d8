//! Ids that sort by time: 48 bits of milliseconds, a counter, and a salt that tells two runs of the agent apart.
//!
//! Eighteen characters of Crockford's base 32, ten of time, four of counter, four of salt. Ids of one source always grow, even
//! when the wall clock is set back.

use jiff::Timestamp;

const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const COUNTER_MAX: u32 = (1 << 20) - 1;

/// Makes ids.
#[derive(Debug, Clone)]
pub struct IdSource {
    last_ms: u64,
    counter: u32,
    salt: u32,
}

impl IdSource {
    /// A source whose ids carry the low 20 bits of `salt`; pass something that differs between runs.
    pub const fn new(salt: u32) -> Self {
        Self { last_ms: 0, counter: 0, salt }
    }

    /// A source salted with the process id and the clock.
    pub fn from_process() -> Self {
        let now_ns = Timestamp::now().as_nanosecond() as u64;
        Self::new(tidegate_common::pod::mix64(now_ns ^ u64::from(std::process::id()) << 40))
    }

    /// The next id, at wall-clock time `now`.
    pub fn next(&mut self, now: Timestamp) -> String {
        let now_ms = u64::try_from(now.as_millisecond()).unwrap_or(0);
        if now_ms > self.last_ms {
            self.last_ms = now_ms;
            self.counter = 0;
        } else if self.counter < COUNTER_MAX {
            self.counter += 1;
        } else {
            self.last_ms += 1;
            self.counter = 0;
        }
        let mut text = String::with_capacity(18);
        encode(&mut text, self.last_ms, 10);
        encode(&mut text, u64::from(self.counter), 4);
        encode(&mut text, u64::from(self.salt), 4);
        text
    }
}

fn encode(text: &mut String, value: u64, digits: u32) {
    for position in (0..digits).rev() {
        text.push(char::from(DIGITS[(value >> (5 * position) & 31) as usize]));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "fixed times are valid")]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ids_grow_whatever_the_clock_does(times in prop::collection::vec(0i64..4_000_000_000_000, 1..200)) {
            let mut source = IdSource::new(7);
            let ids: Vec<_> =
                times.iter().map(|ms| source.next(Timestamp::from_millisecond(*ms).unwrap())).collect();
            prop_assert!(ids.is_sorted_by(|a, b| a < b));
            prop_assert!(ids.iter().all(|id| id.len() == 18));
        }
    }

    #[test]
    fn a_full_counter_borrows_from_the_next_millisecond() {
        let mut source = IdSource { last_ms: 5, counter: COUNTER_MAX, salt: 0 };
        let now = Timestamp::from_millisecond(5).unwrap();
        let before = IdSource { last_ms: 5, counter: COUNTER_MAX - 1, salt: 0 }.next(now);
        assert!(source.next(now) > before);
        assert_eq!(source.last_ms, 6);
    }
}
