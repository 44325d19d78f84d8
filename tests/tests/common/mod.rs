//! A guarded network for end-to-end tests: one at a time, because tests that measure packets disturb each other.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may stop at once")]

use std::{
    fs::File,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use nix::fcntl::Flock;
use tidegate_tests::{
    agent::{self, Agent, Settings},
    netns::{self, Netns},
    service::{Services, Threads},
    topology::{Place, Topology},
    wait_for,
};

/// How long the kernel may take to act on an answer of the command line.
pub(crate) const SOON: Duration = Duration::from_secs(3);

/// Topology, services, an echo service on every device, and Tidegate. Fields end in this order.
pub(crate) struct Guarded {
    pub(crate) agent: Agent,
    pub(crate) echoes: Threads,
    _services: Services,
    pub(crate) topology: Topology,
    _alone: Flock<File>,
}

/// A guarded network, or a line that says why test `name` cannot have one here.
pub(crate) fn guarded(name: &str, adjust: impl FnOnce(&mut Settings)) -> Option<Guarded> {
    if !tidegate_tests::is_root() {
        tidegate_tests::skipped(name, "needs root for network namespaces and kernel programs");
        return None;
    }
    let Some(binary) = agent::built() else {
        tidegate_tests::skipped(name, "the agent is not built; `cargo xtask test` builds it first");
        return None;
    };
    let alone = tidegate_tests::alone().unwrap();
    netns::sweep();
    let topology = Topology::create().unwrap();
    let services = Services::start(&topology).unwrap();
    let mut echoes = Threads::default();
    for netns in topology.devices.iter().map(|place| &place.netns).chain([&topology.attacker]) {
        echoes.serve(netns, 7, echo).unwrap();
    }
    let mut settings = Settings::new(binary);
    adjust(&mut settings);
    let agent = Agent::start(&topology, &settings).unwrap();
    Some(Guarded { agent, echoes, _services: services, topology, _alone: alone })
}

impl Guarded {
    pub(crate) fn device(&self, name: &str) -> &Place {
        self.topology.device(name).unwrap()
    }

    /// Runs a command of the command line that must succeed.
    pub(crate) fn tidegate(&self, arguments: &[&str]) -> serde_json::Value {
        self.agent
            .ask(arguments)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", agent::tail(&self.agent.said(), 30)))
    }

    /// Whether pings from `from` come back; tries for a while, since addresses have to be resolved first.
    pub(crate) fn reaches(&self, from: &Netns, to: impl Into<IpAddr>) -> bool {
        let to = to.into();
        wait_for(SOON, || self.topology.reaches(from, to).then_some(())).is_some()
    }

    /// Whether three pings in a row stay without an answer.
    pub(crate) fn is_cut(&self, from: &Netns, to: impl Into<IpAddr>) -> bool {
        let to = to.into();
        (0..3).all(|_| !self.topology.reaches(from, to))
    }
}

fn echo(mut client: TcpStream) -> std::io::Result<()> {
    let mut bytes = [0; 64];
    loop {
        match client.read(&mut bytes)? {
            0 => return Ok(()),
            length => client.write_all(&bytes[..length])?,
        }
    }
}

/// An established connection to an echo service.
pub(crate) struct Conversation(TcpStream);

impl Conversation {
    pub(crate) fn begin(from: &Netns, to: impl Into<IpAddr>) -> Self {
        let to = SocketAddr::new(to.into(), 7);
        let stream = from.enter(|| Ok(TcpStream::connect_timeout(&to, Duration::from_secs(3))?)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut conversation = Self(stream);
        assert!(conversation.goes_on(), "a new conversation with {to} must work");
        conversation
    }

    /// Whether a word comes back within a second.
    pub(crate) fn goes_on(&mut self) -> bool {
        self.0.write_all(b"still there?").is_ok() && self.0.read_exact(&mut [0; 12]).is_ok()
    }
}

/// Sends one UDP datagram every `gap` for `length`; how many.
pub(crate) fn drip(from: &Netns, to: impl Into<IpAddr>, gap: Duration, length: Duration) -> u32 {
    let to = SocketAddr::new(to.into(), 9);
    from.enter(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        let count = (length.as_nanos() / gap.as_nanos()) as u32;
        for _ in 0..count {
            // The port is closed, and the refusal of the last datagram is reported with this one.
            let _ = socket.send_to(b"drip", to);
            thread::sleep(gap);
        }
        Ok(count)
    })
    .unwrap()
}
