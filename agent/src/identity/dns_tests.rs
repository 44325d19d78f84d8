//! Messages as they are sampled.

#![allow(clippy::unwrap_used, reason = "messages made here are valid")]

use bytemuck::Zeroable as _;
use proptest::prelude::*;
use simple_dns::TYPE;
use tidegate_common::{event::SAMPLE_BYTES, flow::ObservationPoint};

use super::*;
use crate::identity::testing::{End, answer, question, udp};

const CAMERA: End = ([2, 0, 0, 0, 0, 7], Ipv4Addr::new(10, 0, 0, 7), 40_000);
const GATEWAY: End = ([2, 0, 0, 0, 0, 1], Ipv4Addr::new(10, 0, 0, 1), 53);
const IN: ObservationPoint = ObservationPoint::ingress(3);
const OUT: ObservationPoint = ObservationPoint::egress(3);

fn sample(frame: &[u8], point: ObservationPoint, most: usize) -> SampleEvent {
    let captured = frame.len().min(most);
    let cause = SampleCause::Dns as u8;
    let mut sample = SampleEvent { point, captured: captured as u16, cause, ..SampleEvent::zeroed() };
    sample.data[..captured].copy_from_slice(&frame[..captured]);
    sample
}

#[test]
fn a_question_is_the_devices_and_keeps_its_odd_bytes() {
    let frame = udp(CAMERA, GATEWAY, &question(7, "Api.Vendor.Example", TYPE::TXT));
    let message = DnsMessage::read(&sample(&frame, IN, SAMPLE_BYTES)).unwrap();
    assert_eq!((message.device, message.id), (DeviceKey::new(CAMERA.0, 3), 7));
    assert_eq!((message.name.as_str(), message.qtype, message.name_len), ("api.vendor.example", 16, 20));
    assert_eq!(message.answer, None);
    let mut odd = frame.clone();
    let at = odd.windows(3).position(|bytes| bytes == b"Api").unwrap();
    odd[at] = 0xc3;
    odd[at + 1] = b'.';
    let message = DnsMessage::read(&sample(&odd, IN, SAMPLE_BYTES)).unwrap();
    assert_eq!(message.name, "\\195\\046i.vendor.example");
}

#[test]
fn an_answer_is_for_the_device_it_goes_to_and_gives_addresses() {
    let cloud = Ipv4Addr::new(198, 51, 100, 9);
    let frame = udp(GATEWAY, CAMERA, &answer(7, "vendor.example", &[cloud], 60));
    let message = DnsMessage::read(&sample(&frame, OUT, SAMPLE_BYTES)).unwrap();
    assert_eq!((message.client, message.client_port), (CAMERA.1.into(), 40_000));
    assert_eq!(message.resolver, IpAddr::from(GATEWAY.1));
    assert_eq!(message.answer.unwrap().addresses, [(IpAddr::from(cloud), 60)]);
    let none = udp(GATEWAY, CAMERA, &answer(8, "nothing.example", &[], 0));
    assert!(DnsMessage::read(&sample(&none, OUT, SAMPLE_BYTES)).unwrap().is_nxdomain());
}

#[test]
fn an_answer_that_enters_and_a_question_that_leaves_are_nobodys() {
    let frame = udp(GATEWAY, CAMERA, &answer(7, "vendor.example", &[CAMERA.1], 60));
    assert_eq!(DnsMessage::read(&sample(&frame, IN, SAMPLE_BYTES)), None);
    let frame = udp(CAMERA, GATEWAY, &question(7, "vendor.example", TYPE::A));
    assert_eq!(DnsMessage::read(&sample(&frame, OUT, SAMPLE_BYTES)), None);
}

#[test]
fn of_a_long_answer_what_was_sampled_is_read() {
    let addresses: Vec<Ipv4Addr> = (0..40).map(|last| Ipv4Addr::new(198, 51, 100, last)).collect();
    let frame = udp(GATEWAY, CAMERA, &answer(7, "vendor.example", &addresses, 60));
    assert!(frame.len() > 640);
    let message = DnsMessage::read(&sample(&frame, OUT, 640)).unwrap();
    assert_eq!(message.answer.unwrap().addresses.len(), ADDRESSES);
    assert!(message.length > 640);
}

#[test]
fn registered_domains_are_those_of_the_public_suffix_list() {
    let domain = |name| registered(name).map(|found| (found.domain, found.known));
    assert_eq!(domain("a.b.example.co.uk"), Some(("example.co.uk", true)));
    assert_eq!(domain("bucket.s3.amazonaws.com"), Some(("bucket.s3.amazonaws.com", true)));
    assert_eq!(domain("x.tunnel.test"), Some(("tunnel.test", false)));
    for none in ["", "com", "co.uk", "camera", "camera.local", "4.3.2.1.in-addr.arpa", "nas.lan"] {
        assert_eq!(domain(none), None, "{none}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        body in prop::collection::vec(any::<u8>(), 0..700), leaves: bool, most in 0_usize..=SAMPLE_BYTES,
    ) {
        let (frame, point) = if leaves { (udp(GATEWAY, CAMERA, &body), OUT) } else { (udp(CAMERA, GATEWAY, &body), IN) };
        if let Some(message) = DnsMessage::read(&sample(&frame, point, most)) {
            prop_assert!(message.name.len() <= NAME_CHARS && message.name.is_ascii());
            let _ = registered(&message.name);
        }
    }

    #[test]
    fn any_name_has_a_registered_domain_or_none(name in "[a-z0-9.\\\\_-]{0,80}") {
        if let Some(found) = registered(&name) {
            prop_assert!(name.trim_end_matches('.').ends_with(found.domain));
        }
    }
}
