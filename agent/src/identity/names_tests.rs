//! Names and prints of samples in their order.

#![allow(clippy::unwrap_used, reason = "samples made here are valid")]

use std::net::Ipv4Addr;

use bytemuck::Zeroable as _;
use proptest::prelude::*;
use tidegate_common::{
    event::{SAMPLE_BYTES, SampleCause},
    flow::ObservationPoint,
};

use super::*;
use crate::identity::testing::{End, answer, client_hello, server_hello, tcp, udp};

const S: u64 = 1_000_000_000;
const CAMERA: End = ([2, 0, 0, 0, 0, 7], Ipv4Addr::new(10, 0, 0, 7), 40_000);
const PLUG: End = ([2, 0, 0, 0, 0, 8], Ipv4Addr::new(10, 0, 0, 8), 40_000);
const GATEWAY: End = ([2, 0, 0, 0, 0, 1], Ipv4Addr::new(10, 0, 0, 1), 53);
const CLOUD: End = ([2, 0, 0, 0, 0, 1], Ipv4Addr::new(198, 51, 100, 9), 443);

fn key(end: End) -> DeviceKey {
    DeviceKey::new(end.0, 3)
}

fn sample(frame: &[u8], leaves: bool, cause: SampleCause) -> SampleEvent {
    let captured = frame.len().min(SAMPLE_BYTES);
    let point = if leaves { ObservationPoint::egress(3) } else { ObservationPoint::ingress(3) };
    let mut sample =
        SampleEvent { point, captured: captured as u16, cause: cause as u8, ..SampleEvent::zeroed() };
    sample.data[..captured].copy_from_slice(&frame[..captured]);
    sample
}

fn hello(frame: &[u8], leaves: bool) -> SampleEvent {
    sample(frame, leaves, SampleCause::Hello)
}

fn answered(names: &mut Names, name: &str, ttl: u32, now_ns: u64) {
    let frame = udp(GATEWAY, CAMERA, &answer(1, name, &[CLOUD.1], ttl));
    assert!(names.observe(&sample(&frame, true, SampleCause::Dns), now_ns).is_some());
}

#[test]
fn a_name_is_the_devices_own_and_ends_with_its_time() {
    let mut names = Names::default();
    answered(&mut names, "vendor.example", 3_600, S);
    let cloud = CLOUD.1.into();
    assert_eq!(names.of(key(CAMERA), cloud, 3_599 * S).unwrap().name, "vendor.example");
    assert_eq!(names.of(key(PLUG), cloud, 2 * S), None, "what the camera was told is nothing to the plug");
    assert_eq!(names.of(key(CAMERA), cloud, 3_602 * S), None);
    answered(&mut names, "short.example", 1, 5_000 * S);
    assert!(names.of(key(CAMERA), cloud, 5_500 * S).is_some(), "connections outlive a second");
    answered(&mut names, "long.example", u32::MAX, 6_000 * S);
    assert_eq!(names.of(key(CAMERA), cloud, 100_000 * S), None);
}

#[test]
fn what_a_device_says_does_not_stand_above_what_it_was_answered() {
    let mut names = Names::default();
    let says = hello(&tcp(CAMERA, CLOUD, 1, &client_hello("vendor.example", 0)), false);
    names.observe(&says, S);
    let name = names.of(key(CAMERA), CLOUD.1.into(), 2 * S).unwrap();
    assert_eq!((name.name.as_str(), name.origin), ("vendor.example", NameOrigin::Tls));
    answered(&mut names, "evil.example", 60, 3 * S);
    names.observe(&says, 4 * S);
    let name = names.of(key(CAMERA), CLOUD.1.into(), 5 * S).unwrap();
    assert_eq!((name.name.as_str(), name.origin), ("evil.example", NameOrigin::Dns));
    assert_eq!(names.peers(key(CAMERA), 5 * S), [name]);
}

#[test]
fn both_hellos_make_a_connection_and_a_print() {
    let mut names = Names::default();
    let client = client_hello("vendor.example", 0);
    assert_eq!(names.observe(&hello(&tcp(CAMERA, CLOUD, 1, &client), false), S), None);
    let heard = names.observe(&hello(&tcp(CLOUD, CAMERA, 1, &server_hello()), true), S);
    let Some(Heard::Tls(connection)) = heard else { panic!("{heard:?}") };
    assert_eq!(connection.client.sni.as_deref(), Some("vendor.example"));
    let [print] = names.prints(key(CAMERA)).try_into().unwrap();
    assert_eq!((print.count, print.ja3s), (1, Some(connection.server.ja3s)));
    assert_eq!(names.observe(&hello(&tcp(CLOUD, CAMERA, 1, &server_hello()), true), S), None, "once");
}

#[test]
fn a_hello_in_two_segments_is_put_together_and_a_repeated_first_one_does_no_harm() {
    let whole = client_hello("vendor.example", 2_400);
    let (first, rest) = whole.split_at(1_400);
    let mut names = Names::default();
    for part in [first, first, rest] {
        names.observe(&hello(&tcp(CAMERA, CLOUD, 1, part), false), S);
    }
    let print = names.prints(key(CAMERA));
    assert_eq!((print.len(), print[0].sni.as_deref()), (1, Some("vendor.example")));
    let mut odd = Names::default();
    for part in [rest, first] {
        odd.observe(&hello(&tcp(CAMERA, CLOUD, 1, part), false), S);
    }
    assert!(odd.prints(key(CAMERA)).is_empty(), "in another order it says nothing");
}

#[test]
fn dns_that_pretends_to_be_a_lease_moves_no_address() {
    use crate::identity::{Registry, Vendors, tests::dhcp};
    let ack = dhcp(dhcproto::v4::MessageType::Ack, CAMERA.0, Ipv4Addr::new(10, 0, 0, 99), None);
    let frame = udp((CLOUD.0, CLOUD.1, 53), (PLUG.0, PLUG.1, 68), &ack);
    let mut registry = Registry::new(Vendors::built_in());
    assert!(registry.observe_sample(&sample(&frame, true, SampleCause::Dns), S).is_empty());
}

proptest! {
    #[test]
    fn hostile_segments_never_panic_and_never_outgrow_the_bounds(
        parts in prop::collection::vec((0_usize..3_000, 0_usize..3_000, any::<bool>(), any::<u8>(), 0_u16..4), 1..40),
    ) {
        let whole = client_hello("vendor.example", 2_800);
        let mut names = Names::default();
        for (from, to, leaves, byte, port) in parts {
            let mut part = whole.get(from.min(to)..from.max(to).min(whole.len())).unwrap_or_default().to_vec();
            if let Some(first) = part.get_mut(usize::from(byte)) {
                *first ^= byte;
            }
            let client = (CAMERA.0, CAMERA.1, 40_000 + port);
            let frame = if leaves { tcp(CLOUD, client, 1, &part) } else { tcp(client, CLOUD, 1, &part) };
            names.observe(&hello(&frame, leaves), S);
        }
        prop_assert!(names.prints(key(CAMERA)).len() <= MAX_PRINTS);
    }
}
