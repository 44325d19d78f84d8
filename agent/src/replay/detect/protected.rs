//! Which end of a logged flow is a device.

use std::{collections::HashSet, net::IpAddr};

use ipnet::IpNet;
use tidegate_common::{
    device::DeviceKey,
    parse::{Packet, proto},
};

use crate::{
    learn::address,
    replay::{engine::POINT, flowlog::LoggedSide, link},
};

/// Hosts taken for devices because a resolver answers them.
const MAX_ASKERS: usize = 1_024;
const DNS_PORT: u16 = 53;
const DNS_HEADER: u32 = 12;

/// The networks behind the gateway.
#[derive(Clone, Debug, Default)]
pub struct Protected {
    prefixes: Vec<IpNet>,
    /// Hosts with public addresses that resolvers answer, as long as no private address was seen.
    askers: HashSet<IpAddr>,
    has_private: bool,
}

impl Protected {
    /// These networks; none for those that the log itself counts as local, or else every private address.
    pub fn new(prefixes: Vec<IpNet>) -> Self {
        Self { prefixes, ..Self::default() }
    }

    /// Takes in a frame of a capture. Where nobody has a private address and no network was named, whom a resolver answers is at
    /// home.
    pub(super) fn see(&mut self, packet: &Packet) {
        if self.has_private || !self.prefixes.is_empty() {
            return;
        }
        let (source, target) = (address(packet.src), address(packet.dst));
        if [source, target].into_iter().any(|address| is_private(address) && !is_link_local(address)) {
            self.has_private = true;
            self.askers.clear();
            return;
        }
        // An answer: who only tries port 53 may be a scanner.
        let is_answer = packet.proto == proto::UDP
            && packet.src_port == DNS_PORT
            && packet.dst_port >= 1_024
            && packet.payload_len >= DNS_HEADER;
        if is_answer && self.askers.len() < MAX_ASKERS {
            self.askers.insert(target);
        }
    }

    /// Hosts taken for devices because a resolver answered them.
    pub fn taken_for_devices(&self) -> usize {
        self.askers.len()
    }

    /// Whether the sender of `side` is a host on the protected side.
    pub fn holds(&self, address: IpAddr, side: &LoggedSide) -> bool {
        if !is_host(address) {
            return false;
        }
        if self.prefixes.is_empty() {
            return side.local.unwrap_or_else(|| is_private(address) || self.askers.contains(&address));
        }
        self.prefixes.iter().any(|prefix| prefix.contains(&address))
    }
}

fn is_host(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || is_broadcast)
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// Every host has such an address beside its own: it does not tell who is at home.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The device that has a protected address, by the log's hardware address or one made up.
pub fn device_of(address: IpAddr, side: &LoggedSide) -> DeviceKey {
    DeviceKey::new(side.mac.unwrap_or_else(|| link::made_up(address)), POINT.ifindex())
}

#[cfg(test)]
mod tests {
    use tidegate_common::pod::Addr;

    use super::*;

    const RESOLVER: Addr = Addr::v4([8, 8, 8, 8]);

    fn datagram(src: Addr, src_port: u16, dst: Addr, dst_port: u16) -> Packet {
        Packet { src, src_port, dst, dst_port, proto: proto::UDP, payload_len: 40, ..Packet::default() }
    }

    fn holds(protected: &Protected, address: [u8; 4]) -> bool {
        protected.holds(address.into(), &LoggedSide::default())
    }

    #[test]
    fn whom_a_resolver_answers_is_at_home_where_nobody_has_a_private_address() {
        let host = [203, 0, 113, 5];
        let mut protected = Protected::default();
        protected.see(&datagram(RESOLVER, 53, Addr::v4(host), 40_000));
        assert!(holds(&protected, host) && !holds(&protected, [8, 8, 8, 8]));
        assert_eq!(protected.taken_for_devices(), 1);
        protected.see(&datagram(Addr::v4([169, 254, 1, 2]), 5_353, RESOLVER, 5_353));
        assert!(holds(&protected, host), "an address of the link says nothing");
        protected.see(&datagram(Addr::v4([192, 168, 1, 2]), 123, RESOLVER, 123));
        assert!(!holds(&protected, host), "a private address says better who is at home");
    }

    #[test]
    fn others_are_strangers_and_named_networks_are_the_word() {
        let host = [203, 0, 113, 5];
        let mut protected = Protected::default();
        protected.see(&datagram(Addr::v4(host), 40_000, RESOLVER, 443));
        protected.see(&datagram(Addr::v4(host), 53, RESOLVER, 53));
        protected.see(&datagram(Addr::v4(host), 40_000, RESOLVER, 53));
        let refused = Packet { proto: proto::TCP, ..datagram(RESOLVER, 53, Addr::v4(host), 40_000) };
        protected.see(&refused);
        protected.see(&Packet { payload_len: 0, ..datagram(RESOLVER, 53, Addr::v4(host), 40_000) });
        assert!(!holds(&protected, host), "a scanner of port 53 is no device");
        let mut protected = Protected::new(vec![IpNet::new_assert([198, 51, 100, 0].into(), 24)]);
        protected.see(&datagram(RESOLVER, 53, Addr::v4(host), 40_000));
        assert!(!holds(&protected, host) && holds(&protected, [198, 51, 100, 9]));
    }
}
