//! Mends what an ARP poisoner did: once it is cut off, its neighbours are told who really has the addresses it claimed.
//!
//! Poisoned caches would heal by themselves, but only when their owners ask again, up to minutes later. An announcement
//! (RFC 5227, section 3) goes to everyone on the link, and the true owner is asked for its address, whose answer mends the
//! gateway's own cache. All is said three times, a second apart, because hosts ignore what contradicts an answer of the last
//! second. The raw socket is opened while the agent may, and can only send: it is bound to no protocol. IPv4 alone; neighbour
//! discovery checks reachability by itself within seconds (RFC 4861, section 7.3).

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket},
};

use crate::identity::Mac;

const ROUNDS: u8 = 3;
/// Addresses mended at a time; a poisoner that claims more is cut off all the same.
const MOST: usize = 64;
const FRAME_BYTES: usize = 42;

/// An address and who really has it; `None` for the gateway.
type Binding = (Ipv4Addr, Option<Mac>);

/// Tells neighbours the truth.
#[derive(Debug)]
pub(super) struct Healer {
    socket: Option<OwnedFd>,
    due: Vec<(Binding, u8)>,
}

/// An interface of the gateway.
#[derive(Debug, Clone)]
struct Link {
    name: String,
    address: LinkAddr,
    mac: Mac,
    networks: Vec<(Ipv4Addr, Ipv4Addr)>,
}

impl Healer {
    /// Opens the socket; needs `CAP_NET_RAW`. Without it nothing can be mended, and why is the second value.
    pub(super) fn open() -> (Self, Option<String>) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let opened = socket(AddressFamily::Packet, SockType::Raw, flags, None);
        let problem = opened.as_ref().err().map(|error| {
            format!("poisoned ARP caches cannot be mended: no raw socket ({error}); it needs CAP_NET_RAW")
        });
        (Self { socket: opened.ok(), due: Vec::new() }, problem)
    }

    /// Tells who has `bindings`, now and in the next rounds; whether there is anything to tell.
    pub(super) fn mend(&mut self, bindings: &[(IpAddr, Option<Mac>)], ports: &[String]) -> io::Result<bool> {
        let known: Vec<Ipv4Addr> = self.due.iter().map(|((address, _), _)| *address).collect();
        let new: Vec<Binding> = bindings
            .iter()
            .filter_map(|(address, owner)| match address {
                IpAddr::V4(v4) if !known.contains(v4) => Some((*v4, *owner)),
                _ => None,
            })
            .take(MOST.saturating_sub(known.len()))
            .collect();
        if new.is_empty() || self.socket.is_none() {
            return Ok(false);
        }
        self.due.extend(new.iter().map(|binding| (*binding, ROUNDS - 1)));
        self.send(&new, ports).map(|()| true)
    }

    /// The next round; call it every second.
    pub(super) fn tick(&mut self, ports: &[String]) -> io::Result<()> {
        if self.due.is_empty() {
            return Ok(());
        }
        let bindings: Vec<Binding> = self.due.iter().map(|(binding, _)| *binding).collect();
        for (_, rounds) in &mut self.due {
            *rounds -= 1;
        }
        self.due.retain(|(_, rounds)| *rounds > 0);
        self.send(&bindings, ports)
    }

    fn send(&self, bindings: &[Binding], ports: &[String]) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let links = links()?;
        let mut failed = Ok(());
        for (address, owner) in bindings {
            for (link, own) in around(&links, *address, ports) {
                let owner_mac = owner.unwrap_or(link.mac);
                let mut frames = vec![announcement(link.mac, *address, owner_mac)];
                if let (Some(mac), Some(own)) = (owner, own) {
                    frames.push(question(link.mac, own, *address, *mac));
                }
                for frame in frames {
                    // A port that is down must not keep the others' neighbours waiting.
                    let sent = sendto(socket.as_raw_fd(), &frame, &link.address, MsgFlags::empty());
                    failed = failed.and(sent.map(drop).map_err(io::Error::from));
                }
            }
        }
        failed
    }
}

/// Where neighbours that use `address` are: the interface in whose network it lies, with the gateway's address there. A
/// gateway without an address in it is a bridge, and they are behind its ports.
fn around<'a>(links: &'a [Link], address: Ipv4Addr, ports: &[String]) -> Vec<(&'a Link, Option<Ipv4Addr>)> {
    let inside = |link: &Link| {
        let same = |(own, mask): &&(Ipv4Addr, Ipv4Addr)| *own & *mask == address & *mask;
        link.networks.iter().find(same).map(|(own, _)| *own)
    };
    let routed: Vec<_> = links.iter().filter_map(|link| inside(link).map(|own| (link, Some(own)))).collect();
    if !routed.is_empty() {
        return routed;
    }
    links.iter().filter(|link| ports.contains(&link.name)).map(|link| (link, None)).collect()
}

/// The interfaces that have a hardware address.
fn links() -> io::Result<Vec<Link>> {
    let mut links: Vec<Link> = Vec::new();
    let mut networks: Vec<(String, Ipv4Addr, Ipv4Addr)> = Vec::new();
    for interface in getifaddrs()? {
        let Some(address) = interface.address else { continue };
        let link = address.as_link_addr().and_then(|link| Some((*link, Mac(link.addr()?))));
        if let Some((address, mac)) = link.filter(|(_, mac)| mac.is_device()) {
            links.push(Link { name: interface.interface_name, address, mac, networks: Vec::new() });
        } else if let Some(own) = address.as_sockaddr_in() {
            let mask = interface.netmask.and_then(|mask| Some(mask.as_sockaddr_in()?.ip()));
            networks.push((interface.interface_name, own.ip(), mask.unwrap_or(Ipv4Addr::BROADCAST)));
        }
    }
    for (name, own, mask) in networks {
        if let Some(link) = links.iter_mut().find(|link| link.name == name) {
            link.networks.push((own, mask));
        }
    }
    Ok(links)
}

/// Says to everyone that `owner` has `address`.
fn announcement(from: Mac, address: Ipv4Addr, owner: Mac) -> [u8; FRAME_BYTES] {
    request(from, Mac::BROADCAST, (owner, address), address)
}

/// Asks `owner` whether it still has `address`.
fn question(from: Mac, own: Ipv4Addr, address: Ipv4Addr, owner: Mac) -> [u8; FRAME_BYTES] {
    request(from, owner, (from, own), address)
}

/// An ARP request (RFC 826) in an Ethernet frame.
fn request(from: Mac, to: Mac, sender: (Mac, Ipv4Addr), target: Ipv4Addr) -> [u8; FRAME_BYTES] {
    const ARP_OVER_ETHERNET: [u8; 10] = [0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, 1];
    let mut frame = [0; FRAME_BYTES];
    frame[..6].copy_from_slice(&to.0);
    frame[6..12].copy_from_slice(&from.0);
    frame[12..22].copy_from_slice(&ARP_OVER_ETHERNET);
    frame[22..28].copy_from_slice(&sender.0.0);
    frame[28..32].copy_from_slice(&sender.1.octets());
    frame[38..].copy_from_slice(&target.octets());
    frame
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use tidegate_common::parse::{Network, parse};

    use super::*;

    const GATEWAY: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OWNER: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 9);
    const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

    #[test]
    fn frames_say_who_has_the_address_and_come_from_the_gateway() {
        let frame = announcement(GATEWAY, ADDRESS, OWNER);
        let packet = parse(&frame[..], 0);
        assert_eq!((packet.network, packet.arp_op, packet.src_mac), (Network::Arp, 1, GATEWAY.0));
        assert_eq!(
            (packet.src, packet.dst),
            (packet.dst, packet.src),
            "an announcement asks for its own address"
        );
        assert_eq!(IpAddr::from(packet.src.octets()).to_canonical(), IpAddr::V4(ADDRESS));
        assert_eq!((&frame[..6], &frame[22..28]), (&Mac::BROADCAST.0[..], &OWNER.0[..]));
        let frame = question(GATEWAY, OWN, ADDRESS, OWNER);
        let packet = parse(&frame[..], 0);
        assert_eq!(IpAddr::from(packet.src.octets()).to_canonical(), IpAddr::V4(OWN));
        assert_eq!(IpAddr::from(packet.dst.octets()).to_canonical(), IpAddr::V4(ADDRESS));
        assert_eq!((&frame[..6], &frame[22..28]), (&OWNER.0[..], &GATEWAY.0[..]));
    }

    #[test]
    fn neighbours_are_looked_for_where_the_address_belongs() {
        let link = |name: &str, networks: &[(Ipv4Addr, Ipv4Addr)]| Link {
            name: name.to_owned(),
            address: links_of_this_machine(),
            mac: GATEWAY,
            networks: networks.to_vec(),
        };
        let mask = Ipv4Addr::new(255, 255, 255, 0);
        let links = [
            link("wan0", &[(Ipv4Addr::new(198, 51, 100, 2), mask)]),
            link("lan0", &[]),
            link("lan1", &[]),
            link("br-lan", &[(OWN, mask)]),
        ];
        let ports = ["lan0".to_owned(), "lan1".to_owned()];
        let names = |address| -> Vec<(&str, Option<Ipv4Addr>)> {
            around(&links, address, &ports).iter().map(|(link, own)| (link.name.as_str(), *own)).collect()
        };
        assert_eq!(names(ADDRESS), [("br-lan", Some(OWN))]);
        assert_eq!(names(Ipv4Addr::new(10, 0, 0, 1)), [("lan0", None), ("lan1", None)]);
    }

    /// Any link address will do where nothing is sent.
    fn links_of_this_machine() -> LinkAddr {
        getifaddrs().unwrap().find_map(|interface| interface.address?.as_link_addr().copied()).unwrap()
    }

    #[test]
    fn each_address_is_mended_in_three_rounds_and_then_forgotten() {
        let mut healer = Healer { socket: None, due: vec![((ADDRESS, Some(OWNER)), ROUNDS - 1)] };
        healer.tick(&[]).unwrap();
        assert_eq!(healer.due.len(), 1);
        healer.tick(&[]).unwrap();
        assert!(healer.due.is_empty());
    }
}
