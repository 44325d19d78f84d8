//! Hardware address: six bytes, written `aa:bb:cc:dd:ee:ff` everywhere a human or a file sees it.
//!
//! Parsing also accepts `-` between the pairs and three dotted groups, because labels on devices are printed like that.

use std::{fmt, str::FromStr};

use crate::text::serde_as_text;

/// A 48-bit hardware address as it stands in a frame (IEEE 802, EUI-48).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mac(pub [u8; 6]);

/// The text is not a hardware address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a hardware address: six pairs of hex digits are expected, such as 02:00:5e:10:00:01")]
pub struct MacError(String);

impl Mac {
    /// The address of every host.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the address was chosen by the host instead of assigned by a maker (the U/L bit, IEEE 802c), as randomised
    /// addresses of phones are.
    pub const fn is_locally_administered(self) -> bool {
        self.0[0] & 0x02 != 0
    }

    /// Whether the address names a group of hosts; no device sends from such an address.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 0x01 != 0
    }

    /// Whether one device can own the address.
    pub fn is_device(self) -> bool {
        !self.is_multicast() && self.0 != [0; 6]
    }
}

impl From<[u8; 6]> for Mac {
    fn from(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ":" };
            write!(f, "{separator}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        parse(text).map(Self).ok_or_else(|| MacError(text.to_owned()))
    }
}

/// The separators must be the same throughout: `aa:bb-cc…` is a typing mistake.
fn parse(text: &str) -> Option<[u8; 6]> {
    let (separator, digits) = match text.as_bytes().get(2)? {
        b':' => (':', 2),
        b'-' => ('-', 2),
        _ => ('.', 4),
    };
    let mut bytes = [0; 6];
    let mut filled = 0;
    for group in text.split(separator) {
        if group.len() != digits || !group.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for pair in 0..digits / 2 {
            *bytes.get_mut(filled)? = u8::from_str_radix(&group[pair * 2..pair * 2 + 2], 16).ok()?;
            filled += 1;
        }
    }
    (filled == bytes.len()).then_some(bytes)
}

serde_as_text!(Mac);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed parse is the test's failure")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn three_ways_of_writing_are_one_address() {
        let mac = Mac([0x02, 0, 0x5e, 0x10, 0, 0x0a]);
        for text in ["02:00:5e:10:00:0a", "02-00-5E-10-00-0A", "0200.5e10.000a"] {
            assert_eq!(text.parse::<Mac>().unwrap(), mac, "{text}");
        }
        assert_eq!(mac.to_string(), "02:00:5e:10:00:0a");
        assert!(mac.is_locally_administered() && mac.is_device());
        assert!(!Mac::BROADCAST.is_device());
    }

    #[test]
    fn mistakes_are_refused() {
        for text in [
            "",
            "02",
            "02:00:5e:10:00",
            "02:00:5e:10:00:0a:0b",
            "02:00-5e:10:00:0a",
            "+2:00:5e:10:00:0a",
            "é:é:é",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_and_json_round_trip(bytes: [u8; 6]) {
            let mac = Mac(bytes);
            prop_assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
            let json = serde_json::to_string(&mac).unwrap();
            prop_assert_eq!(serde_json::from_str::<Mac>(&json).unwrap(), mac);
        }

        #[test]
        fn any_text_is_parsed_without_a_panic(text in ".{0,24}") {
            let _ = text.parse::<Mac>();
        }
    }
}
