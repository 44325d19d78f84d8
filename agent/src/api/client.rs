//! The command line's end of the socket: one connection a question.

mod commands;
mod neighbours;
mod policy;
mod profiles;

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::{Pin, pin},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use crate::{
    api::{
        request::{
            ANSWER_WITHIN, AllowOrder, BlockOrder, DeviceRef, IncidentFilter, IsolationOrder, Refusal,
        },
        view::{
            AllowCheckView, AllowView, Allowed, BlockView, Blocks, DeviceView, Devices, EventView, Events,
            ExplainView, IncidentView, Incidents, ModelView, Models, ReloadView, StatusView, Versioned,
        },
    },
    enforce::Target,
};

/// Largest answer that is read.
const MAX_ANSWER: usize = 64 << 20;
/// The daemon has its own deadline; this one is for a daemon that hangs.
const PATIENCE: Duration = ANSWER_WITHIN.saturating_add(Duration::from_secs(5));

/// The daemon could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("the daemon is not running at {0}")]
    NotRunning(PathBuf),
    /// The socket is there but closed to us.
    #[error("you may not use {0}")]
    Forbidden(PathBuf),
    /// It answered with a refusal.
    #[error("{0}")]
    Refused(Refusal),
    /// It answered something that cannot be understood, or not at all.
    #[error("the daemon at {path} {cause}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        cause: String,
    },
}

impl ClientError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::NotRunning(_) => {
                "start it with `tidegate run -i IFACE` or `systemctl start tidegate`, or name its socket with --socket"
                    .to_owned()
            }
            Self::Forbidden(_) => {
                "run the command as root, or join the group named by gateway.socket_group".to_owned()
            }
            Self::Refused(refusal) => refusal.hint.clone(),
            Self::Broken { .. } => "command and daemon may be of different versions: restart the daemon".to_owned(),
        }
    }
}

/// Asks one daemon.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

type Result<T> = std::result::Result<T, ClientError>;

impl Client {
    /// A client of the daemon at `socket`; nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// How the gateway is.
    pub async fn status(&self) -> Result<StatusView> {
        self.get("/v1/status", &[]).await
    }

    /// The configuration in force, as TOML.
    pub async fn config(&self) -> Result<String> {
        let bytes = self.exchange(Method::GET, "/v1/config", &[], Bytes::new()).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Read the configuration file again.
    pub async fn reload(&self) -> Result<ReloadView> {
        self.send(Method::POST, "/v1/reload", &[], &()).await
    }

    /// Every device.
    pub async fn devices(&self) -> Result<Vec<DeviceView>> {
        Ok(self.get::<Devices>("/v1/devices", &[]).await?.devices)
    }

    /// One device.
    pub async fn device(&self, device: &DeviceRef) -> Result<DeviceView> {
        self.get("/v1/device", &[("device", &device.to_string())]).await
    }

    /// Isolate a device.
    pub async fn isolate(&self, order: &IsolationOrder) -> Result<BlockView> {
        self.send(Method::POST, "/v1/device/isolation", &[], order).await
    }

    /// End a device's isolation.
    pub async fn release(&self, device: &DeviceRef) -> Result<BlockView> {
        self.send(Method::DELETE, "/v1/device/isolation", &[("device", &device.to_string())], &()).await
    }

    /// Every enforcement.
    pub async fn blocks(&self) -> Result<Vec<BlockView>> {
        Ok(self.get::<Blocks>("/v1/blocks", &[]).await?.blocks)
    }

    /// Block an address or prefix.
    pub async fn block(&self, order: &BlockOrder) -> Result<BlockView> {
        self.send(Method::POST, "/v1/blocks", &[], order).await
    }

    /// End one enforcement.
    pub async fn unblock(&self, target: &Target) -> Result<BlockView> {
        self.send(Method::DELETE, "/v1/blocks", &[("target", &target.to_string())], &()).await
    }

    /// End every enforcement.
    pub async fn flush(&self) -> Result<Vec<BlockView>> {
        Ok(self.send::<_, Blocks>(Method::POST, "/v1/blocks/flush", &[], &()).await?.blocks)
    }

    /// Every never-block entry.
    pub async fn allowed(&self) -> Result<Vec<AllowView>> {
        Ok(self.get::<Allowed>("/v1/allow", &[]).await?.allow)
    }

    /// Add a never-block entry.
    pub async fn allow(&self, order: &AllowOrder) -> Result<AllowView> {
        self.send(Method::POST, "/v1/allow", &[], order).await
    }

    /// Delete a never-block entry.
    pub async fn disallow(&self, target: &Target) -> Result<AllowView> {
        self.send(Method::DELETE, "/v1/allow", &[("target", &target.to_string())], &()).await
    }

    /// Whether a target is protected.
    pub async fn check_allowed(&self, target: &Target) -> Result<AllowCheckView> {
        self.get("/v1/allow/check", &[("target", &target.to_string())]).await
    }

    /// Incidents, newest first.
    pub async fn incidents(&self, filter: IncidentFilter) -> Result<Incidents> {
        let (limit, open) = (filter.limit.to_string(), filter.open.to_string());
        let gathered = filter.gathered.to_string();
        let within = filter.within_s.map(|seconds| seconds.to_string());
        let mut query =
            vec![("limit", limit.as_str()), ("open", open.as_str()), ("gathered", gathered.as_str())];
        query.extend(within.as_deref().map(|seconds| ("within_s", seconds)));
        self.get("/v1/incidents", &query).await
    }

    /// One incident.
    pub async fn incident(&self, id: &str) -> Result<IncidentView> {
        self.get("/v1/incident", &[("id", id)]).await
    }

    /// Why something was done.
    pub async fn explain(&self, id: &str) -> Result<ExplainView> {
        self.get("/v1/explain", &[("id", id)]).await
    }

    /// The last events, oldest first.
    pub async fn events(&self, limit: usize) -> Result<Vec<EventView>> {
        Ok(self.get::<Events>("/v1/events", &[("limit", &limit.to_string())]).await?.events)
    }

    /// Events from now on, one after the other.
    pub async fn follow(&self) -> Result<Follow> {
        let response = self.request(Method::GET, "/v1/events/follow", &[], Bytes::new()).await?;
        let (body, driver) = response;
        Ok(Follow { body, driver, pending: Vec::new(), socket: self.socket.clone() })
    }

    /// Baselines.
    pub async fn models(&self) -> Result<Vec<ModelView>> {
        Ok(self.get::<Models>("/v1/models", &[]).await?.models)
    }

    /// Train one baseline, or all.
    pub async fn train(&self, device: Option<&DeviceRef>) -> Result<Vec<ModelView>> {
        let device = device.map(ToString::to_string);
        let query: Vec<_> = device.as_deref().map(|device| ("device", device)).into_iter().collect();
        Ok(self.send::<_, Models>(Method::POST, "/v1/models/train", &query, &()).await?.models)
    }

    /// Go back to the previous baseline.
    pub async fn rollback(&self, device: &DeviceRef) -> Result<ModelView> {
        self.send(Method::POST, "/v1/models/rollback", &[("device", &device.to_string())], &()).await
    }

    /// A baseline as a document.
    pub async fn export(&self, device: &DeviceRef) -> Result<Bytes> {
        let query = [("device", &*device.to_string())];
        self.exchange(Method::GET, "/v1/models/export", &query, Bytes::new()).await
    }

    /// Give a device the baseline of a document.
    pub async fn import(&self, device: &DeviceRef, document: Bytes) -> Result<ModelView> {
        let query = [("device", &*device.to_string())];
        let bytes = self.exchange(Method::POST, "/v1/models/import", &query, document).await?;
        self.decode(&bytes)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T> {
        let bytes = self.exchange(Method::GET, path, query, Bytes::new()).await?;
        self.decode(&bytes)
    }

    async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: &B,
    ) -> Result<T> {
        let body =
            serde_json::to_vec(body).map_err(|error| self.broken(format!("was not asked: {error}")))?;
        let bytes = self.exchange(method, path, query, body.into()).await?;
        self.decode(&bytes)
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T> {
        let versioned: Versioned<T> = serde_json::from_slice(bytes)
            .map_err(|error| self.broken(format!("gave an answer that cannot be understood: {error}")))?;
        Ok(versioned.view)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Bytes> {
        let (body, driver) = self.request(method, path, query, body).await?;
        self.read(body, driver).await
    }

    async fn read(&self, body: Incoming, mut driver: Driver) -> Result<Bytes> {
        let collected = timeout(PATIENCE, driver.during(Limited::new(body, MAX_ANSWER).collect())).await;
        match collected {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) => Err(self.broken(format!("broke off its answer: {error}"))),
            Err(_) => Err(self.broken("did not finish its answer".to_owned())),
        }
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Bytes,
    ) -> Result<(Incoming, Driver)> {
        let request = Request::builder()
            .method(method)
            .uri(uri(path, query))
            .header(header::HOST, "tidegate")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.broken(format!("was not asked: {error}")))?;
        let (mut sender, mut driver) = self.connect().await?;
        let response = match timeout(PATIENCE, driver.during(sender.send_request(request))).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.broken(format!("broke off the connection: {error}"))),
            Err(_) => return Err(self.broken(format!("did not answer within {} s", PATIENCE.as_secs()))),
        };
        let status = response.status();
        if status.is_success() {
            return Ok((response.into_body(), driver));
        }
        let bytes = self.read(response.into_body(), driver).await?;
        Err(match serde_json::from_slice::<Versioned<Refusal>>(&bytes) {
            Ok(refusal) => ClientError::Refused(refusal.view),
            Err(_) if status == StatusCode::NOT_FOUND => self.broken("does not know this command".to_owned()),
            Err(_) => {
                self.broken(format!("refused the question: {}", String::from_utf8_lossy(&bytes).trim()))
            }
        })
    }

    async fn connect(&self) -> Result<(SendRequest<Full<Bytes>>, Driver)> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(self.socket.clone())
            }
            io::ErrorKind::PermissionDenied => ClientError::Forbidden(self.socket.clone()),
            _ => self.broken(format!("cannot be reached: {error}")),
        })?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(format!("does not speak HTTP: {error}")))?;
        // Its error reaches the caller through the request as well.
        let driver = Driver(Some(Box::pin(async move {
            let _ = connection.await;
        })));
        Ok((sender, driver))
    }

    fn broken(&self, cause: String) -> ClientError {
        ClientError::Broken { path: self.socket.clone(), cause }
    }
}

/// The connection's own work, done while something waits for it: this room starts no tasks.
struct Driver(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Driver {
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if let Some(connection) = &mut self.0 {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = connection => self.0 = None,
            }
        }
        // The connection has ended: what it received is there to be read.
        work.await
    }
}

/// Events as they happen.
pub struct Follow {
    body: Incoming,
    driver: Driver,
    pending: Vec<u8>,
    socket: PathBuf,
}

impl Follow {
    /// The next event; none when the daemon stopped.
    pub async fn next(&mut self) -> Result<Option<EventView>> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let event: Versioned<EventView> = serde_json::from_slice(&line).map_err(|error| {
                    let cause = format!("sent an event that cannot be understood: {error}");
                    ClientError::Broken { path: self.socket.clone(), cause }
                })?;
                return Ok(Some(event.view));
            }
            match self.driver.during(self.body.frame()).await {
                Some(Ok(frame)) => self.pending.extend(frame.into_data().unwrap_or_default()),
                // A daemon that was killed ends the stream in the middle: the same as a stop for whoever watches.
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }
}

/// `path` with `query`, percent-encoded but for unreserved characters (RFC 3986, section 2.3).
fn uri(path: &str, query: &[(&str, &str)]) -> String {
    use std::fmt::Write as _;
    let mut uri = path.to_owned();
    for (index, (name, value)) in query.iter().enumerate() {
        uri.push(if index == 0 { '?' } else { '&' });
        uri.push_str(name);
        uri.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                uri.push(char::from(byte));
            } else {
                let _ = write!(uri, "%{byte:02X}");
            }
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_query_carries_survives_the_uri() {
        assert_eq!(
            uri("/v1/blocks", &[("target", "2001:db8::/48")]),
            "/v1/blocks?target=2001%3Adb8%3A%3A%2F48"
        );
        assert_eq!(uri("/v1/x", &[("a", "1"), ("b", "é &")]), "/v1/x?a=1&b=%C3%A9%20%26");
    }
}
