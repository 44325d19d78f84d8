//! AWS without AWS: the emulator ministack, with its MQTT endpoint that asks for certificates, inside a network namespace.
//!
//! `cargo xtask setup --cloud` installs it; [`PROGRAM`] names another. Its MQTT listener binds every address, so it must never run outside a
//! namespace of the lab. What it knows is kept in its directory, so that [`Emulator::stop`] and [`Emulator::start`] are a cloud that
//! was cut off and came back.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{netns::Netns, process::Process, wait_for};

/// Environment variable with the path of the emulator.
pub const PROGRAM: &str = "TIDEGATE_EMULATOR";
/// Port of the services' HTTP endpoint.
pub const HTTP_PORT: u16 = 4_577;
/// Port of MQTT with mutual TLS.
pub const MQTT_PORT: u16 = 8_883;
/// Account that everything belongs to.
pub const ACCOUNT: &str = "123456789012";
/// Region that everything is in.
pub const REGION: &str = "eu-central-1";

/// It starts within two seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(40);
/// The first call to a service loads it, which took more than 5 s on a machine that compiled beside it.
const ANSWER: Duration = Duration::from_secs(30);

/// A running emulator.
#[derive(Debug)]
pub struct Emulator {
    process: Option<Process>,
    program: PathBuf,
    address: IpAddr,
    directory: PathBuf,
}

impl Emulator {
    /// The program that [`PROGRAM`] names.
    pub fn installed() -> Option<PathBuf> {
        std::env::var_os(PROGRAM).map(PathBuf::from).filter(|program| program.is_file())
    }

    /// Starts it inside `netns`, to be reached at `address`; returns once it answers. What it knows is kept below `directory`.
    pub fn launch(program: &Path, netns: &Netns, address: IpAddr, directory: &Path) -> Result<Self> {
        let mut emulator = Self {
            process: None,
            program: program.to_owned(),
            address,
            directory: directory.join("emulator"),
        };
        emulator.start(netns)?;
        Ok(emulator)
    }

    /// Starts it again after [`Self::stop`].
    pub fn start(&mut self, netns: &Netns) -> Result<()> {
        fs::create_dir_all(&self.directory).context("cannot make the emulator's directory")?;
        let mut command = netns.command(&self.program.display().to_string());
        command.current_dir(&self.directory).envs([
            ("BIND_HOST", self.address.to_string()),
            ("GATEWAY_PORT", HTTP_PORT.to_string()),
            // It puts this name into the certificate of its MQTT endpoint and into its answers.
            ("MINISTACK_HOST", self.address.to_string()),
            ("MINISTACK_ACCOUNT_ID", ACCOUNT.to_owned()),
            ("MINISTACK_REGION", REGION.to_owned()),
            ("IOT_MTLS_PORT", MQTT_PORT.to_string()),
            ("PERSIST_STATE", "1".to_owned()),
            ("STATE_DIR", self.directory.display().to_string()),
            // Policies count, those of certificates included.
            ("AUTH", "true".to_owned()),
        ]);
        let process = Process::start(&mut command, &self.directory.join("log"))?;
        self.process = Some(process);
        let healthy = || {
            let health = self.get(netns, "/_ministack/health").ok()?;
            health.contains("\"listening\"").then_some(())
        };
        if wait_for(PATIENCE, healthy).is_none() {
            bail!("the emulator does not listen:\n{}", self.said());
        }
        Ok(())
    }

    /// Ends it as a service is ended, so that it keeps what it knows.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop();
        }
    }

    /// Its log so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Address of its services, as `AWS_ENDPOINT_URL` takes it.
    pub fn url(&self) -> String {
        url(self.address)
    }

    /// What a command line, an SDK or the agent needs to reach it from inside the namespace.
    pub fn environment(&self) -> [(&'static str, String); 5] {
        Self::environment_at(self.address)
    }

    /// The same for one that will be at `address`.
    pub fn environment_at(address: IpAddr) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", url(address)),
            ("AWS_REGION", REGION.to_owned()),
            // With twelve digits it is the account; the emulator checks no more than that there is a key.
            ("AWS_ACCESS_KEY_ID", ACCOUNT.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }

    /// The authority of its MQTT endpoint (PEM).
    pub fn authority(&self, netns: &Netns) -> Result<String> {
        let answer = self.get(netns, "/_ministack/iot/ca.pem")?;
        let at = answer.find("-----BEGIN").context("the emulator shows no authority")?;
        Ok(answer[at..].to_owned())
    }

    /// Makes a role that IoT rules may take, with the right to `action`; its name as a resource.
    pub fn role(&self, netns: &Netns, name: &str, action: &str) -> Result<String> {
        let trust = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"iot.amazonaws.com"},"Action":"sts:AssumeRole"}]}"#;
        let rights = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"{action}","Resource":"*"}}]}}"#
        );
        self.identity(
            netns,
            &[("Action", "CreateRole"), ("RoleName", name), ("AssumeRolePolicyDocument", trust)],
        )?;
        let policy = [("Action", "PutRolePolicy"), ("RoleName", name), ("PolicyName", name)];
        self.identity(netns, &[&policy[..], &[("PolicyDocument", &rights)]].concat())?;
        Ok(format!("arn:aws:iam::{ACCOUNT}:role/{name}"))
    }

    /// Asks IAM. Its SDK would be compiled for these two calls alone.
    fn identity(&self, netns: &Netns, parameters: &[(&str, &str)]) -> Result<()> {
        let encoded = parameters.iter().map(|(name, value)| format!("{name}={}", percent(value)));
        let body = encoded.chain(["Version=2010-05-08".to_owned()]).collect::<Vec<_>>().join("&");
        let kind = "Content-Type: application/x-www-form-urlencoded";
        self.exchange(netns, &signed("POST / HTTP/1.1", "iam", kind, body.len()), &body).map(drop)
    }

    /// Asks `service` as an SDK does, for those who must not need one: `line` is the request's method and path, `operation` the name
    /// that services with one path tell their calls by, else empty.
    pub fn ask(
        &self,
        netns: &Netns,
        service: &str,
        line: &str,
        operation: &str,
        body: &Value,
    ) -> Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut kind = "Content-Type: application/x-amz-json-1.0".to_owned();
        if !operation.is_empty() {
            let _ = write!(kind, "\r\nX-Amz-Target: {operation}");
        }
        let head = signed(&format!("{line} HTTP/1.1"), service, &kind, body.len());
        let answer = self.exchange(netns, &head, &body)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("the emulator's answer has no body")?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(body)
            .with_context(|| format!("{line}: the emulator's answer is no JSON: {body}"))
    }

    fn get(&self, netns: &Netns, path: &str) -> Result<String> {
        self.exchange(netns, &format!("GET {path} HTTP/1.1"), "")
    }

    fn exchange(&self, netns: &Netns, head: &str, body: &str) -> Result<String> {
        exchange(netns, SocketAddr::new(self.address, HTTP_PORT), head, body)
    }
}

/// Sends a request to `address` from inside `netns`; the whole answer, if it is a success.
pub(crate) fn exchange(netns: &Netns, address: SocketAddr, head: &str, body: &str) -> Result<String> {
    netns.enter(|| {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(ANSWER))?;
        write!(stream, "{head}\r\nHost: {address}\r\nConnection: close\r\n\r\n{body}")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if !answer.starts_with("HTTP/1.1 20") {
            bail!("{}: {answer}", head.lines().next().unwrap_or_default());
        }
        Ok(answer)
    })
}

/// Head of a request to `service`. The emulator reads the service from the signature and does not check it.
fn signed(line: &str, service: &str, kind: &str, length: usize) -> String {
    format!(
        "{line}\r\n{kind}\r\nContent-Length: {length}\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential={ACCOUNT}/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=0"
    )
}

/// `text` as a value of a form.
fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            byte if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
            // Writing to a string cannot fail.
            byte => _ = write!(encoded, "%{byte:02X}"),
        }
        encoded
    })
}

fn url(address: IpAddr) -> String {
    format!("http://{}", SocketAddr::new(address, HTTP_PORT))
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop();
    }
}
