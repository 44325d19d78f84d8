//! A storm of connections from many addresses of this machine, and what an honest pair of clients notices of it.
//!
//! The storm is paced and bounded in time. Its connections are reset when they end, so that it does not run out of ports, and the
//! last few hundred stay open, so that whoever takes one has to serve it. It runs on the loopback device alone.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, bind, connect, getpeername, send,
        setsockopt, socket, sockopt,
    },
};

use crate::mqtt::{self, Client, Hello};

/// Connections that stay open behind the newest.
const OPEN: usize = 512;
/// How often the pace is kept.
const TICK: Duration = Duration::from_millis(1);
/// Pause between two messages of the honest pair.
const BEAT: Duration = Duration::from_millis(5);
/// Pause between two newcomers, within what a guard allows one address by default.
const NEWCOMER: Duration = Duration::from_millis(200);

/// What a connection of the storm does once it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Nothing.
    Silence,
    /// It begins TLS 1.3, which makes a server exchange keys and sign, and leaves the answer unread.
    Tls,
}

/// A storm.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    /// Where it connects to.
    pub target: SocketAddrV4,
    /// What its connections do.
    pub greeting: Greeting,
    /// Addresses it comes from, 1 to 65,000.
    pub sources: u32,
    /// Connections it aims at in a second.
    pub per_second: u32,
}

/// What became of a storm.
#[derive(Clone, Copy, Debug)]
pub struct Stormed {
    /// Connections tried in a second.
    pub offered: f64,
    /// Those of them that the kernel of the target had room for, in a second.
    pub connected: f64,
}

impl Storm {
    /// Storms for as long as `duration`.
    pub fn run(&self, duration: Duration) -> Result<Stormed> {
        let greeting = match self.greeting {
            Greeting::Silence => Vec::new(),
            Greeting::Tls => client_hello(),
        };
        let target = SockaddrIn::from(self.target);
        let mut open = VecDeque::with_capacity(OPEN + 1);
        let (mut offered, mut connected) = (0_u32, 0_u32);
        let began = Instant::now();
        while began.elapsed() < duration {
            let due = (began.elapsed().as_secs_f64() * f64::from(self.per_second)) as u32;
            if offered >= due {
                thread::sleep(TICK);
                continue;
            }
            let number = offered % self.sources;
            let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 66, 0, 1)) + number);
            open.push_back(begin(source, &target).with_context(|| format!("connection {offered}"))?);
            offered += 1;
            if let Some(newest) = open.back().filter(|_| !greeting.is_empty()) {
                // One that is not open yet, for want of room at the other end, says nothing.
                let _ = send(newest.as_raw_fd(), &greeting, MsgFlags::MSG_NOSIGNAL);
            }
            if open.len() > OPEN {
                connected += open.pop_front().map_or(0, |oldest| u32::from(was_taken(&oldest)));
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        connected += open.iter().map(|rest| u32::from(was_taken(rest))).sum::<u32>();
        Ok(Stormed { offered: f64::from(offered) / seconds, connected: f64::from(connected) / seconds })
    }
}

/// Begins to connect from `source`; the connection is reset when it is dropped.
fn begin(source: Ipv4Addr, target: &SockaddrIn) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let stream =
        socket(AddressFamily::Inet, SockType::Stream, flags, None).context("cannot open a socket")?;
    setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })
        .context("cannot have a connection reset")?;
    bind(stream.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))
        .with_context(|| format!("cannot connect from {source}"))?;
    match connect(stream.as_raw_fd(), target) {
        Ok(()) | Err(Errno::EINPROGRESS | Errno::ECONNREFUSED | Errno::ECONNRESET) => Ok(stream),
        Err(error) => Err(error).context("cannot begin to connect"),
    }
}

/// Whether the other end's kernel took a connection, even if its program has closed it since.
fn was_taken(stream: &OwnedFd) -> bool {
    let is_open = getpeername::<SockaddrIn>(stream.as_raw_fd()).is_ok();
    is_open || nix::sys::socket::getsockopt(stream, sockopt::SocketError) == Ok(libc::ECONNRESET)
}

/// A ClientHello (RFC 8446) with a key share on X25519, which any 32 bytes are.
fn client_hello() -> Vec<u8> {
    let vector = |width: usize, content: &[u8]| {
        let length = (content.len() as u32).to_be_bytes();
        [&length[4 - width..], content].concat()
    };
    let extension = |kind: u16, content: &[u8]| [&kind.to_be_bytes()[..], &vector(2, content)].concat();
    let extensions = [
        extension(10, &vector(2, &[0x00, 0x1d])),
        extension(13, &vector(2, &[0x04, 0x03, 0x08, 0x04])),
        extension(43, &vector(1, &[0x03, 0x04])),
        extension(51, &vector(2, &[&[0x00, 0x1d][..], &vector(2, &[0x5a; 32])].concat())),
    ];
    let body = [
        &[0x03, 0x03][..],
        &[0xa5; 32],
        &vector(1, &[]),
        &vector(2, &[0x13, 0x01]),
        &vector(1, &[0]),
        &vector(2, &extensions.concat()),
    ];
    let handshake = [&[1][..], &vector(3, &body.concat())].concat();
    [&[0x16, 0x03, 0x01][..], &vector(2, &handshake)].concat()
}

/// What honest clients noticed.
#[derive(Clone, Debug, Default)]
pub struct Noticed {
    /// From each message's first byte to its delivery, in microseconds, sorted.
    pub delays_us: Vec<f64>,
    /// From each newcomer's first packet to the answer to its CONNECT, in microseconds, sorted.
    pub joins_us: Vec<f64>,
    /// Newcomers that got no session.
    pub turned_away: usize,
}

/// The value that `percent` of `sorted` values are below; nothing of nothing.
pub fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied()
}

/// Two clients that send messages to each other, and newcomers that come one after the other, until told to stop.
#[derive(Debug)]
pub struct Honest {
    stop: Arc<AtomicBool>,
    pair: JoinHandle<Result<Vec<f64>>>,
    newcomers: JoinHandle<(Vec<f64>, usize)>,
}

impl Honest {
    /// Starts them at `broker` under one user name and password; `topic` is one that they may use. What takes longer than `patience`
    /// counts as lost.
    pub fn start(
        broker: SocketAddr,
        login: (&'static str, &'static str),
        topic: &str,
        patience: Duration,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let open = move |client_id| {
            Client::open(broker, &Hello { client_id, login: Some(login), ..Hello::default() }, patience)
        };
        let mut reader = open("honest-reader")?;
        if reader.subscribe_with(topic, 0)? != 0 {
            bail!("the honest reader may not subscribe to {topic}");
        }
        let mut writer = open("honest-writer")?;
        let (topic, stopped) = (topic.to_owned(), Arc::clone(&stop));
        let pair = thread::spawn(move || {
            let mut delays = Vec::new();
            let mut number = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                writer.send(&mqtt::message(&topic, &number.to_be_bytes(), None, false))?;
                let (_, payload) = reader.receive().with_context(|| format!("message {number} is lost"))?;
                if payload != number.to_be_bytes() {
                    bail!("message {number} was awaited and {payload:?} came");
                }
                delays.push(began.elapsed().as_secs_f64() * 1e6);
                number += 1;
                thread::sleep(BEAT);
            }
            Ok(delays)
        });
        let stopped = Arc::clone(&stop);
        let newcomers = thread::spawn(move || {
            let (mut joins, mut turned_away) = (Vec::new(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                match open("honest-newcomer") {
                    Ok(_) => joins.push(began.elapsed().as_secs_f64() * 1e6),
                    Err(_) => turned_away += 1,
                }
                thread::sleep(NEWCOMER);
            }
            (joins, turned_away)
        });
        Ok(Self { stop, pair, newcomers })
    }

    /// Ends them; an error when one message was lost or out of order.
    pub fn end(self) -> Result<Noticed> {
        self.stop.store(true, Ordering::Relaxed);
        let panicked = || io::Error::other("an honest client panicked");
        let mut delays_us = self.pair.join().map_err(|_| panicked())??;
        let (mut joins_us, turned_away) = self.newcomers.join().map_err(|_| panicked())?;
        delays_us.sort_by(f64::total_cmp);
        joins_us.sort_by(f64::total_cmp);
        Ok(Noticed { delays_us, joins_us, turned_away })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_of_the_list() {
        let values: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!(percentile(&values, 99), Some(99.0));
        assert_eq!(percentile(&values[..1], 99), Some(0.0));
        assert_eq!(percentile(&[], 99), None);
    }

    #[test]
    fn a_client_hello_says_its_own_length() {
        let hello = client_hello();
        assert_eq!(usize::from(u16::from_be_bytes([hello[3], hello[4]])), hello.len() - 5);
        assert_eq!(usize::from(u16::from_be_bytes([hello[7], hello[8]])), hello.len() - 9);
    }
}
