//! Frames of captures without Ethernet headers, as the frames they would have been on Ethernet.
//!
//! `tcpdump -i any` writes cooked headers (SLL, SLL2), tunnels and loopbacks bare IP. Engines and detection read Ethernet, like the
//! kernel programs, so such packets get an Ethernet header whose hardware addresses are made up from their IP addresses, the same for the
//! same host each time. ARP speaks of hardware addresses alone, and so says nothing there: it is counted and goes no further.

use std::net::IpAddr;

use tidegate_common::{
    parse::{Network, Unparsed, parse},
    pod::mix64,
};

use super::capture::{Captured, LINK_ETHERNET};
use crate::learn::address;

/// Marks hardware addresses that were made up (locally administered, IEEE 802).
const MADE_UP: u8 = 0x02;
const ADDRESSES_LEN: usize = 12;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// The hardware address made up for a host that is only known by its IP address.
pub fn made_up(address: IpAddr) -> [u8; 6] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [MADE_UP, 0, a, b, c, d]
        }
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            let [a, b, c, d] = mix64(bits as u64 ^ (bits >> 64) as u64).to_be_bytes();
            [MADE_UP, 6, a, b, c, d]
        }
    }
}

/// Puts packets of any link layer we read into Ethernet frames.
#[derive(Default)]
pub struct Framer {
    frame: Vec<u8>,
}

impl Framer {
    /// The captured packet in an Ethernet frame, or why it can be in none.
    #[inline]
    pub fn ethernet<'a>(&'a mut self, captured: Captured<'a>) -> Result<&'a [u8], Unparsed> {
        if captured.link == LINK_ETHERNET { Ok(captured.frame) } else { self.framed(captured) }
    }

    fn framed(&mut self, captured: Captured<'_>) -> Result<&[u8], Unparsed> {
        let (ether_type, payload) = strip(captured.link, captured.frame)?;
        self.frame.clear();
        self.frame.resize(ADDRESSES_LEN, 0);
        self.frame.extend(ether_type.to_be_bytes());
        self.frame.extend(payload);
        let packet = parse(self.frame.as_slice(), 0);
        if matches!(packet.network, Network::V4 | Network::V6) {
            self.frame[..6].copy_from_slice(&made_up(address(packet.dst)));
            self.frame[6..ADDRESSES_LEN].copy_from_slice(&made_up(address(packet.src)));
            return Ok(&self.frame);
        }
        packet.unparsed.map_or(Ok(&self.frame), Err)
    }
}

/// EtherType and payload of a packet with another link layer's header (tcpdump.org, link-layer header types).
fn strip(link: u16, packet: &[u8]) -> Result<(u16, &[u8]), Unparsed> {
    match link {
        // Raw IP; 12 and 14 are what some BSDs wrote for it.
        12 | 14 | 101 | 228 | 229 => bare(packet),
        // BSD loopback; the address family before it differs among systems, and the packet tells, too.
        0 | 108 => bare(packet.get(4..).ok_or(Unparsed::FrameTooShort)?),
        113 => cooked(packet, 16, 2, 14),
        276 => cooked(packet, 20, 8, 0),
        _ => Err(Unparsed::UnsupportedLink),
    }
}

fn bare(packet: &[u8]) -> Result<(u16, &[u8]), Unparsed> {
    match packet.first().map(|first| first >> 4) {
        Some(4) => Ok((IPV4, packet)),
        Some(6) => Ok((IPV6, packet)),
        Some(_) => Err(Unparsed::Ethertype),
        None => Err(Unparsed::FrameTooShort),
    }
}

/// A cooked header of `length` bytes, with the device's type and the protocol at these places.
fn cooked(
    packet: &[u8],
    length: usize,
    device_at: usize,
    protocol_at: usize,
) -> Result<(u16, &[u8]), Unparsed> {
    /// Frame relay, GRE, 802.11 with radiotap and netlink put no EtherType there.
    const OTHER_PROTOCOLS: [u16; 4] = [770, 778, 803, 824];
    let (header, payload) = packet.split_at_checked(length).ok_or(Unparsed::FrameTooShort)?;
    let field = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if OTHER_PROTOCOLS.contains(&field(device_at)) {
        return Err(Unparsed::UnsupportedLink);
    }
    Ok((field(protocol_at), payload))
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
