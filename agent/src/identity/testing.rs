//! Frames of DNS and TLS, made by hand and by the crate that also reads DNS.

#![allow(clippy::unwrap_used, reason = "frames made here are valid")]

use std::net::Ipv4Addr;

use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE,
    rdata::{A, RData},
};

/// Hardware and IPv4 address of an end, and its port.
pub(crate) type End = ([u8; 6], Ipv4Addr, u16);

fn ethernet(from: End, to: End, proto: u8, transport: &[u8]) -> Vec<u8> {
    let total = (transport.len() as u16 + 20).to_be_bytes();
    [
        &to.0[..],
        &from.0,
        &[8, 0, 0x45, 0],
        &total,
        &[0, 0, 0, 0, 64, proto, 0, 0],
        &from.1.octets(),
        &to.1.octets(),
        transport,
    ]
    .concat()
}

pub(crate) fn udp(from: End, to: End, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16 + 8).to_be_bytes();
    let header = [from.2.to_be_bytes(), to.2.to_be_bytes(), length, [0, 0]].concat();
    ethernet(from, to, 17, &[&header, body].concat())
}

/// ACK, at sequence number `seq`.
pub(crate) fn tcp(from: End, to: End, seq: u32, body: &[u8]) -> Vec<u8> {
    let header = [
        &from.2.to_be_bytes()[..],
        &to.2.to_be_bytes(),
        &seq.to_be_bytes(),
        &[0, 0, 0, 9, 0x50, 0x10, 0xfa, 0xf0, 0, 0, 0, 0],
    ]
    .concat();
    ethernet(from, to, 6, &[&header, body].concat())
}

pub(crate) fn question(id: u16, name: &str, qtype: TYPE) -> Vec<u8> {
    let mut message = Packet::new_query(id);
    let name = Name::new_unchecked(name);
    message.questions.push(Question::new(name, QTYPE::TYPE(qtype), QCLASS::CLASS(CLASS::IN), false));
    message.build_bytes_vec().unwrap()
}

/// An answer with addresses; without any, the name does not exist.
pub(crate) fn answer(id: u16, name: &str, addresses: &[Ipv4Addr], ttl: u32) -> Vec<u8> {
    let mut message = Packet::new_reply(id);
    message.set_flags(PacketFlag::RESPONSE);
    let name = Name::new_unchecked(name);
    let asked = QTYPE::TYPE(TYPE::A);
    message.questions.push(Question::new(name.clone(), asked, QCLASS::CLASS(CLASS::IN), false));
    if addresses.is_empty() {
        *message.rcode_mut() = RCODE::NameError;
    }
    for address in addresses {
        let data = RData::A(A { address: address.to_bits() });
        message.answers.push(ResourceRecord::new(name.clone(), CLASS::IN, ttl, data));
    }
    message.build_bytes_vec().unwrap()
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(body.len() as u16).to_be_bytes(), body].concat()
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = body.len() as u32;
    let message = [&[kind], &length.to_be_bytes()[1..], body].concat();
    [&[22, 3, 1][..], &(message.len() as u16).to_be_bytes(), &message].concat()
}

/// A TLS 1.2 hello of a client that asks for `name`, with `padding` bytes of padding.
pub(crate) fn client_hello(name: &str, padding: usize) -> Vec<u8> {
    let host = [&[0][..], &(name.len() as u16).to_be_bytes(), name.as_bytes()].concat();
    let names = [&(host.len() as u16).to_be_bytes()[..], &host].concat();
    let extensions = [
        extension(0x1a1a, &[]),
        extension(0, &names),
        extension(10, &[0, 4, 0x2a, 0x2a, 0, 29]),
        extension(11, &[1, 0]),
        extension(13, &[0, 4, 4, 3, 8, 4]),
        extension(16, &[0, 3, 2, b'h', b'2']),
        extension(21, &vec![0; padding]),
    ]
    .concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &[0, 6, 0x0a, 0x0a, 0xc0, 0x2f, 0xc0, 0x2b],
        &[1, 0],
        &(extensions.len() as u16).to_be_bytes(),
        &extensions,
    ]
    .concat();
    record(1, &body)
}

/// A TLS 1.2 hello of a server.
pub(crate) fn server_hello() -> Vec<u8> {
    let extensions = [extension(0xff01, &[0]), extension(16, &[0, 3, 2, b'h', b'2'])].concat();
    let body = [
        &[3, 3][..],
        &[8; 32],
        &[0],
        &[0xc0, 0x2f, 0],
        &(extensions.len() as u16).to_be_bytes(),
        &extensions,
    ]
    .concat();
    record(2, &body)
}
