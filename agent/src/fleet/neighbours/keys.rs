//! Keys of neighbours: the gateway's own, from a file that nobody else may read, and those of its peers, from the configuration.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pem::Pem;
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

use crate::policy::{KeyError, KeyId, SigningKey, TrustAnchors};

/// The text is no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no Ed25519 public key: write the line between BEGIN and END that `tidegate neighbours keygen` prints"
)]
pub struct PeerKeyError;

/// A peer's public key, written as the one line of base64 in its PEM file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerKey {
    spki: Vec<u8>,
    id: KeyId,
    anchors: TrustAnchors,
}

impl PeerKey {
    /// The public half of `key`.
    pub fn of(key: &SigningKey) -> Self {
        let spki = pem::parse(key.public_pem()).map(Pem::into_contents).unwrap_or_default();
        let anchors = TrustAnchors::parse(key.public_pem().as_bytes()).unwrap_or_default();
        Self { spki, id: key.id(), anchors }
    }

    /// Its name.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// It alone, to verify signatures with.
    pub(super) const fn anchors(&self) -> &TrustAnchors {
        &self.anchors
    }

    /// Its SPKI, as TLS shows it.
    pub(super) fn spki(&self) -> &[u8] {
        &self.spki
    }
}

impl PartialEq for PeerKey {
    fn eq(&self, other: &Self) -> bool {
        self.spki == other.spki
    }
}

impl Eq for PeerKey {}

impl TryFrom<String> for PeerKey {
    type Error = PeerKeyError;

    fn try_from(text: String) -> Result<Self, PeerKeyError> {
        let spki = STANDARD.decode(text.trim()).map_err(|_| PeerKeyError)?;
        let block = pem::encode(&Pem::new("PUBLIC KEY", spki.as_slice()));
        let anchors = TrustAnchors::parse(block.as_bytes()).map_err(|_| PeerKeyError)?;
        let id = anchors.ids().next().ok_or(PeerKeyError)?;
        Ok(Self { spki, id, anchors })
    }
}

impl From<PeerKey> for String {
    fn from(key: PeerKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(&self.spki))
    }
}

/// The gateway's own key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file.
    #[error("cannot read {path}: {cause}; `tidegate neighbours keygen` makes a key")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Others may read it.
    #[error("key {0} may be used by others than its owner: chmod 600 it and consider it known")]
    Open(PathBuf),
    /// It is no such key.
    #[error("{path}: {cause}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: KeyError,
    },
    /// TLS does not take it.
    #[error("TLS cannot use the key in {path}: {cause}")]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: String,
    },
}

/// The gateway's own key, for signatures and for TLS. It is never printed.
pub struct OwnKey {
    /// Signs notices.
    pub signing: SigningKey,
    pub(super) tls: Arc<CertifiedKey>,
}

impl OwnKey {
    /// Reads the PEM file at `path`, mode 0600.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let unreadable = |cause| KeyFileError::Unreadable { path: path.to_owned(), cause };
        if fs::metadata(path).map_err(unreadable)?.mode() & 0o077 != 0 {
            return Err(KeyFileError::Open(path.to_owned()));
        }
        let text = fs::read(path).map_err(unreadable)?;
        let signing = SigningKey::parse(&text)
            .map_err(|cause| KeyFileError::Malformed { path: path.to_owned(), cause })?;
        let unfit = |cause: String| KeyFileError::Unfit { path: path.to_owned(), cause };
        let der = pem::parse(&text).map_err(|error| unfit(error.to_string()))?.into_contents();
        let key = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(der))
            .map_err(|error| unfit(error.to_string()))?;
        let public = CertificateDer::from(PeerKey::of(&signing).spki);
        Ok(Self { tls: Arc::new(CertifiedKey::new(vec![public], key)), signing })
    }

    /// Its name.
    pub fn id(&self) -> KeyId {
        self.signing.id()
    }
}

impl fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnKey({})", self.id())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "fixed keys are valid")]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_peers_key_is_one_line() {
        let key = SigningKey::parse(SigningKey::generate().unwrap().as_bytes()).unwrap();
        let written = PeerKey::of(&key).to_string();
        let read = PeerKey::try_from(written.clone()).unwrap();
        assert_eq!((read.id(), read.to_string()), (key.id(), written.clone()));
        assert!(key.public_pem().contains(&written));
        for wrong in ["", "key", &written[..40], "AAAA"] {
            assert!(PeerKey::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("own.key");
        assert!(matches!(OwnKey::load(&path), Err(KeyFileError::Unreadable { .. })));
        fs::write(&path, SigningKey::generate().unwrap()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(OwnKey::load(&path), Err(KeyFileError::Open(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(!format!("{:?}", OwnKey::load(&path).unwrap()).contains("BEGIN"));
        fs::write(&path, "no key").unwrap();
        assert!(matches!(OwnKey::load(&path), Err(KeyFileError::Malformed { .. })));
    }
}
