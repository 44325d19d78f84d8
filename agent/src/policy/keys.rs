//! Ed25519 keys in the files that every tool writes: public keys as SPKI, private ones as PKCS#8, both as PEM.

use std::{collections::BTreeMap, fmt, fs, io, os::unix::fs::MetadataExt as _, path::Path};

use pem::Pem;
use ring::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use sha2::{Digest as _, Sha256};

/// What stands before the 32 bytes of an Ed25519 key in its SPKI (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Trust anchors that one file holds at most.
const MOST_ANCHORS: usize = 16;
/// Largest file of trust anchors that is read, in bytes.
const MAX_ANCHORS: u64 = 64 << 10;

/// A key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is no PEM, or of something else.
    #[error("no Ed25519 {wanted} key in PEM: {cause}")]
    Malformed {
        /// `public` or `private`.
        wanted: &'static str,
        /// What is wrong.
        cause: String,
    },
    /// More keys than anyone rotates.
    #[error("more than {MOST_ANCHORS} public keys in one file")]
    TooMany,
    /// The file cannot be read.
    #[error("cannot read it: {0}")]
    Unreadable(io::Error),
    /// Others than its owner, root or the agent's own user, could put keys into it.
    #[error("it may be written by others than its owner or is a stranger's")]
    Exposed,
    /// More than any number of keys needs.
    #[error("it is larger than {MAX_ANCHORS} bytes")]
    TooLarge,
    /// The system gave no random numbers.
    #[error("the system gave no random numbers for a key")]
    Random,
}

/// Thirty-two hexadecimal digits that nobody else draws.
pub fn nonce() -> Result<String, KeyError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| KeyError::Random)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// Names a public key: the first eight bytes of its SHA-256, written in hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 8]);

impl KeyId {
    fn of(public: &[u8]) -> Self {
        let digest = Sha256::digest(public);
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The public keys whose signatures count.
#[derive(Debug, Clone, Default)]
pub struct TrustAnchors(BTreeMap<KeyId, [u8; 32]>);

impl TrustAnchors {
    /// Reads the file at `path`, which nobody but its owner may write: root or the agent's own user.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let file = fs::metadata(path).map_err(KeyError::Unreadable)?;
        if file.mode() & 0o022 != 0 || !(file.uid() == 0 || file.uid() == nix::unistd::geteuid().as_raw()) {
            return Err(KeyError::Exposed);
        }
        if file.len() > MAX_ANCHORS {
            return Err(KeyError::TooLarge);
        }
        Self::parse(&fs::read(path).map_err(KeyError::Unreadable)?)
    }

    /// Reads every `PUBLIC KEY` block of `text`; anything else in it is refused.
    pub fn parse(text: &[u8]) -> Result<Self, KeyError> {
        let malformed = |cause: String| KeyError::Malformed { wanted: "public", cause };
        let blocks = pem::parse_many(text).map_err(|error| malformed(error.to_string()))?;
        if blocks.is_empty() {
            return Err(malformed("the file has no block".to_owned()));
        }
        if blocks.len() > MOST_ANCHORS {
            return Err(KeyError::TooMany);
        }
        let mut anchors = BTreeMap::new();
        for block in blocks {
            let key = (block.tag() == "PUBLIC KEY")
                .then(|| block.contents().strip_prefix(&SPKI))
                .flatten()
                .and_then(|key| <[u8; 32]>::try_from(key).ok())
                .ok_or_else(|| malformed(format!("a block {} is none", block.tag())))?;
            anchors.insert(KeyId::of(&key), key);
        }
        Ok(Self(anchors))
    }

    /// The names of all keys.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.0.keys().copied()
    }

    /// Whether there is a key of this name.
    pub fn knows(&self, id: KeyId) -> bool {
        self.0.contains_key(&id)
    }

    /// Whether the key of this name signed `message`.
    pub fn verify(&self, id: KeyId, message: &[u8], signature: &[u8]) -> bool {
        self.0
            .get(&id)
            .is_some_and(|key| UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok())
    }
}

/// A private key. It is never printed.
pub struct SigningKey(Ed25519KeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id())
    }
}

impl SigningKey {
    /// A new key, as the PEM of its PKCS#8 form.
    pub fn generate() -> Result<String, KeyError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError::Random)?;
        Ok(pem::encode(&Pem::new("PRIVATE KEY", document.as_ref())))
    }

    /// Reads a `PRIVATE KEY` block, as `openssl genpkey -algorithm ed25519` writes it too.
    pub fn parse(text: &[u8]) -> Result<Self, KeyError> {
        let malformed = |cause: String| KeyError::Malformed { wanted: "private", cause };
        let block = pem::parse(text).map_err(|error| malformed(error.to_string()))?;
        if block.tag() != "PRIVATE KEY" {
            return Err(malformed(format!("a block {} is none", block.tag())));
        }
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(block.contents())
            .map(Self)
            .map_err(|error| malformed(error.to_string()))
    }

    /// The name of its public key.
    pub fn id(&self) -> KeyId {
        KeyId::of(self.0.public_key().as_ref())
    }

    /// Its public key as PEM.
    pub fn public_pem(&self) -> String {
        pem::encode(&Pem::new("PUBLIC KEY", [&SPKI, self.0.public_key().as_ref()].concat()))
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }
}
