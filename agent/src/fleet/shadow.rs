//! The shadow named `policy`: which policy the fleet wants here, and what became of it. Pure.
//!
//! A shadow carries version, hash and address, never a policy itself. What is fetched is believed for its signature alone; the
//! hash only tells early that something else was fetched.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::limits::MAX_SHADOW;

/// The policy that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Its version.
    pub version: u64,
    /// SHA-256 of the sealed document, in hex.
    pub sha256: String,
    /// Where it is fetched.
    pub url: String,
}

impl Desired {
    /// Whether hash and address can be such.
    pub fn is_sound(&self) -> bool {
        let is_hash = self.sha256.len() == 64 && self.sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hash && self.url.len() <= 2_048
    }

    /// Whether `bytes` are what was wanted.
    pub fn is(&self, bytes: &[u8]) -> bool {
        hash(bytes) == self.sha256.to_ascii_lowercase()
    }
}

/// The hash under which a shadow names `bytes`.
pub fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What a gateway says about policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reported {
    /// The version in force; none for the configuration file alone.
    pub version: Option<u64>,
    /// The version that was wanted last.
    pub wanted: u64,
    /// Why it was refused, as a word; none if it is in force.
    pub refused: Option<String>,
    /// The same in plain words.
    pub detail: Option<String>,
}

/// Reads the answer to a question for the shadow; nothing if no policy is wanted or it cannot be understood.
pub fn desired(document: &[u8]) -> Option<Desired> {
    #[derive(Deserialize)]
    struct Shadow {
        state: State,
    }
    #[derive(Deserialize)]
    struct State {
        desired: Option<Wanted>,
    }
    #[derive(Deserialize)]
    struct Wanted {
        policy: Option<Desired>,
    }
    if document.len() > 2 * MAX_SHADOW {
        return None;
    }
    serde_json::from_slice::<Shadow>(document).ok()?.state.desired?.policy.filter(Desired::is_sound)
}

/// The update that reports.
pub fn update(reported: &Reported) -> String {
    serde_json::json!({ "state": { "reported": { "policy": reported } } }).to_string()
}

/// Whether `url` begins with one of the allowed `origins`, each a scheme, a host and the beginning of a path.
pub fn is_allowed(url: &str, origins: &[String]) -> bool {
    let is_plain = !url.contains(['\\', '@', '%', ' ']) && !url.contains("/../") && !url.ends_with("/..");
    is_plain && origins.iter().any(|origin| origin.ends_with('/') && url.starts_with(origin.as_str()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_wanted_policy_is_read_and_anything_else_is_none() {
        let hash = "ab".repeat(32);
        let text = format!(
            r#"{{"state":{{"desired":{{"policy":{{"version":7,"sha256":"{hash}","url":"https://a/b"}}}},"reported":{{}}}},"version":3}}"#
        );
        let wanted = Desired { version: 7, sha256: hash, url: "https://a/b".to_owned() };
        assert_eq!(desired(text.as_bytes()), Some(wanted));
        for other in ["", "{}", r#"{"state":{}}"#, r#"{"state":{"desired":{"policy":{"version":7}}}}"#] {
            assert_eq!(desired(other.as_bytes()), None, "{other}");
        }
        assert_eq!(desired(text.replace("ab", "zz").as_bytes()), None, "no hash");
    }

    #[test]
    fn a_hash_is_that_of_the_bytes() {
        let sha256 = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD".to_owned();
        let wanted = Desired { version: 1, sha256, url: String::new() };
        assert!(wanted.is(b"abc") && !wanted.is(b"abd"));
    }

    #[test]
    fn only_allowed_origins_are_fetched_from() {
        let origins = ["https://policies.example/home/".to_owned(), "https://open.example".to_owned()];
        for (url, allowed) in [
            ("https://policies.example/home/7.policy", true),
            ("https://policies.example/other/7.policy", false),
            ("http://policies.example/home/7.policy", false),
            ("https://policies.example.evil/home/7.policy", false),
            ("https://policies.example/home/../other", false),
            ("https://open.example.evil/", false),
            ("file:///etc/shadow", false),
        ] {
            assert_eq!(is_allowed(url, &origins), allowed, "{url}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), url in ".{0,80}") {
            let _ = desired(&bytes);
            let _ = is_allowed(&url, &["https://a/".to_owned()]);
        }
    }
}
