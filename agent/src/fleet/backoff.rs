//! How long to wait before the next try: longer each time, and never the same on two gateways. Pure.

use std::time::Duration;

/// The first wait is at most this long.
const FIRST: Duration = Duration::from_secs(1);
/// No wait is longer, unless its owner says so.
const LONGEST: Duration = Duration::from_mins(5);

/// Waits that grow.
#[derive(Debug, Clone)]
pub struct Backoff {
    tries: u32,
    longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::up_to(LONGEST)
    }
}

impl Backoff {
    /// Waits of at most `longest`.
    pub const fn up_to(longest: Duration) -> Self {
        Self { tries: 0, longest }
    }

    /// The next wait; `random` is 0–1. Half of it is certain, so nobody hurries, and half is chance, so a fleet spreads out.
    pub fn next(&mut self, random: f64) -> Duration {
        let most = FIRST.saturating_mul(1 << self.tries.min(16)).min(self.longest);
        self.tries = self.tries.saturating_add(1);
        most.mul_f64(f64::midpoint(1.0, random.clamp(0.0, 1.0)))
    }

    /// It worked: the next wait is short again.
    pub const fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_begin_anew() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..12).map(|_| backoff.next(1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(backoff.next(0.0).as_secs(), 150);
        backoff.reset();
        assert_eq!(backoff.next(0.0), Duration::from_millis(500));
    }
}
