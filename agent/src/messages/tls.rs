//! TLS towards clients: the gateway's certificate, and the authority whose clients may come.
//!
//! No session is ever resumed: a resumed one would not be checked against the revocation list. Certificates of live connections
//! are checked again whenever a file changes.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{
            CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime,
            pem::{self, PemObject},
        },
        server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    },
};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::acl::is_sound_name;

/// What in a certificate names the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdentityFrom {
    /// The common name of the subject.
    CommonName,
    /// The first DNS name among the alternative names.
    DnsName,
}

/// How TLS is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Chain of the gateway's certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Authorities of clients, PEM; without it no certificate is asked for.
    pub client_ca: Option<PathBuf>,
    /// Revocation lists, PEM.
    pub revoked: Option<PathBuf>,
    /// Whether a client must have a certificate.
    pub required: bool,
    /// What names it.
    pub identity: IdentityFrom,
}

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not what it should be.
    #[error("cannot use {what} in {}: {cause}", path.display())]
    File {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: String,
    },
    /// Key and certificate do not belong together, or the authority is none.
    #[error("TLS for devices cannot be set up: {0}; check [messages] certificate, key and client_ca")]
    Unfit(String),
}

/// TLS as it is in force now.
#[derive(Clone)]
pub struct Tls {
    /// Makes connections of it.
    pub acceptor: TlsAcceptor,
    /// What names the client in a certificate.
    pub identity: IdentityFrom,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl Tls {
    /// Reads every file of `settings`.
    pub fn load(settings: &TlsSettings) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let chain: Vec<CertificateDer<'static>> = read("certificates", &settings.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&settings.key)
            .map_err(|cause| file("a private key", &settings.key, &cause))?;
        let verifier = client_verifier(settings, &provider)?;
        let unfit = |error: &dyn std::fmt::Display| TlsError::Unfit(error.to_string());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unfit(&error))?;
        let builder = match &verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| unfit(&error))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), identity: settings.identity, verifier })
    }

    /// Whether a chain that was good when it came is good still.
    pub fn trusts(&self, chain: &[CertificateDer<'_>]) -> bool {
        let (Some(verifier), [leaf, rest @ ..]) = (&self.verifier, chain) else { return false };
        verifier.verify_client_cert(leaf, rest, UnixTime::now()).is_ok()
    }
}

fn client_verifier(
    settings: &TlsSettings,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let Some(path) = &settings.client_ca else { return Ok(None) };
    let mut roots = RootCertStore::empty();
    for authority in read::<CertificateDer<'static>>("authorities of clients", path)? {
        roots.add(authority).map_err(|cause| file("authorities of clients", path, &cause))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if let Some(path) = &settings.revoked {
        let lists = read::<CertificateRevocationListDer<'static>>("revocation lists", path)?;
        builder = builder.with_crls(lists).only_check_end_entity_revocation();
    }
    if !settings.required {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map(Some).map_err(|error| TlsError::Unfit(error.to_string()))
}

fn read<T: PemObject>(what: &'static str, path: &Path) -> Result<Vec<T>, TlsError> {
    let items: Result<Vec<T>, pem::Error> = T::pem_file_iter(path).and_then(Iterator::collect);
    match items {
        Ok(items) if items.is_empty() => Err(file(what, path, &"there are none")),
        Ok(items) => Ok(items),
        Err(cause) => Err(file(what, path, &cause)),
    }
}

fn file(what: &'static str, path: &Path, cause: &dyn std::fmt::Display) -> TlsError {
    TlsError::File { what, path: path.to_owned(), cause: cause.to_string() }
}

/// The name in a verified certificate; `None` when there is none that may stand for a client.
pub fn identity_of(certificate: &[u8], from: IdentityFrom) -> Option<String> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    let name = match from {
        IdentityFrom::CommonName => {
            certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned()
        }
        IdentityFrom::DnsName => {
            let names = certificate.subject_alternative_name().ok()??;
            names.value.general_names.iter().find_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            })?
        }
    };
    is_sound_name(&name).then_some(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(common_name: &str, alternative: &str) -> Vec<u8> {
        let mut params = CertificateParams::new(vec![alternative.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_names_its_client() {
        let der = certificate("camera-1", "camera.example");
        assert_eq!(identity_of(&der, IdentityFrom::CommonName).as_deref(), Some("camera-1"));
        assert_eq!(identity_of(&der, IdentityFrom::DnsName).as_deref(), Some("camera.example"));
    }

    #[test]
    fn a_name_that_would_widen_rules_is_no_name() {
        for name in ["#", "a/b", "$SYS", ""] {
            assert_eq!(identity_of(&certificate(name, "x"), IdentityFrom::CommonName), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..300_usize) {
            let _ = identity_of(&bytes, IdentityFrom::CommonName);
            let mut broken = certificate("camera-1", "camera.example");
            let at = at % broken.len();
            broken[at] ^= 0xff;
            let _ = identity_of(&broken, IdentityFrom::DnsName);
        }
    }
}
