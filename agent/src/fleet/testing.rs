//! A world for tests of the link: a network namespace, a real mosquitto that asks for certificates, and the loop, played by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step is the test's failure")]

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc as std_mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nix::sched::{CloneFlags, unshare};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tidegate_wire::{IncidentReport, Report};
use tokio::{runtime, sync::mpsc};

use super::{
    defender::Format,
    drain::batch,
    link::{LinkSettings, News, Order, serve},
    shadow::Desired,
    tls::TlsFiles,
    topics::Topics,
};
use crate::store::{Durability, NewMessage, OutboxLimits, Store};

pub(super) const PORT: u16 = 8_883;
/// For the test's own eyes, without TLS.
const OPEN_PORT: u16 = 1_883;
pub(super) const LONG: Duration = Duration::from_secs(40);

/// An authority and what it signed.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Writes `NAME.crt` and `NAME.key`.
    fn sign(&self, directory: &Path, name: &str, hosts: &[&str]) {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(directory.join(format!("{name}.crt")), certificate.pem()).unwrap();
        let path = directory.join(format!("{name}.key"));
        fs::write(&path, key.serialize_pem()).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// Runs `test` in a network namespace of its own, or says why not.
pub(super) fn isolated(name: &str, test: impl FnOnce(&Path) + Send + 'static) {
    let found =
        |program: &str| ["/usr/sbin", "/usr/bin"].iter().any(|dir| Path::new(dir).join(program).exists());
    if !nix::unistd::geteuid().is_root() || !found("mosquitto") || !found("mosquitto_sub") {
        eprintln!("SKIPPED fleet::link_tests::{name}: needs root, mosquitto and its clients");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_owned();
    thread::spawn(move || {
        // The namespace has no name and ends with this thread and what it started.
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        prepare(&place);
        test(&place);
    })
    .join()
    .unwrap();
}

pub(super) fn prepare(place: &Path) {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    fs::write(place.join("ours.pem"), &ours.pem).unwrap();
    fs::write(place.join("other.pem"), &other.pem).unwrap();
    ours.sign(place, "broker", &["localhost", "127.0.0.1"]);
    ours.sign(place, "gw-1", &[]);
    fs::create_dir(place.join("next")).unwrap();
    ours.sign(&place.join("next"), "gw-1", &[]);
    other.sign(place, "stranger", &[]);
    let shown = place.display();
    let config = format!(
        "per_listener_settings true\nuser root\npersistence true\npersistence_location {shown}/\nmax_queued_messages 0\n\
         listener {PORT} 127.0.0.1\ncafile {shown}/ours.pem\ncertfile {shown}/broker.crt\nkeyfile {shown}/broker.key\n\
         require_certificate true\nuse_identity_as_username true\nlistener {OPEN_PORT} 127.0.0.1\nallow_anonymous true\n"
    );
    fs::write(place.join("mosquitto.conf"), config).unwrap();
}

/// A program that ends with the test.
pub(super) struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    pub(super) fn broker(place: &Path) -> Self {
        let config = place.join("mosquitto.conf");
        let log = fs::File::create(place.join("mosquitto.log")).unwrap();
        let broker =
            Self::start(Command::new("mosquitto").arg("-c").arg(config).stderr(log).stdout(Stdio::null()));
        let deadline = Instant::now() + LONG;
        while std::net::TcpStream::connect(("127.0.0.1", OPEN_PORT)).is_err() {
            assert!(Instant::now() < deadline, "mosquitto does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        broker
    }

    /// Ends it as an administrator would; it keeps the sessions of its subscribers.
    pub(super) fn stop(mut self) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0.id() as i32), nix::sys::signal::SIGTERM)
            .unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What arrives at the broker below `topic`: topic and payload.
pub(super) fn listen(topic: &str, id: &str) -> (Program, std_mpsc::Receiver<(String, String)>) {
    let port = OPEN_PORT.to_string();
    let arguments = ["-h", "127.0.0.1", "-p", &port, "-q", "1", "-c", "-i", id, "-t", topic, "-F", "%t %p"];
    let mut child = Program::start(Command::new("mosquitto_sub").args(arguments).stdout(Stdio::piped()));
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let (sender, receiver) = std_mpsc::channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let (topic, payload) = line.split_once(' ').unwrap_or((&line, ""));
            if sender.send((topic.to_owned(), payload.to_owned())).is_err() {
                break;
            }
        }
    });
    // Its subscription stands once a message of our own comes through.
    let probe = topic.replace('#', "probe");
    let deadline = Instant::now() + LONG;
    loop {
        assert!(Instant::now() < deadline, "the observer hears nothing");
        say(&probe, "?");
        if receiver.recv_timeout(Duration::from_millis(300)).is_ok() {
            return (child, receiver);
        }
    }
}

pub(super) fn say(topic: &str, payload: &str) {
    let port = OPEN_PORT.to_string();
    let arguments = ["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", topic, "-m", payload];
    assert!(Command::new("mosquitto_pub").args(arguments).status().unwrap().success());
}

pub(super) fn settings(place: &Path, ca: &str, name: &str) -> LinkSettings {
    LinkSettings {
        endpoint: "localhost".to_owned(),
        port: PORT,
        thing: "gw-1".to_owned(),
        rule: "reports".to_owned(),
        tls: TlsFiles {
            ca: Some(place.join(ca)),
            certificate: place.join(format!("{name}.crt")),
            key: place.join(format!("{name}.key")),
        },
        origins: vec![format!("file://{}/policies/", place.display())],
        web_ca: None,
        defender: Some(Format::Json),
    }
}

/// The loop, as far as the link sees it.
pub(super) struct World {
    pub(super) store: Store,
    orders: Option<mpsc::Sender<Order>>,
    news: mpsc::Receiver<News>,
    link: Option<JoinHandle<()>>,
    pub(super) written: u64,
    pub(super) online: u64,
    pub(super) renewed: u64,
    pub(super) offline: Vec<String>,
    pub(super) desired: Vec<Desired>,
    pub(super) fetched: Vec<Result<Vec<u8>, String>>,
    pub(super) metrics: Vec<Result<(), String>>,
}

impl World {
    pub(super) fn start(settings: LinkSettings, database: &Path) -> Self {
        let (orders, asked) = mpsc::channel(64);
        let (told, news) = mpsc::channel(64);
        let link = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(settings, asked, told));
        });
        Self {
            store: Store::open(database).unwrap(),
            orders: Some(orders),
            news,
            link: Some(link),
            written: 0,
            online: 0,
            renewed: 0,
            offline: Vec::new(),
            desired: Vec::new(),
            fetched: Vec::new(),
            metrics: Vec::new(),
        }
    }

    /// Writes incidents, an hour after each other.
    pub(super) fn write(&mut self, count: u64, text: &str) {
        for _ in 0..count {
            let (number, device) = (self.written + 1, format!("02:00:00:00:00:0{}", self.written % 3));
            let report = incident(number, &device, text);
            let at = Timestamp::from_second(1_800_000_000 + number as i64 * 3_600).unwrap();
            assert!(self.enqueue(&report, &device, at, OutboxLimits { rows: 10_000, bytes: 1 << 30 }));
        }
    }

    /// Puts a report into the outbox; whether it found room.
    pub(super) fn enqueue(
        &mut self,
        report: &Report,
        device: &str,
        at: Timestamp,
        limits: OutboxLimits,
    ) -> bool {
        self.written += 1;
        let id = format!("id-{}", self.written);
        let message = NewMessage { id: &id, device, at, report };
        self.store.batch(Durability::Process, |store| store.enqueue(&message, limits)).unwrap()
    }

    pub(super) fn waiting(&self) -> u64 {
        self.store.outbox_tallies().unwrap().iter().map(|(_, tally)| tally.waiting).sum()
    }

    pub(super) fn order(&self, order: Order) {
        let _ = self.orders.as_ref().unwrap().try_send(order);
    }

    /// Plays the loop until `done`.
    pub(super) fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + LONG;
        while !done(self) {
            assert!(
                Instant::now() < deadline,
                "{what} did not happen; offline because of {:?}",
                self.offline
            );
            match self.news.try_recv() {
                Ok(News::Want { after, most }) => {
                    let topics = Topics::new("gw-1", "reports");
                    let (ready, _) = batch(&self.store, "gw-1", &topics, after, most).unwrap();
                    self.order(Order::Messages(ready));
                }
                Ok(News::Acknowledged(sequences)) => {
                    self.store
                        .batch(Durability::Process, |store| store.acknowledge(&sequences))
                        .map(drop)
                        .unwrap();
                }
                Ok(News::Online) => self.online += 1,
                Ok(News::Renewed) => self.renewed += 1,
                Ok(News::Offline(why)) => self.offline.push(why),
                Ok(News::Desired(wanted)) => self.desired.push(wanted.desired),
                Ok(News::Fetched(_, fetched)) => self.fetched.push(fetched),
                Ok(News::Metrics(answer)) => self.metrics.push(answer),
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    pub(super) fn end(&mut self) {
        self.orders = None;
        self.news.close();
        if let Some(link) = self.link.take() {
            link.join().unwrap();
        }
    }
}

/// The `number`th incident.
pub(super) fn incident(number: u64, device: &str, text: &str) -> Report {
    Report::Incident(IncidentReport {
        incident: format!("incident-{number}"),
        technique: "T1046".to_owned(),
        subject: device.to_owned(),
        victim: None,
        rule: None,
        score: 0.9,
        first_seen: String::new(),
        last_seen: String::new(),
        evidence: number,
        open: true,
        explanation: text.to_owned(),
    })
}
