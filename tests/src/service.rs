//! What the lab's hosts offer: name, time, web, broker, stream and login services. Real servers where Debian has small ones.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike},
};

use crate::{
    netns::Netns,
    process::Process,
    topology::{BROKER, CLOUD, COMMAND, DNS, DROP, GATEWAY, NTP, Topology},
    wait_for,
};

/// How long a server waits for a client before it looks whether it should end.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long a client may take.
const CLIENT: Duration = Duration::from_secs(5);

/// Threads that end when this is dropped.
#[derive(Debug, Default)]
pub struct Threads {
    stop: Arc<AtomicBool>,
    running: Vec<JoinHandle<()>>,
}

impl Threads {
    /// The flag that is set when the threads should end.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Runs `work` inside `netns`; it must watch the flag.
    pub fn spawn(&mut self, netns: &Netns, work: impl FnOnce() + Send + 'static) -> Result<()> {
        self.running.push(netns.spawn(work)?);
        Ok(())
    }

    /// Serves TCP `port` inside `netns`, one thread a client.
    pub fn serve(
        &mut self,
        netns: &Netns,
        port: u16,
        serve: fn(TcpStream) -> std::io::Result<()>,
    ) -> Result<()> {
        let listener = netns.enter(|| {
            let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
                .with_context(|| format!("cannot listen on port {port}"))?;
            setsockopt(
                &listener.as_fd(),
                ReceiveTimeout,
                &TimeVal::milliseconds(PATIENCE.as_millis() as i64),
            )
            .context("cannot set a timeout")?;
            Ok(listener)
        })?;
        let stop = self.stop_flag();
        self.spawn(netns, move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok((client, _)) = listener.accept() else { continue };
                let _ = client.set_read_timeout(Some(CLIENT));
                let _ = client.set_write_timeout(Some(CLIENT));
                // A client that goes away in the middle is everyday life for a server.
                thread::spawn(move || serve(client));
            }
        })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.running.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The servers outside and those of the gateway.
#[derive(Debug)]
pub struct Services {
    _programs: Vec<Process>,
    _threads: Threads,
    /// Bytes that arrived at sinks outside.
    pub received: Arc<AtomicU64>,
}

impl Services {
    /// Starts everything and returns when it answers.
    pub fn start(topology: &Topology) -> Result<Self> {
        let directory = topology.directory();
        let mut threads = Threads::default();
        let (internet, gateway) = (&topology.internet, &topology.gateway);
        let mut programs = Vec::new();

        let mut resolver = internet.command("dnsmasq");
        resolver.args(dnsmasq(&[
            &format!("--listen-address={DNS}"),
            &format!("--address=/cloud.test/{CLOUD}"),
            &format!("--server=/tunnel.test/{COMMAND}"),
        ]));
        programs.push(Process::start(&mut resolver, &directory.join("resolver.log"))?);

        // The far end of a tunnel through DNS: it is asked by the resolver and hands what it gets to a sink.
        let tunnel = directory.join("dns2tcpd.conf");
        std::fs::write(
            &tunnel,
            format!("listen = {COMMAND}\nport = 53\nuser = root\nchroot = /\ndomain = tunnel.test\nresources = sink:{DROP}:443\n"),
        )
        .context("cannot write the tunnel's configuration")?;
        // It polls without a pause, which must not cost the others their time.
        let mut far_end = internet.command("nice");
        far_end.args(["-n", "10", "dns2tcpd", "-F", "-f"]).arg(&tunnel);
        programs.push(Process::start(&mut far_end, &directory.join("dns2tcpd.log"))?);

        let mut lan = gateway.command("dnsmasq");
        lan.args(dnsmasq(&[
            &format!("--listen-address={GATEWAY}"),
            &format!("--server={DNS}"),
            "--dhcp-range=192.168.77.100,192.168.77.199,255.255.255.0,12h",
            &format!("--dhcp-leasefile={}", directory.join("leases").display()),
            "--dhcp-authoritative",
            // It asks the network first whether an address is taken, which takes three seconds.
            "--no-ping",
        ]));
        for place in &topology.devices {
            lan.arg(format!("--dhcp-host={},{},{}", place.mac, place.address, place.name));
        }
        programs.push(Process::start(&mut lan, &directory.join("dnsmasq.log"))?);

        let broker = directory.join("mosquitto.conf");
        std::fs::write(
            &broker,
            format!("listener 1883 {BROKER}\nallow_anonymous true\npersistence false\nuser root\n"),
        )
        .context("cannot write the broker's configuration")?;
        let mut mosquitto = internet.command("mosquitto");
        programs.push(Process::start(mosquitto.arg("-c").arg(&broker), &directory.join("mosquitto.log"))?);

        threads.serve(internet, 80, web)?;
        threads.serve(internet, 8554, stream)?;
        threads.serve(internet, 443, sink)?;
        threads.serve(internet, 4444, beacon)?;
        let clock = internet.enter(|| bind_udp(SocketAddr::from((NTP, 123))))?;
        let stop = threads.stop_flag();
        threads.spawn(internet, move || time_server(&clock, &stop))?;

        let up = |netns: &Netns, address: SocketAddr| {
            let answers = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok();
            netns.enter(|| Ok(wait_for(Duration::from_secs(10), || answers().then_some(())).is_some()))
        };
        for (what, netns, address) in [
            ("the internet's resolver", internet, (IpAddr::from(DNS), 53)),
            ("the LAN's resolver", gateway, (IpAddr::from(GATEWAY), 53)),
            ("the broker", internet, (IpAddr::from(BROKER), 1883)),
            ("the web service", internet, (IpAddr::from(CLOUD), 80)),
        ] {
            if !up(netns, address.into())? {
                let said: Vec<String> = programs.iter().map(Process::said).collect();
                bail!("{what} did not come up: {}", said.join("").trim());
            }
        }
        Ok(Self { _programs: programs, _threads: threads, received: Arc::default() })
    }
}

fn dnsmasq<'a>(extra: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec![
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--user=root",
        "--pid-file=",
        "--log-facility=-",
    ];
    arguments.extend(extra);
    arguments
}

/// A UDP socket that gives up waiting now and then.
pub(crate) fn bind_udp(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot bind UDP {address}"))?;
    socket.set_read_timeout(Some(PATIENCE)).context("cannot set a timeout")?;
    Ok(socket)
}

fn time_server(socket: &UdpSocket, stop: &AtomicBool) {
    let mut request = [0; 128];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut request) else { continue };
        if length < 48 || request[0] & 7 != 3 {
            continue;
        }
        let mut answer = [0; 48];
        // Version 4, mode server, stratum 1 (RFC 5905); the client's transmit time comes back as origin.
        answer[0] = 0x24;
        answer[1] = 1;
        answer[24..32].copy_from_slice(&request[40..48]);
        let since_1900 = crate::sniffer::now_ns() / 1_000_000_000 + 2_208_988_800;
        answer[40..44].copy_from_slice(&(since_1900 as u32).to_be_bytes());
        let _ = socket.send_to(&answer, client);
    }
}

/// A web page for every request.
pub(crate) fn web(client: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(client);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.by_ref().take(4_096).read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
    }
    let body = "{\"state\":\"on\",\"watts\":4}";
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    reader.get_mut().write_all((head + body).as_bytes())
}

/// Frames of a camera, each acknowledged with one byte.
fn stream(mut client: TcpStream) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut frame = vec![0; 1 << 16];
    loop {
        let mut length = [0; 4];
        client.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        let part = frame.get_mut(..length).ok_or(ErrorKind::InvalidData)?;
        client.read_exact(part)?;
        client.write_all(&[1])?;
    }
}

/// Swallows everything.
fn sink(mut client: TcpStream) -> std::io::Result<()> {
    std::io::copy(&mut client, &mut std::io::sink()).map(|_| ())
}

/// Answers malware's question for orders.
fn beacon(mut client: TcpStream) -> std::io::Result<()> {
    let mut question = [0; 64];
    while client.read(&mut question)? > 0 {
        client.write_all(b"none\n")?;
    }
    Ok(())
}

/// A camera's FTP server (RFC 959) that nobody passes, and that hangs up after three wrong passwords.
pub(crate) fn login(client: TcpStream) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client);
    reader.get_mut().write_all(b"220 camera ready\r\n")?;
    let mut wrong = 0;
    while wrong < 3 {
        let mut line = String::new();
        if reader.by_ref().take(1_024).read_line(&mut line)? == 0 {
            break;
        }
        let answer = match line.split_whitespace().next() {
            Some("USER") => "331 password please\r\n",
            Some("PASS") => {
                wrong += 1;
                "530 wrong\r\n"
            }
            Some("QUIT") => break,
            _ => "502 unknown\r\n",
        };
        reader.get_mut().write_all(answer.as_bytes())?;
    }
    Ok(())
}
