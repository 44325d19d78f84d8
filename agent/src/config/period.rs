//! A length of time as people write it in the configuration: `30s`, `5m`, `24h`, `7d`, `1h 30m`.
//!
//! Days are always 24 hours: the configuration knows no calendar.

use std::{fmt, str::FromStr, time::Duration};

use jiff::{SignedDuration, Span, SpanRelativeTo};

use crate::text::serde_as_text;

/// A non-negative length of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(pub Duration);

/// The text is not a length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a length of time ({cause}); write it with a unit, such as `30s`, `5m`, `24h` or `7d`"
)]
pub struct PeriodError {
    text: String,
    cause: String,
}

impl Period {
    /// `seconds` seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// `minutes` minutes.
    pub const fn minutes(minutes: u64) -> Self {
        Self(Duration::from_secs(minutes * 60))
    }

    /// `hours` hours.
    pub const fn hours(hours: u64) -> Self {
        Self(Duration::from_secs(hours * 3_600))
    }

    /// The length as the standard library has it.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// The length in nanoseconds, for the kernel's tables; saturates after 584 years.
    pub fn as_ns(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl From<Period> for Duration {
    fn from(period: Period) -> Self {
        period.0
    }
}

impl fmt::Display for Period {
    /// Whole hours, minutes and seconds, largest first; `0s` for nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SignedDuration::try_from(self.0) {
            Ok(duration) => write!(f, "{duration:#}"),
            Err(_) => write!(f, "{}s", self.0.as_secs()),
        }
    }
}

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let refuse = |cause: String| PeriodError { text: text.chars().take(40).collect(), cause };
        let span: Span = text.trim().parse().map_err(|error: jiff::Error| refuse(error.to_string()))?;
        if span.get_years() != 0 || span.get_months() != 0 {
            return Err(refuse("months and years have no fixed length".to_owned()));
        }
        let duration = span
            .to_duration(SpanRelativeTo::days_are_24_hours())
            .map_err(|error| refuse(error.to_string()))?;
        Duration::try_from(duration).map(Self).map_err(|_| refuse("it is negative".to_owned()))
    }
}

serde_as_text!(Period);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed parse is the test's failure")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn people_write_lengths_of_time_in_many_ways() {
        for (text, seconds) in [
            ("30s", 30),
            ("5m", 300),
            ("24h", 86_400),
            ("7d", 604_800),
            ("1h 30m", 5_400),
            ("90 seconds", 90),
            ("0s", 0),
        ] {
            assert_eq!(text.parse::<Period>().unwrap(), Period::seconds(seconds), "{text}");
        }
    }

    #[test]
    fn a_refusal_says_what_was_read_and_how_to_write_it() {
        for text in ["", "30", "-5s", "five", "1mo", "2y"] {
            let message = text.parse::<Period>().unwrap_err().to_string();
            assert!(message.contains(&format!("`{text}`")) && message.contains("such as"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(seconds in 0u64..4_000_000_000) {
            let period = Period::seconds(seconds);
            prop_assert_eq!(period.to_string().parse::<Period>().unwrap(), period);
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,40}") {
            let _ = text.parse::<Period>();
        }
    }
}
