//! The gateway's key and certificate on disk. The key is made here, stays in a file that only its owner may read, and is never printed;
//! a certificate replaces the one before in one step.
//!
//! A renewal's files, in the order in which they come and go: `KEY.new` is the next key, `CERTIFICATE.new` what was issued for it; both together are
//! a pair that nobody uses yet. Then the pair in use is kept as `KEY.old` and `CERTIFICATE.old`, `KEY.new` becomes `KEY` and `CERTIFICATE.new`
//! becomes `CERTIFICATE`. At every moment a pair that works is found by [`crate::fleet::tls::mutual`]; `CERTIFICATE.new` without `KEY.new` is an exchange
//! that [`Files::settle`] finishes. `.old` stays until AWS was told that the certificate is not used any more.

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

use crate::fleet::{
    shadow::hash,
    tls::{aside, with_ending},
};

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
            Self::Io { .. } => "run as root, or name other files in cloud.certificate and cloud.key",
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
    /// The pair that a renewal is about to put in place.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { certificate: aside(&self.certificate), key: aside(&self.key) }
    }

    /// The pair that a renewal replaced, as long as AWS was not told.
    #[must_use]
    pub fn old(&self) -> Self {
        Self { certificate: with_ending(&self.certificate, ".old"), key: with_ending(&self.key, ".old") }
    }

    /// Finishes an exchange that was cut off: a new certificate without a new key means that the key is in its place already.
    pub fn settle(&self) -> Result<(), IdentityError> {
        let next = self.next();
        if next.certificate.exists() && !next.key.exists() {
            rename(&next.certificate, &self.certificate)?;
        }
        Ok(())
    }

    /// Puts the next pair in the place of the present one, which is kept aside.
    pub fn exchange(&self) -> Result<(), IdentityError> {
        let (next, old) = (self.next(), self.old());
        old.remove()?;
        for (path, kept) in [(&self.key, &old.key), (&self.certificate, &old.certificate)] {
            fs::hard_link(path, kept).map_err(io_error("keep", path))?;
        }
        rename(&next.key, &self.key)?;
        rename(&next.certificate, &self.certificate)
    }

    /// Removes this pair. The certificate goes first, so that what a crash leaves is a key without one.
    pub fn remove(&self) -> Result<(), IdentityError> {
        self.remove_certificate()?;
        remove(&self.key)
    }

    /// Removes the certificate and leaves its key.
    pub fn remove_certificate(&self) -> Result<(), IdentityError> {
        remove(&self.certificate)
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

    /// Puts a certificate in the place of the one before. A renewal that was begun is given up.
    pub fn keep_certificate(&self, pem: &str) -> Result<(), IdentityError> {
        self.next().remove()?;
        self.write_certificate(pem)
    }

    /// Writes the certificate, whole or not at all.
    pub fn write_certificate(&self, pem: &str) -> Result<(), IdentityError> {
        if CertificateDer::from_pem_slice(pem.as_bytes()).is_err() {
            return Err(malformed(&self.certificate, "certificate"));
        }
        let partial = with_ending(&self.certificate, ".part");
        remove(&partial)?;
        create(&partial, pem.as_bytes(), 0o644)?;
        rename(&partial, &self.certificate)
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

/// Removes a file if it is there.
fn remove(path: &Path) -> Result<(), IdentityError> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(cause)),
        _ => Ok(()),
    }
}

/// Renames, and has the directory know it before anything that follows.
fn rename(from: &Path, to: &Path) -> Result<(), IdentityError> {
    fs::rename(from, to).map_err(io_error("write", to))?;
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(io_error("write", directory))
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
    use crate::fleet::tls::{TlsError, TlsFiles, mutual};

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

    /// A certificate for the key of `files`, put beside it.
    fn certify(files: &Files) {
        files.request("gate-1").unwrap();
        let key = KeyPair::from_pem(&fs::read_to_string(&files.key).unwrap()).unwrap();
        let own = CertificateParams::new(vec!["gate-1".to_owned()]).unwrap().self_signed(&key).unwrap();
        files.write_certificate(&own.pem()).unwrap();
    }

    /// Id of the certificate of the pair that a connection would use.
    fn usable(files: &Files) -> String {
        let (certificate, key) = (files.certificate.clone(), files.key.clone());
        mutual(&TlsFiles { ca: Some(certificate.clone()), certificate, key }).unwrap();
        files.certificate_id().unwrap().unwrap()
    }

    #[test]
    fn a_new_pair_takes_its_place_and_a_cut_anywhere_leaves_one_that_works() {
        let (_directory, files) = files();
        certify(&files);
        let first = usable(&files);
        assert!(files.ends().unwrap().unwrap() > Timestamp::now());

        // Cut before there is a certificate: the old pair stands, and the next request is for the same new key.
        files.next().request("gate-1").unwrap();
        let next_key = fs::read(&files.next().key).unwrap();
        files.settle().unwrap();
        assert_eq!((usable(&files), fs::read(&files.next().key).unwrap()), (first.clone(), next_key.clone()));

        // Cut before the pair has proven itself: the same.
        certify(&files.next());
        let second = files.next().certificate_id().unwrap().unwrap();
        files.settle().unwrap();
        assert_eq!(
            (usable(&files), files.next().certificate_id().unwrap()),
            (first.clone(), Some(second.clone()))
        );

        // Cut between the two: the connection finds the certificate that fits, and whoever comes next finishes it.
        let place = tempfile::tempdir().unwrap();
        let half = Files { certificate: place.path().join("c"), key: place.path().join("k") };
        fs::copy(&files.certificate, &half.certificate).unwrap();
        fs::copy(&files.next().key, &half.key).unwrap();
        fs::copy(&files.next().certificate, &half.next().certificate).unwrap();
        usable(&half);
        half.settle().unwrap();
        assert_eq!(usable(&half), second);
        assert!(!half.next().certificate.exists());

        // Whole; twice, for a run that was cut off before it began to exchange leaves links of the same pair.
        fs::hard_link(&files.key, files.old().key).unwrap();
        files.exchange().unwrap();
        assert_eq!((usable(&files), usable(&files.old())), (second, first));
        assert_eq!(fs::metadata(&files.old().key).unwrap().mode() & 0o777, 0o600);
        assert!(!files.next().key.exists() && !files.next().certificate.exists());
        files.old().remove().unwrap();
        files.old().remove().unwrap();
        assert!(!files.old().key.exists());
    }

    #[test]
    fn a_key_that_fits_no_certificate_is_refused_for_what_it_is() {
        let (_directory, files) = files();
        certify(&files);
        certify(&files.next());
        fs::copy(&files.next().key, &files.key).unwrap();
        fs::copy(&files.certificate, &files.next().certificate).unwrap();
        let (certificate, key) = (files.certificate.clone(), files.key.clone());
        let refused = mutual(&TlsFiles { ca: Some(certificate.clone()), certificate, key }).unwrap_err();
        assert!(matches!(refused, TlsError::Setup(_)), "{refused}");
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
