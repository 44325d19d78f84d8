//! Who announces itself as an IPv6 router (RFC 4861) where the gateway is the router: whoever believes it sends it all of its traffic.
//!
//! Only announcements that claim to lead elsewhere count: a border router of a mesh says for how long it does with 0 (RFC 4191) and
//! stays honest.

use tidegate_common::{
    device::DeviceKey,
    event::SampleEvent,
    parse::{parse, proto},
};

use super::{mac::Mac, registry::Registry, sample};

/// How long after its last announcement the gateway counts as a router: the longest interval between two (RFC 4861, 6.2.1), twice.
const ANNOUNCES_NS: u64 = 3_600_000_000_000;
const ADVERTISEMENT: u8 = 134;

/// A device that announces itself as the default router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RivalRouter {
    /// Who announces itself.
    pub device: DeviceKey,
    /// For how long it says that it is one, in seconds.
    pub lifetime_s: u16,
    /// Whether the gateway announces itself, too.
    pub beside_gateway: bool,
}

impl Registry {
    /// The device that announces itself as the default router in this sample.
    pub fn rival_router(&mut self, sample: &SampleEvent, now_ns: u64) -> Option<RivalRouter> {
        let frame = sample.data.get(..usize::from(sample.captured))?;
        let packet = parse(frame, 0);
        // Anything that was forwarded is not from this link.
        if (packet.proto, packet.icmp_type, packet.icmp_code, packet.ttl)
            != (proto::ICMPV6, ADVERTISEMENT, 0, 255)
        {
            return None;
        }
        let body = sample::payload(frame, &packet)?;
        let lifetime_s = u16::from_be_bytes(body.get(2..4)?.try_into().ok()?);
        if lifetime_s == 0 {
            return None;
        }
        if !sample.point.is_ingress() {
            // A bridge hands on what a device announces.
            if self.is_own(packet.src.octets().into()) {
                self.announced_ns = Some(now_ns);
            }
            return None;
        }
        let beside_gateway =
            self.announced_ns.is_some_and(|at_ns| now_ns.saturating_sub(at_ns) < ANNOUNCES_NS);
        let device = DeviceKey::new(packet.src_mac, sample.point.ifindex());
        Mac(packet.src_mac).is_device().then_some(RivalRouter { device, lifetime_s, beside_gateway })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use tidegate_common::flow::ObservationPoint;

    use super::super::tests::{CAMERA, GATEWAY, PORT, SECOND, icmp6, registry, sample, sample_at};
    use super::*;

    const OURS: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const THEIRS: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7);

    fn announcement(mac: [u8; 6], hop_limit: u8, lifetime_s: u16) -> Vec<u8> {
        let [high, low] = lifetime_s.to_be_bytes();
        let body = [134, 0, 0, 0, 64, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0];
        icmp6(mac, if mac == GATEWAY { OURS } else { THEIRS }, hop_limit, &body)
    }

    #[test]
    fn a_device_that_announces_itself_is_told_and_whether_the_gateway_does() {
        let mut registry = registry();
        registry.set_own(&[OURS.into()]);
        let device = DeviceKey::new(CAMERA, PORT);
        let alone = registry.rival_router(&sample(&announcement(CAMERA, 255, 1_800)), SECOND);
        assert_eq!(alone, Some(RivalRouter { device, lifetime_s: 1_800, beside_gateway: false }));
        let handed_on = sample_at(&announcement(CAMERA, 255, 1_800), ObservationPoint::egress(PORT));
        assert_eq!(registry.rival_router(&handed_on, SECOND), None);
        assert_eq!(registry.announced_ns, None, "a bridge hands it on");
        let own = sample_at(&announcement(GATEWAY, 255, 1_800), ObservationPoint::egress(PORT));
        assert_eq!(registry.rival_router(&own, 2 * SECOND), None);
        let rival = registry.rival_router(&sample(&announcement(CAMERA, 255, 9)), 3 * SECOND);
        assert_eq!(rival, Some(RivalRouter { device, lifetime_s: 9, beside_gateway: true }));
    }

    #[test]
    fn who_leads_nowhere_and_what_was_forwarded_is_no_router() {
        let mut registry = registry();
        assert_eq!(registry.rival_router(&sample(&announcement(CAMERA, 255, 0)), SECOND), None);
        assert_eq!(registry.rival_router(&sample(&announcement(CAMERA, 64, 1_800)), SECOND), None);
        assert_eq!(registry.rival_router(&sample(&announcement(CAMERA, 255, 9)[..57]), SECOND), None);
    }
}
