//! Messages of a topic that do not fit, from the first until it is calm again.

use super::Sign;

/// Normal messages that end an episode.
const CALM: u8 = 3;
/// Messages among the last 32 from which on it is no single slip.
const REPEATED: u32 = 5;

/// What goes on at a topic.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Episode {
    /// When it began; nothing when all is calm.
    since_ms: Option<u64>,
    /// Messages in it, by sign.
    counts: [u32; Sign::ALL.len()],
    calm: u8,
    /// The last 32 messages, newest lowest.
    history: u32,
}

impl Episode {
    /// A message that does not fit; whether that is to be told. A long episode is told at growing distances.
    pub(super) fn odd(&mut self, sign: Sign, now_ms: u64) -> bool {
        self.since_ms.get_or_insert(now_ms);
        self.calm = 0;
        let was_repeated = self.is_repeated();
        self.history = self.history << 1 | 1;
        let count = &mut self.counts[sign as usize];
        *count = count.saturating_add(1);
        count.is_power_of_two() || (self.is_repeated() && !was_repeated)
    }

    /// A message that fits.
    pub(super) fn calm(&mut self) {
        self.history <<= 1;
        self.calm = self.calm.saturating_add(1);
        if self.since_ms.is_some() && self.calm >= CALM {
            *self = Self { history: self.history, ..Self::default() };
        }
    }

    /// Whether there were several lately.
    pub(super) const fn is_repeated(&self) -> bool {
        self.history.count_ones() >= REPEATED
    }

    /// Messages with this sign in it.
    pub(super) const fn count(&self, sign: Sign) -> u32 {
        self.counts[sign as usize]
    }

    /// How long it has gone on, in milliseconds.
    pub(super) const fn age_ms(&self, now_ms: u64) -> u64 {
        match self.since_ms {
            Some(since_ms) => now_ms.saturating_sub(since_ms),
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_episode_is_told_at_growing_distances_until_it_is_calm() {
        let mut episode = Episode::default();
        let told: Vec<u64> = (1..=40).filter(|at| episode.odd(Sign::Spike, *at)).collect();
        assert_eq!(told, [1, 2, 4, 5, 8, 16, 32]);
        assert!(episode.is_repeated());
        assert_eq!((episode.count(Sign::Spike), episode.age_ms(41)), (40, 40));
        (0..CALM).for_each(|_| episode.calm());
        assert_eq!((episode.count(Sign::Spike), episode.age_ms(90)), (0, 0));
        (0..32).for_each(|_| episode.calm());
        assert!(episode.odd(Sign::Spike, 99) && !episode.is_repeated());
    }
}
