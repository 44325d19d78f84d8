//! A load of MQTT messages that counts every one of them: one publisher, one subscriber, no message lost.
//!
//! The publisher is never more than a window ahead of the subscriber, so that no broker has a reason to drop anything; what is measured
//! is how fast the broker passes messages on.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::mqtt::{self, Client, Hello};

const TIMEOUT: Duration = Duration::from_secs(20);
const TOPIC: &str = "load/messages";
/// Messages written at once.
const BATCH: u64 = 256;

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Quality of service, 0 or 1.
    pub qos: u8,
    /// Messages.
    pub messages: u64,
    /// Bytes of payload.
    pub payload: usize,
    /// Messages that may be on their way.
    pub window: u64,
}

/// Sends `load` through the broker at `broker`; messages a second from the first publish to the last delivery.
pub fn run(broker: SocketAddr, load: &Load) -> Result<f64> {
    let mut subscriber = Client::open(broker, &Hello { client_id: "reader", ..Hello::default() }, TIMEOUT)?;
    let code = subscriber.subscribe_with(TOPIC, load.qos)?;
    if code != load.qos {
        bail!("the subscription was answered with {code:#x}");
    }
    let publisher =
        Client::open(broker, &Hello { client_id: "writer", ..Hello::default() }, TIMEOUT)?.into_stream();
    let received = Arc::new(AtomicU64::new(0));
    let failed = Arc::new(AtomicBool::new(false));
    let reader = {
        let (received, failed, load) = (Arc::clone(&received), Arc::clone(&failed), *load);
        let stream = subscriber.into_stream();
        thread::spawn(move || {
            let result = receive(stream, &load, &received);
            failed.store(result.is_err(), Ordering::Release);
            result
        })
    };
    let acknowledged = Arc::new(AtomicU64::new(0));
    let acks = publisher.try_clone().context("cannot share the connection")?;
    let ack_reader = {
        let (acknowledged, load) = (Arc::clone(&acknowledged), *load);
        (load.qos > 0).then(|| thread::spawn(move || count(acks, load.messages, &acknowledged)))
    };
    let began = Instant::now();
    let ahead = || {
        let passed = received.load(Ordering::Acquire);
        if load.qos == 0 { passed } else { passed.min(acknowledged.load(Ordering::Acquire)) }
    };
    publish(&publisher, load, ahead, &failed)?;
    let ended = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    let elapsed = ended.duration_since(began);
    if let Some(reader) = ack_reader {
        reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    }
    publisher.shutdown(Shutdown::Both).context("cannot close")?;
    Ok(load.messages as f64 / elapsed.as_secs_f64())
}

fn publish(mut stream: &TcpStream, load: &Load, passed: impl Fn() -> u64, failed: &AtomicBool) -> Result<()> {
    let mut sent = 0;
    let mut bytes = Vec::new();
    while sent < load.messages {
        let deadline = Instant::now() + TIMEOUT;
        let room = loop {
            let room = load.window.saturating_sub(sent - passed());
            if room > 0 {
                break room;
            }
            if failed.load(Ordering::Acquire) || Instant::now() > deadline {
                bail!("the broker passed {} of {sent} messages on", passed());
            }
            thread::sleep(Duration::from_micros(20));
        };
        bytes.clear();
        let until = (sent + room.min(BATCH)).min(load.messages);
        for number in sent..until {
            let mut payload = number.to_be_bytes().to_vec();
            payload.resize(load.payload.max(8), 0x5a);
            let id = (load.qos > 0).then_some((number % 65_535) as u16 + 1);
            bytes.extend(mqtt::message(TOPIC, &payload, id, false));
        }
        sent = until;
        stream.write_all(&bytes).context("cannot publish")?;
    }
    Ok(())
}

/// Counts `most` acknowledgements.
fn count(mut stream: TcpStream, most: u64, acknowledged: &AtomicU64) -> Result<()> {
    let mut packets = Packets::default();
    let mut found = 0;
    while found < most {
        packets.read(&mut stream, |_| {
            found += 1;
            Ok(())
        })?;
        acknowledged.store(found, Ordering::Release);
    }
    Ok(())
}

/// Receives every message in order, and acknowledges it when that is wanted; when the last one came.
fn receive(mut stream: TcpStream, load: &Load, received: &AtomicU64) -> Result<Instant> {
    let head = 2 + TOPIC.len();
    let mut packets = Packets::default();
    let mut answer = Vec::new();
    let mut next = 0;
    while next < load.messages {
        packets.read(&mut stream, |body| {
            let after = body.get(head..).context("a message that is cut short")?;
            let payload = if load.qos == 0 {
                after
            } else {
                let (id, payload) = after.split_first_chunk::<2>().context("a message without an id")?;
                answer.extend([0x40, 2]);
                answer.extend(id);
                payload
            };
            let number = payload.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
            if number != Some(next) {
                bail!("message {next} was awaited and {number:?} came");
            }
            next += 1;
            Ok(())
        })?;
        stream.write_all(&answer).context("cannot acknowledge")?;
        answer.clear();
        received.store(next, Ordering::Release);
    }
    Ok(Instant::now())
}

/// Packets out of a stream, many at a time.
#[derive(Default)]
struct Packets {
    bytes: Vec<u8>,
}

impl Packets {
    /// Reads once and hands the body of every whole packet on.
    fn read(&mut self, stream: &mut TcpStream, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        const ROOM: usize = 1 << 16;
        let before = self.bytes.len();
        self.bytes.resize(before + ROOM, 0);
        let count = stream.read(&mut self.bytes[before..]).context("the broker is silent")?;
        self.bytes.truncate(before + count);
        if count == 0 {
            bail!("the broker closed the connection");
        }
        let mut at = 0;
        while let Some((head, length)) = mqtt::frame(&self.bytes[at..]) {
            let Some(packet) = self.bytes.get(at..at + head + length) else { break };
            each(&packet[head..])?;
            at += packet.len();
        }
        self.bytes.drain(..at);
        Ok(())
    }
}
