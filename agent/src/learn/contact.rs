//! One flow as the rules see it: who is behind it, whom it reaches, and its record.

use std::net::IpAddr;

use tidegate_common::{
    device::DeviceKey,
    flow::{FlowKey, FlowRecord, FlowSide},
    pod::Addr,
};

use super::finding::Subject;
use crate::identity::Mac;

/// The devices at the ends of a flow, where they are known to be on the protected side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEnds {
    /// The device that began it.
    pub initiator: Option<DeviceKey>,
    /// The device that was asked.
    pub responder: Option<DeviceKey>,
}

impl FlowEnds {
    /// What the record itself tells: an end whose frames came in through a guarded port is the device that sent them.
    pub fn of(record: &FlowRecord) -> Self {
        Self { initiator: sender(&record.out), responder: sender(&record.inward) }
    }

    /// The same, with what the registry knows for ends that the record says nothing about.
    #[must_use]
    pub fn or(self, initiator: Option<DeviceKey>, responder: Option<DeviceKey>) -> Self {
        Self { initiator: self.initiator.or(initiator), responder: self.responder.or(responder) }
    }
}

/// The device that sent a direction; a sender with an address that no device can have goes by its IP address alone.
fn sender(side: &FlowSide) -> Option<DeviceKey> {
    let is_device = side.packets > 0 && side.point.is_ingress() && Mac(side.src_mac).is_device();
    is_device.then(|| DeviceKey::new(side.src_mac, side.point.ifindex()))
}

/// A flow with its ends named.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contact<'a> {
    pub(super) subject: Subject,
    pub(super) source: IpAddr,
    pub(super) victim: IpAddr,
    pub(super) source_port: u16,
    pub(super) port: u16,
    pub(super) protocol: u8,
    pub(super) ends: FlowEnds,
    pub(super) record: &'a FlowRecord,
    pub(super) now_ns: u64,
}

impl<'a> Contact<'a> {
    pub(super) fn new(key: &FlowKey, record: &'a FlowRecord, ends: FlowEnds, now_ns: u64) -> Self {
        let (source, source_port, victim, port) = key.seen_from(record.initiator());
        let (source, victim) = (address(source), address(victim));
        let subject = ends.initiator.map_or(Subject::Remote(source), Subject::Device);
        Self { subject, source, victim, source_port, port, protocol: key.proto, ends, record, now_ns }
    }
}

/// The address as the standard library has it, IPv4 unmapped.
pub fn address(addr: Addr) -> IpAddr {
    addr.as_v4().map_or_else(|| IpAddr::from(addr.octets()), IpAddr::from)
}
