//! The link against a real mosquitto that asks for certificates, in a network namespace of its own, with the loop played by the test.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step is the test's failure")]

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc as std_mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nix::sched::{CloneFlags, unshare};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tidegate_wire::{Envelope, IncidentReport, Report};
use tokio::{runtime, sync::mpsc};

use super::{
    drain::batch,
    jobs,
    link::{LinkSettings, News, Order, Wanted, serve},
    shadow::{Desired, Reported, hash, update},
    tls::{TlsError, TlsFiles, broker},
    topics::Topics,
};
use crate::store::{Durability, NewMessage, OutboxLimits, Store};

const PORT: u16 = 8_883;
/// For the test's own eyes, without TLS.
const OPEN_PORT: u16 = 1_883;
const LONG: Duration = Duration::from_secs(40);

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
fn isolated(name: &str, test: impl FnOnce(&Path) + Send + 'static) {
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

fn prepare(place: &Path) {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    fs::write(place.join("ours.pem"), &ours.pem).unwrap();
    fs::write(place.join("other.pem"), &other.pem).unwrap();
    ours.sign(place, "broker", &["localhost", "127.0.0.1"]);
    ours.sign(place, "gw-1", &[]);
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
struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    fn broker(place: &Path) -> Self {
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
    fn stop(mut self) {
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
fn listen(topic: &str, id: &str) -> (Program, std_mpsc::Receiver<(String, String)>) {
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

fn say(topic: &str, payload: &str) {
    let port = OPEN_PORT.to_string();
    let arguments = ["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", topic, "-m", payload];
    assert!(Command::new("mosquitto_pub").args(arguments).status().unwrap().success());
}

fn settings(place: &Path, ca: &str, name: &str) -> LinkSettings {
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
    }
}

/// The loop, as far as the link sees it.
struct World {
    store: Store,
    orders: Option<mpsc::Sender<Order>>,
    news: mpsc::Receiver<News>,
    link: Option<JoinHandle<()>>,
    written: u64,
    online: u64,
    offline: Vec<String>,
    desired: Vec<Desired>,
    fetched: Vec<Result<Vec<u8>, String>>,
}

impl World {
    fn start(settings: LinkSettings, database: &Path) -> Self {
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
            offline: Vec::new(),
            desired: Vec::new(),
            fetched: Vec::new(),
        }
    }

    fn write(&mut self, count: u64, text: &str) {
        for _ in 0..count {
            self.written += 1;
            let (number, device) = (self.written, format!("02:00:00:00:00:0{}", self.written % 3));
            let report = Report::Incident(IncidentReport {
                incident: format!("incident-{number}"),
                technique: "T1046".to_owned(),
                subject: device.clone(),
                victim: None,
                rule: None,
                score: 0.9,
                first_seen: String::new(),
                last_seen: String::new(),
                evidence: number,
                open: true,
                explanation: text.to_owned(),
            });
            let id = format!("id-{number}");
            // An hour passes between two of them.
            let at = Timestamp::from_second(1_800_000_000 + number as i64 * 3_600).unwrap();
            let message = NewMessage { id: &id, device: &device, at, report: &report };
            let limits = OutboxLimits { rows: 10_000, bytes: 1 << 30 };
            assert!(self.store.batch(Durability::Process, |store| store.enqueue(&message, limits)).unwrap());
        }
    }

    fn waiting(&self) -> u64 {
        self.store.outbox_tallies().unwrap().iter().map(|(_, tally)| tally.waiting).sum()
    }

    fn order(&self, order: Order) {
        let _ = self.orders.as_ref().unwrap().try_send(order);
    }

    /// Plays the loop until `done`.
    fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
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
                Ok(News::Offline(why)) => self.offline.push(why),
                Ok(News::Desired(wanted)) => self.desired.push(wanted.desired),
                Ok(News::Fetched(_, fetched)) => self.fetched.push(fetched),
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn end(&mut self) {
        self.orders = None;
        self.news.close();
        if let Some(link) = self.link.take() {
            link.join().unwrap();
        }
    }
}

#[test]
fn reports_arrive_in_order_and_whole_whatever_the_broker_does() {
    isolated("reports_arrive_in_order_and_whole_whatever_the_broker_does", |place| {
        let mut mosquitto = Program::broker(place);
        let (_observer, seen) = listen("$aws/rules/#", "observer");
        let mut world = World::start(settings(place, "ours.pem", "gw-1"), &place.join("tidegate.db"));
        world.write(60, "first");
        world.until("the first reports", |world| world.waiting() == 0);

        // Days without the cloud: nothing is lost and nothing waits for it.
        mosquitto.stop();
        world.until("noticing the cut", |world| !world.offline.is_empty());
        world.write(72, "while away");
        assert_eq!(world.waiting(), 72);
        mosquitto = Program::broker(place);
        world.until("the second reports", |world| world.waiting() == 0);

        // Cut in the middle of a drain, with a message that can never be sent among the others.
        world.write(100, "cut");
        world.write(1, &"x".repeat(130 << 10));
        world.write(100, "cut");
        world.until("the middle of the drain", |world| world.waiting() < 170);
        mosquitto.stop();
        mosquitto = Program::broker(place);
        world.until("the rest", |world| world.waiting() == 0);
        assert!(world.online >= 3, "{} connections", world.online);
        let dropped: u64 = world.store.outbox_tallies().unwrap().iter().map(|(_, tally)| tally.dropped).sum();
        assert_eq!(dropped, 1, "the one too large is counted");

        let mut expected: Vec<u64> = (1..=world.written).filter(|number| *number != 233).collect();
        expected.reverse();
        let mut known = std::collections::HashMap::new();
        while let Some(next) = expected.last().copied() {
            let (topic, payload) =
                seen.recv_timeout(LONG).unwrap_or_else(|_| panic!("report {next} is lost"));
            if topic.ends_with("probe") {
                continue;
            }
            assert_eq!(topic, "$aws/rules/reports/tidegate/gw-1/incident");
            let envelope: Envelope<Report> = serde_json::from_str(&payload).unwrap();
            let sequence = envelope.sequence.unwrap();
            if let Some(before) = known.get(&envelope.id) {
                assert_eq!(*before, payload, "the same id is the same message");
                continue;
            }
            assert_eq!(sequence, next, "in order");
            assert_eq!(envelope.id, format!("id-{sequence}"));
            known.insert(envelope.id.clone(), payload);
            expected.pop();
        }
        world.end();
        mosquitto.stop();
    });
}

#[test]
fn strangers_are_refused_on_both_sides() {
    isolated("strangers_are_refused_on_both_sides", |place| {
        let _mosquitto = Program::broker(place);
        let mut world = World::start(settings(place, "other.pem", "gw-1"), &place.join("a.db"));
        world.write(1, "secret");
        world.until("a refusal", |world| !world.offline.is_empty());
        assert!(world.offline[0].contains("UnknownIssuer"), "{:?}", world.offline);
        assert_eq!((world.online, world.waiting()), (0, 1), "nothing was sent");
        world.end();

        let mut world = World::start(settings(place, "ours.pem", "stranger"), &place.join("b.db"));
        world.write(1, "secret");
        world.until("a refusal", |world| !world.offline.is_empty());
        assert_eq!((world.online, world.waiting()), (0, 1), "a broker that knows its gateways takes nothing");
        world.end();
    });
}

#[test]
fn the_shadow_is_heard_and_answered_and_presence_is_told() {
    isolated("the_shadow_is_heard_and_answered_and_presence_is_told", |place| {
        let _mosquitto = Program::broker(place);
        let (_shadow, updates) = listen("$aws/things/#", "shadow");
        let (_presence, presence) = listen("tidegate/#", "presence");
        let mut world = World::start(settings(place, "ours.pem", "gw-1"), &place.join("tidegate.db"));
        world.until("a connection", |world| world.online == 1);
        let next = |from: &std_mpsc::Receiver<(String, String)>, ending: &str| loop {
            let (topic, payload) = from.recv_timeout(LONG).unwrap();
            if topic.ends_with(ending) {
                return payload;
            }
        };
        assert_eq!(next(&presence, "gw-1/presence"), r#"{"online":true}"#);
        assert_eq!(next(&updates, "policy/get"), "", "the shadow is asked for");

        fs::create_dir(place.join("policies")).unwrap();
        fs::write(place.join("policies/7"), b"sealed").unwrap();
        let url = format!("file://{}/policies/7", place.display());
        let sha256 = hash(b"sealed");
        let document = serde_json::json!({ "state": { "desired": { "policy": {
            "version": 7, "sha256": sha256, "url": url } } } });
        say("$aws/things/gw-1/shadow/name/policy/get/accepted", &document.to_string());
        world.until("the wish", |world| !world.desired.is_empty());
        let wish = world.desired[0].clone();
        world.order(Order::Fetch(Wanted { desired: wish.clone(), job: None }));
        let elsewhere = Desired { url: format!("file://{}/gw-1.key", place.display()), ..wish.clone() };
        world.order(Order::Fetch(Wanted { desired: elsewhere, job: Some("to-8".to_owned()) }));
        world.until("the fetches", |world| world.fetched.len() == 2);
        assert!(wish.is(world.fetched[0].as_ref().unwrap()));
        assert!(world.fetched[1].as_ref().unwrap_err().contains("policy_origins"), "{:?}", world.fetched[1]);

        say("$aws/things/gw-1/shadow/name/policy/update/delta", r#"{"state":{"policy":{"version":8}}}"#);
        assert_eq!(next(&updates, "policy/get"), "", "a delta asks for the whole");
        // A job about something else is rejected here; one about a policy is the loop's to end.
        let job = |document: serde_json::Value| {
            serde_json::json!({ "execution": { "jobId": "to-8", "jobDocument": document } }).to_string()
        };
        say("$aws/things/gw-1/jobs/notify-next", &job(serde_json::json!({ "operation": "reboot" })));
        assert!(next(&updates, "jobs/to-8/update").contains("REJECTED"));
        say("$aws/things/gw-1/jobs/notify-next", &job(document["state"]["desired"].clone()));
        world.until("the job's wish", |world| world.desired.len() == 2);
        world.order(Order::Job("to-8".to_owned(), jobs::update(jobs::Ending::Succeeded, Some(7), "")));
        assert!(next(&updates, "jobs/to-8/update").contains("SUCCEEDED"));
        let reported = Reported { version: Some(7), wanted: 7, refused: None, detail: None };
        world.order(Order::Shadow(update(&reported)));
        assert_eq!(next(&updates, "policy/update"), update(&reported));
        world.end();
        assert_eq!(next(&presence, "gw-1/presence"), r#"{"online":false}"#, "the last will");
    });
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    prepare(directory.path());
    let files = settings(directory.path(), "ours.pem", "gw-1").tls;
    assert!(broker(&files, PORT).unwrap().alpn_protocols.is_empty());
    assert_eq!(broker(&files, 443).unwrap().alpn_protocols, [b"x-amzn-mqtt-ca".to_vec()]);
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o640)).unwrap();
    let refused = broker(&files, PORT).unwrap_err();
    assert!(
        matches!(refused, TlsError::OpenKey(_)) && refused.to_string().contains("chmod 600"),
        "{refused}"
    );
    let key = fs::read_to_string(&files.key).unwrap();
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
    let swapped = TlsFiles { certificate: files.key.clone(), ..files.clone() };
    let error = broker(&swapped, PORT).unwrap_err().to_string();
    assert!(error.contains("certificate") && !error.contains(&key[40..60]), "{error}");
    let absent = TlsFiles { key: PathBuf::from("/nonexistent"), ..files };
    assert!(matches!(broker(&absent, PORT), Err(TlsError::Unreadable { .. })));
}
