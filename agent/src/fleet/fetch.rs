//! Fetches over `https`: a policy from an allowed origin, with the system's or the configured authorities, which may be a file as well; and
//! small answers to whoever shows a certificate. Bounded in size and time.

use std::{path::Path, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, Uri, client::conn::http1::handshake, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};

use super::{shadow::is_allowed, tls};
use crate::policy::MAX_BYTES;

/// How long a fetch may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Fetches `url` if it begins with one of `origins`; why not otherwise. Redirections are not followed.
pub async fn fetch(url: &str, origins: &[String], ca: Option<&Path>) -> Result<Vec<u8>, String> {
    if !is_allowed(url, origins) {
        return Err(format!("{url} is of no origin that cloud.policy_origins allows"));
    }
    let fetched = async {
        match url.strip_prefix("file://") {
            Some(path) => read(path),
            None => match tls::web(ca) {
                Ok(config) => get(url, config, &[]).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            },
        }
    };
    timeout(PATIENCE, fetched)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
        .map_err(|cause| format!("cannot fetch {url}: {cause}"))
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > MAX_BYTES as u64 {
        return Err(format!("it is larger than {MAX_BYTES} bytes"));
    }
    std::fs::read(path).map_err(|error| error.to_string())
}

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// The server answered something else.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// There was no answer, or none that could be read.
    #[error("{0}")]
    Failed(String),
}

/// The answer to a request with `headers`. Whoever calls it bounds the time.
pub(super) async fn get(
    url: &str,
    config: ClientConfig,
    headers: &[(&'static str, &str)],
) -> Result<Vec<u8>, GetError> {
    fn said(error: &impl ToString) -> GetError {
        GetError::Failed(error.to_string())
    }
    let uri: Uri = url.parse().map_err(|error: hyper::http::uri::InvalidUri| said(&error))?;
    if uri.scheme_str() != Some("https") {
        return Err(GetError::Failed("only https and file are fetched".to_owned()));
    }
    let host = uri.host().ok_or_else(|| said(&"it names no host"))?.to_owned();
    let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443)))
        .await
        .map_err(|error| said(&error))?;
    let name = ServerName::try_from(host.clone()).map_err(|error| said(&error))?;
    let stream =
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| said(&error))?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| said(&error))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = headers
        .iter()
        .fold(Request::get(path), |request, (name, value)| request.header(*name, *value))
        .header(header::HOST, host)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| said(&error))?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|error| said(&error))?;
        if answer.status() != StatusCode::OK {
            return Err(GetError::Status(answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
        body.map(|body| body.to_bytes().to_vec()).map_err(|error| said(&error))
    };
    let mut connection = pin!(connection);
    let mut exchange = pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            // Whatever was received before the end is still to be read.
            Ok(()) => exchange.await,
            Err(error) => Err(said(&error)),
        },
    }
}
