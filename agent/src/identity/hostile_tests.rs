//! Hostile bytes: frames changed at random, and noise.

#![allow(clippy::unwrap_used, reason = "frames made here are valid")]

use std::net::Ipv6Addr;

use dhcproto::v4::MessageType;
use jiff::Timestamp;
use proptest::prelude::*;
use tidegate_common::event::SAMPLE_BYTES;
use tidegate_common::flow::ObservationPoint;

use super::{tests::*, *};
use crate::enforce::Now;

fn hostile_frames() -> impl Strategy<Value = Vec<u8>> {
    let long = [("cam-7.local", true), ("Porch._http._tcp.local", false)];
    let request = dhcp(MessageType::Request, CAMERA, HOST, Some("porch-cam"));
    let address: Ipv6Addr = "fe80::1".parse().unwrap();
    let valid = prop::sample::select(vec![
        arp(CAMERA, CAMERA, HOST),
        udp4(CAMERA, HOST, (68, 67), &request),
        udp4(CAMERA, HOST, (67, 68), &dhcp(MessageType::Ack, CAMERA, HOST, None)),
        udp4(CAMERA, HOST, (5353, 5353), &mdns(&long)),
        icmp6(CAMERA, address, 255, &advertisement(address, CAMERA)),
    ]);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..24);
    let mutated = (valid, changes, 0usize..600).prop_map(|(mut frame, changes, length)| {
        for (index, byte) in changes {
            let at = index.index(frame.len());
            frame[at] = byte;
        }
        frame.truncate(length);
        frame
    });
    prop_oneof![4 => mutated, 1 => prop::collection::vec(any::<u8>(), 0..600)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn hostile_frames_never_panic_and_never_outgrow_the_bounds(
        frames in prop::collection::vec((hostile_frames(), any::<bool>()), 1..12),
    ) {
        let mut registry = Registry::with_capacity(Vendors::built_in(), 4);
        registry.set_own(&[ip("192.168.1.1")]);
        for (step, (frame, ingress)) in frames.iter().enumerate() {
            let point = if *ingress { ObservationPoint::ingress(PORT) } else { ObservationPoint::egress(PORT) };
            registry.observe_sample(&sample_at(frame, point), step as u64 * SECOND);
            registry.rival_server(&sample_at(frame, point), step as u64 * SECOND);
        }
        prop_assert!(registry.len() <= 4);
        let now = Now { kernel_ns: 100 * SECOND, wall: Timestamp::UNIX_EPOCH };
        for device in registry.devices(now) {
            prop_assert!(device.addresses.len() <= 16 && device.conflicts.len() <= 8);
            prop_assert!(device.name.as_ref().is_none_or(|name| name.chars().count() <= 63));
            for address in &device.addresses {
                prop_assert_eq!(registry.resolve(*address), Some(device.key()));
                prop_assert_ne!(*address, ip("192.168.1.1"));
            }
        }
    }

    #[test]
    fn a_sample_that_lies_about_its_length_never_panics(captured: u16, bytes in prop::collection::vec(any::<u8>(), SAMPLE_BYTES)) {
        let mut event = sample(&bytes);
        event.captured = captured;
        registry().observe_sample(&event, SECOND);
        registry().rival_server(&event, SECOND);
    }
}
