//! How long verdicts last, how they grow, and how many may be set by themselves.

use std::time::Duration;

/// Settings of the enforcer. The configuration file's are checked before they get here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Length of a first automatic verdict whose decision names none, seconds.
    pub ttl_s: u64,
    /// No automatic verdict lasts longer, seconds.
    pub ttl_max_s: u64,
    /// How much longer each repeat lasts: the first verdict lasts its length times the first number, the second times the second, and
    /// so on; the last number holds for all further repeats.
    pub escalation: Vec<u32>,
    /// A target that was left alone for this long starts from the beginning again, seconds.
    pub forget_s: u64,
    /// For how long the detector leaves a target alone after an operator released it, seconds.
    pub cooldown_s: u64,
    /// For how long the detector leaves a target alone after its verdict was rolled back, seconds.
    pub hold_s: u64,
    /// Automatic verdicts on devices within an hour.
    pub devices_per_hour: u32,
    /// Automatic verdicts on addresses and prefixes within an hour.
    pub addresses_per_hour: u32,
    /// For how long a new automatic verdict is watched for a loss of the gateway's own reachability, seconds; 0 to trust it at once.
    pub confirm_s: u64,
    /// Packets a second that a rate limit lets through.
    pub rate_pps: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ttl_s: 15 * 60,
            ttl_max_s: 24 * 3_600,
            escalation: vec![1, 2, 4, 8, 16, 32],
            forget_s: 24 * 3_600,
            cooldown_s: 3_600,
            hold_s: 600,
            devices_per_hour: 5,
            addresses_per_hour: 200,
            confirm_s: 10,
            rate_pps: 50,
        }
    }
}

impl Settings {
    /// What is wrong with the settings, with a hint.
    pub fn check(&self) -> Result<(), String> {
        if self.ttl_s == 0 || self.ttl_max_s < self.ttl_s {
            return Err(format!(
                "ttl_s = {} must be at least 1 and at most ttl_max_s = {}",
                self.ttl_s, self.ttl_max_s
            ));
        }
        if self.escalation.is_empty() || self.escalation.contains(&0) || !self.escalation.is_sorted() {
            return Err(format!(
                "escalation = {:?} must hold growing numbers from 1 on, such as [1, 2, 4, 8]",
                self.escalation
            ));
        }
        if self.confirm_s > 60 {
            return Err(format!("confirm_s = {} must be at most 60", self.confirm_s));
        }
        if self.rate_pps == 0 {
            return Err("rate_pps = 0 would drop everything: use a block instead".to_owned());
        }
        Ok(())
    }

    /// How long an automatic verdict lasts that was asked for `asked` and is the target's `strike`th in a row (from 1).
    pub fn ttl(&self, asked: Option<Duration>, strike: u32) -> Duration {
        let base = asked.unwrap_or(Duration::from_secs(self.ttl_s));
        let step = (strike.max(1) as usize - 1).min(self.escalation.len().saturating_sub(1));
        let factor = self.escalation.get(step).copied().unwrap_or(1);
        base.saturating_mul(factor).min(self.ttl_max())
    }

    /// The longest automatic verdict.
    pub const fn ttl_max(&self) -> Duration {
        Duration::from_secs(self.ttl_max_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_last_longer_up_to_the_cap() {
        let settings = Settings::default();
        let minutes: Vec<_> = (1..=8).map(|strike| settings.ttl(None, strike).as_secs() / 60).collect();
        assert_eq!(minutes, [15, 30, 60, 120, 240, 480, 480, 480]);
        assert_eq!(settings.ttl(Some(Duration::from_secs(20_000)), 5), settings.ttl_max());
        assert_eq!(settings.ttl(Some(Duration::MAX), 9), settings.ttl_max());
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Settings::default().check(), Ok(()));
        assert!(Settings { ttl_s: 0, ..Settings::default() }.check().is_err());
        assert!(Settings { escalation: vec![2, 1], ..Settings::default() }.check().is_err());
        assert!(Settings { confirm_s: 61, ..Settings::default() }.check().is_err());
        assert!(Settings { rate_pps: 0, ..Settings::default() }.check().is_err());
    }
}
