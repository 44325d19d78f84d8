//! Which names the devices' peers go by, and by which prints the devices' own programs go: from DNS answers and TLS hellos.
//!
//! A name belongs to an address for one device alone: what one device was answered or says proves nothing to another. A name of a DNS
//! answer stands above one that the device itself put into a hello. Everything is bounded, what was used least recently goes
//! first. Names stay on the gateway: this room hands them to findings, the event log and the operator, and to nobody else.

use std::{collections::VecDeque, net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use serde::{Deserialize, Serialize};
use tidegate_common::{device::DeviceKey, event::SampleEvent, flow::FlowKey, parse::Packet};

use super::{
    dns::DnsMessage,
    fingerprint::{ClientPrint, ServerPrint},
    tls::{Hellos, Print, TlsHello},
};

const MAX_NAMES: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
const MAX_DEVICES: NonZeroUsize = NonZeroUsize::new(2_048).unwrap();
/// ClientHellos that wait for their answer.
const MAX_CLIENTS: NonZeroUsize = NonZeroUsize::new(512).unwrap();
/// Prints kept of one device.
const MAX_PRINTS: usize = 8;
/// A name counts at least for so long, as connections outlive the time an answer may be kept.
const SHORTEST_NS: u64 = 600_000_000_000;
/// And no longer than this, whatever the answer says.
const LONGEST_NS: u64 = 86_400_000_000_000;

/// Where a peer's name came from. A later one counts more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NameOrigin {
    /// The device asked for it in a TLS hello.
    Tls,
    /// A DNS answer to the device.
    Dns,
}

/// A name of an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerName {
    /// The address.
    pub address: IpAddr,
    /// What it is called.
    pub name: String,
    /// Who says so.
    pub origin: NameOrigin,
}

#[derive(Debug)]
struct Named {
    name: String,
    origin: NameOrigin,
    until_ns: u64,
}

/// A TLS client on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePrint {
    /// JA3 of its hellos.
    pub ja3: String,
    /// JA4 of its hellos.
    pub ja4: String,
    /// JA3S of the last answer.
    pub ja3s: Option<String>,
    /// The name it asked for last.
    pub sni: Option<String>,
    /// Hellos.
    pub count: u64,
}

/// A TLS connection whose hellos were seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConnection {
    /// The server's packet.
    pub packet: Packet,
    /// The device at this end.
    pub device: DeviceKey,
    /// What the client said.
    pub client: ClientPrint,
    /// What the server said.
    pub server: ServerPrint,
}

/// What a sample told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A DNS message.
    Dns(Box<DnsMessage>),
    /// Both hellos of a connection.
    Tls(Box<TlsConnection>),
}

/// The names.
#[derive(Debug)]
pub struct Names {
    peers: LruCache<(DeviceKey, IpAddr), Named>,
    prints: LruCache<DeviceKey, VecDeque<DevicePrint>>,
    clients: LruCache<FlowKey, ClientPrint>,
    hellos: Hellos,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            peers: LruCache::new(MAX_NAMES),
            prints: LruCache::new(MAX_DEVICES),
            clients: LruCache::new(MAX_CLIENTS),
            hellos: Hellos::new(),
        }
    }
}

impl Names {
    /// Learns from a sample of DNS or TLS.
    pub fn observe(&mut self, sample: &SampleEvent, now_ns: u64) -> Option<Heard> {
        if let Some(message) = DnsMessage::read(sample) {
            for (address, ttl) in message.answer.iter().flat_map(|answer| &answer.addresses) {
                let ttl_ns = u64::from(*ttl) * 1_000_000_000;
                self.name(message.device, *address, &message.name, NameOrigin::Dns, ttl_ns, now_ns);
            }
            return Some(Heard::Dns(Box::new(message)));
        }
        let TlsHello { key, packet, device, from_device, print } = self.hellos.take(sample)?;
        match print {
            Print::Client(client) => {
                if from_device {
                    let server = IpAddr::from(packet.dst.octets()).to_canonical();
                    if let Some(sni) = &client.sni {
                        self.name(device, server, sni, NameOrigin::Tls, LONGEST_NS, now_ns);
                    }
                    self.print(device, &client);
                }
                self.clients.put(key, client);
                None
            }
            Print::Server(server) => {
                let client = self.clients.pop(&key)?;
                if !from_device
                    && let Some(prints) = self.prints.get_mut(&device)
                    && let Some(print) = prints.iter_mut().find(|print| print.ja4 == client.ja4)
                {
                    print.ja3s = Some(server.ja3s.clone());
                }
                Some(Heard::Tls(Box::new(TlsConnection { packet, device, client, server })))
            }
        }
    }

    /// What an address is called for a device.
    pub fn of(&self, device: DeviceKey, address: IpAddr, now_ns: u64) -> Option<PeerName> {
        let named = self.peers.peek(&(device, address.to_canonical()))?;
        (named.until_ns > now_ns).then(|| PeerName {
            address,
            name: named.name.clone(),
            origin: named.origin,
        })
    }

    /// The names of a device's peers, last heard first.
    pub fn peers(&self, device: DeviceKey, now_ns: u64) -> Vec<PeerName> {
        let own = self.peers.iter().filter(|((owner, _), named)| *owner == device && named.until_ns > now_ns);
        own.map(|((_, address), named)| PeerName {
            address: *address,
            name: named.name.clone(),
            origin: named.origin,
        })
        .collect()
    }

    /// The TLS clients of a device, last heard first.
    pub fn prints(&self, device: DeviceKey) -> Vec<DevicePrint> {
        self.prints.peek(&device).into_iter().flatten().cloned().collect()
    }

    fn name(
        &mut self,
        device: DeviceKey,
        address: IpAddr,
        name: &str,
        origin: NameOrigin,
        for_ns: u64,
        now_ns: u64,
    ) {
        let key = (device, address.to_canonical());
        let stands = |known: &Named| known.origin > origin && known.until_ns > now_ns;
        if name.is_empty() || self.peers.get(&key).is_some_and(stands) {
            return;
        }
        let until_ns = now_ns.saturating_add(for_ns.clamp(SHORTEST_NS, LONGEST_NS));
        self.peers.put(key, Named { name: name.to_owned(), origin, until_ns });
    }

    fn print(&mut self, device: DeviceKey, client: &ClientPrint) {
        let prints = self.prints.get_or_insert_mut(device, VecDeque::new);
        let known = prints.iter().position(|print| print.ja4 == client.ja4);
        let mut print = known.and_then(|index| prints.remove(index)).unwrap_or_else(|| DevicePrint {
            ja3: String::new(),
            ja4: client.ja4.clone(),
            ja3s: None,
            sni: None,
            count: 0,
        });
        // Clients that shuffle their extensions have another JA3 every time.
        print.ja3.clone_from(&client.ja3);
        print.sni = client.sni.clone().or(print.sni);
        print.count += 1;
        prints.truncate(MAX_PRINTS - 1);
        prints.push_front(print);
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
