//! The few fields of a DHCP message (RFC 2131, 2132) that tell who a device is.
//!
//! Read here and not by `dhcproto`, whose decoder stops the program on a rapid-commit option with contents: one datagram from any
//! device would end the agent.

use std::net::Ipv4Addr;

/// Message type: the server offers an address.
pub(super) const OFFER: u8 = 2;
/// Message type: the client takes an offered address or renews its own.
pub(super) const REQUEST: u8 = 3;
/// Message type: the client found the address in use.
pub(super) const DECLINE: u8 = 4;
/// Message type: the server gives the address.
pub(super) const ACK: u8 = 5;
/// Message type: the client gives the address back.
pub(super) const RELEASE: u8 = 7;

const COOKIE: [u8; 4] = [99, 130, 83, 99];
const PAD: u8 = 0;
const HOST_NAME: u8 = 12;
const REQUESTED: u8 = 50;
const MESSAGE_TYPE: u8 = 53;
const VENDOR_CLASS: u8 = 60;
const END: u8 = 255;

/// A message between an Ethernet client and a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dhcp<'a> {
    /// `chaddr`: whom it is about.
    pub(super) client: [u8; 6],
    /// `ciaddr`: the address the client has.
    pub(super) current: Ipv4Addr,
    /// `yiaddr`: the address the server gives.
    pub(super) yours: Ipv4Addr,
    /// Option 53.
    pub(super) kind: Option<u8>,
    /// Option 50.
    pub(super) requested: Option<Ipv4Addr>,
    /// Option 12.
    pub(super) host_name: Option<&'a [u8]>,
    /// Option 60.
    pub(super) vendor_class: Option<&'a [u8]>,
}

impl<'a> Dhcp<'a> {
    /// Reads a message; options behind the end of the sample are taken as absent.
    pub(super) fn read(body: &'a [u8]) -> Option<Self> {
        const ETHERNET: u8 = 1;
        let [_, ETHERNET, 6, ..] = body else { return None };
        if bytes::<4>(body, 236)? != COOKIE {
            return None;
        }
        let mut message = Self {
            client: bytes(body, 28)?,
            current: bytes::<4>(body, 12)?.into(),
            yours: bytes::<4>(body, 16)?.into(),
            kind: None,
            requested: None,
            host_name: None,
            vendor_class: None,
        };
        let mut options = body.get(240..)?;
        loop {
            options = match options {
                [PAD, rest @ ..] => rest,
                [] | [_] | [END, ..] => break,
                [code, length, rest @ ..] => {
                    let Some((value, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
                    message.take(*code, value);
                    rest
                }
            };
        }
        Some(message)
    }

    fn take(&mut self, code: u8, value: &'a [u8]) {
        match code {
            HOST_NAME => self.host_name = Some(value),
            VENDOR_CLASS => self.vendor_class = Some(value),
            REQUESTED => self.requested = bytes::<4>(value, 0).map(Into::into),
            MESSAGE_TYPE => self.kind = value.first().copied(),
            _ => {}
        }
    }
}

fn bytes<const N: usize>(body: &[u8], at: usize) -> Option<[u8; N]> {
    body.get(at..at + N)?.try_into().ok()
}
