//! Which frames are worth a look at their content: whoever decides, the kernel or replay, decides by these functions.
//!
//! Most packets are none, and are told apart by what was parsed anyway. Of a connection only the first payload of each end is looked
//! at, and only the rest of a ClientHello that does not fit one segment is followed.

use crate::{
    event::SampleCause,
    flow::{FlowRecord, ObservationPoint, Sender},
    parse::{Fragment, Network, Packet, proto},
};

/// Bytes of a payload that tell whether it begins with a hello: a TLS record header and the message type (RFC 8446, 5.1 and 4).
pub const HELLO_PREFIX: usize = 6;
/// The longest rest of a ClientHello that is waited for: two segments more.
pub const HELLO_REST: u32 = 3_072;
/// Payload before which a rest begins.
const MOST_OF_HELLO: u64 = 4_608;

/// Why a datagram is sampled.
///
/// A DNS question is seen where it enters and its answer where it leaves, so each is seen once, and the device that asks is the one
/// behind the port.
#[inline(always)]
pub const fn cause_of(packet: &Packet, point: ObservationPoint) -> Option<SampleCause> {
    if packet.network as u8 == Network::None as u8 {
        return None;
    }
    match packet.proto {
        proto::UDP => match (packet.src_port, packet.dst_port) {
            (67 | 68, 67 | 68) | (546 | 547, 546 | 547) => Some(SampleCause::Dhcp),
            (5353, 5353) if point.is_ingress() => Some(SampleCause::Mdns),
            (_, 53) if point.is_ingress() => Some(SampleCause::Dns),
            (53, _) if !point.is_ingress() => Some(SampleCause::Dns),
            _ => None,
        },
        // Neighbours speak where they enter; routers are told apart by where their announcements go.
        proto::ICMPV6 if point.is_ingress() && matches!(packet.icmp_type, 135 | 136) => Some(SampleCause::Nd),
        proto::ICMPV6 if packet.icmp_type == 134 => Some(SampleCause::Nd),
        _ => None,
    }
}

/// A TLS handshake's first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    /// From the client, with so many bytes of its record to come in later segments.
    Client {
        /// Bytes still to come, 0 when the record is whole.
        rest: u32,
    },
    /// From the server.
    Server,
}

/// What a packet may be to the hello of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first payload of the end that began the connection.
    FirstOut,
    /// The first payload of the other end.
    FirstIn,
    /// What follows the first payload out, before anything came back.
    Rest,
}

/// What a packet just counted in `record` may be to its hello. Nothing at a point that does not count its direction.
#[inline(always)]
pub fn place_of(
    packet: &Packet,
    record: &FlowRecord,
    sender: Sender,
    point: ObservationPoint,
) -> Option<Place> {
    if packet.proto != proto::TCP || packet.payload_len == 0 {
        return None;
    }
    let outward = sender as u8 == record.initiator() as u8;
    let side = if outward { &record.out } else { &record.inward };
    if side.point.0 != point.0 || packet.fragment as u8 != Fragment::Whole as u8 {
        return None;
    }
    let payload_len = packet.payload_len as u64;
    if side.payload_bytes == payload_len {
        return Some(if outward { Place::FirstOut } else { Place::FirstIn });
    }
    let is_rest =
        outward && record.inward.payload_bytes == 0 && side.payload_bytes < MOST_OF_HELLO + payload_len;
    if is_rest { Some(Place::Rest) } else { None }
}

/// What the first bytes of a payload of `payload_len` bytes begin.
#[inline(always)]
pub const fn hello_of(prefix: [u8; HELLO_PREFIX], payload_len: u32) -> Option<Hello> {
    const HANDSHAKE: u8 = 22;
    const MAJOR: u8 = 3;
    const RECORD_HEADER: u32 = 5;
    let [HANDSHAKE, MAJOR, _, high, low, kind] = prefix else { return None };
    let record = RECORD_HEADER + ((high as u32) << 8 | low as u32);
    match kind {
        1 => Some(Hello::Client { rest: record.saturating_sub(payload_len) }),
        2 => Some(Hello::Server),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN: ObservationPoint = ObservationPoint::ingress(3);
    const OUT: ObservationPoint = ObservationPoint::egress(3);

    fn udp(src_port: u16, dst_port: u16) -> Packet {
        Packet { proto: proto::UDP, network: Network::V4, src_port, dst_port, ..Packet::default() }
    }

    #[test]
    fn a_question_is_seen_on_the_way_in_and_its_answer_on_the_way_out() {
        assert_eq!(cause_of(&udp(40_000, 53), IN), Some(SampleCause::Dns));
        assert_eq!(cause_of(&udp(53, 40_000), OUT), Some(SampleCause::Dns));
        assert_eq!(cause_of(&udp(40_000, 53), OUT), None, "the question of somebody outside");
        assert_eq!(cause_of(&udp(53, 40_000), IN), None, "a device answers somebody");
        assert_eq!(cause_of(&udp(53, 53), IN), Some(SampleCause::Dns));
        assert_eq!(cause_of(&udp(68, 67), IN), Some(SampleCause::Dhcp));
        assert_eq!(cause_of(&udp(5353, 5353), OUT), None);
        assert_eq!(cause_of(&udp(40_000, 443), IN), None);
    }

    #[test]
    fn hellos_are_told_by_six_bytes() {
        assert_eq!(hello_of([22, 3, 1, 2, 0, 1], 517), Some(Hello::Client { rest: 0 }));
        assert_eq!(hello_of([22, 3, 1, 6, 0x9b, 1], 1_448), Some(Hello::Client { rest: 248 }));
        assert_eq!(hello_of([22, 3, 3, 0, 90, 2], 1_448), Some(Hello::Server));
        assert_eq!(hello_of([23, 3, 3, 0, 90, 1], 95), None, "application data");
        assert_eq!(hello_of([22, 3, 3, 0, 90, 11], 95), None, "a certificate");
        assert_eq!(hello_of(*b"GET / ", 100), None);
    }

    #[test]
    fn only_the_first_payload_of_each_end_and_an_early_rest_have_a_place() {
        let mut record = FlowRecord::default();
        let mut place = |sender, point, payload_len| {
            let packet = Packet {
                proto: proto::TCP,
                network: Network::V4,
                payload_len,
                segments: 1,
                ip_len: 40,
                ..Packet::default()
            };
            record.observe(&packet, sender, point, 1);
            place_of(&packet, &record, sender, point)
        };
        assert_eq!(place(Sender::A, IN, 0), None, "no payload");
        assert_eq!(place(Sender::A, IN, 1_400), Some(Place::FirstOut));
        assert_eq!(place(Sender::A, OUT, 1_400), None, "seen again on its way out");
        assert_eq!(place(Sender::A, IN, 300), Some(Place::Rest));
        assert_eq!(place(Sender::B, OUT, 100), Some(Place::FirstIn));
        assert_eq!(place(Sender::B, OUT, 100), None);
        assert_eq!(place(Sender::A, IN, 300), None, "the server has spoken");
    }
}
