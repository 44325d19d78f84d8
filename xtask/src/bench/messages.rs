//! Suite `messages`: messages a second through the MQTT guard and the broker behind it, beside the same broker alone.
//!
//! Both stand in the lab's gateway, the guard as a part of `tidegate run`; mosquitto has the same limits in both. Each run sends every
//! message from one publisher to one subscriber and fails if one is lost or out of order. The guard judges every packet; only
//! the limits on rates and connections are out of the way. Commands are signed, and every step of judging them is taken. Memory is what 1,000 idle clients add to the agent, and the whole of
//! mosquitto with as many. Storms of connections against both come last ([`storm`]).

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tidegate_tests::{
    agent::{Agent, Settings},
    load::{self, Load},
    mqtt::{Client, Hello},
    netns,
    process::Process,
    topology::Topology,
    wait_for,
};

use super::{Context, Row, figures, storm};
use crate::shell;

const PEER: &str = "mosquitto alone";
const GUARD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 2883);
const BARE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 3883);
const CLIENTS: usize = 1_000;
const INFLIGHT: u16 = 100;
const WINDOW: u64 = 10_000;
const PAYLOAD: usize = 64;
/// Commands that a device's habit is learned from.
const LEARNED: usize = 110;

/// Measures everything, and writes what was measured into the documentation.
pub(crate) fn rows(context: &Context) -> Result<Vec<Row>> {
    if !shell::is_root() {
        shell::skipped("suite messages", "only root may make network namespaces and load programs");
        return Ok(Vec::new());
    }
    netns::sweep();
    let _alone = tidegate_tests::alone()?;
    raise_file_limit()?;
    let mut rows = throughput(context)?;
    rows.extend(storm::rows(context)?);
    if !context.smoke {
        figures::write_messages(&shell::root().join("docs"), &rows)?;
    }
    Ok(rows)
}

/// Both qualities of service, memory, and commands.
fn throughput(context: &Context) -> Result<Vec<Row>> {
    let topology = Topology::create()?;
    let bare = start_bare(&topology)?;
    let mut settings = Settings::new(shell::target_dir().join("release/tidegate"));
    let signer = Signer { program: settings.binary.clone(), key: topology.directory().join("orders") };
    signer.run(&["keygen", "--output", &signer.key.display().to_string()])?;
    let anchors = signer.key.with_extension("pub");
    settings.keys.extend(keys());
    settings.keys.extend([
        ("commands.topics", "[\"cmd/+/#\"]".to_owned()),
        ("commands.keys", format!("\"{}\"", anchors.display())),
        // The benchmark begins before a signer's clock could have caught up with a start.
        ("commands.skew", "\"0s\"".to_owned()),
    ]);
    let agent = Agent::start(&topology, &settings)?;
    topology.gateway.enter(|| {
        let up = |address| {
            wait_for(Duration::from_secs(10), || {
                Client::connect(address, "first", Duration::from_secs(5)).is_ok().then_some(())
            })
        };
        if up(GUARD).is_none() || up(BARE).is_none() {
            bail!(
                "a broker does not answer; the agent's log:\n{}",
                tidegate_tests::agent::tail(&agent.said(), 20)
            );
        }
        let (zero, one) = if context.smoke { (20_000, 5_000) } else { (400_000, 100_000) };
        Ok(vec![
            compare(
                context,
                "broker_qos0_msgs",
                Load { qos: 0, messages: zero, payload: PAYLOAD, window: WINDOW },
            )?,
            compare(
                context,
                "broker_qos1_msgs",
                Load { qos: 1, messages: one, payload: PAYLOAD, window: INFLIGHT.into() },
            )?,
            memory(context, agent.pid(), bare.pid())?,
            commands(context, &signer)?,
        ])
    })
}

fn compare(context: &Context, name: &str, load: Load) -> Result<Row> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..context.repeats {
        ours.push(load::run(GUARD, &load).context("through the guard")?);
        theirs.push(load::run(BARE, &load).context("without the guard")?);
    }
    Ok(Row::of(name, "messages/s", &ours, PEER, &theirs))
}

fn memory(context: &Context, agent: u32, bare: u32) -> Result<Row> {
    let clients = if context.smoke { CLIENTS / 10 } else { CLIENTS };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let before = resident_mib(agent)?;
    for _ in 0..context.repeats {
        let _held = connect(GUARD, clients)?;
        ours.push((resident_mib(agent)? - before).max(0.0));
        let _held = connect(BARE, clients)?;
        theirs.push(resident_mib(bare)?);
    }
    Ok(Row::of("broker_1000_clients_mib", "MiB", &ours, PEER, &theirs))
}

/// What judging adds to the time from a command to its acknowledgement, beside a message through the same guard that is no command:
/// the difference of the 99th percentiles. The device's habit is known, so every step is taken.
fn commands(context: &Context, signer: &Signer) -> Result<Row> {
    let count = if context.smoke { 100 } else { 500 };
    let mut client = Client::connect(GUARD, "hub", Duration::from_secs(10))?;
    for number in 0..LEARNED {
        client.publish("cmd/lamp/set", &signer.command(number)?)?;
    }
    // The loop learns once a second.
    std::thread::sleep(Duration::from_secs(3));
    let (mut added, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..context.repeats {
        let commands: Vec<Vec<u8>> =
            (0..count).map(|number| signer.command(number)).collect::<Result<_>>()?;
        let judged = p99_us(&mut client, "cmd/lamp/set", &commands)?;
        let unjudged = p99_us(&mut client, "load/plain", &commands)?;
        added.push((judged - unjudged).max(0.0));
        plain.push(unjudged);
    }
    Ok(Row::of("command_added_p99_us", "us", &added, "the guard without judging", &plain))
}

/// Signs commands as an operator does.
struct Signer {
    program: PathBuf,
    key: PathBuf,
}

impl Signer {
    fn run(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new(&self.program).arg("commands").args(arguments).output();
        let output = output.with_context(|| format!("cannot start {}", self.program.display()))?;
        if !output.status.success() {
            bail!("cannot sign: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    fn command(&self, number: usize) -> Result<Vec<u8>> {
        let file = self.key.with_extension("command");
        let (key, params) = (self.key.with_extension("key"), format!("{{\"level\": {}}}", number % 50));
        let (key, output) = (key.display().to_string(), file.display().to_string());
        let what = ["sign", "set", "--device", "lamp", "--lifetime", "5m", "--params", &params];
        self.run(&[&what[..], &["--key", &key, "--output", &output]].concat())?;
        fs::read(&file).with_context(|| format!("cannot read {output}"))
    }
}

fn p99_us(client: &mut Client, topic: &str, payloads: &[Vec<u8>]) -> Result<f64> {
    let mut times = Vec::with_capacity(payloads.len());
    for payload in payloads {
        let began = Instant::now();
        client.publish(topic, payload)?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    times.get(times.len() * 99 / 100).copied().context("no commands")
}

fn connect(broker: SocketAddr, clients: usize) -> Result<Vec<TcpStream>> {
    (0..clients)
        .map(|number| {
            let client_id = format!("idle{number}");
            let hello = Hello { client_id: &client_id, ..Hello::default() };
            Ok(Client::open(broker, &hello, Duration::from_secs(10))?.into_stream())
        })
        .collect()
}

/// The guard without limits on rates and numbers that a single machine's load would meet.
fn keys() -> Vec<(&'static str, String)> {
    vec![
        ("messages.listen", format!("\"{GUARD}\"")),
        ("messages.anonymous", "true".to_owned()),
        (
            "messages.rules",
            "[{ who = \"*\", publish = [\"load/+\", \"cmd/#\", \"d/%c/#\"], subscribe = [\"load/#\", \"d/%c/#\"] }]"
                .to_owned(),
        ),
        ("message_limits.connections_per_source", "2000".to_owned()),
        ("message_limits.connects_per_second", "100000".to_owned()),
        ("message_limits.strangers_per_second", "100000".to_owned()),
        ("message_limits.messages_per_second", "10000000".to_owned()),
        ("message_limits.bytes_per_second", "1000000000".to_owned()),
        ("message_limits.inflight", INFLIGHT.to_string()),
        ("message_limits.queued_messages", "100000".to_owned()),
    ]
}

fn start_bare(topology: &Topology) -> Result<Process> {
    let directory = topology.directory();
    let file = directory.join("bare.conf");
    let text = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\nuser root\nset_tcp_nodelay true\n\
         max_inflight_messages {INFLIGHT}\nmax_queued_messages 100000\nlog_type error\n",
        BARE.port()
    );
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = topology.gateway.command("mosquitto");
    Process::start(command.arg("-c").arg(&file), &directory.join("bare.log"))
}

pub(super) fn resident_mib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(Path::new(&path)).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no resident memory")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("unreadable memory")?;
    Ok(kib / 1_024.0)
}

/// Every client is a file of this process too.
fn raise_file_limit() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit on open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).context("cannot raise the limit on open files")
}
