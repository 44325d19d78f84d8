//! The time zone that hours in the configuration are of: the system's, or one by its name in the IANA database.
//!
//! A name is looked up when it is read, so what is checked is what runs. The system's zone is looked up when it is used, for it may
//! change meanwhile.

use std::{fmt, str::FromStr};

use jiff::tz::TimeZone;

use crate::text::serde_as_text;

/// The word for the system's zone.
const SYSTEM: &str = "system";

/// Which time zone.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Zone {
    /// The one of the system.
    #[default]
    System,
    /// One of the IANA database.
    Named(TimeZone),
}

/// No time zone is called so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no time zone that this system knows; write `system`, or a name such as `Europe/Berlin` that `timedatectl list-timezones` shows (package tzdata has them)"
)]
pub struct ZoneError(String);

impl Zone {
    /// The zone now. Where the system names none it is an unknown one, whose hours are those of UTC.
    pub fn resolve(&self) -> TimeZone {
        match self {
            Self::System => TimeZone::system(),
            Self::Named(zone) => zone.clone(),
        }
    }
}

impl FromStr for Zone {
    type Err = ZoneError;

    fn from_str(text: &str) -> Result<Self, ZoneError> {
        if text == SYSTEM {
            return Ok(Self::System);
        }
        match TimeZone::get(text) {
            Ok(zone) if zone.iana_name().is_some() => Ok(Self::Named(zone)),
            _ => Err(ZoneError(text.chars().take(40).collect())),
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str(SYSTEM),
            // Only zones with a name are read.
            Self::Named(zone) => f.write_str(zone.iana_name().unwrap_or_default()),
        }
    }
}

serde_as_text!(Zone);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed parse is the test's failure")]

    use super::*;

    #[test]
    fn zones_are_read_by_name_and_written_again() {
        for (text, written) in [("system", "system"), ("UTC", "UTC"), ("utc", "UTC")] {
            assert_eq!(text.parse::<Zone>().unwrap().to_string(), written);
        }
    }

    #[test]
    fn an_unknown_zone_is_named_with_what_to_write_instead() {
        for text in ["", "Europe/Atlantis", "+02:00", "Etc/Unknown", "../../etc/passwd"] {
            let message = text.parse::<Zone>().unwrap_err().to_string();
            assert!(message.contains(&format!("`{text}`")) && message.contains("Europe/Berlin"), "{message}");
        }
    }
}
