//! A storm of connections against the MQTT guard with its default limits, beside the same storm against mosquitto alone.
//!
//! Honest clients talk to whoever is stormed all the while: a message that is lost or out of order ends the benchmark, one that is late is a figure. Both sides
//! get the same storm, one after the other. The storm runs on the same machine, so what it costs is a part of every delay; what the
//! servers cost themselves is the CPU time of their processes.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use tidegate_tests::{
    agent::{self, Agent, Settings},
    mqtt::{Client, Hello},
    process::Process,
    storm::{Greeting, Honest, Noticed, Storm, percentile},
    topology::Topology,
    wait_for, web,
};

use super::{Context, Row, messages::resident_mib};
use crate::shell;

const PEER: &str = "mosquitto alone";
/// Connections offered in a second, as many as the guard is asked to bear.
const OFFERED: u32 = 10_000;
/// Whoever answers each ClientHello is behind for longer than the storm lasts, the more so on a slow machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// Clock ticks of /proc in a second, which Linux never changed on any machine that runs Rust.
const TICKS: f64 = 100.0;
const TOPIC: &str = "news/honest";
/// Who the honest clients are.
const LOGIN: (&str, &str) = ("honest", "honest-password");

/// Where to connect, in clear and with TLS.
struct Server {
    pid: u32,
    plain: SocketAddr,
    tls: SocketAddr,
}

/// What one storm did to one server.
struct Outcome {
    offered: f64,
    noticed: Noticed,
    cores: f64,
    resident_mib: f64,
}

/// Measures storms in clear and with TLS, from one address and from many.
pub(super) fn rows(context: &Context) -> Result<Vec<Row>> {
    let topology = Topology::create()?;
    web::authority(topology.directory(), "web", "127.0.0.1")?;
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let (ours, theirs) = ([at(2883), at(2884)], [at(3883), at(3884)]);
    let mut settings = Settings::new(shell::target_dir().join("release/tidegate"));
    let file = |name: &str| format!("\"{}\"", topology.directory().join(name).display());
    settings.keys.extend([
        ("messages.listen", format!("\"{}\"", ours[0])),
        ("messages.listen_tls", format!("\"{}\"", ours[1])),
        ("messages.certificate", file("web.crt")),
        ("messages.key", file("web.key")),
        ("messages.require_certificate", "false".to_owned()),
        ("messages.passwords", file("passwords")),
        (
            "messages.rules",
            format!("[{{ who = \"*\", publish = [\"{TOPIC}\"], subscribe = [\"{TOPIC}\"] }}]"),
        ),
    ]);
    let passwords = ["-c", "-b", "passwords", LOGIN.0, LOGIN.1];
    web::run(topology.directory(), "mosquitto_passwd", &passwords)?;
    let agent = Agent::start(&topology, &settings)?;
    let bare = start_bare(&topology, theirs)?;
    let ours = Server { pid: agent.pid(), plain: ours[0], tls: ours[1] };
    let theirs = Server { pid: bare.pid(), plain: theirs[0], tls: theirs[1] };
    let mut rows = Vec::new();
    for (name, greeting, sources) in [
        ("storm_tcp_one", Greeting::Silence, 1),
        ("storm_tcp_many", Greeting::Silence, 1_000),
        ("storm_tls_one", Greeting::Tls, 1),
        ("storm_tls_many", Greeting::Tls, 1_000),
    ] {
        rows.extend(storm(context, &topology, &agent, (name, greeting, sources), (&ours, &theirs))?);
    }
    Ok(rows)
}

fn storm(
    context: &Context,
    topology: &Topology,
    agent: &Agent,
    (name, greeting, sources): (&str, Greeting, u32),
    (ours, theirs): (&Server, &Server),
) -> Result<Vec<Row>> {
    let duration = Duration::from_secs(if context.smoke { 1 } else { 5 });
    let side = |server: &Server| {
        topology.gateway.enter(|| {
            settle(server)?;
            one(server, greeting, sources, duration)
        })
    };
    let (mut own, mut other, mut let_in) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..context.repeats {
        let before = accepted(agent)?;
        own.push(side(ours).with_context(|| format!("{name} against the guard"))?);
        let_in.push((accepted(agent)? - before) / duration.as_secs_f64());
        other.push(side(theirs).with_context(|| format!("{name} against mosquitto"))?);
    }
    let row = |what: &str, unit: &str, of: &dyn Fn(&Outcome) -> f64| {
        let [own, other] = [&own, &other].map(|side| side.iter().map(of).collect::<Vec<f64>>());
        Row::of(&format!("{name}_{what}"), unit, &own, PEER, &other)
    };
    let offered: Vec<f64> = own.iter().map(|outcome| outcome.offered).collect();
    let last = |sorted: &[f64], percent| percentile(sorted, percent).unwrap_or(f64::NAN);
    Ok(vec![
        row("offered", "connects/s", &|outcome| outcome.offered),
        Row::of(&format!("{name}_taken"), "connects/s", &let_in, "offered", &offered),
        row("message_p99", "us", &|outcome| last(&outcome.noticed.delays_us, 99)),
        row("message_longest", "us", &|outcome| last(&outcome.noticed.delays_us, 100)),
        row("newcomer_longest", "us", &|outcome| last(&outcome.noticed.joins_us, 100)),
        row("served", "of the newcomers", &|outcome| {
            let served = outcome.noticed.joins_us.len() as f64;
            served / (served + outcome.noticed.turned_away as f64)
        }),
        row("cpu", "cores", &|outcome| outcome.cores),
        row("resident", "MiB", &|outcome| outcome.resident_mib),
    ])
}

/// One storm against one server while honest clients use it.
fn one(server: &Server, greeting: Greeting, sources: u32, duration: Duration) -> Result<Outcome> {
    let target = if greeting == Greeting::Tls { server.tls } else { server.plain };
    let SocketAddr::V4(target) = target else { bail!("storms need an address of version 4, not {target}") };
    let honest = Honest::start(server.plain, LOGIN, TOPIC, PATIENCE)?;
    let cpu = cpu_s(server.pid)?;
    let stormed = Storm { target, greeting, sources, per_second: OFFERED }.run(duration)?;
    let cores = (cpu_s(server.pid)? - cpu) / duration.as_secs_f64();
    let resident_mib = resident_mib(server.pid)?;
    let noticed = honest.end()?;
    if noticed.delays_us.is_empty() || noticed.joins_us.is_empty() {
        bail!("the honest clients did not get through at all: {noticed:?}");
    }
    Ok(Outcome { offered: stormed.offered, noticed, cores, resident_mib })
}

/// Waits until the storm before is over for the server, so that none pays for another.
fn settle(server: &Server) -> Result<()> {
    let is_calm = || {
        let before = cpu_s(server.pid).ok()?;
        std::thread::sleep(Duration::from_millis(500));
        let is_idle = cpu_s(server.pid).ok()? - before < 0.1;
        (is_idle && knock(server.plain).is_ok()).then_some(())
    };
    wait_for(PATIENCE, is_calm).context("the server does not come to rest")
}

/// Opens a session and ends it.
fn knock(broker: SocketAddr) -> Result<()> {
    let hello = Hello { client_id: "first", login: Some(LOGIN), ..Hello::default() };
    Client::open(broker, &hello, Duration::from_secs(5)).map(drop)
}

fn accepted(agent: &Agent) -> Result<f64> {
    let status = agent.ask(&["status"])?;
    let accepted = status.pointer("/messages/accepted").and_then(serde_json::Value::as_f64);
    accepted.with_context(|| format!("the status says nothing of connections: {status}"))
}

/// CPU time of a process so far, in seconds.
fn cpu_s(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The name, in brackets, may hold anything; user and system time are the 12th and 13th fields after it.
    let after = text.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks = after.split_ascii_whitespace().skip(11).take(2).map(str::parse::<f64>);
    let ticks: Vec<f64> = ticks.collect::<Result<_, _>>().with_context(|| format!("cannot read {path}"))?;
    Ok(ticks.iter().sum::<f64>() / TICKS)
}

fn start_bare(topology: &Topology, [plain, tls]: [SocketAddr; 2]) -> Result<Process> {
    let directory = topology.directory();
    let file = directory.join("stormed.conf");
    let own = directory.display();
    let text = format!(
        "per_listener_settings false\nallow_anonymous true\npersistence false\nuser root\nset_tcp_nodelay true\nlog_type error\n\
         listener {} 127.0.0.1\nlistener {} 127.0.0.1\ncertfile {own}/web.crt\nkeyfile {own}/web.key\n",
        plain.port(),
        tls.port()
    );
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = topology.gateway.command("mosquitto");
    let bare = Process::start(command.arg("-c").arg(&file), &directory.join("stormed.log"))?;
    let is_up = || topology.gateway.enter(|| knock(plain)).ok();
    if wait_for(Duration::from_secs(10), is_up).is_none() {
        bail!("mosquitto does not answer:\n{}", agent::tail(&bare.said(), 20));
    }
    Ok(bare)
}
