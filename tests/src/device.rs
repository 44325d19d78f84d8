//! Devices that behave, each measuring its own service like its owner would.
//!
//! A request counts as served only when the answer came back through the gateway, and as failed after two seconds.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    mqtt,
    service::{Threads, bind_udp, login, web},
    topology::{BROKER, CLOUD, GATEWAY, NTP, Place, STREAM, Topology},
};

const TIMEOUT: Duration = Duration::from_secs(2);
/// Pictures a second of the camera.
const FRAMES: u32 = 25;
/// Bytes of one picture: 25 of them a second are 5 Mbit/s.
const FRAME: usize = 25_000;
/// Failures of a device that are remembered; more tell nothing new.
const FAILURES: usize = 20;

/// What a device's owner notices.
#[derive(Debug, Default)]
pub struct Service {
    served: AtomicU64,
    failed: AtomicU64,
    /// Why the first requests since they were last taken failed.
    failures: Mutex<Vec<String>>,
}

/// A reading of [`Service`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Requests answered.
    pub served: u64,
    /// Requests that got no answer in time.
    pub failed: u64,
}

impl Service {
    /// The counters now.
    pub fn read(&self) -> Reading {
        Reading { served: self.served.load(Ordering::Relaxed), failed: self.failed.load(Ordering::Relaxed) }
    }

    /// Makes a request and counts what became of it.
    fn request(&self, ask: impl FnOnce() -> Result<()>) {
        let begin = Instant::now();
        let Err(error) = ask() else {
            self.served.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < FAILURES {
            failures.push(format!("{error:#}, after {:.1} s", begin.elapsed().as_secs_f64()));
        }
    }

    fn take_failures(&self) -> Vec<String> {
        std::mem::take(&mut *self.failures.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Reading {
    /// What happened since `before`.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self { served: self.served - before.served, failed: self.failed - before.failed }
    }
}

/// All devices, running.
#[derive(Debug)]
pub struct Devices {
    services: Vec<(&'static str, Arc<Service>)>,
    _threads: Threads,
}

impl Devices {
    /// Switches every device on; returns once each got its address by DHCP and answers on its own port.
    pub fn start(topology: &Topology) -> Result<Self> {
        let mut threads = Threads::default();
        let mut services = Vec::new();
        for place in &topology.devices {
            place.netns.enter(|| lease(place)).with_context(|| format!("{} got no address", place.name))?;
            threads.serve(&place.netns, 8080, web)?;
            if place.name == "camera" {
                threads.serve(&place.netns, 21, login)?;
            }
            let service = Arc::new(Service::default());
            services.push((place.name, Arc::clone(&service)));
            let stop = threads.stop_flag();
            match place.name {
                "camera" => threads.spawn(&place.netns, move || camera(&service, &stop))?,
                "sensor" => threads.spawn(&place.netns, move || sensor(&service, &stop))?,
                "hub" => {
                    let others: Vec<Ipv4Addr> = topology
                        .devices
                        .iter()
                        .filter(|other| matches!(other.name, "camera" | "sensor" | "plug"))
                        .map(|other| other.address)
                        .collect();
                    threads.spawn(&place.netns, move || hub(&others, &service, &stop))?;
                }
                _ => threads.spawn(&place.netns, move || plug(&service, &stop))?,
            }
        }
        Ok(Self { services, _threads: threads })
    }

    /// Names and readings of all devices.
    pub fn read(&self) -> Vec<(&'static str, Reading)> {
        self.services.iter().map(|(name, service)| (*name, service.read())).collect()
    }

    /// Which requests failed since this was last asked, and why; a device's first twenty.
    pub fn take_failures(&self) -> Vec<(&'static str, String)> {
        let of = |(name, service): &(&'static str, Arc<Service>)| {
            service.take_failures().into_iter().map(|why| (*name, why)).collect::<Vec<_>>()
        };
        self.services.iter().flat_map(of).collect()
    }
}

/// Calls `work` every `period` until `stop`; late calls are not made up for.
fn every(period: Duration, stop: &AtomicBool, mut work: impl FnMut()) {
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        work();
        next = (next + period).max(Instant::now());
        while Instant::now() < next && !stop.load(Ordering::Relaxed) {
            thread::sleep((next - Instant::now()).min(Duration::from_millis(100)));
        }
    }
}

/// Streams video over one connection, picture by picture.
fn camera(service: &Service, stop: &AtomicBool) {
    let mut connection = None;
    let mut picture = vec![0x55; 4 + FRAME];
    picture[..4].copy_from_slice(&(FRAME as u32).to_be_bytes());
    every(Duration::from_secs(1) / FRAMES, stop, || {
        service.request(|| {
            let mut stream = match connection.take() {
                Some(stream) => stream,
                None => connect((STREAM, 8554).into())?,
            };
            stream.write_all(&picture).context("cannot send a picture")?;
            stream.read_exact(&mut [0]).context("a picture was not acknowledged")?;
            connection = Some(stream);
            Ok(())
        });
    });
}

/// Publishes a value a second.
fn sensor(service: &Service, stop: &AtomicBool) {
    let mut session = None;
    every(Duration::from_secs(1), stop, || {
        service.request(|| {
            let mut client = match session.take() {
                Some(client) => client,
                None => mqtt::Client::connect((BROKER, 1883).into(), "sensor", TIMEOUT)?,
            };
            client.publish("home/sensor/temperature", b"{\"celsius\":21.5}")?;
            session = Some(client);
            Ok(())
        });
    });
}

/// Looks its cloud up and asks it for orders every two seconds.
fn plug(service: &Service, stop: &AtomicBool) {
    every(Duration::from_secs(2), stop, || {
        service.request(|| resolve("cloud.test").and_then(|()| get((CLOUD, 80).into())));
    });
}

/// Asks the other devices for their state every two seconds, and the time server now and then.
fn hub(others: &[Ipv4Addr], service: &Service, stop: &AtomicBool) {
    let mut round = 0_u32;
    every(Duration::from_secs(2), stop, || {
        for other in others {
            service.request(|| get((*other, 8080).into()));
        }
        if round.is_multiple_of(8) {
            service.request(ask_time);
        }
        round += 1;
    });
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, TIMEOUT).with_context(|| format!("{to} does not answer"))?;
    stream.set_read_timeout(Some(TIMEOUT)).context("cannot set a timeout")?;
    stream.set_write_timeout(Some(TIMEOUT)).context("cannot set a timeout")?;
    stream.set_nodelay(true).context("cannot send at once")?;
    Ok(stream)
}

/// Fetches `/` of a web server.
pub fn get(from: SocketAddr) -> Result<()> {
    let mut stream = connect(from)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {from}\r\nConnection: close\r\n\r\n").context("cannot ask")?;
    let mut answer = String::new();
    stream.take(4_096).read_to_string(&mut answer).context("no answer")?;
    if !answer.starts_with("HTTP/1.1 200") {
        bail!("{from} answered {answer:?}");
    }
    Ok(())
}

/// Asks the gateway's resolver for a name's IPv4 address.
pub fn resolve(name: &str) -> Result<()> {
    let mut query = vec![0x74, 0x67, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let answer = ask_udp((GATEWAY, 53).into(), &query)?;
    if answer.len() < 12 || answer[..2] != query[..2] || answer[3] & 0x0f != 0 || answer[6..8] == [0, 0] {
        bail!("no address for {name}");
    }
    Ok(())
}

/// Asks the time server.
pub fn ask_time() -> Result<()> {
    let mut query = [0; 48];
    query[0] = 0x23;
    let answer = ask_udp((NTP, 123).into(), &query)?;
    if answer.len() < 48 || answer[0] & 7 != 4 {
        bail!("the time server answered {answer:?}");
    }
    Ok(())
}

fn ask_udp(to: SocketAddr, query: &[u8]) -> Result<Vec<u8>> {
    let socket = bind_udp((Ipv4Addr::UNSPECIFIED, 0).into())?;
    socket.set_read_timeout(Some(TIMEOUT)).context("cannot set a timeout")?;
    socket.send_to(query, to).with_context(|| format!("cannot reach {to}"))?;
    let mut answer = vec![0; 1_500];
    let (length, from) = socket.recv_from(&mut answer).with_context(|| format!("{to} does not answer"))?;
    if from != to {
        bail!("{from} answered for {to}");
    }
    answer.truncate(length);
    Ok(answer)
}

/// Asks for the device's address by DHCP (RFC 2131), telling the device's name, and checks that it is the one reserved for it.
pub fn lease(place: &Place) -> Result<()> {
    const DISCOVER: u8 = 1;
    const REQUEST: u8 = 3;
    let socket = bind_udp((Ipv4Addr::UNSPECIFIED, 68).into())?;
    socket.set_broadcast(true).context("cannot broadcast")?;
    socket.set_read_timeout(Some(TIMEOUT)).context("cannot set a timeout")?;
    for kind in [DISCOVER, REQUEST] {
        let message = dhcp(place, kind)?;
        let mut answered = false;
        for _ in 0..3 {
            socket.send_to(&message, (Ipv4Addr::BROADCAST, 67)).context("cannot broadcast")?;
            let mut answer = [0; 1_500];
            let Ok((length, from)) = socket.recv_from(&mut answer) else { continue };
            // OFFER follows DISCOVER as 2 follows 1, ACK follows REQUEST as 5 follows 3.
            let expected = if kind == DISCOVER { 2 } else { 5 };
            answered = from.ip() == IpAddr::from(GATEWAY)
                && length > 242
                && answer[16..20] == place.address.octets()
                && answer[240..243] == [53, 1, expected];
            if answered {
                break;
            }
        }
        if !answered {
            bail!("the DHCP server did not answer message {kind}");
        }
    }
    Ok(())
}

fn dhcp(place: &Place, kind: u8) -> Result<Vec<u8>> {
    let mac: Vec<u8> = place
        .mac
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .context("a hardware address of the lab is malformed")?;
    let mut message = vec![0; 236];
    message[..3].copy_from_slice(&[1, 1, 6]);
    message[4..8].copy_from_slice(&mac[2..6]);
    // Answers as broadcasts: a device without an address could not take others.
    message[10] = 0x80;
    message[28..34].copy_from_slice(&mac);
    message.extend([99, 130, 83, 99, 53, 1, kind]);
    message.extend([12, place.name.len() as u8]);
    message.extend(place.name.as_bytes());
    if kind == 3 {
        message.extend([50, 4]);
        message.extend(place.address.octets());
        message.extend([54, 4]);
        message.extend(GATEWAY.octets());
    }
    message.push(255);
    Ok(message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;
    use crate::service::Services;

    #[test]
    fn every_device_is_served() {
        if !crate::is_root() {
            crate::skipped("device::every_device_is_served", "needs root for namespaces");
            return;
        }
        let _alone = crate::alone().unwrap();
        let topology = Topology::create().unwrap();
        let _services = Services::start(&topology).unwrap();
        let devices = Devices::start(&topology).unwrap();
        thread::sleep(Duration::from_secs(3));
        for (name, reading) in devices.read() {
            let at_least = if name == "camera" { 40 } else { 1 };
            assert!(reading.served >= at_least && reading.failed == 0, "{name}: {reading:?}");
        }
    }
}
