//! The words for kernel codes: what the CLI, the API, the store and the event log call an action, level, reason or role.
//!
//! The kernel ABI holds numbers alone; every number that leaves the agent goes through here, in both directions.

use serde::{Deserialize, Deserializer, Serializer, de};
use tidegate_common::verdict::{Action, Level, Reason, role};

macro_rules! words {
    ($kind:ty, $name:ident, $parse:ident, $module:ident, $what:literal, { $($variant:ident => $word:literal,)* }) => {
        #[doc = concat!("The word for ", $what, ".")]
        pub const fn $name(value: $kind) -> &'static str {
            match value { $(<$kind>::$variant => $word,)* }
        }

        #[doc = concat!("The value that a word for ", $what, " stands for.")]
        pub fn $parse(word: &str) -> Option<$kind> {
            Some(match word { $($word => <$kind>::$variant,)* _ => return None })
        }

        #[doc = concat!("`#[serde(with = …)]` for ", $what, ".")]
        pub mod $module {
            use super::{$kind, $name, $parse, Deserialize, Deserializer, Serializer, de};

            /// Writes the word.
            pub fn serialize<S: Serializer>(value: &$kind, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str($name(*value))
            }

            /// Reads the word.
            pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$kind, D::Error> {
                let word = String::deserialize(deserializer)?;
                $parse(&word).ok_or_else(|| {
                    de::Error::unknown_variant(&word, &[$($word),*])
                })
            }
        }
    };
}

words!(Action, action_name, action_from_name, action, "an action", {
    Observe => "observe",
    RateLimit => "rate-limit",
    Block => "block",
    Isolate => "isolate",
    NeverBlock => "never-block",
});

words!(Level, level_name, level_from_name, level, "an isolation level", {
    Observe => "observe",
    RateLimit => "rate-limit",
    CloudOnly => "cloud-only",
    DhcpDnsOnly => "dhcp-dns-only",
    Full => "full",
});

words!(Reason, reason_name, reason_from_name, reason, "a reason", {
    Operator => "operator",
    Rule => "rule",
    Anomaly => "anomaly",
    Feed => "feed",
    System => "system",
});

/// `#[serde(with = …)]` for an optional isolation level.
pub mod level_option {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use tidegate_common::verdict::Level;

    use super::{level_from_name, level_name};

    /// Writes the word or nothing.
    #[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde fixes the signature")]
    pub fn serialize<S: Serializer>(value: &Option<Level>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(level) => serializer.serialize_some(level_name(*level)),
            None => serializer.serialize_none(),
        }
    }

    /// Reads the word or nothing.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Level>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|word| {
                level_from_name(&word).ok_or_else(|| {
                    de::Error::invalid_value(
                        de::Unexpected::Str(&word),
                        &"an isolation level such as cloud-only",
                    )
                })
            })
            .transpose()
    }
}

const ROLES: [(u16, &str); 6] = [
    (role::GATEWAY, "gateway"),
    (role::DHCP, "dhcp"),
    (role::DNS, "dns"),
    (role::NTP, "ntp"),
    (role::CLOUD, "cloud"),
    (role::OPERATOR, "operator"),
];

/// The words for the role bits in `roles`, in order of the bits.
pub fn role_names(roles: u16) -> Vec<&'static str> {
    ROLES.iter().filter(|(bit, _)| roles & bit != 0).map(|(_, word)| *word).collect()
}

/// The role bit that a word stands for.
pub fn role_from_name(word: &str) -> Option<u16> {
    ROLES.iter().find(|(_, known)| *known == word).map(|(bit, _)| *bit)
}

/// `#[serde(with = …)]` for role bits, as a list of words.
pub mod roles {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use super::{role_from_name, role_names};

    /// Writes the words.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde fixes the signature")]
    pub fn serialize<S: Serializer>(value: &u16, serializer: S) -> Result<S::Ok, S::Error> {
        role_names(*value).serialize(serializer)
    }

    /// Reads the words.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
        Vec::<String>::deserialize(deserializer)?.iter().try_fold(0, |bits, word| {
            role_from_name(word).map(|bit| bits | bit).ok_or_else(|| {
                de::Error::invalid_value(de::Unexpected::Str(word), &"a role such as dns or operator")
            })
        })
    }
}

/// Number of a rule in kernel entries: a hash of its name (FNV-1a, 32 bits), never 0, which means no rule.
pub fn rule_id(name: &str) -> u32 {
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_codes_are_one_to_one() {
        for code in 0..=u8::MAX {
            if let Some(action) = Action::from_code(code) {
                assert_eq!(action_from_name(action_name(action)), Some(action));
            }
            if let Some(level) = Level::from_code(code) {
                assert_eq!(level_from_name(level_name(level)), Some(level));
            }
        }
        for reason in [Reason::Operator, Reason::Rule, Reason::Anomaly, Reason::Feed, Reason::System] {
            assert_eq!(reason_from_name(reason_name(reason)), Some(reason));
        }
        let all = role_names(u16::MAX);
        assert_eq!(all.iter().filter_map(|word| role_from_name(word)).fold(0, |bits, bit| bits | bit), 0x3f);
    }
}
