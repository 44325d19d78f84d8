//! Tidegate as an operator sees it: a program, a configuration file, and the command line.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    process::Process,
    topology::{CLOUD, DNS, GATEWAY, NTP, Topology},
    wait_for,
};

/// How Tidegate is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program.
    pub binary: PathBuf,
    /// `auto`, `enforce` or `monitor`.
    pub mode: &'static str,
    /// How long it learns, in seconds; 60 at least.
    pub learning_s: u64,
    /// How long a first block lasts, in seconds.
    pub base_ttl_s: u64,
    /// Other keys of the configuration, such as `("enforcement.max_ttl", "\"1h\"")`; they win over the lab's own.
    pub keys: Vec<(&'static str, String)>,
    /// Variables of its environment.
    pub environment: Vec<(&'static str, String)>,
}

impl Settings {
    /// Defaults of the lab.
    pub fn new(binary: PathBuf) -> Self {
        Self {
            binary,
            mode: "enforce",
            learning_s: 60,
            base_ttl_s: 600,
            keys: Vec::new(),
            environment: Vec::new(),
        }
    }
}

/// A running Tidegate in the gateway of a topology.
#[derive(Debug)]
pub struct Agent {
    binary: PathBuf,
    environment: Vec<(&'static str, String)>,
    config: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    process: Process,
    /// From start to the first answer.
    pub ready_after: Duration,
}

impl Agent {
    /// Starts Tidegate on all ports of the gateway; returns once it answers.
    pub fn start(topology: &Topology, settings: &Settings) -> Result<Self> {
        let directory = topology.directory();
        let config = directory.join("tidegate.toml");
        fs::write(&config, configuration(topology, settings)).context("cannot write the configuration")?;
        let (socket, log) = (directory.join("tidegate.sock"), directory.join("tidegate.log"));
        let started = Instant::now();
        let process = spawn(topology, &settings.binary, &settings.environment, &config, &log)?;
        let mut agent = Self {
            binary: settings.binary.clone(),
            environment: settings.environment.clone(),
            config,
            socket,
            log,
            process,
            ready_after: Duration::ZERO,
        };
        agent.wait_ready(started)?;
        Ok(agent)
    }

    /// Starts it again after [`Self::kill`] or [`Self::stop`].
    pub fn restart(&mut self, topology: &Topology) -> Result<()> {
        let started = Instant::now();
        self.process = spawn(topology, &self.binary, &self.environment, &self.config, &self.log)?;
        self.wait_ready(started)
    }

    /// Ends it like a power cut would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it like systemd would.
    pub fn stop(&mut self) {
        self.process.stop();
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its log.
    pub fn said(&self) -> String {
        self.process.said()
    }

    /// Runs a command of the command line; its JSON.
    pub fn ask(&self, arguments: &[&str]) -> Result<Value> {
        serde_json::from_str(&self.answer(arguments)?)
            .with_context(|| format!("tidegate {} printed no JSON", arguments.join(" ")))
    }

    /// Runs a command of the command line; what it prints as JSON.
    pub fn answer(&self, arguments: &[&str]) -> Result<String> {
        let output = std::process::Command::new(&self.binary)
            .args(arguments)
            .args(["-o", "json"])
            .env("TIDEGATE_SOCKET", &self.socket)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        // 3 is "degraded", which still answers.
        if !output.status.success() && output.status.code() != Some(3) {
            bail!("tidegate {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8(output.stdout).context("the answer is no text")
    }

    /// The list called `field` in the answer to a command.
    pub fn list(&self, arguments: &[&str], field: &str) -> Result<Vec<Value>> {
        let mut answer = self.ask(arguments)?;
        match answer.get_mut(field).map(Value::take) {
            Some(Value::Array(list)) => Ok(list),
            _ => bail!("tidegate {}: the answer has no list `{field}`: {answer}", arguments.join(" ")),
        }
    }

    fn wait_ready(&mut self, started: Instant) -> Result<()> {
        let deadline = started + Duration::from_secs(20);
        while Instant::now() < deadline {
            if !self.process.is_running() {
                break;
            }
            if self.socket.exists() && self.ask(&["status"]).is_ok() {
                self.ready_after = started.elapsed();
                return Ok(());
            }
            wait_for(Duration::from_millis(20), || None::<()>);
        }
        let why = self.ask(&["status"]).err().map(|error| format!("{error:#}")).unwrap_or_default();
        bail!("tidegate does not answer: {why}\nits log ends with:\n{}", tail(&self.said(), 20));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.stop();
    }
}

/// The agent that was built with these tests: the one named by `TIDEGATE_BINARY`, or the one beside the running test.
pub fn built() -> Option<PathBuf> {
    let named = std::env::var_os("TIDEGATE_BINARY").map(PathBuf::from);
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("tidegate"));
    named.or_else(beside).filter(|binary| binary.is_file())
}

/// The last `lines` of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn spawn(
    topology: &Topology,
    binary: &Path,
    environment: &[(&'static str, String)],
    config: &Path,
    log: &Path,
) -> Result<Process> {
    let mut command = topology.gateway.command(&binary.display().to_string());
    command.args(["run", "-c"]).arg(config);
    for place in &topology.devices {
        command.args(["-i", &place.port]);
    }
    // The variable for the client must not reach the daemon: its socket stands in the file.
    command.env_remove("TIDEGATE_SOCKET").env("NO_COLOR", "1").envs(environment.iter().cloned());
    Process::start(&mut command, log)
}

fn configuration(topology: &Topology, settings: &Settings) -> String {
    let directory = topology.directory().display();
    let text = |value: &dyn std::fmt::Display| format!("\"{value}\"");
    let list = |value: &dyn std::fmt::Display| format!("[\"{value}\"]");
    let defaults = [
        ("gateway.mode", text(&settings.mode)),
        ("gateway.state_dir", text(&format_args!("{directory}/state"))),
        ("gateway.socket", text(&format_args!("{directory}/tidegate.sock"))),
        ("gateway.pin_path", text(&format_args!("{directory}/bpf/tidegate"))),
        ("learning.learning_period", text(&format_args!("{}s", settings.learning_s))),
        ("learning.window", text(&"5s")),
        ("learning.min_windows", "8".to_owned()),
        ("learning.min_flows", "16".to_owned()),
        ("enforcement.base_ttl", text(&format_args!("{}s", settings.base_ttl_s))),
        ("enforcement.blast_radius_devices_per_hour", "1000".to_owned()),
        // The same device attacks again and again here, and is released each time.
        ("enforcement.cooldown", text(&"0s")),
        ("never_block.dns", list(&GATEWAY)),
        ("never_block.dhcp", list(&GATEWAY)),
        ("never_block.ntp", list(&NTP)),
        ("never_block.cloud", list(&CLOUD)),
        ("reachability.dns", list(&DNS)),
        ("reachability.dns_name", text(&"cloud.test")),
        ("reachability.ntp", list(&NTP)),
        ("reachability.cloud", list(&format_args!("{CLOUD}:80"))),
        ("reachability.interval", text(&"5s")),
        ("metrics.listen", text(&"127.0.0.1:9469")),
    ];
    let mut keys: BTreeMap<&str, String> = defaults.into_iter().collect();
    keys.extend(settings.keys.iter().map(|(key, value)| (*key, value.clone())));
    keys.into_iter().fold(String::new(), |text, (key, value)| text + key + " = " + &value + "\n")
}
