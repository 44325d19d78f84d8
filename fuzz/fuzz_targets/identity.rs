//! ARP, DHCP, mDNS and neighbour discovery as the kernel samples them: whose address it is, within bounds whatever is claimed.

#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use tidegate::{
    enforce::Now,
    identity::{Registry, Vendors},
};
use tidegate_fuzz::samples;

const SECOND_NS: u64 = 1_000_000_000;

fuzz_target!(|input: &[u8]| {
    let own: IpAddr = [192, 168, 1, 1].into();
    let mut registry = Registry::with_capacity(Vendors::default(), 4);
    registry.set_own(&[own]);
    let mut now_ns = 0;
    for sample in samples(input) {
        now_ns += SECOND_NS;
        let _ = registry.observe_sample(&sample, now_ns);
        let _ = registry.rival_server(&sample, now_ns);
        let _ = registry.router_claim(&sample, now_ns);
    }
    assert!(registry.len() <= 4);
    for device in registry.devices(Now { kernel_ns: now_ns, wall: jiff::Timestamp::UNIX_EPOCH }) {
        assert!(device.addresses.len() <= 16 && device.conflicts.len() <= 8);
        assert!(device.name.as_ref().is_none_or(|name| name.chars().count() <= 63));
        for address in &device.addresses {
            assert!(registry.resolve(*address) == Some(device.key()) && *address != own);
        }
    }
});
