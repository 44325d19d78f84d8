//! One frame in, one [`Packet`] out: the only parser of the project, compiled for the kernel and for the host.
//!
//! Reads Ethernet, up to two VLAN tags, ARP, IPv4 with options, IPv6 with up to six extension headers, fragments, TCP,
//! UDP, ICMP and ICMPv6 (RFC 791, 826, 8200, 9293, 768, 792, 4443; IEEE 802.1Q). It never refuses a packet: what cannot
//! be placed in a flow carries an [`Unparsed`] reason, and whatever was read before that point (addresses above all)
//! stays valid, so enforcement works on it.

use network_types::{eth::EtherType, ip::IpProto};

use crate::pod::Addr;

/// A type that may be copied out of a frame at any offset.
///
/// # Safety
/// Every bit pattern of the type's size must be a valid value, and its alignment must not exceed 4.
pub unsafe trait Header: Copy {}

// SAFETY: any bytes are valid bytes, at any address.
unsafe impl<const N: usize> Header for [u8; N] {}

/// Header layouts with fields as wide as on the wire: the kernel programs must read words, where a structure of byte
/// arrays would be read byte by byte. All fields are in network order.
mod wire {
    use super::Header;

    macro_rules! headers {
        ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty,)* })*) => {$(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy)]
            pub(super) struct $name { $(pub(super) $field: $kind,)* }
            // SAFETY: the type consists of integers alone, none wider than 4 bytes.
            unsafe impl Header for $name {}
        )*};
    }

    headers! {
        Ethernet { dst: [u16; 3], src: [u16; 3], ether_type: u16, }
        Vlan { tci: u16, ether_type: u16, }
        Ipv4 {
            version_ihl: u8, tos: u8, total_len: u16, id: u16, fragment: u16,
            ttl: u8, proto: u8, checksum: u16, src: u32, dst: u32,
        }
        Ipv6 { version: u8, class_flow: [u8; 3], payload_len: u16, next: u8, hop_limit: u8, src: [u32; 4], dst: [u32; 4], }
        Extension { next: u8, length: u8, word: u16, rest: u32, }
        Tcp {
            src_port: u16, dst_port: u16, seq: u32, ack: u32,
            data_offset: u8, flags: u8, window: u16, checksum: u16, urgent: u16,
        }
        Udp { src_port: u16, dst_port: u16, length: u16, checksum: u16, }
        Icmp { kind: u8, code: u8, }
        Arp {
            htype: u16, ptype: u16, hlen: u8, plen: u8, op: u16,
            sha: [u16; 3], spa: [u16; 2], tha: [u16; 3], tpa: [u16; 2],
        }
    }
}

/// The bytes of one frame, wherever they live.
pub trait Frame {
    /// Copies the header at `offset`; `None` when the frame ends before the header does.
    fn header<H: Header>(&self, offset: usize) -> Option<H>;
    /// Length of the frame in bytes.
    fn size(&self) -> usize;
}

impl Frame for [u8] {
    #[inline]
    fn header<H: Header>(&self, offset: usize) -> Option<H> {
        let bytes = self.get(offset..)?.get(..size_of::<H>())?;
        // SAFETY: the slice is as long as `H`, and `Header` allows every bit pattern.
        Some(unsafe { bytes.as_ptr().cast::<H>().read_unaligned() })
    }

    #[inline]
    fn size(&self) -> usize {
        self.len()
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal => $name:literal,)*) => {
        /// Why a packet is in no flow.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Unparsed {
            $($(#[$doc])* $variant = $code,)*
        }

        impl Unparsed {
            /// Every reason, in order of its code.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The reason's name in metrics, logs and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    /// The frame ends inside the Ethernet header.
    FrameTooShort = 0 => "frame_too_short",
    /// Longer than the kernel's test run can take (replay only).
    FrameTooLong = 1 => "frame_too_long",
    /// The capture's link layer is none that replay reads (replay only).
    UnsupportedLink = 2 => "unsupported_link",
    /// An IEEE 802.3 length instead of an EtherType (STP, IPX and other LLC traffic).
    Llc = 3 => "llc",
    /// An EtherType that is neither IP nor ARP.
    Ethertype = 4 => "ethertype",
    /// The frame ends inside a VLAN tag.
    TruncatedVlan = 5 => "truncated_vlan",
    /// More than two VLAN tags.
    VlanDepth = 6 => "vlan_depth",
    /// ARP: counted per device, in no flow.
    Arp = 7 => "arp",
    /// ARP that ends early or is not Ethernet over IPv4.
    MalformedArp = 8 => "malformed_arp",
    /// The frame ends inside the IP header.
    TruncatedIp = 9 => "truncated_ip",
    /// Wrong version, header length below 20, or total length below the header's.
    MalformedIp = 10 => "malformed_ip",
    /// More than six IPv6 extension headers.
    ExtensionDepth = 11 => "extension_depth",
    /// The frame ends inside an IPv6 extension header.
    TruncatedExtension = 12 => "truncated_extension",
    /// The frame or fragment ends inside the transport header.
    TruncatedTransport = 13 => "truncated_transport",
    /// A TCP data offset below 20 bytes.
    MalformedTransport = 14 => "malformed_transport",
}

/// Number of [`Unparsed`] reasons.
pub const UNPARSED_REASONS: usize = Unparsed::ALL.len();

/// IP protocol numbers the programs tell apart.
pub mod proto {
    use super::IpProto;

    /// ICMP.
    pub const ICMP: u8 = IpProto::Icmp as u8;
    /// TCP.
    pub const TCP: u8 = IpProto::Tcp as u8;
    /// UDP.
    pub const UDP: u8 = IpProto::Udp as u8;
    /// ICMPv6.
    pub const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;
}

/// Bits of the TCP flag byte.
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Acknowledgement field is significant.
    pub const ACK: u8 = 0x10;
}

/// What the network header was.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Network {
    /// Nothing readable above Ethernet.
    #[default]
    None = 0,
    /// ARP: `src` and `dst` are the sender's and the target's protocol addresses.
    Arp = 1,
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

/// Where a packet stands in a fragmented datagram.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Fragment {
    /// Not fragmented.
    #[default]
    Whole = 0,
    /// The first fragment, which carries the ports.
    First = 1,
    /// A later fragment: ports are 0.
    Later = 2,
}

/// What the parser read from one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Source address (ARP: sender protocol address).
    pub src: Addr,
    /// Destination address (ARP: target protocol address).
    pub dst: Addr,
    /// Source hardware address.
    pub src_mac: [u8; 6],
    /// Destination hardware address.
    pub dst_mac: [u8; 6],
    /// IP total length in bytes, over all `segments`.
    pub ip_len: u32,
    /// Transport payload in bytes, over all `segments`.
    pub payload_len: u32,
    /// Packets on the wire that this frame stands for: above 1 for segmentation offload.
    pub segments: u32,
    /// Source port, host order; 0 where the protocol or fragment has none.
    pub src_port: u16,
    /// Destination port, host order.
    pub dst_port: u16,
    /// Outer VLAN id, 0 when untagged.
    pub vlan: u16,
    /// Inner VLAN id, 0 when there is no second tag.
    pub inner_vlan: u16,
    /// TCP window.
    pub window: u16,
    /// Where the payload of TCP or UDP begins in the frame; 0 for other protocols and later fragments.
    pub payload_at: u16,
    /// ARP operation.
    pub arp_op: u16,
    /// IP protocol after extension headers.
    pub proto: u8,
    /// TCP flag byte.
    pub tcp_flags: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// Network layer found.
    pub network: Network,
    /// Fragment position.
    pub fragment: Fragment,
    /// Why the packet is in no flow; `None` when it belongs in one.
    pub unparsed: Option<Unparsed>,
}

const ETH_LEN: usize = size_of::<wire::Ethernet>();
const VLAN_LEN: usize = size_of::<wire::Vlan>();
const IPV4_LEN: usize = size_of::<wire::Ipv4>();
const IPV6_LEN: usize = size_of::<wire::Ipv6>();
const MAX_EXTENSIONS: usize = 6;

// The library keeps its EtherTypes in network order.
const ETHERTYPE_IPV4: u16 = u16::from_be(EtherType::Ipv4 as u16);
const ETHERTYPE_ARP: u16 = u16::from_be(EtherType::Arp as u16);
const ETHERTYPE_IPV6: u16 = u16::from_be(EtherType::Ipv6 as u16);
const ETHERTYPE_VLAN: u16 = u16::from_be(EtherType::Ieee8021q as u16);
const ETHERTYPE_QINQ: u16 = u16::from_be(EtherType::Ieee8021ad as u16);
const ETHERTYPE_QINQ_OLD: u16 = 0x9100;
const FIRST_ETHERTYPE: u16 = 0x0600;

#[inline(always)]
const fn is_vlan(ether_type: u16) -> bool {
    matches!(ether_type, ETHERTYPE_VLAN | ETHERTYPE_QINQ | ETHERTYPE_QINQ_OLD)
}

/// Parses `frame`. `stripped_vlan` is the id of a tag the driver or the kernel already took off (0 for none).
#[inline]
pub fn parse<F: Frame + ?Sized>(frame: &F, stripped_vlan: u16) -> Packet {
    let mut packet = Packet::default();
    parse_into(frame, stripped_vlan, &mut packet);
    packet
}

/// As [`parse`], into memory that the caller owns: the kernel's stack is too small for a packet.
#[inline(always)]
pub fn parse_into<F: Frame + ?Sized>(frame: &F, stripped_vlan: u16, packet: &mut Packet) {
    *packet = Packet { segments: 1, vlan: stripped_vlan, ..Packet::default() };
    packet.unparsed = ethernet(frame, packet).err();
}

#[inline(always)]
fn ethernet<F: Frame + ?Sized>(frame: &F, packet: &mut Packet) -> Result<(), Unparsed> {
    let eth: wire::Ethernet = frame.header(0).ok_or(Unparsed::FrameTooShort)?;
    packet.src_mac = bytemuck::cast(eth.src);
    packet.dst_mac = bytemuck::cast(eth.dst);
    let mut ether_type = u16::from_be(eth.ether_type);
    let mut offset = ETH_LEN;
    if is_vlan(ether_type) {
        ether_type = vlan_tag(frame, offset, packet)?;
        offset += VLAN_LEN;
        if is_vlan(ether_type) {
            ether_type = vlan_tag(frame, offset, packet)?;
            offset += VLAN_LEN;
            if is_vlan(ether_type) {
                return Err(Unparsed::VlanDepth);
            }
        }
    }
    match ether_type {
        ETHERTYPE_IPV4 => ipv4(frame, offset, packet),
        ETHERTYPE_IPV6 => ipv6(frame, offset, packet),
        ETHERTYPE_ARP => arp(frame, offset, packet),
        length if length < FIRST_ETHERTYPE => Err(Unparsed::Llc),
        _ => Err(Unparsed::Ethertype),
    }
}

#[inline(always)]
fn vlan_tag<F: Frame + ?Sized>(frame: &F, offset: usize, packet: &mut Packet) -> Result<u16, Unparsed> {
    let tag: wire::Vlan = frame.header(offset).ok_or(Unparsed::TruncatedVlan)?;
    let id = u16::from_be(tag.tci) & 0x0fff;
    if packet.vlan == 0 {
        packet.vlan = id;
    } else {
        packet.inner_vlan = id;
    }
    Ok(u16::from_be(tag.ether_type))
}

#[inline(always)]
fn arp<F: Frame + ?Sized>(frame: &F, offset: usize, packet: &mut Packet) -> Result<(), Unparsed> {
    let arp: wire::Arp = frame.header(offset).ok_or(Unparsed::MalformedArp)?;
    if u16::from_be(arp.htype) != 1
        || u16::from_be(arp.ptype) != ETHERTYPE_IPV4
        || arp.hlen != 6
        || arp.plen != 4
    {
        return Err(Unparsed::MalformedArp);
    }
    packet.network = Network::Arp;
    packet.arp_op = u16::from_be(arp.op);
    packet.src = Addr::v4(bytemuck::cast(arp.spa));
    packet.dst = Addr::v4(bytemuck::cast(arp.tpa));
    Err(Unparsed::Arp)
}

#[inline(always)]
fn ipv4<F: Frame + ?Sized>(frame: &F, offset: usize, packet: &mut Packet) -> Result<(), Unparsed> {
    let ip: wire::Ipv4 = frame.header(offset).ok_or(Unparsed::TruncatedIp)?;
    let header_len = usize::from(ip.version_ihl & 0x0f) * 4;
    if ip.version_ihl >> 4 != 4 || header_len < IPV4_LEN {
        return Err(Unparsed::MalformedIp);
    }
    packet.network = Network::V4;
    packet.src = Addr::v4(ip.src.to_ne_bytes());
    packet.dst = Addr::v4(ip.dst.to_ne_bytes());
    packet.ttl = ip.ttl;
    packet.proto = ip.proto;
    // Segmentation offload leaves the length 0 in frames captured before they were cut.
    packet.ip_len = match u16::from_be(ip.total_len) {
        0 => (frame.size() - offset) as u32,
        length => u32::from(length),
    };
    if packet.ip_len < header_len as u32 {
        return Err(Unparsed::MalformedIp);
    }
    packet.payload_len = packet.ip_len - header_len as u32;
    let fragment = u16::from_be(ip.fragment);
    packet.fragment = match (fragment & 0x1fff, fragment & 0x2000) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    };
    transport(frame, offset + header_len, packet)
}

#[inline(always)]
fn ipv6<F: Frame + ?Sized>(frame: &F, offset: usize, packet: &mut Packet) -> Result<(), Unparsed> {
    let ip: wire::Ipv6 = frame.header(offset).ok_or(Unparsed::TruncatedIp)?;
    if ip.version >> 4 != 6 {
        return Err(Unparsed::MalformedIp);
    }
    packet.network = Network::V6;
    packet.src = Addr::v6(bytemuck::cast(ip.src));
    packet.dst = Addr::v6(bytemuck::cast(ip.dst));
    packet.ttl = ip.hop_limit;
    packet.payload_len = u32::from(u16::from_be(ip.payload_len));
    packet.ip_len = packet.payload_len + IPV6_LEN as u32;

    let mut next = ip.next;
    let mut at = offset + IPV6_LEN;
    let mut depth = 0;
    while let Some(kind) = Extension::of(next) {
        if depth == MAX_EXTENSIONS {
            return Err(Unparsed::ExtensionDepth);
        }
        depth += 1;
        let header: wire::Extension = frame.header(at).ok_or(Unparsed::TruncatedExtension)?;
        next = header.next;
        let length = match kind {
            Extension::Options => (usize::from(header.length) + 1) * 8,
            Extension::Authentication => (usize::from(header.length) + 2) * 4,
            Extension::Fragment => {
                let offset_and_more = u16::from_be(header.word);
                packet.fragment = match (offset_and_more & 0xfff8, offset_and_more & 1) {
                    (0, 0) => Fragment::Whole,
                    (0, _) => Fragment::First,
                    _ => Fragment::Later,
                };
                8
            }
        };
        at += length;
        packet.payload_len = packet.payload_len.saturating_sub(length as u32);
        if packet.fragment as u8 == Fragment::Later as u8 {
            break;
        }
    }
    packet.proto = next;
    transport(frame, at, packet)
}

#[derive(Clone, Copy)]
enum Extension {
    Options,
    Authentication,
    Fragment,
}

impl Extension {
    #[inline(always)]
    const fn of(next: u8) -> Option<Self> {
        match next {
            // Hop-by-hop, routing, destination, mobility, HIP, shim6.
            0 | 43 | 60 | 135 | 139 | 140 => Some(Self::Options),
            51 => Some(Self::Authentication),
            44 => Some(Self::Fragment),
            _ => None,
        }
    }
}

#[inline(always)]
fn transport<F: Frame + ?Sized>(frame: &F, at: usize, packet: &mut Packet) -> Result<(), Unparsed> {
    if packet.fragment as u8 == Fragment::Later as u8 {
        return Ok(());
    }
    match packet.proto {
        proto::TCP => {
            let tcp: wire::Tcp = frame.header(at).ok_or(Unparsed::TruncatedTransport)?;
            packet.src_port = u16::from_be(tcp.src_port);
            packet.dst_port = u16::from_be(tcp.dst_port);
            packet.tcp_flags = tcp.flags;
            packet.window = u16::from_be(tcp.window);
            let header_len = u32::from(tcp.data_offset >> 4) * 4;
            if header_len < size_of::<wire::Tcp>() as u32 {
                return Err(Unparsed::MalformedTransport);
            }
            packet.payload_len = packet.payload_len.saturating_sub(header_len);
            packet.payload_at = at as u16 + header_len as u16;
        }
        proto::UDP => {
            let udp: wire::Udp = frame.header(at).ok_or(Unparsed::TruncatedTransport)?;
            packet.src_port = u16::from_be(udp.src_port);
            packet.dst_port = u16::from_be(udp.dst_port);
            packet.payload_len = packet.payload_len.saturating_sub(size_of::<wire::Udp>() as u32);
            packet.payload_at = at as u16 + size_of::<wire::Udp>() as u16;
        }
        proto::ICMP | proto::ICMPV6 => {
            let icmp: wire::Icmp = frame.header(at).ok_or(Unparsed::TruncatedTransport)?;
            packet.icmp_type = icmp.kind;
            packet.icmp_code = icmp.code;
            packet.payload_len = packet.payload_len.saturating_sub(8);
        }
        _ => {}
    }
    Ok(())
}
