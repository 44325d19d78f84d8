//! Two endpoints on loopback, with the loops played by the test.

#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

use super::{
    notice::tests::{block, withdraw},
    *,
};
use crate::policy::SigningKey;

const LONG: Duration = Duration::from_secs(20);

fn own() -> Arc<OwnKey> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("own.key");
    fs::write(&path, SigningKey::generate().unwrap()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    Arc::new(OwnKey::load(&path).unwrap())
}

/// A free port at an address of loopback that no other test uses.
fn address(host: u8) -> SocketAddr {
    let listener = std::net::TcpListener::bind(SocketAddr::from(([127, 7, 7, host], 0))).unwrap();
    listener.local_addr().unwrap()
}

/// A running endpoint.
struct Side {
    link: Link,
    told: mpsc::Receiver<Told>,
    stop: watch::Sender<bool>,
    running: JoinHandle<()>,
}

impl Side {
    fn start(own: &Arc<OwnKey>, at: SocketAddr, peers: &[(&str, SocketAddr, &Arc<OwnKey>)]) -> Self {
        let peers: Vec<Peer> = peers
            .iter()
            .map(|(name, address, key)| Peer {
                name: (*name).to_owned(),
                address: *address,
                key: PeerKey::of(&key.signing),
            })
            .collect();
        let board = Arc::new(Board::new(&peers));
        let (sender, told) = mpsc::channel(4);
        let (stop, stopping) = watch::channel(false);
        let link =
            Link { listen: Some(at), peers: Arc::new(peers), own: Arc::clone(own), board, told: sender };
        let running = tokio::spawn(serve(link.clone(), stopping));
        Self { link, told, stop, running }
    }

    fn tell(&self, notice: &Notice) {
        self.link.board.tell(notice, &seal(notice, &self.link.own.signing).unwrap());
    }

    /// Answers the next notice; what it was.
    async fn take(&mut self, answer: Answer) -> Notice {
        let told = timeout(LONG, self.told.recv()).await.unwrap().unwrap();
        assert_eq!(told.peer, 0);
        told.answer.send(answer).unwrap();
        told.notice
    }

    async fn end(self) {
        self.stop.send(true).unwrap();
        self.running.await.unwrap();
    }

    fn peer(&self) -> PeerState {
        self.link.board.peers().remove(0)
    }

    async fn until(&self, what: &str, holds: impl Fn(&PeerState) -> bool) {
        let begin = Instant::now();
        while !holds(&self.peer()) {
            assert!(begin.elapsed() < LONG, "{what}: {:?} {:?}", self.peer(), self.link.board.strangers());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

fn current(notice: Notice) -> Notice {
    let issued = Timestamp::now();
    Notice { issued, expires: issued + SignedDuration::from_mins(5), ..notice }
}

#[test]
fn notices_come_in_order_and_wait_for_a_peer_that_is_away() {
    run(async {
        let (east_key, west_key) = (own(), own());
        let (east_at, west_at) = (address(11), address(12));
        let east = Side::start(&east_key, east_at, &[("west", west_at, &west_key)]);
        let notices: Vec<Notice> = (0..3)
            .map(|number| current(block(&format!("n-{number}"), &format!("203.0.113.{number}"))))
            .chain([current(withdraw("n-1"))])
            .collect();
        notices[..2].iter().for_each(|notice| east.tell(notice));
        east.until("west is away", |peer| peer.trouble.is_some()).await;
        assert_eq!((east.peer().waiting, east.peer().reached), (2, false));

        let mut west = Side::start(&west_key, west_at, &[("east", east_at, &east_key)]);
        assert_eq!(west.take(Answer::Taken).await, notices[0]);
        // It ends before it has answered the second, which therefore comes again.
        let told = timeout(LONG, west.told.recv()).await.unwrap().unwrap();
        assert_eq!(told.notice, notices[1]);
        west.end().await;
        drop(told);
        let mut west = Side::start(&west_key, west_at, &[("east", east_at, &east_key)]);
        assert_eq!(west.take(Answer::Refused(Refused::InForce)).await, notices[1]);
        notices[2..].iter().for_each(|notice| east.tell(notice));
        assert_eq!(west.take(Answer::Taken).await, notices[2]);
        assert_eq!(west.take(Answer::Withdrawn).await, notices[3]);
        east.until("all are answered", |peer| peer.waiting == 0).await;
        let answers = east.peer().answers;
        assert_eq!(answers, [("taken", 2), ("in-force", 1), ("withdrawn", 1)].into());
        assert_eq!(west.peer().judged, [("in-force", 1), ("taken", 1), ("withdrawn", 1)].into());
        assert!(west.peer().heard.is_some() && east.peer().reached);
        east.end().await;
        west.end().await;
    });
}

#[test]
fn another_key_is_refused_on_both_sides_and_nothing_is_told() {
    run(async {
        let (east_key, west_key, thief) = (own(), own(), own());
        let (east_at, west_at) = (address(13), address(14));
        let mut west = Side::start(&west_key, west_at, &[("east", east_at, &east_key)]);
        // The thief sits at east's address: west refuses it, and it is not east that west reaches.
        let false_east = Side::start(&thief, east_at, &[("west", west_at, &west_key)]);
        false_east.tell(&current(block("n-1", "203.0.113.9")));
        west.until("west refuses to tell a thief", |peer| peer.judged.contains_key("wrong-key")).await;
        false_east.until("the thief is not answered", |peer| peer.trouble.is_some()).await;
        let begin = Instant::now();
        while !west.link.board.strangers().contains_key(&Refused::WrongKey) {
            assert!(begin.elapsed() < LONG, "{:?}", west.link.board.strangers());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(west.told.try_recv().is_err());
        assert_eq!(false_east.peer().waiting, 1);
        assert!(!west.peer().reached && west.peer().trouble.unwrap().contains("another key"));
        false_east.end().await;
        west.end().await;
    });
}

async fn raw(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// A connection of a peer whose key is right, without the endpoint around it.
async fn authentic(own: &OwnKey, from: [u8; 4], to: &Side) -> tokio_rustls::client::TlsStream<TcpStream> {
    let at = to.link.listen.unwrap();
    let connector = tls::connector(own, PeerKey::of(&to.link.own.signing)).unwrap();
    let name = tokio_rustls::rustls::pki_types::ServerName::IpAddress(at.ip().into());
    connector.connect(name, raw(from, at).await).await.unwrap()
}

#[test]
fn strangers_noise_and_bad_frames_are_counted_and_stop_nobody() {
    run(async {
        let (east_key, west_key) = (own(), own());
        let (east_at, west_at) = (address(15), address(16));
        let mut west = Side::start(&west_key, west_at, &[("east", east_at, &east_key)]);
        west.until("it runs", |peer| peer.trouble.is_some()).await;
        let from = [127, 7, 7, 15];

        let mut stranger = raw([127, 7, 7, 99], west_at).await;
        assert_eq!(stranger.read(&mut [0; 1]).await.unwrap_or(0), 0, "cut at once");
        let mut noise = raw(from, west_at).await;
        noise.write_all(&[0; 100]).await.unwrap();
        assert!(timeout(LONG, noise.read_to_end(&mut Vec::new())).await.is_ok());

        // Slots are given to silent connections until there is none left.
        let mut silent = Vec::new();
        for _ in 0..5 {
            silent.push(raw(from, west_at).await);
        }
        west.until("too many", |peer| peer.judged.contains_key("too-many-connections")).await;
        silent.clear();
        let strangers = west.link.board.strangers();
        assert_eq!(strangers.get(&Refused::UnknownPeer), Some(&1));
        assert!(strangers.get(&Refused::Handshake) >= Some(&1), "{strangers:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;

        // One who is who he says and sends nonsense.
        let mut stream = authentic(&east_key, from, &west).await;
        frame::write(&mut stream, b"").await.unwrap();
        assert_eq!(frame::read(&mut stream, LONG).await.unwrap(), b"");
        let own_echo = seal(&current(block("n-1", "203.0.113.9")), &west_key.signing).unwrap();
        let mut changed = seal(&current(block("n-2", "203.0.113.9")), &east_key.signing).unwrap();
        *changed.last_mut().unwrap() ^= 1;
        let stolen = seal(&current(block("n-3", "203.0.113.9")), &own().signing).unwrap();
        for (bytes, word) in [
            (own_echo, "own-echo"),
            (changed.clone(), "bad-signature"),
            (changed[..40].to_vec(), "malformed"),
            (stolen, "wrong-signer"),
        ] {
            frame::write(&mut stream, &bytes).await.unwrap();
            assert_eq!(frame::read(&mut stream, LONG).await.unwrap(), word.as_bytes());
        }
        stream.write_u16(60_000).await.unwrap();
        stream.flush().await.unwrap();
        west.until("oversized", |peer| peer.judged.contains_key("oversized")).await;
        assert!(west.told.try_recv().is_err(), "nothing of it reached the loop");

        let east = Side::start(&east_key, east_at, &[("west", west_at, &west_key)]);
        east.tell(&current(block("n-4", "203.0.113.9")));
        assert_eq!(west.take(Answer::Taken).await.id, "n-4");
        east.end().await;
        west.end().await;
    });
}
