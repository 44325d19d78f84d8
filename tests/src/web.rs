//! A web server with a certificate of its own authority, for what is fetched over https.

use std::{
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{netns::Netns, process::Process, topology::CLOUD, wait_for};

/// Runs a program in `directory`; its output.
pub fn run(directory: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    let output = command.args(arguments).current_dir(directory).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", arguments.join(" "), said.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("what {program} prints is no text"))
}

/// Writes `NAME-ca.pem`, and `NAME.crt` and `NAME.key` of a server at `address`.
pub fn authority(directory: &Path, name: &str, address: &str) -> Result<()> {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-x509"];
    let file = |ending: &str| format!("{name}{ending}");
    let (ca, ca_key) = (file("-ca.pem"), file("-ca.key"));
    let own = ["req", "-subj", "/CN=web authority", "-keyout", &ca_key, "-out", &ca];
    run(directory, "openssl", &[&own[..], &key].concat())?;
    let alternative = format!("subjectAltName=IP:{address}");
    let (server, server_key) = (file(".crt"), file(".key"));
    let mut signed = vec!["req", "-subj", "/CN=web", "-keyout", &server_key, "-out", &server];
    signed.extend(key);
    signed.extend(["-CA", &ca, "-CAkey", &ca_key, "-addext", &alternative]);
    signed.extend(["-addext", "basicConstraints=critical,CA:FALSE"]);
    run(directory, "openssl", &signed).map(drop)
}

/// `https` from a directory.
#[derive(Debug)]
pub struct WebServer(Process);

impl WebServer {
    /// Serves `directory` with `web.crt` in it at the cloud's address.
    pub fn start(netns: &Netns, directory: &Path, port: u16) -> Result<Self> {
        Self::serve(netns, directory, port, &["-WWW"])
    }

    /// The same for those alone who show a certificate of an authority in the file `ca`; the files are whole answers, with their heads.
    pub fn for_known(netns: &Netns, directory: &Path, port: u16, ca: &str) -> Result<Self> {
        Self::serve(netns, directory, port, &["-HTTP", "-Verify", "2", "-verify_return_error", "-CAfile", ca])
    }

    fn serve(netns: &Netns, directory: &Path, port: u16, manner: &[&str]) -> Result<Self> {
        let mut command = netns.command("openssl");
        command.args(["s_server", "-quiet", "-cert", "web.crt", "-key", "web.key"]).args(manner);
        command.args(["-accept", &port.to_string()]).current_dir(directory);
        let server = Process::start(&mut command, &directory.join(format!("web-{port}.log")))?;
        let listens = || netns.enter(|| Ok(TcpStream::connect((CLOUD, port))?)).ok();
        if wait_for(Duration::from_secs(10), listens).is_none() {
            bail!("the web server does not listen: {}", server.said());
        }
        Ok(Self(server))
    }

    /// Its log so far.
    pub fn said(&self) -> String {
        self.0.said()
    }
}
