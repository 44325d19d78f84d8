//! Credentials for the gateway's own certificate: AWS IoT's credential provider exchanges it for short-lived ones of a role alias, so no
//! key of AWS is kept anywhere.

use std::time::Duration;

use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, error::CredentialsError, future},
};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::timeout;

use super::{
    fetch::{GetError, get},
    tls::{self, TlsFiles},
};

/// How long the provider may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Header that names the thing, for policies with its name.
const THING: &str = "x-amzn-iot-thingname";

/// A certificate was given no credentials.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {cause}")]
pub struct RoleError {
    url: String,
    cause: GetError,
}

impl RoleError {
    /// Whether the provider itself said no, so that asking again is of no use.
    pub fn is_refusal(&self) -> bool {
        matches!(self.cause, GetError::Status(status) if status.is_client_error())
    }
}

/// A role alias at an endpoint of the credential provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleAlias {
    /// Host name, and port if it is not 443.
    pub endpoint: String,
    /// The alias.
    pub alias: String,
    /// The gateway's thing.
    pub thing: String,
    /// The gateway's certificate.
    pub tls: TlsFiles,
}

/// Reads the provider's answer.
fn credentials(answer: &[u8]) -> Result<Credentials, String> {
    #[derive(Deserialize)]
    struct Answer {
        credentials: Given,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Given {
        access_key_id: String,
        secret_access_key: String,
        session_token: String,
        expiration: Timestamp,
    }
    // The error of the parser tells a place, and nothing of what stands there.
    let Answer { credentials: given } = serde_json::from_slice(answer).map_err(|error| {
        format!("the answer cannot be read (line {}, column {})", error.line(), error.column())
    })?;
    let expires = given.expiration.into();
    Ok(Credentials::new(
        given.access_key_id,
        given.secret_access_key,
        Some(given.session_token),
        Some(expires),
        "tidegate-role-alias",
    ))
}

impl RoleAlias {
    /// Credentials for the certificate.
    pub async fn exchange(&self) -> Result<Credentials, RoleError> {
        let url = format!("https://{}/role-aliases/{}/credentials", self.endpoint, self.alias);
        let asked = async {
            let config = tls::mutual(&self.tls).map_err(|error| GetError::Failed(error.to_string()))?;
            let answer = timeout(PATIENCE, get(&url, config, &[(THING, &self.thing)])).await;
            let late = |_| GetError::Failed(format!("no answer within {} s", PATIENCE.as_secs()));
            credentials(&answer.map_err(late)??).map_err(GetError::Failed)
        };
        asked.await.map_err(|cause| RoleError { url: url.clone(), cause })
    }
}

impl ProvideCredentials for RoleAlias {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.exchange().await.map_err(CredentialsError::provider_error)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a refused answer is the test's failure")]

    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{RootCertStore, ServerConfig, crypto, server::WebPkiClientVerifier},
    };

    use super::*;

    #[test]
    fn an_answer_is_read_with_its_end_and_shown_without_its_secrets() {
        let answer = br#"{"credentials":{"accessKeyId":"A","secretAccessKey":"hidden","sessionToken":"T",
            "expiration":"2030-01-02T03:04:05Z"}}"#;
        let given = credentials(answer).unwrap();
        let expires: Timestamp = "2030-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(given.expiry(), Some(expires.into()));
        assert_eq!((given.access_key_id(), given.session_token()), ("A", Some("T")));
        assert!(!format!("{given:?}").contains("hidden"));
        let refused = credentials(br#"{"credentials":{"accessKeyId":"A","secretAccessKey":hidden}}"#);
        assert!(!refused.unwrap_err().contains("hidden"));
    }

    /// An authority that signed a server at 127.0.0.1 and the gateway.
    fn certify(place: &Path) -> ServerConfig {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        fs::write(place.join("ca.pem"), authority.pem()).unwrap();
        let sign = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            (params.signed_by(&key, &issuer).unwrap(), key)
        };
        let (gateway, gateway_key) = sign("gate");
        fs::write(place.join("gate.crt"), gateway.pem()).unwrap();
        fs::write(place.join("gate.key"), gateway_key.serialize_pem()).unwrap();
        fs::set_permissions(place.join("gate.key"), fs::Permissions::from_mode(0o600)).unwrap();
        let (server, server_key) = sign("127.0.0.1");
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let provider = Arc::new(crypto::ring::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider)).build();
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.unwrap())
            .with_single_cert(vec![server.der().clone()], server_key.serialize_der().try_into().unwrap())
            .unwrap()
    }

    #[tokio::test]
    async fn the_certificate_is_exchanged_for_credentials_under_the_name_of_the_thing() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        let acceptor = TlsAcceptor::from(Arc::new(certify(place)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let role = RoleAlias {
            endpoint: listener.local_addr().unwrap().to_string(),
            alias: "gateways".to_owned(),
            thing: "gate".to_owned(),
            tls: TlsFiles {
                ca: Some(place.join("ca.pem")),
                certificate: place.join("gate.crt"),
                key: place.join("gate.key"),
            },
        };
        let body = r#"{"credentials":{"accessKeyId":"A","secretAccessKey":"S","sessionToken":"T","expiration":"2030-01-02T03:04:05Z"}}"#;
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            assert!(stream.get_ref().1.peer_certificates().is_some());
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            String::from_utf8(asked).unwrap()
        };
        let (given, asked) = tokio::join!(role.provide_credentials(), serve);
        assert_eq!(given.unwrap().secret_access_key(), "S");
        assert!(asked.starts_with("GET /role-aliases/gateways/credentials HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("x-amzn-iot-thingname: gate\r\n"), "{asked}");
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_a_panic(answer in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = credentials(&answer);
        }
    }
}
