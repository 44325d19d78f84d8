//! What the clock on the site's wall shows. Pure: the zone and the time are the caller's.

use std::fmt;

use jiff::{Timestamp, tz::TimeZone};

/// A clock in a time zone.
#[derive(Clone, Debug, PartialEq)]
pub struct WallClock(TimeZone);

impl WallClock {
    /// Minutes since the day began as the clock shows it, 0 to 1,439.
    pub(super) fn minute_of_day(&self, now: Timestamp) -> u16 {
        let time = self.0.to_datetime(now).time();
        u16::from(time.hour().unsigned_abs()) * 60 + u16::from(time.minute().unsigned_abs())
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

impl From<TimeZone> for WallClock {
    fn from(zone: TimeZone) -> Self {
        Self(zone)
    }
}

impl fmt::Display for WallClock {
    /// The name of its zone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.iana_name() {
            Some(name) => name,
            None if self.0.is_unknown() => "UTC, for the system names no time zone",
            None => "the system's time zone",
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

    use super::*;
    use crate::messages::commands::Hours;

    /// Central Europe by its rules, so that no test needs a database: an hour ahead of UTC, two from 29 March to 25 October 2026.
    const CENTRAL_EUROPE: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

    #[track_caller]
    fn check(zone: &str, hours: &str, expected: &[(&str, bool)]) {
        let clock = WallClock(TimeZone::posix(zone).unwrap());
        let hours: Hours = hours.parse().unwrap();
        for (time, is_within) in expected {
            let minute = clock.minute_of_day(time.parse().unwrap());
            assert_eq!(
                hours.contains(minute),
                *is_within,
                "{time} in {hours}, {minute} minutes into the day"
            );
        }
    }

    #[test]
    fn hours_follow_daylight_saving() {
        check(
            CENTRAL_EUROPE,
            "06:00-22:00",
            &[
                ("2026-01-15T04:59:59Z", false),
                ("2026-01-15T05:00:00Z", true),
                ("2026-01-15T20:59:59Z", true),
                ("2026-01-15T21:00:00Z", false),
                ("2026-07-15T03:59:59Z", false),
                ("2026-07-15T04:00:00Z", true),
                ("2026-07-15T19:59:59Z", true),
                ("2026-07-15T20:00:00Z", false),
            ],
        );
    }

    #[test]
    fn the_missing_hour_does_not_come() {
        // At 01:00 UTC clocks go from 02:00 to 03:00.
        check(
            CENTRAL_EUROPE,
            "02:00-03:00",
            &[
                ("2026-03-29T00:59:59Z", false),
                ("2026-03-29T01:00:00Z", false),
                ("2026-03-30T00:00:00Z", true),
            ],
        );
        check(
            CENTRAL_EUROPE,
            "01:30-02:30",
            &[
                ("2026-03-29T00:29:59Z", false),
                ("2026-03-29T00:30:00Z", true),
                ("2026-03-29T00:59:59Z", true),
                ("2026-03-29T01:00:00Z", false),
            ],
        );
    }

    #[test]
    fn the_repeated_hour_comes_twice() {
        // At 01:00 UTC clocks go from 03:00 back to 02:00.
        check(
            CENTRAL_EUROPE,
            "02:00-03:00",
            &[
                ("2026-10-24T23:59:59Z", false),
                ("2026-10-25T00:00:00Z", true),
                ("2026-10-25T00:59:59Z", true),
                ("2026-10-25T01:00:00Z", true),
                ("2026-10-25T01:59:59Z", true),
                ("2026-10-25T02:00:00Z", false),
            ],
        );
        check(
            CENTRAL_EUROPE,
            "02:30-02:45",
            &[
                ("2026-10-25T00:30:00Z", true),
                ("2026-10-25T00:45:00Z", false),
                ("2026-10-25T01:29:59Z", false),
                ("2026-10-25T01:30:00Z", true),
                ("2026-10-25T01:45:00Z", false),
            ],
        );
    }

    #[test]
    fn hours_over_midnight_last_through_both_changes() {
        let night = "22:00-06:00";
        check(
            CENTRAL_EUROPE,
            night,
            &[
                ("2026-03-28T20:59:59Z", false),
                ("2026-03-28T21:00:00Z", true),
                ("2026-03-29T01:00:00Z", true),
                ("2026-03-29T03:59:59Z", true),
                ("2026-03-29T04:00:00Z", false),
                ("2026-10-24T19:59:59Z", false),
                ("2026-10-24T20:00:00Z", true),
                ("2026-10-25T01:00:00Z", true),
                ("2026-10-25T04:59:59Z", true),
                ("2026-10-25T05:00:00Z", false),
            ],
        );
    }

    #[test]
    fn zones_may_be_apart_by_half_hours_and_on_another_day() {
        check(
            "IST-5:30",
            "00:00-01:00",
            &[
                ("2026-01-14T18:29:59Z", false),
                ("2026-01-14T18:30:00Z", true),
                ("2026-01-14T19:30:00Z", false),
            ],
        );
    }

    #[test]
    fn a_zone_is_called_by_its_name() {
        assert_eq!(WallClock::default().to_string(), "UTC");
        let unknown = WallClock(TimeZone::unknown());
        assert_eq!(unknown.to_string(), "UTC, for the system names no time zone");
    }
}
