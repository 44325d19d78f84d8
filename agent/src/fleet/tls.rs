//! TLS towards the cloud: the gateway's certificate and key, and whom it trusts. Keys are read when they are needed, so a
//! rotated certificate is used by the next connection, and are never printed.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::rustls::{
    ClientConfig, RootCertStore, crypto,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    version,
};

/// ALPN name under which AWS IoT Core speaks MQTT on port 443.
const ALPN_MQTT: &[u8] = b"x-amzn-mqtt-ca";

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("cannot read {path}: {cause}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A private key that others may use.
    #[error("key {0} may be used by others than its owner: chmod 600 it and consider it known")]
    OpenKey(PathBuf),
    /// A file without what it should hold.
    #[error("{path} holds no {wanted} in PEM")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// Certificate and key do not go together, or nobody is trusted.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// Files of the link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities trusted; none for the system's.
    pub ca: Option<PathBuf>,
    /// The gateway's certificate and what follows it to its authority.
    pub certificate: PathBuf,
    /// Its private key, mode 0600.
    pub key: PathBuf,
}

/// What tells one version of certificate and key from another: number and time of the files. Nothing for one that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark([Option<(u64, i64, i64)>; 2]);

/// The version that is there now.
pub fn mark(files: &TlsFiles) -> Mark {
    Mark([&files.certificate, &files.key].map(|path| {
        let found = fs::metadata(path).ok()?;
        Some((found.ino(), found.mtime(), found.mtime_nsec()))
    }))
}

/// TLS of a connection to the message broker at `port`.
pub fn broker(files: &TlsFiles, port: u16) -> Result<ClientConfig, TlsError> {
    let mut config = mutual(files)?;
    if port == 443 {
        config.alpn_protocols.push(ALPN_MQTT.to_vec());
    }
    Ok(config)
}

/// Where the next version of a file is until it takes its place.
pub fn aside(path: &Path) -> PathBuf {
    with_ending(path, ".new")
}

/// `path` with `ending` after its name.
pub fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// TLS in which the gateway shows its certificate.
///
/// A renewal exchanges the key first and its certificate right after: whoever reads between the two, or after a crash there, takes the
/// certificate that fits the key from where it waits.
pub fn mutual(files: &TlsFiles) -> Result<ClientConfig, TlsError> {
    let mode = fs::metadata(&files.key).map_err(unreadable(&files.key))?.mode();
    if mode & 0o077 != 0 {
        return Err(TlsError::OpenKey(files.key.clone()));
    }
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
        .map_err(|_| TlsError::Malformed { path: files.key.clone(), wanted: "private key" })?;
    let showing = |certificate: &Path| {
        trusting(files.ca.as_deref())?
            .with_client_auth_cert(certificates(certificate)?, key.clone_key())
            .map_err(|error| TlsError::Setup(error.to_string()))
    };
    let refused = match showing(&files.certificate) {
        Err(refused @ TlsError::Setup(_)) => refused,
        other => return other,
    };
    showing(&aside(&files.certificate)).map_err(|_| refused)
}

/// TLS of a fetch: no certificate is shown.
pub fn web(ca: Option<&Path>) -> Result<ClientConfig, TlsError> {
    Ok(trusting(ca)?.with_no_client_auth())
}

type Trusting =
    tokio_rustls::rustls::ConfigBuilder<ClientConfig, tokio_rustls::rustls::client::WantsClientCert>;

fn trusting(ca: Option<&Path>) -> Result<Trusting, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| TlsError::Setup(error.to_string()))?;
            }
        }
        None => _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    }
    if roots.is_empty() {
        return Err(TlsError::Setup("no authority is trusted: name one in cloud.ca".to_owned()));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| TlsError::Setup(error.to_string()))?;
    Ok(builder.with_root_certificates(roots))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let malformed = || TlsError::Malformed { path: path.to_owned(), wanted: "certificate" };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(malformed)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(unreadable(path))
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> TlsError {
    move |cause| TlsError::Unreadable { path: path.to_owned(), cause }
}
