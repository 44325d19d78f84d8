//! What replay prints: one JSON object a flow, then the account of every packet.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::Serialize;
use tidegate_common::{
    flow::{FlowKey, FlowRecord, Sender},
    parse::Unparsed,
    pod::Addr,
};

use super::flowlog::LineTally;

/// One flow; `src` is the initiator, `out` its direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowLine {
    /// Initiator's address.
    pub src_ip: IpAddr,
    /// Responder's address.
    pub dst_ip: IpAddr,
    /// Initiator's port, 0 for protocols without ports.
    pub src_port: u16,
    /// Responder's port.
    pub dst_port: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Outer VLAN id, 0 when untagged.
    pub vlan: u16,
    /// Packets from the initiator.
    pub packets_out: u64,
    /// Their bytes, as IP total length.
    pub bytes_out: u64,
    /// Packets from the responder.
    pub packets_in: u64,
    /// Their bytes, as IP total length.
    pub bytes_in: u64,
    /// First packet, nanoseconds since the epoch.
    pub first_ns: u64,
    /// Last packet, nanoseconds since the epoch.
    pub last_ns: u64,
    /// The initiator's TCP flag bytes, or-ed.
    pub tcp_flags_out: u8,
    /// The responder's TCP flag bytes, or-ed.
    pub tcp_flags_in: u8,
}

impl FlowLine {
    /// The line of one record.
    pub fn new(key: &FlowKey, record: &FlowRecord) -> Self {
        let (src, src_port, dst, dst_port) = key.seen_from(record.initiator());
        Self {
            src_ip: address(src),
            dst_ip: address(dst),
            src_port,
            dst_port,
            proto: key.proto,
            vlan: key.vlan,
            packets_out: record.out.packets,
            bytes_out: record.out.bytes,
            packets_in: record.inward.packets,
            bytes_in: record.inward.bytes,
            first_ns: record.first_ns(),
            last_ns: record.last_ns(),
            tcp_flags_out: record.out.tcp_flags,
            tcp_flags_in: record.inward.tcp_flags,
        }
    }

    /// Writes the line.
    pub fn write(&self, mut output: impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut output, self)?;
        output.write_all(b"\n")
    }
}

/// The account: `packets = in_flows + Σ unparsed + folded + lost`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Packets read.
    pub packets: u64,
    /// Packets counted in a flow.
    pub in_flows: u64,
    /// Packets in no flow, by reason; reasons without packets are left out.
    pub unparsed: BTreeMap<&'static str, u64>,
    /// Packets of flows that found no room.
    pub folded: u64,
    /// Packets an engine took and did not account for.
    pub lost: u64,
    /// What became of a flow log's lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LineTally>,
}

impl Summary {
    /// Whether the account is exact: nothing counted twice, nothing missing.
    pub fn balances(&self) -> bool {
        let Self { packets, in_flows, ref unparsed, folded, lost, .. } = *self;
        packets == in_flows + unparsed.values().sum::<u64>() + folded + lost
    }

    /// Writes the last line.
    pub fn write(&self, mut output: impl Write) -> io::Result<()> {
        #[derive(Serialize)]
        struct Last<'a> {
            summary: &'a Summary,
        }
        serde_json::to_writer(&mut output, &Last { summary: self })?;
        output.write_all(b"\n")?;
        output.flush()
    }
}

/// Everything replay found, ready to print.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Flows in the order of their first packet, then of their key.
    pub flows: Vec<(FlowKey, FlowRecord)>,
    /// The account.
    pub summary: Summary,
}

impl Report {
    /// Orders `flows` and explains the unparsed packets.
    pub(super) fn new(
        mut flows: Vec<(FlowKey, FlowRecord)>,
        packets: u64,
        unparsed: &[u64],
        folded: u64,
    ) -> Self {
        flows.sort_by_cached_key(|(key, record)| (record.first_ns(), order(key)));
        let in_flows = flows.iter().map(|(_, record)| record.packets()).sum::<u64>();
        let unparsed: BTreeMap<_, _> = Unparsed::ALL
            .iter()
            .zip(unparsed)
            .filter(|(_, count)| **count > 0)
            .map(|(reason, count)| (reason.name(), *count))
            .collect();
        let explained = in_flows + unparsed.values().sum::<u64>() + folded;
        let lost = packets.saturating_sub(explained);
        Self { flows, summary: Summary { packets, in_flows, unparsed, folded, lost, log: None } }
    }

    /// Whether the account is exact: nothing counted twice, nothing missing.
    pub fn balances(&self) -> bool {
        self.summary.balances()
    }

    /// Writes the flows when asked for, then the summary.
    pub fn write(&self, with_flows: bool, mut output: impl Write) -> io::Result<()> {
        if with_flows {
            for (key, record) in &self.flows {
                FlowLine::new(key, record).write(&mut output)?;
            }
        }
        self.summary.write(output)
    }
}

/// The key in an order that does not depend on the machine's byte order.
fn order(key: &FlowKey) -> impl Ord + use<> {
    let (a, a_port, b, b_port) = key.seen_from(Sender::A);
    (a.octets(), b.octets(), a_port, b_port, key.proto, key.vlan, key.inner_vlan)
}

fn address(addr: Addr) -> IpAddr {
    match addr.as_v4() {
        Some(octets) => Ipv4Addr::from(octets).into(),
        None => Ipv6Addr::from(addr.octets()).into(),
    }
}
