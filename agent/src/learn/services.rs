//! The services of a device: with whom it talks, by which protocol and port, and who begins.
//!
//! What is met while the device is learned counts at once. Later a service waits, is dropped with everything else that waits when
//! something is found about the device, and counts once its models are renewed. Bounded: of too many, those used least recently go.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    num::NonZeroUsize,
};

use lru::LruCache;
use serde::{Deserialize, Serialize};
use tidegate_common::{device::DeviceKey, flow::progress, parse::proto};

use super::{bounded::bounded, contact::Contact, device::Phase, rules::is_host, vetting::QUARANTINE_NS};

/// Services remembered of one device.
const MOST: NonZeroUsize = NonZeroUsize::new(512).unwrap();
/// Services of one device that wait.
const WAITING: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Hosts from which on a device turns to ever new ones, as browsers and clients of clouds do.
pub(super) const MANY_HOSTS: usize = 16;
/// From here on systems choose the ports of their clients; those of services are below.
const FIRST_CLIENT_PORT: u16 = 32_768;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whom {
    /// The gateway itself.
    Gateway,
    /// Another device.
    Neighbour,
    /// A group or everyone on the link.
    Group,
    /// A host outside.
    Remote,
}

/// One service that a device uses or offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Service {
    /// Who is at the other end.
    pub whom: Whom,
    /// Its address.
    pub peer: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// Port of the service: the other end's when the device begins, else the device's own; 0 where there are none.
    pub port: u16,
    /// Whether the device begins.
    pub by_device: bool,
}

/// A flow as a service of the device at each end that is one.
pub(super) fn services(contact: &Contact<'_>, own: &HashSet<IpAddr>) -> Vec<(DeviceKey, Service)> {
    let record = contact.record;
    let answered = record.inward.packets > 0;
    let is_tcp = contact.protocol == proto::TCP;
    let began = record.progress & progress::SYN != 0;
    if is_tcp && (!answered || began && record.progress & progress::SYN_ACK == 0) {
        return Vec::new();
    }
    // Of a conversation whose beginning nobody saw, as of an answer to a question to a group, the lower port is the service's.
    let is_answer = !began && contact.source_port < FIRST_CLIENT_PORT && contact.port >= FIRST_CLIENT_PORT;
    let turned = is_answer && matches!(contact.protocol, proto::TCP | proto::UDP) && contact.source_port != 0;
    let (client, server, port) = if turned {
        (contact.victim, contact.source, contact.source_port)
    } else {
        (contact.source, contact.victim, contact.port)
    };
    let (of_client, of_server) = if turned {
        (contact.ends.responder, contact.ends.initiator)
    } else {
        (contact.ends.initiator, contact.ends.responder)
    };
    let whom = |peer: IpAddr, device: Option<DeviceKey>| match device {
        _ if own.contains(&peer) => Whom::Gateway,
        _ if !is_host(peer) => Whom::Group,
        Some(_) => Whom::Neighbour,
        None => Whom::Remote,
    };
    let service = |peer, device, by_device| Service {
        whom: whom(peer, device),
        peer,
        protocol: contact.protocol,
        port,
        by_device,
    };
    let used = of_client.map(|device| (device, service(server, of_server, true)));
    // Whoever asks a device in vain uses no service of it.
    let offered = of_server.filter(|_| answered).map(|device| (device, service(client, of_client, false)));
    used.into_iter().chain(offered).collect()
}

/// The services of one device.
pub(super) struct Services {
    known: LruCache<Service, ()>,
    waiting: LruCache<Service, u64>,
    /// Names that a trusted resolver gave the device addresses for.
    names: LruCache<IpAddr, Box<str>>,
}

impl Default for Services {
    fn default() -> Self {
        Self { known: bounded(MOST), waiting: bounded(WAITING), names: bounded(MOST) }
    }
}

impl Services {
    /// Notes a service; whether it is one that the device was not learned with and was not seen with before.
    pub(super) fn met(&mut self, service: Service, phase: Phase, now_ns: u64) -> bool {
        if self.known.get(&service).is_some() {
            return false;
        }
        match phase {
            Phase::Learning => {
                self.known.put(service, ());
                false
            }
            Phase::Ready => {
                let is_new = self.waiting.peek(&service).is_none();
                self.waiting.get_or_insert(service, || now_ns);
                is_new
            }
        }
    }

    /// Whether hosts outside are let in there.
    pub(super) fn are_offered_outside(&self, protocol: u8, port: u16) -> bool {
        let is_it = |service: &Service| {
            !service.by_device
                && service.whom == Whom::Remote
                && (service.protocol, service.port) == (protocol, port)
        };
        self.known.iter().any(|(service, ())| is_it(service))
    }

    /// Whether the device turns to hosts outside there.
    pub(super) fn are_used_outside(&self, protocol: u8, port: u16) -> bool {
        let is_it = |service: &Service| {
            service.by_device
                && service.whom == Whom::Remote
                && (service.protocol, service.port) == (protocol, port)
        };
        self.known.iter().any(|(service, ())| is_it(service))
    }

    /// Whether the device turns to many hosts outside there, as browsers do: one more is no news.
    pub(super) fn are_used_widely(&self, protocol: u8, port: u16) -> bool {
        let is_it = |service: &Service| {
            service.by_device
                && service.whom == Whom::Remote
                && (service.protocol, service.port) == (protocol, port)
        };
        self.known.iter().filter(|(service, ())| is_it(service)).count() >= MANY_HOSTS
    }

    /// Whether a service of one peer is known, used or offered.
    pub(super) fn are_known(&self, peer: IpAddr, protocol: u8, port: u16, by_device: bool) -> bool {
        [Whom::Gateway, Whom::Neighbour, Whom::Remote]
            .into_iter()
            .any(|whom| self.known.contains(&Service { whom, peer, protocol, port, by_device }))
    }

    /// A trusted resolver gave the device this address for a name. Names last, as a description must not change with every answer.
    pub(super) fn named(&mut self, address: IpAddr, name: &str) {
        self.names.put(address, name.into());
    }

    pub(super) fn name(&self, address: IpAddr) -> Option<&str> {
        self.names.peek(&address).map(AsRef::as_ref)
    }

    /// Names of the known services' peers.
    pub(super) fn names(&self) -> BTreeMap<IpAddr, String> {
        let peers = self.known.iter().map(|(service, ())| service.peer);
        peers.filter_map(|peer| Some((peer, self.name(peer)?.to_owned()))).collect()
    }

    /// Something was found about the device.
    pub(super) fn spoil(&mut self) {
        self.waiting.clear();
    }

    /// The models were renewed: what has waited long enough is the device's normal way from now on.
    pub(super) fn adopt(&mut self, now_ns: u64) {
        let ripe = |since_ns: &u64| since_ns.saturating_add(QUARANTINE_NS) <= now_ns;
        let adopted: Vec<Service> =
            self.waiting.iter().filter(|(_, since_ns)| ripe(since_ns)).map(|(service, _)| *service).collect();
        for service in adopted {
            self.waiting.pop(&service);
            self.known.put(service, ());
        }
    }

    /// Least recently used first, so that [`Self::restored`] gives the same order.
    pub(super) fn list(&self) -> Vec<Service> {
        self.known.iter().rev().map(|(service, ())| *service).collect()
    }

    pub(super) fn restored(known: &[Service], names: &BTreeMap<IpAddr, String>) -> Self {
        let mut services = Self::default();
        for (address, name) in names {
            services.named(*address, name);
        }
        for service in known {
            services.known.put(*service, ());
        }
        services
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(port: u16) -> Service {
        Service { whom: Whom::Remote, peer: [192, 0, 2, 7].into(), protocol: 6, port, by_device: true }
    }

    #[test]
    fn after_learning_a_service_counts_only_with_a_renewal_and_without_a_finding() {
        let mut services = Services::default();
        services.met(service(443), Phase::Learning, 0);
        services.met(service(8_883), Phase::Ready, 10);
        services.adopt(QUARANTINE_NS);
        assert_eq!(services.list(), [service(443)], "it has not waited long enough");
        services.adopt(QUARANTINE_NS + 10);
        assert_eq!(services.list(), [service(443), service(8_883)]);
        services.met(service(23), Phase::Ready, 20);
        services.spoil();
        services.adopt(u64::MAX);
        assert_eq!(services.list().len(), 2);
        services.named([192, 0, 2, 7].into(), "cloud.example");
        services.named([192, 0, 2, 8].into(), "never.used.example");
        let restored = Services::restored(&services.list(), &services.names());
        assert_eq!(restored.list(), services.list());
        assert_eq!(restored.names().into_values().collect::<Vec<_>>(), ["cloud.example"]);
    }

    #[test]
    fn services_are_bounded() {
        let mut services = Services::default();
        (0..5_000).for_each(|port| _ = services.met(service(port), Phase::Learning, 0));
        (0..5_000).for_each(|port| _ = services.met(service(port), Phase::Ready, 0));
        services.adopt(u64::MAX);
        assert_eq!(services.list().len(), MOST.get());
    }

    #[test]
    fn a_browser_turns_to_many_hosts_by_one_port() {
        let mut services = Services::default();
        for host in 0..MANY_HOSTS as u8 {
            assert!(!services.are_used_widely(6, 443));
            let peer = [192, 0, 2, host].into();
            services.met(Service { peer, ..service(443) }, Phase::Learning, 0);
            services.met(Service { by_device: false, peer, ..service(80) }, Phase::Learning, 0);
        }
        assert!(services.are_used_widely(6, 443) && !services.are_used_widely(6, 80));
    }
}
