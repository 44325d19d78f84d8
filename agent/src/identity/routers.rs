//! What devices say about the IPv6 routers of their link (RFC 4861) that is not theirs to say: that they are one where the gateway is,
//! or that another is none any more. Whoever believes the one sends it all of its traffic; whoever believes the other sends nothing.
//!
//! Announcements of oneself count when they claim to lead elsewhere: a border router of a mesh says for how long it does with 0
//! (RFC 4191) and stays honest. Where it is unknown who the gateway is, as in a recording, any router may be it.

use std::net::{IpAddr, Ipv6Addr};

use tidegate_common::{
    device::DeviceKey,
    event::SampleEvent,
    parse::{Packet, parse, proto},
};

use super::{mac::Mac, registry::Registry, sample};

/// How long after its last announcement the gateway counts as a router: the longest interval between two (RFC 4861, 6.2.1), twice.
const ANNOUNCES_NS: u64 = 3_600_000_000_000;
const ADVERTISEMENT: u8 = 134;

/// A device speaks where routers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouterClaim {
    /// Who speaks.
    pub device: DeviceKey,
    /// What it says.
    pub says: RouterSaying,
}

/// What a device says about routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterSaying {
    /// That it is the default router itself.
    Leads {
        /// For how long, in seconds.
        lifetime_s: u16,
        /// Whether the gateway announces itself, too.
        beside_gateway: bool,
    },
    /// In the name of another, that it is no default router any more.
    Withdraws {
        /// The router's address.
        router: IpAddr,
        /// Whose it is; `None` for the gateway.
        owner: Option<Mac>,
    },
}

impl Registry {
    /// What a device says about routers in this sample without having to.
    pub fn router_claim(&mut self, sample: &SampleEvent, now_ns: u64) -> Option<RouterClaim> {
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
        if !sample.point.is_ingress() {
            // A bridge hands on what a device announces.
            if lifetime_s > 0 && self.is_own(packet.src.octets().into()) {
                self.announced_ns = Some(now_ns);
            }
            return None;
        }
        if !Mac(packet.src_mac).is_device() {
            return None;
        }
        let device = DeviceKey::new(packet.src_mac, sample.point.ifindex());
        let says = if lifetime_s == 0 { self.withdraws(&packet) } else { self.leads(lifetime_s, now_ns) };
        says.map(|says| RouterClaim { device, says })
    }

    fn leads(&self, lifetime_s: u16, now_ns: u64) -> Option<RouterSaying> {
        let beside_gateway =
            self.announced_ns.is_some_and(|at_ns| now_ns.saturating_sub(at_ns) < ANNOUNCES_NS);
        (!self.own.is_empty()).then_some(RouterSaying::Leads { lifetime_s, beside_gateway })
    }

    /// An address that was made from a hardware address tells its owner. Only one who is heard in person counts: behind some
    /// wireless repeaters, everybody has the repeater's.
    fn withdraws(&self, packet: &Packet) -> Option<RouterSaying> {
        let source = Ipv6Addr::from(packet.src.octets());
        let router = IpAddr::from(source).to_canonical();
        if self.is_own(router) {
            return Some(RouterSaying::Withdraws { router, owner: None });
        }
        let owner = made_from(source)?;
        let is_here = self.devices.keys().any(|device| device.mac == owner.0);
        (owner != Mac(packet.src_mac) && is_here)
            .then_some(RouterSaying::Withdraws { router, owner: Some(owner) })
    }
}

/// The hardware address of which an interface identifier was made (RFC 4291, appendix A).
fn made_from(address: Ipv6Addr) -> Option<Mac> {
    let [.., a, b, c, 0xff, 0xfe, d, e, f] = address.octets() else { return None };
    Some(Mac([a ^ 2, b, c, d, e, f]))
}

#[cfg(test)]
mod tests {
    use tidegate_common::flow::ObservationPoint;

    use super::super::{
        tests::{CAMERA, GATEWAY, PHONE, PORT, SECOND, icmp6, registry, sample, sample_at},
        vendor::Vendors,
    };
    use super::*;

    const OURS: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const THEIRS: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7);

    fn announcement(mac: [u8; 6], hop_limit: u8, lifetime_s: u16) -> Vec<u8> {
        announcement_of(mac, if mac == GATEWAY { OURS } else { THEIRS }, hop_limit, lifetime_s)
    }

    fn announcement_of(mac: [u8; 6], router: Ipv6Addr, hop_limit: u8, lifetime_s: u16) -> Vec<u8> {
        let [high, low] = lifetime_s.to_be_bytes();
        let body = [134, 0, 0, 0, 64, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0];
        icmp6(mac, router, hop_limit, &body)
    }

    fn leads(lifetime_s: u16, beside_gateway: bool) -> RouterClaim {
        let says = RouterSaying::Leads { lifetime_s, beside_gateway };
        RouterClaim { device: DeviceKey::new(CAMERA, PORT), says }
    }

    #[test]
    fn a_device_that_announces_itself_is_told_and_whether_the_gateway_does() {
        let mut registry = registry();
        registry.set_own(&[OURS.into()]);
        let alone = registry.router_claim(&sample(&announcement(CAMERA, 255, 1_800)), SECOND);
        assert_eq!(alone, Some(leads(1_800, false)));
        let handed_on = sample_at(&announcement(CAMERA, 255, 1_800), ObservationPoint::egress(PORT));
        assert_eq!(registry.router_claim(&handed_on, SECOND), None);
        assert_eq!(registry.announced_ns, None, "a bridge hands it on");
        let own = sample_at(&announcement(GATEWAY, 255, 1_800), ObservationPoint::egress(PORT));
        assert_eq!(registry.router_claim(&own, 2 * SECOND), None);
        let rival = registry.router_claim(&sample(&announcement(CAMERA, 255, 9)), 3 * SECOND);
        assert_eq!(rival, Some(leads(9, true)));
    }

    #[test]
    fn who_leads_nowhere_and_what_was_forwarded_is_no_router() {
        let mut registry = registry();
        assert_eq!(registry.router_claim(&sample(&announcement(CAMERA, 255, 0)), SECOND), None);
        assert_eq!(registry.router_claim(&sample(&announcement(CAMERA, 64, 1_800)), SECOND), None);
        assert_eq!(registry.router_claim(&sample(&announcement(CAMERA, 255, 9)[..57]), SECOND), None);
    }

    #[test]
    fn in_a_recording_any_router_may_be_the_gateway() {
        let announced = sample(&announcement(CAMERA, 255, 1_800));
        assert_eq!(Registry::new(Vendors::built_in()).router_claim(&announced, SECOND), None);
    }

    #[test]
    fn who_withdraws_another_router_is_told() {
        // Made from PHONE's hardware address.
        let [a, b, c, d, e, f] = PHONE;
        let mut octets = [0; 16];
        octets[..2].copy_from_slice(&[0xfe, 0x80]);
        octets[8..].copy_from_slice(&[a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        let theirs = Ipv6Addr::from(octets);
        let mut registry = registry();
        registry.set_own(&[OURS.into()]);
        let withdrawal = |mac, router| sample(&announcement_of(mac, router, 255, 0));
        let said = |router: Ipv6Addr, owner| {
            let says = RouterSaying::Withdraws { router: router.into(), owner };
            Some(RouterClaim { device: DeviceKey::new(CAMERA, PORT), says })
        };
        assert_eq!(
            registry.router_claim(&withdrawal(CAMERA, theirs), SECOND),
            None,
            "nobody heard of the owner"
        );
        registry.observe_device(DeviceKey::new(PHONE, PORT), SECOND);
        assert_eq!(
            registry.router_claim(&withdrawal(CAMERA, theirs), SECOND),
            said(theirs, Some(Mac(PHONE)))
        );
        assert_eq!(registry.router_claim(&withdrawal(PHONE, theirs), SECOND), None, "its own to say");
        assert_eq!(registry.router_claim(&withdrawal(CAMERA, OURS), SECOND), said(OURS, None));
    }
}
