//! Who a client is, by user name and password: a file of hashes as `mosquitto_passwd` writes it.
//!
//! Each line is `name:$7$ITERATIONS$SALT$HASH`, PBKDF2 with HMAC-SHA-512. Passwords are compared in constant time, and an unknown
//! name costs as much as a wrong password. Work is bounded: a line that asks for too many iterations is refused.

use std::{collections::HashMap, num::NonZeroU32, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::pbkdf2;

use super::acl::is_sound_name;

/// Most iterations that a line may ask for: 100,000 take about 50 ms of a small gateway's core, and the guard has one.
const MAX_ITERATIONS: u32 = 100_000;
/// Lines that a file may have.
const MAX_USERS: usize = 65_536;
/// Largest file that is read.
const MAX_BYTES: u64 = 16 << 20;
static ALGORITHM: pbkdf2::Algorithm = pbkdf2::PBKDF2_HMAC_SHA512;

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// It could not be read.
    #[error("cannot read the passwords in {path}: {cause}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A line is not what `mosquitto_passwd` writes.
    #[error("passwords, line {line}: {cause}; write it with `mosquitto_passwd -b FILE NAME PASSWORD`")]
    Malformed {
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong.
        cause: &'static str,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hashed {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

/// Names and the hashes of their passwords.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passwords {
    users: HashMap<String, Hashed>,
}

impl Passwords {
    /// Reads the file at `path`.
    pub fn load(path: &Path) -> Result<Self, PasswordError> {
        let unreadable = |cause| PasswordError::Unreadable { path: path.display().to_string(), cause };
        let size = std::fs::metadata(path).map_err(unreadable)?.len();
        if size > MAX_BYTES {
            return Err(unreadable(std::io::Error::other(format!("{size} bytes are too many"))));
        }
        Self::parse(&std::fs::read_to_string(path).map_err(unreadable)?)
    }

    /// Reads `text`.
    pub fn parse(text: &str) -> Result<Self, PasswordError> {
        let mut users = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let malformed = |cause| PasswordError::Malformed { line: index + 1, cause };
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, hashed) = line.split_once(':').ok_or_else(|| malformed("no colon after the name"))?;
            if !is_sound_name(name) {
                return Err(malformed("names have 1 to 128 characters without /, + and #"));
            }
            if users.len() == MAX_USERS {
                return Err(malformed("too many names"));
            }
            users.insert(name.to_owned(), Hashed::parse(hashed).map_err(malformed)?);
        }
        Ok(Self { users })
    }

    /// Whether `password` is that of `name`.
    pub fn verify(&self, name: &str, password: &[u8]) -> bool {
        let known = self.users.get(name);
        // Any other entry takes the time that this one would have taken.
        let Some(hashed) = known.or_else(|| self.users.values().next()) else { return false };
        let same = pbkdf2::verify(ALGORITHM, hashed.iterations, &hashed.salt, password, &hashed.hash).is_ok();
        same && known.is_some()
    }

    /// Whether the password of `name` is the same here as in `before`.
    pub fn unchanged(&self, before: &Self, name: &str) -> bool {
        self.users.contains_key(name) && self.users.get(name) == before.users.get(name)
    }
}

impl Hashed {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = text.trim_end().split('$');
        let (Some(""), Some("7"), Some(iterations), Some(salt), Some(hash), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("not a PBKDF2 hash ($7$...)");
        };
        let iterations: NonZeroU32 =
            iterations.parse().map_err(|_| "the number of iterations is unreadable")?;
        if iterations.get() > MAX_ITERATIONS {
            return Err("more than 100000 iterations");
        }
        let salt = STANDARD.decode(salt).map_err(|_| "the salt is not base64")?;
        let hash = STANDARD.decode(hash).map_err(|_| "the hash is not base64")?;
        if hash.len() != 64 || salt.len() > 1_024 {
            return Err("salt or hash have the wrong length");
        }
        Ok(Self { iterations, salt, hash })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "an unusable file is the test's failure")]
    use proptest::prelude::*;

    use super::*;

    fn line(name: &str, password: &str) -> String {
        let (salt, mut hash) = ([7; 12], [0; 64]);
        let iterations = NonZeroU32::new(101).unwrap();
        pbkdf2::derive(ALGORITHM, iterations, &salt, password.as_bytes(), &mut hash);
        format!("{name}:$7$101${}${}\n", STANDARD.encode(salt), STANDARD.encode(hash))
    }

    #[test]
    fn only_the_right_password_of_the_right_name_is_taken() {
        let passwords =
            Passwords::parse(&(line("camera", "good") + "\n# more\n" + &line("lamp", "light"))).unwrap();
        assert!(passwords.verify("camera", b"good") && passwords.verify("lamp", b"light"));
        for (name, password) in [("camera", "light"), ("nobody", "good"), ("camera", ""), ("", "good")] {
            assert!(!passwords.verify(name, password.as_bytes()), "{name} {password}");
        }
        assert!(!Passwords::default().verify("camera", b"good"));
    }

    #[test]
    fn a_change_of_one_password_is_a_change_of_that_name_alone() {
        let before = Passwords::parse(&(line("a", "1") + &line("b", "2"))).unwrap();
        let after = Passwords::parse(&(line("a", "1") + &line("b", "3"))).unwrap();
        assert!(after.unchanged(&before, "a") && !after.unchanged(&before, "b"));
        assert!(!Passwords::default().unchanged(&before, "a"));
    }

    #[test]
    fn a_bad_line_is_refused_with_its_number() {
        for bad in
            ["camera", "camera:$6$x$y", "a/b:$7$1$AA==$AA==", "x:$7$0$AA==$AA==", "x:$7$999999$AA==$AA=="]
        {
            let error = Passwords::parse(&format!("# first\n{bad}\n")).unwrap_err().to_string();
            assert!(error.contains("line 2"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "([a:$7/]|\\PC|\n){0,80}") {
            let _ = Passwords::parse(&text);
        }
    }
}
