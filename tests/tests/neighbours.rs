//! Two gateways of one site, end to end: a block that one of them makes travels to the other, without any cloud.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nix::fcntl::Flock;
use serde_json::Value;
use tidegate_tests::{
    agent::{self, Agent, Settings},
    netns,
    process::Process,
    topology::{ATTACKER, Topology},
    wait_for,
};

/// How long a verdict may take that something is done about, at the other gateway too.
const SOON: Duration = Duration::from_secs(20);

/// A gateway with its network.
struct Site {
    agent: Agent,
    topology: Topology,
}

/// Two of them with a wire between. Fields end in this order.
struct Pair {
    east: Site,
    west: Site,
    _alone: Flock<File>,
}

/// Makes a key file; the public key.
fn keygen(topology: &Topology, name: &str) -> (PathBuf, String) {
    let path = topology.directory().join(name);
    let output = Command::new(agent::built().unwrap())
        .args(["neighbours", "keygen", "--output", &path.display().to_string(), "-o", "json"])
        .output()
        .unwrap();
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    (path, made["key"].as_str().unwrap().to_owned())
}

/// A pair of gateways, or a line that says why test `name` cannot have one here. With `strangers`, west knows another key of east;
/// `adjust` changes west's other settings.
fn pair(name: &str, strangers: bool, adjust: impl Fn(&mut Settings)) -> Option<Pair> {
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
    let (east, west) = (Topology::create().unwrap(), Topology::create().unwrap());
    east.gateway
        .ip(&[
            format!("link add site type veth peer name site netns {}", west.gateway.name()),
            "link set site up".to_owned(),
            "addr add 192.0.2.1/24 dev site".to_owned(),
        ])
        .unwrap();
    west.gateway.ip(&["link set site up", "addr add 192.0.2.2/24 dev site"]).unwrap();
    let ((east_key, east_public), (west_key, west_public)) =
        (keygen(&east, "own.key"), keygen(&west, "own.key"));
    let believed = if strangers { keygen(&west, "other.key").1 } else { east_public };
    let start = |topology: Topology, own: &str, key: PathBuf, peer: &str, at: &str, public: String| {
        let mut settings = Settings::new(binary.clone());
        if peer == "east" {
            adjust(&mut settings);
        }
        settings.keys.extend([
            ("neighbours.listen", format!("\"{own}:7443\"")),
            ("neighbours.key", format!("\"{}\"", key.display())),
            (
                "neighbours.peers",
                format!("[{{ name = \"{peer}\", address = \"{at}:7443\", key = \"{public}\" }}]"),
            ),
        ]);
        Site { agent: Agent::start(&topology, &settings).unwrap(), topology }
    };
    let east = start(east, "192.0.2.1", east_key, "west", "192.0.2.2", west_public);
    let west = start(west, "192.0.2.2", west_key, "east", "192.0.2.1", believed);
    Some(Pair { east, west, _alone: alone })
}

impl Site {
    fn block(&self, target: Ipv4Addr) -> Option<Value> {
        let blocks = self.agent.list(&["blocks", "list"], "blocks").unwrap();
        blocks.into_iter().find(|block| block["target"] == target.to_string())
    }

    fn until_blocked(&self, target: Ipv4Addr) -> Value {
        wait_for(SOON, || self.block(target)).unwrap_or_else(|| {
            panic!("{target} is not blocked: {}\n{}", self.peers(), agent::tail(&self.agent.said(), 30))
        })
    }

    fn until_free(&self, target: Ipv4Addr) {
        let free = wait_for(SOON, || self.block(target).is_none().then_some(()));
        assert!(free.is_some(), "{target} is still blocked: {}", self.peers());
    }

    /// What it says of its neighbours.
    fn peers(&self) -> Value {
        self.agent.ask(&["neighbours", "list"]).unwrap()
    }

    fn until_peer(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        let found = wait_for(SOON, || holds(&self.peers()).then_some(()));
        assert!(found.is_some(), "{what}: {}\n{}", self.peers(), agent::tail(&self.agent.said(), 20));
    }

    /// Whether the attacker's network reaches the camera of this gateway, as far as the kernel lets it.
    fn is_reached(&self) -> bool {
        let camera = self.topology.device("camera").unwrap().address;
        self.topology.reaches(&self.topology.attacker, camera)
    }

    /// What monitoring is told.
    fn metrics(&self) -> String {
        let ask = || {
            let mut stream = TcpStream::connect("127.0.0.1:9469")?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        self.topology.gateway.enter(ask).unwrap()
    }

    /// A scan of the camera by the attacker outside; it ends with its handle.
    fn scan(&self) -> Process {
        let mut scan = self.topology.attacker.command("nmap");
        scan.args(["-n", "-Pn", "-sS", "-p-", "--max-rate", "2000", "--max-retries", "1"]);
        scan.arg(self.topology.device("camera").unwrap().address.to_string());
        Process::start(&mut scan, &self.topology.directory().join("nmap.log")).unwrap()
    }
}

fn created(block: &Value) -> Timestamp {
    block["created"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_block_and_its_release_travel_to_the_neighbour_and_its_own_rules_win() {
    let name = "neighbours::a_block_and_its_release_travel_to_the_neighbour_and_its_own_rules_win";
    let Some(Pair { east, mut west, _alone }) = pair(name, false, |_| {}) else { return };
    for site in [&east, &west] {
        site.until_peer("the other is reached", |view| view["peers"][0]["reached"] == true);
    }
    assert!(wait_for(SOON, || west.is_reached().then_some(())).is_some(), "nothing is wrong at west");

    // Only east is attacked.
    let scan = east.scan();
    let there = east.until_blocked(ATTACKER);
    let here = west.until_blocked(ATTACKER);
    drop(scan);
    let took = created(&here).duration_since(created(&there));
    eprintln!("from the block at one gateway to the block at the other: {} ms", took.as_millis());
    assert!(took.as_secs() < 3, "{took:?}");
    assert_eq!(here["author"], "neighbour east", "{here}");
    assert!(!west.is_reached(), "west's kernel drops who only attacked east");
    let why = west.agent.answer(&["explain", &ATTACKER.to_string()]).unwrap();
    let incident = there["incident"].as_str().unwrap();
    assert!(why.contains("neighbour east") && why.contains(incident), "{why}");
    let told = |view: &Value, list: &str, word: &str| view["peers"][0][list][word].as_u64().unwrap_or(0);
    west.until_peer("it is counted", |view| told(view, "judged", "taken") == 1);
    east.until_peer("it is answered", |view| told(view, "answers", "taken") == 1);
    let metrics = west.metrics();
    let line = "tidegate_neighbour_judged_total{peer=\"east\",outcome=\"taken\"} 1";
    assert!(metrics.lines().any(|found| found == line), "{metrics}");

    east.agent.ask(&["blocks", "delete", &ATTACKER.to_string()]).unwrap();
    west.until_free(ATTACKER);
    assert!(wait_for(SOON, || west.is_reached().then_some(())).is_some(), "and the kernel lets him through");

    // West is away while east is attacked again, and hears of it when it is back.
    west.agent.kill();
    let scan = east.scan();
    east.until_blocked(ATTACKER);
    drop(scan);
    west.agent.restart(&west.topology).unwrap();
    let back = Instant::now();
    let missed = west.until_blocked(ATTACKER);
    eprintln!("from west's return to what it missed: {} ms", back.elapsed().as_millis());
    assert_eq!(missed["author"], "neighbour east");

    // East forgets what it told, tells it again, and west knows it.
    let mut east = east;
    east.agent.kill();
    east.agent.restart(&east.topology).unwrap();
    west.until_peer("it is told again", |view| told(view, "judged", "repeated") >= 1);
    east.agent.ask(&["blocks", "delete", &ATTACKER.to_string()]).unwrap();
    west.until_free(ATTACKER);

    // What west must never block it does not.
    let next = east.topology.become_attacker(1).unwrap();
    west.agent.ask(&["allow", "add", &next.to_string()]).unwrap();
    let scan = east.scan();
    east.until_blocked(next);
    drop(scan);
    west.until_peer("never-block wins", |view| told(view, "judged", "never-block") == 1);
    assert!(west.block(next).is_none());
    assert_eq!(east.peers()["peers"][0]["judged"], serde_json::json!({}), "west told nothing on");
}

#[test]
fn a_neighbour_with_another_key_is_not_believed() {
    let name = "neighbours::a_neighbour_with_another_key_is_not_believed";
    let Some(Pair { east, west, _alone }) = pair(name, true, |_| {}) else { return };
    let scan = east.scan();
    east.until_blocked(ATTACKER);
    drop(scan);
    west.until_peer("it is counted", |view| view["strangers"]["wrong-key"].as_u64() >= Some(1));
    west.until_peer("it is not told either", |view| {
        view["peers"][0]["trouble"].as_str().is_some_and(|trouble| trouble.contains("another key"))
    });
    east.until_peer("east keeps what it has to say", |view| {
        view["peers"][0]["waiting"] == 1 && view["peers"][0]["reached"] == false
    });
    assert!(west.block(ATTACKER).is_none() && west.is_reached());
}

#[test]
fn who_only_watches_makes_incidents_of_what_neighbours_say() {
    let name = "neighbours::who_only_watches_makes_incidents_of_what_neighbours_say";
    let monitor: fn(&mut Settings) = |settings| settings.mode = "monitor";
    let observe: fn(&mut Settings) =
        |settings| settings.keys.push(("neighbours.act", "\"observe\"".to_owned()));
    for adjust in [monitor, observe] {
        let Some(Pair { east, west, _alone }) = pair(name, false, adjust) else { return };
        let scan = east.scan();
        east.until_blocked(ATTACKER);
        drop(scan);
        west.until_peer("it is observed", |view| view["peers"][0]["judged"]["observed"] == 1);
        let incidents = west.agent.list(&["incidents", "list"], "incidents").unwrap();
        assert!(serde_json::to_string(&incidents).unwrap().contains("neighbour east"), "{incidents:?}");
        assert!(west.is_reached(), "nothing is dropped");
    }
}
