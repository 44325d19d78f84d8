//! What one sampled frame says about who a device is. Pure; the bytes are hostile.
//!
//! A frame speaks for the device behind the port it entered through. The one exception is a DHCP acknowledgement, which speaks
//! for the device it names; when it leaves through the gateway's own port it is the gateway's word. ARP (RFC 826, 5227), ND (RFC 4861),
//! DHCP (RFC 2131), mDNS (RFC 6762, 6763). Addresses of DHCPv6 are learned from ND.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::{Name, Packet as DnsPacket, PacketFlag, rdata::RData};
use tidegate_common::{
    device::DeviceKey,
    event::{SampleCause, SampleEvent},
    parse::{Fragment, Network, Packet, parse, proto},
    pod::Addr,
};

use super::{
    device::NameSource,
    dhcp::{self, Dhcp},
    mac::Mac,
};

/// Claims taken from one frame at most.
const CLAIMS: usize = 16;
/// Longest name kept, in characters: a DNS label.
const NAME_CHARS: usize = 63;
/// Shortest entry of a DNS message, a question: root name, type, class.
const ENTRY_BYTES: usize = 5;

/// One thing that a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claim {
    /// The device uses the address.
    Uses(IpAddr),
    /// The device tells somebody that the address is its own.
    Tells { ip: IpAddr, to: IpAddr },
    /// The device asked for the address by DHCP.
    Asks(IpAddr),
    /// A DHCP server gave the address to the device.
    Leased { ip: IpAddr, by_gateway: bool },
    /// The device gives the address back.
    Released(IpAddr),
    /// The device calls itself so.
    Named(String, NameSource),
    /// The device says this about itself: `dhcp` and its vendor class, or `mdns` and a service it announces.
    Says(String),
}

/// Everything a frame says about one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) device: DeviceKey,
    pub(super) claims: Vec<Claim>,
}

/// Reads a sample. `None` when it says nothing about any device.
pub(super) fn read(sample: &SampleEvent) -> Option<Reading> {
    // Those come from anywhere, and could pretend to be a lease.
    if matches!(SampleCause::from_code(sample.cause), Some(SampleCause::Dns | SampleCause::Hello)) {
        return None;
    }
    let frame = sample.data.get(..usize::from(sample.captured))?;
    let packet = parse(frame, 0);
    let (ifindex, ingress) = (sample.point.ifindex(), sample.point.is_ingress());
    let sender = DeviceKey::new(packet.src_mac, ifindex);
    let speaks_for_sender = ingress && Mac(packet.src_mac).is_device();
    if packet.network == Network::Arp {
        return speaks_for_sender.then(|| Reading { device: sender, claims: arp(frame, &packet) });
    }
    let payload = payload(frame, &packet)?;
    let mut claims = match (packet.proto, packet.dst_port) {
        (proto::ICMPV6, _) if speaks_for_sender => neighbour(payload, &packet),
        (proto::UDP, 67) if speaks_for_sender => dhcp_request(payload, packet.src_mac),
        (proto::UDP, 68) => return dhcp_reply(payload, ifindex, !ingress),
        (proto::UDP, 5353) if speaks_for_sender => mdns(payload, &packet),
        _ => return None,
    };
    claims.truncate(CLAIMS);
    Some(Reading { device: sender, claims })
}

/// Bytes above UDP or ICMPv6: whole datagrams alone.
pub(super) fn payload<'a>(frame: &'a [u8], packet: &Packet) -> Option<&'a [u8]> {
    if packet.unparsed.is_some() || packet.fragment != Fragment::Whole {
        return None;
    }
    let (start, length) = match packet.proto {
        proto::ICMPV6 => {
            // The parser takes eight bytes off every ICMP message; neighbour discovery starts right behind the first four.
            let length = packet.payload_len.checked_add(4)?;
            (network_offset(frame)? + packet.ip_len.checked_sub(length)? as usize, length)
        }
        _ => (usize::from(packet.payload_at), packet.payload_len),
    };
    let bytes = frame.get(start..)?;
    Some(&bytes[..bytes.len().min(length as usize)])
}

/// Where the network header begins, behind at most two VLAN tags.
fn network_offset(frame: &[u8]) -> Option<usize> {
    const TAG: usize = 4;
    (12..=12 + 2 * TAG).step_by(TAG).find_map(|at| {
        let kind: [u8; 2] = frame.get(at..at + 2)?.try_into().ok()?;
        matches!(u16::from_be_bytes(kind), 0x0800 | 0x86dd | 0x0806).then_some(at + 2)
    })
}

fn arp(frame: &[u8], packet: &Packet) -> Vec<Claim> {
    const SENDER: usize = 8;
    const REPLY: u16 = 2;
    let sender = network_offset(frame).and_then(|at| frame.get(at + SENDER..at + SENDER + 6));
    // A frame on behalf of another hardware address proves nothing about the one that sent it.
    if sender != Some(&packet.src_mac[..]) {
        return Vec::new();
    }
    let to = IpAddr::from(packet.dst.octets()).to_canonical();
    let claim = |ip| if packet.arp_op == REPLY { Claim::Tells { ip, to } } else { Claim::Uses(ip) };
    usable(packet.src.octets()).map(claim).into_iter().collect()
}

fn neighbour(body: &[u8], packet: &Packet) -> Vec<Claim> {
    const SOLICITATION: u8 = 135;
    const ADVERTISEMENT: u8 = 136;
    // Anything that was forwarded is not from this link.
    if packet.ttl != 255 || packet.icmp_code != 0 {
        return Vec::new();
    }
    let source = usable(packet.src.octets());
    let target = body.get(4..20).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).and_then(usable);
    let link_layer = |kind| option(body.get(20..).unwrap_or_default(), kind);
    match packet.icmp_type {
        133 => source.map(Claim::Uses).into_iter().collect(),
        // From the unspecified address: the sender is about to take the target (duplicate address detection).
        SOLICITATION if source.is_none() => target.map(Claim::Uses).into_iter().collect(),
        SOLICITATION if link_layer(1).is_none_or(|mac| mac == packet.src_mac) => {
            source.map(Claim::Uses).into_iter().collect()
        }
        ADVERTISEMENT if link_layer(2).is_none_or(|mac| mac == packet.src_mac) => {
            let to = IpAddr::from(packet.dst.octets());
            target.map(|ip| Claim::Tells { ip, to }).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// The link-layer address in the first option of this kind.
fn option(mut options: &[u8], kind: u8) -> Option<[u8; 6]> {
    while let [found, units, ..] = options {
        let length = usize::from(*units) * 8;
        let body = options.get(2..length)?;
        if *found == kind {
            return body.get(..6)?.try_into().ok();
        }
        options = &options[length..];
    }
    None
}

fn dhcp_request(body: &[u8], sender: [u8; 6]) -> Vec<Claim> {
    let Some(message) = Dhcp::read(body) else { return Vec::new() };
    // A relay speaks for others.
    if message.client != sender {
        return Vec::new();
    }
    let mut claims = Vec::new();
    let current = ip_of(message.current);
    match message.kind {
        Some(dhcp::RELEASE | dhcp::DECLINE) => claims.extend(current.map(Claim::Released)),
        Some(dhcp::REQUEST) => {
            claims.extend(message.requested.and_then(ip_of).map(Claim::Asks));
            claims.extend(current.map(Claim::Uses));
        }
        _ => claims.extend(current.map(Claim::Uses)),
    }
    claims.extend(message.host_name.and_then(clean).map(|name| Claim::Named(name, NameSource::Dhcp)));
    claims.extend(message.vendor_class.and_then(clean).map(|class| Claim::Says(format!("dhcp {class}"))));
    claims
}

fn dhcp_reply(body: &[u8], ifindex: u32, by_gateway: bool) -> Option<Reading> {
    let message = Dhcp::read(body)?;
    let acknowledged = message.kind == Some(dhcp::ACK) && Mac(message.client).is_device();
    let ip = ip_of(message.yours).filter(|_| acknowledged)?;
    let device = DeviceKey::new(message.client, ifindex);
    Some(Reading { device, claims: vec![Claim::Leased { ip, by_gateway }] })
}

/// The packet by which a DHCP server offers or gives an address, and to whom.
pub(super) fn dhcp_answer(sample: &SampleEvent) -> Option<(Packet, Mac)> {
    let frame = sample.data.get(..usize::from(sample.captured))?;
    let packet = parse(frame, 0);
    if (packet.proto, packet.src_port, packet.dst_port) != (proto::UDP, 67, 68) {
        return None;
    }
    let message = Dhcp::read(payload(frame, &packet)?)?;
    matches!(message.kind, Some(dhcp::OFFER | dhcp::ACK)).then_some((packet, Mac(message.client)))
}

fn mdns(body: &[u8], packet: &Packet) -> Vec<Claim> {
    let Some(source) = usable(packet.src.octets()) else { return Vec::new() };
    let mut bytes = body.to_vec();
    let Some(message) = parse_dns(&mut bytes) else { return Vec::new() };
    if !message.has_flags(PacketFlag::RESPONSE) {
        return Vec::new();
    }
    let mut claims = Vec::new();
    for record in message.answers.iter().chain(&message.additional_records) {
        let claim = match &record.rdata {
            // A host name counts when it leads to the address it came from.
            RData::A(a) if source == IpAddr::V4(Ipv4Addr::from(a.address)) => {
                host_name(&record.name).map(|name| Claim::Named(name, NameSource::Mdns))
            }
            RData::AAAA(aaaa) if source == IpAddr::V6(Ipv6Addr::from(aaaa.address)) => {
                host_name(&record.name).map(|name| Claim::Named(name, NameSource::Mdns))
            }
            // `Kitchen Speaker._googlecast._tcp.local`
            RData::SRV(_) if record.name.iter().count() > 3 => record
                .name
                .as_bytes()
                .next()
                .and_then(clean)
                .map(|name| Claim::Named(name, NameSource::Service)),
            _ => None,
        };
        claims.extend(claim);
        claims.extend(announced(&record.name));
    }
    claims
}

/// `_googlecast._tcp` of `Kitchen Speaker._googlecast._tcp.local` or of `_googlecast._tcp.local` (RFC 6763).
fn announced(name: &Name<'_>) -> Option<Claim> {
    let labels: Vec<&[u8]> = name.as_bytes().collect();
    let pairs =
        labels.windows(2).find(|pair| matches!(pair[1], b"_tcp" | b"_udp") && pair[0].starts_with(b"_"))?;
    // How devices list what they announce, which all do.
    if pairs[0] == b"_dns-sd" {
        return None;
    }
    let service = clean(pairs[0])?;
    Some(Claim::Says(format!("mdns {service}.{}", String::from_utf8_lossy(pairs[1]))))
}

/// Parses as many records as the sample holds whole: the header's counts are lowered until the message ends within the bytes.
pub(super) fn parse_dns(bytes: &mut [u8]) -> Option<DnsPacket<'_>> {
    const HEADER: usize = 12;
    let get =
        |bytes: &[u8], section: usize| u16::from_be_bytes([bytes[4 + 2 * section], bytes[5 + 2 * section]]);
    let set = |bytes: &mut [u8], section: usize, count: u16| {
        bytes[4 + 2 * section..6 + 2 * section].copy_from_slice(&count.to_be_bytes());
    };
    // The parser reserves memory for what the header announces.
    let mut room = (bytes.len().checked_sub(HEADER)? / ENTRY_BYTES) as u16;
    for section in 0..4 {
        let kept = get(bytes, section).min(room);
        room -= kept;
        set(bytes, section, kept);
    }
    while DnsPacket::parse(bytes).is_err() {
        let section = (0..4).rev().find(|section| get(bytes, *section) > 0)?;
        let fewer = get(bytes, section) - 1;
        set(bytes, section, fewer);
    }
    DnsPacket::parse(bytes).ok()
}

/// `camera` of `camera.local`.
fn host_name(name: &Name<'_>) -> Option<String> {
    if name.iter().count() == 2 && name.is_link_local() {
        name.as_bytes().next().and_then(clean)
    } else {
        None
    }
}

/// A name that can be shown and logged: printable, trimmed, bounded.
pub(super) fn clean(name: &[u8]) -> Option<String> {
    let text: String = String::from_utf8_lossy(name)
        .chars()
        .filter(|c| !c.is_control() && !is_invisible(*c) && *c != char::REPLACEMENT_CHARACTER)
        .take(NAME_CHARS)
        .collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Characters that change how a terminal or a page shows what stands around them.
const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn ip_of(address: Ipv4Addr) -> Option<IpAddr> {
    usable(address.to_ipv6_mapped().octets())
}

/// An address that one host can have.
pub(super) fn usable(octets: [u8; 16]) -> Option<IpAddr> {
    let address = IpAddr::from(octets).to_canonical();
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let hostless = address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast;
    (!hostless).then_some(address)
}

/// An address that a device may have by itself: private or link-local. Others reach us through routers, too.
pub(super) fn local(address: Addr) -> Option<IpAddr> {
    let ip = usable(address.octets())?;
    let is_local = match ip {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    };
    is_local.then_some(ip)
}
