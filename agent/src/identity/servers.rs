//! Who answers as a DHCP server where the gateway does: somebody in its place decides on the way everyone's traffic takes.
//!
//! Where the gateway itself gives no leases, who does is none of its business, and nothing is said.

use std::net::IpAddr;

use tidegate_common::{device::DeviceKey, event::SampleEvent};

use super::{mac::Mac, registry::Registry, sample};

/// How long after its last answer the gateway counts as a server: a usual lease.
const SERVES_NS: u64 = 86_400_000_000_000;

/// A device that answers as a DHCP server beside the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DhcpServer {
    /// Who answers.
    pub device: DeviceKey,
    /// Whom it answers.
    pub client: Mac,
}

impl Registry {
    /// The device that offers or gives a lease in this sample although the gateway does.
    pub fn rival_server(&mut self, sample: &SampleEvent, now_ns: u64) -> Option<DhcpServer> {
        let (packet, client) = sample::dhcp_answer(sample)?;
        if self.own.contains(&IpAddr::from(packet.src.octets()).to_canonical()) {
            self.served_ns = Some(now_ns);
            return None;
        }
        let serves = self.served_ns.is_some_and(|at_ns| now_ns.saturating_sub(at_ns) < SERVES_NS);
        let of_a_device = sample.point.is_ingress() && Mac(packet.src_mac).is_device();
        let device = DeviceKey::new(packet.src_mac, sample.point.ifindex());
        (serves && of_a_device).then_some(DhcpServer { device, client })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use dhcproto::v4::MessageType;
    use tidegate_common::flow::ObservationPoint;

    use super::super::tests::{
        CAMERA, GATEWAY, PHONE, PORT, SECOND, dhcp, registry, sample, sample_at, udp4,
    };
    use super::*;

    fn answer(server: [u8; 6], last: u8, kind: MessageType) -> Vec<u8> {
        let body = dhcp(kind, PHONE, Ipv4Addr::new(192, 168, 1, 50), None);
        udp4(server, Ipv4Addr::new(192, 168, 1, last), (67, 68), &body)
    }

    #[test]
    fn a_device_that_gives_leases_beside_the_gateway_is_told() {
        let mut registry = registry();
        let own = answer(GATEWAY, 1, MessageType::Ack);
        assert_eq!(registry.rival_server(&sample_at(&own, ObservationPoint::egress(PORT)), SECOND), None);
        for kind in [MessageType::Offer, MessageType::Ack] {
            let rival = registry.rival_server(&sample(&answer(CAMERA, 66, kind)), 2 * SECOND);
            let device = DeviceKey::new(CAMERA, PORT);
            assert_eq!(rival, Some(DhcpServer { device, client: Mac(PHONE) }));
        }
    }

    #[test]
    fn a_server_where_the_gateway_gives_no_leases_and_a_refusal_are_honest() {
        let mut registry = registry();
        let theirs = sample(&answer(CAMERA, 66, MessageType::Ack));
        assert_eq!(registry.rival_server(&theirs, SECOND), None, "the gateway is no server");
        let own = sample_at(&answer(GATEWAY, 1, MessageType::Ack), ObservationPoint::egress(PORT));
        registry.rival_server(&own, SECOND);
        assert_eq!(registry.rival_server(&sample(&answer(CAMERA, 66, MessageType::Nak)), SECOND), None);
        let passed_on = sample_at(&answer(CAMERA, 66, MessageType::Ack), ObservationPoint::egress(PORT));
        assert_eq!(registry.rival_server(&passed_on, SECOND), None, "it is told where it enters");
        assert_eq!(registry.rival_server(&theirs, 90_000 * SECOND), None, "the gateway served long ago");
    }
}
