//! The gateway's key and certificate on disk. The key is made here, stays in a file that only its owner may read, and is never printed;
//! a certificate replaces the one before in one step.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::fleet::shadow::hash;

/// A file of the gateway's identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be read or written.
    #[error("cannot {verb} {path}: {cause}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Others may use the key.
    #[error("key {0} may be used by others than its owner")]
    OpenKey(PathBuf),
    /// It is not what it should be.
    #[error("{path} holds no {wanted} in PEM")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// A certificate without its key.
    #[error("there is a certificate {certificate} and no key {key}")]
    Keyless {
        /// The certificate.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// The request cannot be made.
    #[error("the certificate request cannot be made: {0}")]
    Request(String),
}

impl IdentityError {
    /// What to do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Io { .. } => "run as root, or name other files with --certificate and --key",
            Self::OpenKey(_) => "consider it known: move it away for a new one",
            Self::Malformed { .. } | Self::Keyless { .. } => "move it away, or name other files",
            Self::Request(_) => "the name may hold letters, digits, `-`, `_` and `:`",
        }
    }
}

/// Where certificate and key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key, mode 0600.
    pub key: PathBuf,
}

impl Files {
    /// Finishes an exchange that was cut off: a new certificate on the disk means that its key is there as well.
    pub fn settle(&self) -> Result<(), IdentityError> {
        let (certificate, key) = (aside(&self.certificate), aside(&self.key));
        if !certificate.exists() {
            return Ok(());
        }
        if key.exists() {
            fs::rename(&key, &self.key).map_err(io_error("write", &self.key))?;
        }
        fs::rename(&certificate, &self.certificate).map_err(io_error("write", &self.certificate))
    }

    /// Until when the certificate is valid. Nothing if there is none.
    pub fn ends(&self) -> Result<Option<Timestamp>, IdentityError> {
        let Some(pem) = read(&self.certificate)? else { return Ok(None) };
        let unread = || malformed(&self.certificate, "certificate");
        let der = CertificateDer::from_pem_slice(&pem).map_err(|_| unread())?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| unread())?;
        Timestamp::from_second(parsed.validity().not_after.timestamp()).map(Some).map_err(|_| unread())
    }

    /// Id under which AWS knows the certificate: SHA-256 of it, in hex. Nothing if there is none yet.
    pub fn certificate_id(&self) -> Result<Option<String>, IdentityError> {
        let Some(pem) = read(&self.certificate)? else { return Ok(None) };
        if !self.key.exists() {
            let (certificate, key) = (self.certificate.clone(), self.key.clone());
            return Err(IdentityError::Keyless { certificate, key });
        }
        match CertificateDer::from_pem_slice(&pem) {
            Ok(certificate) => Ok(Some(hash(&certificate))),
            Err(_) => Err(malformed(&self.certificate, "certificate")),
        }
    }

    /// A certificate request for `common_name`, with the key that is there or a new one.
    pub fn request(&self, common_name: &str) -> Result<String, IdentityError> {
        request_with(&self.key, common_name)
    }

    /// The same with the next key, which takes the place of the present one together with its certificate.
    pub fn request_anew(&self, common_name: &str) -> Result<String, IdentityError> {
        request_with(&aside(&self.key), common_name)
    }

    /// Puts a certificate in the place of the one before, with its key if that is a new one.
    pub fn keep_certificate(&self, pem: &str) -> Result<(), IdentityError> {
        if CertificateDer::from_pem_slice(pem.as_bytes()).is_err() {
            return Err(malformed(&self.certificate, "certificate"));
        }
        // Whole or not at all: `settle` takes what bears this name for a certificate.
        let (partial, whole) = (aside(&aside(&self.certificate)), aside(&self.certificate));
        match fs::remove_file(&partial) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("replace", &partial)(cause));
            }
            _ => {}
        }
        create(&partial, pem.as_bytes(), 0o644)?;
        fs::rename(&partial, &whole).map_err(io_error("write", &whole))?;
        self.settle()
    }
}

fn malformed(path: &Path, wanted: &'static str) -> IdentityError {
    IdentityError::Malformed { path: path.to_owned(), wanted }
}

/// A certificate request with the key in `file`, which is made if it is not there.
fn request_with(file: &Path, common_name: &str) -> Result<String, IdentityError> {
    let failed = |error: rcgen::Error| IdentityError::Request(error.to_string());
    let key = if let Some(pem) = read(file)? {
        let mode = fs::metadata(file).map_err(io_error("read", file))?.mode();
        if mode & 0o077 != 0 {
            return Err(IdentityError::OpenKey(file.to_owned()));
        }
        let text = String::from_utf8(pem).unwrap_or_default();
        KeyPair::from_pem(&text).map_err(|_| malformed(file, "private key"))?
    } else {
        let key = KeyPair::generate().map_err(failed)?;
        create(file, key.serialize_pem().as_bytes(), 0o600)?;
        key
    };
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.serialize_request(&key).and_then(|request| request.pem()).map_err(failed)
}

/// Where the next version of a file is until it is whole.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(io_error("read", path)(cause)),
    }
}

/// Writes a new file, to the disk, with its rights from the first moment.
fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(io_error("make", directory))?;
    }
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .map_err(io_error("write", path))
}

fn io_error(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> IdentityError {
    move |cause| IdentityError::Io { verb, path: path.to_owned(), cause }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;

    fn files() -> (tempfile::TempDir, Files) {
        let directory = tempfile::tempdir().unwrap();
        let files = Files {
            certificate: directory.path().join("etc/cloud.crt"),
            key: directory.path().join("etc/cloud.key"),
        };
        (directory, files)
    }

    #[test]
    fn one_key_is_made_kept_secret_and_used_again() {
        let (_directory, files) = files();
        assert_eq!(files.certificate_id().unwrap(), None);
        let request = files.request("gate-1").unwrap();
        let key = fs::read(&files.key).unwrap();
        assert_eq!(fs::metadata(&files.key).unwrap().mode() & 0o777, 0o600);
        files.request("gate-1").unwrap();
        assert_eq!(fs::read(&files.key).unwrap(), key);
        assert!(!request.contains("PRIVATE"));
        let der = pem::parse(&request).unwrap();
        let (_, parsed) =
            x509_parser::certification_request::X509CertificationRequest::from_der(der.contents()).unwrap();
        assert_eq!(parsed.certification_request_info.subject.to_string(), "CN=gate-1");

        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(files.request("gate-1"), Err(IdentityError::OpenKey(_))));
    }

    #[test]
    fn a_certificate_is_known_by_its_hash_and_useless_without_its_key() {
        let (_directory, files) = files();
        files.request("gate-1").unwrap();
        let own = rcgen::generate_simple_self_signed(vec!["gate-1".to_owned()]).unwrap();
        files.keep_certificate(&own.cert.pem()).unwrap();
        assert_eq!(files.certificate_id().unwrap(), Some(hash(own.cert.der())));
        let next = rcgen::generate_simple_self_signed(vec!["gate-1".to_owned()]).unwrap();
        files.keep_certificate(&next.cert.pem()).unwrap();
        assert_eq!(files.certificate_id().unwrap(), Some(hash(next.cert.der())));
        fs::remove_file(&files.key).unwrap();
        assert!(matches!(files.certificate_id(), Err(IdentityError::Keyless { .. })));
    }

    #[test]
    fn a_new_pair_takes_its_place_together_also_after_a_cut() {
        let (_directory, files) = files();
        files.request("gate-1").unwrap();
        let first = fs::read(&files.key).unwrap();
        let own = rcgen::generate_simple_self_signed(vec!["gate-1".to_owned()]).unwrap();
        files.keep_certificate(&own.cert.pem()).unwrap();
        assert!(files.ends().unwrap().unwrap() > Timestamp::now());

        // Cut before there is a certificate: the old pair stands, and the next request is for the same new key.
        let request = files.request_anew("gate-1").unwrap();
        files.settle().unwrap();
        assert_eq!(fs::read(&files.key).unwrap(), first);
        let next_key = fs::read(aside(&files.key)).unwrap();
        assert!(request.contains("REQUEST") && next_key != first);
        files.request_anew("gate-1").unwrap();
        assert_eq!(fs::read(aside(&files.key)).unwrap(), next_key);

        // Cut between the two: finished by whoever comes next.
        let next = rcgen::generate_simple_self_signed(vec!["gate-1".to_owned()]).unwrap();
        fs::write(aside(&files.certificate), next.cert.pem()).unwrap();
        fs::rename(aside(&files.key), &files.key).unwrap();
        files.settle().unwrap();
        assert_eq!(files.certificate_id().unwrap(), Some(hash(next.cert.der())));
        assert_eq!(fs::read(&files.key).unwrap(), next_key);
        assert!(!aside(&files.key).exists() && !aside(&files.certificate).exists());
    }

    proptest! {
        #[test]
        fn whatever_comes_as_a_certificate_is_kept_or_refused(text in ".{0,200}") {
            let (_directory, files) = files();
            prop_assert!(files.keep_certificate(&text).is_err());
            prop_assert!(!files.certificate.exists());
        }
    }
}
