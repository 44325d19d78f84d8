//! What a sampled DNS message says (RFC 1035, 3596): who asks whom for which name, and what came back. Pure; the bytes are hostile.
//!
//! A question speaks for the device whose port it enters through, an answer is for the device it leaves towards. Names are kept as text in
//! lower case; a byte that is no printable ASCII becomes `\DDD` (RFC 4343), so that tunnels which use whole bytes stay visible. Only
//! UDP is read, and only what the sample holds.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use simple_dns::{Name, PacketFlag, QTYPE, rdata::RData};
use tidegate_common::{
    device::DeviceKey,
    event::{SampleCause, SampleEvent},
    parse::{parse, proto},
};

use super::{
    mac::Mac,
    sample::{parse_dns, payload, usable},
};

/// Addresses taken from one answer at most.
const ADDRESSES: usize = 16;
/// Longest name kept, in characters: each of its 255 bytes may take four.
const NAME_CHARS: usize = 1_020;

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsAnswer {
    /// Response code: 0 no error, 3 no such name.
    pub rcode: u16,
    /// Addresses of the name and for how many seconds they may be kept; none of the CNAMEs on the way.
    pub addresses: Vec<(IpAddr, u32)>,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsMessage {
    /// The device that asks, or is answered.
    pub device: DeviceKey,
    /// Its address.
    pub client: IpAddr,
    /// Its port.
    pub client_port: u16,
    /// The resolver.
    pub resolver: IpAddr,
    /// Number that joins question and answer.
    pub id: u16,
    /// Name asked for, without the final dot; empty for the root.
    pub name: String,
    /// Length of the name on the wire, in bytes.
    pub name_len: u16,
    /// Type asked for.
    pub qtype: u16,
    /// Length of the whole message in bytes, sampled or not.
    pub length: u32,
    /// `None` for a question.
    pub answer: Option<DnsAnswer>,
}

/// No such name.
pub const NXDOMAIN: u16 = 3;

impl DnsMessage {
    /// Reads a sample of DNS. `None` when it is none, or no single question can be read from it.
    pub fn read(sample: &SampleEvent) -> Option<Self> {
        if sample.cause != SampleCause::Dns as u8 {
            return None;
        }
        let frame = sample.data.get(..usize::from(sample.captured))?;
        let packet = parse(frame, 0);
        if packet.proto != proto::UDP {
            return None;
        }
        let body = payload(frame, &packet)?;
        let asks = sample.point.is_ingress();
        let (mac, client, client_port, resolver) = if asks {
            (packet.src_mac, packet.src, packet.src_port, packet.dst)
        } else {
            (packet.dst_mac, packet.dst, packet.dst_port, packet.src)
        };
        let (client, resolver) = (usable(client.octets())?, usable(resolver.octets())?);
        if !Mac(mac).is_device() {
            return None;
        }
        let mut bytes = body.to_vec();
        let message = parse_dns(&mut bytes)?;
        let [question] = message.questions.as_slice() else { return None };
        if message.has_flags(PacketFlag::RESPONSE) == asks {
            return None;
        }
        let answer = (!asks).then(|| DnsAnswer {
            rcode: message.rcode() as u16,
            addresses: message
                .answers
                .iter()
                .filter_map(|record| match &record.rdata {
                    RData::A(a) => Some((IpAddr::from(Ipv4Addr::from(a.address)), record.ttl)),
                    RData::AAAA(aaaa) => Some((IpAddr::from(Ipv6Addr::from(aaaa.address)), record.ttl)),
                    _ => None,
                })
                .take(ADDRESSES)
                .collect(),
        });
        Some(Self {
            device: DeviceKey::new(mac, sample.point.ifindex()),
            client,
            client_port,
            resolver,
            id: message.id(),
            name: text(&question.qname),
            name_len: question.qname.as_bytes().map(|label| label.len() as u16 + 1).sum::<u16>() + 1,
            qtype: number(question.qtype),
            length: packet.payload_len,
            answer,
        })
    }

    /// Whether the answer says that there is no such name.
    pub fn is_nxdomain(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.rcode == NXDOMAIN)
    }
}

/// A name as text, in lower case.
fn text(name: &Name<'_>) -> String {
    let mut text = String::new();
    for label in name.as_bytes() {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            if byte.is_ascii_graphic() && !matches!(byte, b'.' | b'\\') {
                text.push(char::from(byte.to_ascii_lowercase()));
            } else {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\{byte:03}");
            }
        }
    }
    text.truncate(NAME_CHARS);
    text
}

fn number(qtype: QTYPE) -> u16 {
    match qtype {
        QTYPE::TYPE(kind) => kind.into(),
        QTYPE::IXFR => 251,
        QTYPE::AXFR => 252,
        QTYPE::MAILB => 253,
        QTYPE::MAILA => 254,
        QTYPE::ANY => 255,
    }
}

/// A record type's name as Suricata writes it.
pub fn type_name(qtype: u16) -> String {
    match qtype {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        10 => "NULL",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        43 => "DS",
        48 => "DNSKEY",
        64 => "SVCB",
        65 => "HTTPS",
        255 => "ANY",
        other => return format!("TYPE{other}"),
    }
    .to_owned()
}

/// A response code's name as Suricata writes it.
pub fn rcode_name(rcode: u16) -> String {
    match rcode {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        NXDOMAIN => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        other => return format!("RCODE{other}"),
    }
    .to_owned()
}

/// A name's registered domain, as of the Public Suffix List; and whether the list knows its suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered<'a> {
    /// `example.co.uk` of `www.example.co.uk`.
    pub domain: &'a str,
    /// Whether anyone can register below the suffix, as far as is known.
    pub known: bool,
}

/// The registered domain of a name. `None` for a suffix itself, for single labels, and for names that only one network or link knows.
pub fn registered(name: &str) -> Option<Registered<'_>> {
    let name = name.trim_end_matches('.');
    let is_local =
        name.rsplit('.').next().is_some_and(|top| matches!(top, "arpa" | "local" | "home" | "lan"));
    if is_local || !name.contains('.') {
        return None;
    }
    let domain = psl::domain(name.as_bytes())?;
    let text = name.get(name.len().checked_sub(domain.as_bytes().len())?..)?;
    Some(Registered { domain: text, known: domain.suffix().is_known() })
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
