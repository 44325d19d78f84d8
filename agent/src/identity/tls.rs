//! Sampled TLS hellos, put together where they take several segments (RFC 8446, 5246). Bounded; the bytes are hostile.
//!
//! Only whole hellos are read: one whose other segments were not sampled, came in another order, or that is spread over several TLS
//! records says nothing. A ServerHello is read with what else its segment holds.

use std::num::NonZeroUsize;

use lru::LruCache;
use tidegate_common::{
    device::DeviceKey,
    event::{SampleCause, SampleEvent},
    flow::FlowKey,
    parse::{Packet, parse},
};

use super::{
    fingerprint::{ClientPrint, ServerPrint},
    mac::Mac,
    sample::payload,
};

/// ClientHellos that wait for their rest at the same time, as many as the kernel follows.
const WAITING: NonZeroUsize = NonZeroUsize::new(tidegate_common::maps::HELLO_CAPACITY as usize).unwrap();
/// Longest hello that is put together.
const MOST_BYTES: usize = 6_144;
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;

/// What a hello says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Print {
    /// The client's.
    Client(ClientPrint),
    /// The server's.
    Server(ServerPrint),
}

/// A hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TlsHello {
    /// The connection.
    pub(super) key: FlowKey,
    /// Parsed packet that ended the hello, for its addresses and ports.
    pub(super) packet: Packet,
    /// The device behind the port where it was seen.
    pub(super) device: DeviceKey,
    /// Whether the device sent it.
    pub(super) from_device: bool,
    /// What it says.
    pub(super) print: Print,
}

/// ClientHellos of which a part is here.
#[derive(Debug)]
pub(super) struct Hellos {
    waiting: LruCache<FlowKey, Vec<u8>>,
}

impl Hellos {
    pub(super) fn new() -> Self {
        Self { waiting: LruCache::new(WAITING) }
    }

    /// Takes a sample; the hello that it ends, if it does.
    pub(super) fn take(&mut self, sample: &SampleEvent) -> Option<TlsHello> {
        if sample.cause != SampleCause::Hello as u8 {
            return None;
        }
        let frame = sample.data.get(..usize::from(sample.captured))?;
        let packet = parse(frame, 0);
        let from_device = sample.point.is_ingress();
        let mac = if from_device { packet.src_mac } else { packet.dst_mac };
        if !Mac(mac).is_device() {
            return None;
        }
        let (key, _) = FlowKey::of(&packet);
        let print = self.add(key, payload(frame, &packet)?)?;
        let device = DeviceKey::new(mac, sample.point.ifindex());
        Some(TlsHello { key, packet, device, from_device, print })
    }

    fn add(&mut self, key: FlowKey, segment: &[u8]) -> Option<Print> {
        let Some(mut bytes) = self.waiting.pop(&key) else {
            return self.read(key, segment.to_vec());
        };
        // The same once more is no rest, and a hello of the server ends the wait.
        if segment.get(..RECORD_HEADER + 1) == bytes.get(..RECORD_HEADER + 1) {
            self.waiting.put(key, bytes);
            return None;
        }
        if message(segment).is_some_and(|(kind, _)| kind == SERVER) {
            return self.read(key, segment.to_vec());
        }
        bytes.extend_from_slice(segment);
        self.read(key, bytes)
    }

    fn read(&mut self, key: FlowKey, bytes: Vec<u8>) -> Option<Print> {
        let (kind, body) = message(&bytes)?;
        match (kind, body) {
            (CLIENT, Some(body)) => ClientPrint::read(body).map(Print::Client),
            (SERVER, Some(body)) => ServerPrint::read(body).map(Print::Server),
            (CLIENT, None) if bytes.len() < MOST_BYTES => {
                self.waiting.put(key, bytes);
                None
            }
            _ => None,
        }
    }
}

const CLIENT: u8 = 1;
const SERVER: u8 = 2;

/// Type of the handshake message that a payload begins with, and its body when it is whole.
fn message(bytes: &[u8]) -> Option<(u8, Option<&[u8]>)> {
    let [22, 3, _, _, _, kind, high, middle, low, body @ ..] = bytes else { return None };
    let record = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
    let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
    let within = length + MESSAGE_HEADER <= record;
    Some((*kind, body.get(..length).filter(|_| within)))
}
