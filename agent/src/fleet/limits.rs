//! The limits of AWS IoT Core, kept before anything is sent. Pure.
//!
//! Figures are those of the service's message broker, protocol and shadow quotas; a broker that breaks the connection over a
//! limit would otherwise do so again and again with the same message.

/// Largest payload, in bytes.
pub const MAX_PAYLOAD: usize = 128 << 10;
/// Longest topic, in bytes of UTF-8; `$aws/rules/NAME/` does not count.
pub const MAX_TOPIC: usize = 256;
/// Slashes in a topic at most; those of `$aws/rules/NAME/` do not count.
pub const MAX_SLASHES: usize = 7;
/// Largest shadow document, in bytes.
pub const MAX_SHADOW: usize = 8 << 10;
/// Subscriptions of one connection at most.
pub const MAX_SUBSCRIPTIONS: usize = 50;
/// Messages without acknowledgement at most.
pub const MAX_IN_FLIGHT: u16 = 100;
/// Publishes of one connection in a second at most.
pub const PUBLISHES_PER_SECOND: u32 = 100;
/// Bytes of one connection in a second at most.
pub const BYTES_PER_SECOND: u32 = 512 << 10;

/// What the service would refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// The payload.
    #[error("{0} bytes are more than the {MAX_PAYLOAD} of a message")]
    Payload(usize),
    /// The shadow.
    #[error("{0} bytes are more than the {MAX_SHADOW} of a shadow")]
    Shadow(usize),
    /// The topic is too long.
    #[error("{0} bytes are more than the {MAX_TOPIC} of a topic")]
    Topic(usize),
    /// The topic has too many levels.
    #[error("{0} slashes are more than the {MAX_SLASHES} of a topic")]
    Slashes(usize),
    /// The topic cannot be published to.
    #[error("a message cannot be published to {0:?}")]
    Unpublishable(String),
    /// Too many subscriptions.
    #[error("{0} are more than the {MAX_SUBSCRIPTIONS} subscriptions of a connection")]
    Subscriptions(usize),
}

/// Whether a message may be sent.
pub fn check_publish(topic: &str, payload: usize) -> Result<(), LimitError> {
    if payload > MAX_PAYLOAD {
        return Err(LimitError::Payload(payload));
    }
    if topic.is_empty() || topic.contains(['+', '#', '\0']) {
        return Err(LimitError::Unpublishable(topic.to_owned()));
    }
    let counted = topic
        .strip_prefix("$aws/rules/")
        .and_then(|rest| rest.split_once('/'))
        .map_or(topic, |(_, counted)| counted);
    if counted.len() > MAX_TOPIC {
        return Err(LimitError::Topic(counted.len()));
    }
    let slashes = counted.matches('/').count();
    if slashes > MAX_SLASHES { Err(LimitError::Slashes(slashes)) } else { Ok(()) }
}

/// Whether a shadow update may be sent.
pub const fn check_shadow(bytes: usize) -> Result<(), LimitError> {
    if bytes > MAX_SHADOW { Err(LimitError::Shadow(bytes)) } else { Ok(()) }
}

/// Whether so many subscriptions may be made.
pub const fn check_subscriptions(count: usize) -> Result<(), LimitError> {
    if count > MAX_SUBSCRIPTIONS { Err(LimitError::Subscriptions(count)) } else { Ok(()) }
}

/// How much may still be sent in this second.
#[derive(Debug, Clone)]
pub struct Pace {
    second: u64,
    publishes: u32,
    bytes: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { second: 0, publishes: PUBLISHES_PER_SECOND, bytes: BYTES_PER_SECOND }
    }
}

impl Pace {
    /// Whether `bytes` may be sent in the second `second` of the connection; counts them if so.
    pub fn take(&mut self, second: u64, bytes: usize) -> bool {
        if second != self.second {
            *self = Self { second, ..Self::default() };
        }
        // A message that fits in no second is refused before it comes here.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if self.publishes == 0 || self.bytes < bytes {
            return false;
        }
        self.publishes -= 1;
        self.bytes -= bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_service_refuses_is_refused_here() {
        let deep = "a/b/c/d/e/f/g/h";
        assert_eq!(check_publish(deep, 0), Ok(()));
        assert_eq!(check_publish(&format!("{deep}/i"), 0), Err(LimitError::Slashes(8)));
        assert_eq!(check_publish(&format!("$aws/rules/reports/{deep}"), 0), Ok(()));
        assert_eq!(check_publish(&format!("$aws/rules/reports/{deep}/i"), 0), Err(LimitError::Slashes(8)));
        assert_eq!(check_publish("a", MAX_PAYLOAD), Ok(()));
        assert_eq!(check_publish("a", MAX_PAYLOAD + 1), Err(LimitError::Payload(MAX_PAYLOAD + 1)));
        assert_eq!(check_publish(&"a".repeat(257), 0), Err(LimitError::Topic(257)));
        for topic in ["", "a/+", "a/#", "a\0b"] {
            assert!(matches!(check_publish(topic, 0), Err(LimitError::Unpublishable(_))), "{topic:?}");
        }
        assert_eq!(check_shadow(MAX_SHADOW), Ok(()));
        assert_eq!(check_shadow(MAX_SHADOW + 1), Err(LimitError::Shadow(MAX_SHADOW + 1)));
        assert_eq!(check_subscriptions(51), Err(LimitError::Subscriptions(51)));
    }

    proptest! {
        #[test]
        fn no_second_has_more_than_its_share(sizes in prop::collection::vec((0u64..4, 0usize..200_000), 0..600)) {
            let mut pace = Pace::default();
            let mut sizes = sizes;
            sizes.sort_by_key(|(second, _)| *second);
            let mut taken = [(0u32, 0usize); 4];
            for (second, bytes) in sizes {
                if pace.take(second, bytes) {
                    let (publishes, sum) = &mut taken[second as usize];
                    *publishes += 1;
                    *sum += bytes;
                }
            }
            for (publishes, bytes) in taken {
                prop_assert!(publishes <= PUBLISHES_PER_SECOND && bytes <= BYTES_PER_SECOND as usize);
            }
        }
    }
}
