//! Frames made by hand, by the crates that also read them, and by chance.

#![allow(clippy::unwrap_used, reason = "frames made here are valid")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::Zeroable;
use dhcproto::{
    Encodable,
    v4::{DhcpOption, Message, MessageType, Opcode},
};
use jiff::Timestamp;
use simple_dns::{
    CLASS, Name, Packet, ResourceRecord,
    rdata::{A, RData, SRV},
};
use tidegate_common::{
    device::DeviceKey,
    event::{SampleCause, SampleEvent},
    flow::{FlowKey, FlowRecord, FlowSide, ObservationPoint},
    pod::Addr,
};

use super::*;
use crate::enforce::Now;

pub(super) const SECOND: u64 = 1_000_000_000;
pub(super) const PORT: u32 = 3;
pub(super) const CAMERA: [u8; 6] = [0x24, 0x6f, 0x28, 0, 0, 1];
pub(super) const PHONE: [u8; 6] = [0x02, 0, 0, 0, 0, 2];
pub(super) const GATEWAY: [u8; 6] = [0x24, 0xa4, 0x3c, 0, 0, 9];

fn key(mac: [u8; 6]) -> DeviceKey {
    DeviceKey::new(mac, PORT)
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn registry() -> Registry {
    let mut registry = Registry::new(Vendors::built_in());
    registry.set_own(&[ip("192.168.1.1")]);
    registry
}

pub(super) fn sample_at(frame: &[u8], point: ObservationPoint) -> SampleEvent {
    let captured = frame.len().min(SampleCause::Mdns.most_bytes());
    let mut sample = SampleEvent { point, captured: captured as u16, ..SampleEvent::zeroed() };
    sample.data[..captured].copy_from_slice(&frame[..captured]);
    sample
}

pub(super) fn sample(frame: &[u8]) -> SampleEvent {
    sample_at(frame, ObservationPoint::ingress(PORT))
}

fn ethernet(src: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&[0xff; 6], &src[..], &ether_type.to_be_bytes(), payload].concat()
}

pub(super) fn arp(src: [u8; 6], sender: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let body =
        [&[0, 1, 8, 0, 6, 4, 0, 2][..], &sender, &address.octets(), &[0; 6], &[192, 168, 1, 1]].concat();
    ethernet(src, 0x0806, &body)
}

pub(super) fn udp4(src_mac: [u8; 6], src: Ipv4Addr, ports: (u16, u16), body: &[u8]) -> Vec<u8> {
    let length = (body.len() + 8) as u16;
    let udp =
        [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), &length.to_be_bytes(), &[0, 0], body].concat();
    let total = (length + 20).to_be_bytes();
    let header = [&[0x45, 0][..], &total, &[0, 0, 0, 0, 64, 17, 0, 0], &src.octets(), &[255; 4]].concat();
    ethernet(src_mac, 0x0800, &[header, udp].concat())
}

pub(super) fn icmp6(src_mac: [u8; 6], src: Ipv6Addr, hop_limit: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    let header = [&[0x60, 0, 0, 0][..], &length, &[58, hop_limit], &src.octets(), &[0xff; 16]].concat();
    ethernet(src_mac, 0x86dd, &[&header[..], body].concat())
}

pub(super) fn advertisement(target: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    [&[136, 0, 0, 0, 0x60, 0, 0, 0][..], &target.octets(), &[2, 1], &mac].concat()
}

pub(super) fn dhcp(kind: MessageType, client: [u8; 6], ours: Ipv4Addr, name: Option<&str>) -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED;
    let reply = matches!(kind, MessageType::Ack | MessageType::Offer);
    let (ciaddr, yiaddr) = match kind {
        MessageType::Ack | MessageType::Offer => (none, ours),
        MessageType::Release => (ours, none),
        _ => (none, none),
    };
    let mut message = Message::new(ciaddr, yiaddr, none, none, &client);
    message.set_opcode(if reply { Opcode::BootReply } else { Opcode::BootRequest });
    if kind == MessageType::Request {
        message.opts_mut().insert(DhcpOption::RequestedIpAddress(ours));
    }
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    if let Some(name) = name {
        message.opts_mut().insert(DhcpOption::Hostname(name.to_owned()));
    }
    message.to_vec().unwrap()
}

fn to_server(kind: MessageType, client: [u8; 6], ours: Ipv4Addr, name: Option<&str>) -> SampleEvent {
    sample(&udp4(client, Ipv4Addr::UNSPECIFIED, (68, 67), &dhcp(kind, client, ours, name)))
}

fn acknowledged(client: [u8; 6], ours: Ipv4Addr) -> SampleEvent {
    let frame =
        udp4(GATEWAY, Ipv4Addr::new(192, 168, 1, 1), (67, 68), &dhcp(MessageType::Ack, client, ours, None));
    sample_at(&frame, ObservationPoint::egress(PORT))
}

pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 20);

#[test]
fn arp_makes_a_device_known() {
    let mut registry = registry();
    let events = registry.observe_sample(&sample(&arp(CAMERA, CAMERA, HOST)), SECOND);
    let device = key(CAMERA);
    assert_eq!(events, [IdentityEvent::New { device }, IdentityEvent::Address { device, ip: HOST.into() }]);
    assert!(registry.observe_sample(&sample(&arp(CAMERA, CAMERA, HOST)), 2 * SECOND).is_empty());
    for text in ["192.168.1.20", "24:6f:28:00:00:01", "::ffff:192.168.1.20"] {
        assert_eq!(registry.find(text), Some(device), "{text}");
    }
    assert_eq!(registry.find("camera"), None);
    let now = Now { kernel_ns: 11 * SECOND, wall: Timestamp::from_second(1_000).unwrap() };
    let view = registry.device(device, now).unwrap();
    assert_eq!((view.vendor.as_deref(), view.randomised), (Some("Espressif"), false));
    assert_eq!(view.first_seen, Timestamp::from_second(990).unwrap());
    assert_eq!(serde_json::from_str::<Device>(&serde_json::to_string(&view).unwrap()).unwrap(), view);
}

#[test]
fn a_probe_a_foreign_sender_and_a_frame_that_leaves_claim_nothing() {
    let mut registry = registry();
    registry.observe_sample(&sample(&arp(CAMERA, CAMERA, Ipv4Addr::UNSPECIFIED)), SECOND);
    registry.observe_sample(&sample(&arp(CAMERA, PHONE, HOST)), SECOND);
    registry.observe_sample(&sample_at(&arp(GATEWAY, GATEWAY, HOST), ObservationPoint::egress(PORT)), SECOND);
    assert_eq!((registry.len(), registry.resolve(HOST.into())), (1, None));
}

#[test]
fn dhcp_gives_address_and_name() {
    let mut registry = registry();
    registry.observe_sample(&to_server(MessageType::Request, CAMERA, HOST, Some("porch-cam\u{7}")), SECOND);
    assert_eq!(registry.name(key(CAMERA)), Some("porch-cam"));
    assert_eq!(registry.find("PORCH-cam.local"), Some(key(CAMERA)));
    registry.observe_sample(&acknowledged(CAMERA, HOST), 2 * SECOND);
    assert_eq!(registry.resolve(HOST.into()), Some(key(CAMERA)));
    registry.observe_sample(&to_server(MessageType::Release, CAMERA, HOST, None), 3 * SECOND);
    assert_eq!(registry.resolve(HOST.into()), None);
}

#[test]
fn a_rapid_commit_option_with_contents_harms_nobody() {
    let mut body = dhcp(MessageType::Request, CAMERA, HOST, Some("porch-cam"));
    body.pop();
    body.extend([80, 2, 1, 1, 12, 200, 1, 255]);
    let mut registry = registry();
    registry.observe_sample(&sample(&udp4(CAMERA, Ipv4Addr::UNSPECIFIED, (68, 67), &body)), SECOND);
    assert_eq!(registry.name(key(CAMERA)), Some("porch-cam"), "what stood before it counts");
}

#[test]
fn a_lease_moves_an_address_in_good_order() {
    let mut registry = registry();
    registry.observe_sample(&sample(&arp(CAMERA, CAMERA, HOST)), SECOND);
    let events = registry.observe_sample(&acknowledged(PHONE, HOST), 2 * SECOND);
    assert!(events.contains(&IdentityEvent::Moved { ip: HOST.into(), from: key(CAMERA), to: key(PHONE) }));
    let events = registry.observe_sample(&sample(&arp(PHONE, PHONE, HOST)), 3 * SECOND);
    assert_eq!(events, [], "the lease says so");
    assert!(registry.addresses(key(CAMERA)).is_empty());
}

#[test]
fn an_acknowledgement_from_behind_a_port_is_only_a_claim() {
    let mut registry = registry();
    registry.observe_sample(&sample(&arp(CAMERA, CAMERA, HOST)), SECOND);
    let forged = sample(&udp4(PHONE, HOST, (67, 68), &dhcp(MessageType::Ack, PHONE, HOST, None)));
    assert!(registry.observe_sample(&forged, SECOND).is_empty(), "names a device nobody has seen");
    registry.observe_device(key(PHONE), SECOND);
    let events = registry.observe_sample(&forged, 2 * SECOND);
    let contest = Contest { held_since_ns: SECOND, used_ns: SECOND, heard_ns: SECOND, ..Contest::default() };
    assert_eq!(
        events,
        [IdentityEvent::Conflict { ip: HOST.into(), old: Some(key(CAMERA)), new: key(PHONE), contest }]
    );
}

#[test]
fn a_claim_against_a_present_device_is_a_conflict_and_against_a_silent_one_a_move() {
    let mut registry = registry();
    registry.observe_sample(&sample(&arp(CAMERA, CAMERA, HOST)), SECOND);
    let spoof = sample(&arp(PHONE, PHONE, HOST));
    let events = registry.observe_sample(&spoof, 2 * SECOND);
    let contest = Contest {
        told: Some(ip("192.168.1.1")),
        held_since_ns: SECOND,
        used_ns: SECOND,
        heard_ns: SECOND,
        repeated: false,
    };
    let conflict = |contest| IdentityEvent::Conflict {
        ip: HOST.into(),
        old: Some(key(CAMERA)),
        new: key(PHONE),
        contest,
    };
    assert!(events.contains(&conflict(contest)), "{events:?}");
    registry.observe_device(key(CAMERA), 2 * SECOND);
    let again = Contest { heard_ns: 2 * SECOND, repeated: true, ..contest };
    assert_eq!(registry.observe_sample(&spoof, 3 * SECOND), [conflict(again)]);
    assert_eq!(registry.contested_by(key(PHONE), 3 * SECOND), [(HOST.into(), Some(key(CAMERA)))]);
    assert_eq!(registry.resolve(HOST.into()), Some(key(CAMERA)), "nothing moves");
    let now = Now { kernel_ns: 4 * SECOND, wall: Timestamp::UNIX_EPOCH };
    assert_eq!(
        registry.device(key(PHONE), now).unwrap().conflicts,
        ["claims 192.168.1.20, which is 24:6f:28:00:00:01's"]
    );
    let events = registry.observe_sample(&spoof, 400 * SECOND);
    assert_eq!(events, [IdentityEvent::Moved { ip: HOST.into(), from: key(CAMERA), to: key(PHONE) }]);
}

#[test]
fn nobody_may_claim_the_gateways_address() {
    let mut registry = registry();
    let events = registry.observe_sample(&sample(&arp(PHONE, PHONE, Ipv4Addr::new(192, 168, 1, 1))), SECOND);
    let contest = Contest { told: Some(ip("192.168.1.1")), ..Contest::default() };
    assert_eq!(
        events[1],
        IdentityEvent::Conflict { ip: ip("192.168.1.1"), old: None, new: key(PHONE), contest }
    );
    assert_eq!(registry.contested_by(key(PHONE), SECOND), [(ip("192.168.1.1"), None)]);
    assert_eq!(registry.resolve(ip("192.168.1.1")), None);
}

#[test]
fn a_device_that_changes_its_port_takes_its_addresses_along() {
    let mut registry = registry();
    registry.observe_sample(&sample(&arp(CAMERA, CAMERA, HOST)), SECOND);
    let elsewhere = sample_at(&arp(CAMERA, CAMERA, HOST), ObservationPoint::ingress(9));
    registry.observe_sample(&elsewhere, 2 * SECOND);
    assert_eq!(registry.resolve(HOST.into()), Some(DeviceKey::new(CAMERA, 9)));
    assert_eq!(registry.find("24:6f:28:00:00:01"), Some(DeviceKey::new(CAMERA, 9)));
}

#[test]
fn neighbour_discovery_counts_from_this_link_alone() {
    let mut registry = registry();
    let address: Ipv6Addr = "fe80::1234".parse().unwrap();
    let body = advertisement(address, CAMERA);
    registry.observe_sample(&sample(&icmp6(CAMERA, address, 64, &body)), SECOND);
    registry.observe_sample(&sample(&icmp6(CAMERA, address, 255, &advertisement(address, PHONE))), SECOND);
    assert_eq!(registry.resolve(address.into()), None, "forwarded, or for somebody else");
    registry.observe_sample(&sample(&icmp6(CAMERA, address, 255, &body)), SECOND);
    assert_eq!(registry.resolve(address.into()), Some(key(CAMERA)));

    let tentative: Ipv6Addr = "2001:db8::7".parse().unwrap();
    let probe = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &tentative.octets()].concat();
    registry.observe_sample(&sample(&icmp6(PHONE, Ipv6Addr::UNSPECIFIED, 255, &probe)), SECOND);
    assert_eq!(registry.resolve(tentative.into()), Some(key(PHONE)));
}

pub(super) fn mdns(names: &[(&'static str, bool)]) -> Vec<u8> {
    let mut packet = Packet::new_reply(0);
    for (name, host) in names {
        let data = if *host {
            RData::A(A { address: HOST.into() })
        } else {
            RData::SRV(SRV { priority: 0, weight: 0, port: 80, target: Name::new_unchecked("x.local") })
        };
        packet.answers.push(ResourceRecord::new(Name::new_unchecked(name), CLASS::IN, 120, data));
    }
    packet.build_bytes_vec().unwrap()
}

#[test]
fn mdns_names_count_less_than_dhcps_and_more_than_services() {
    let mut registry = registry();
    let answer =
        |names: &[(&'static str, bool)], source| sample(&udp4(CAMERA, source, (5353, 5353), &mdns(names)));
    let both = [("Porch._http._tcp.local", false), ("cam-7.local", true)];
    registry.observe_sample(&answer(&both[..1], HOST), SECOND);
    assert_eq!(registry.name(key(CAMERA)), Some("Porch"));
    registry.observe_sample(&answer(&both, HOST), SECOND);
    assert_eq!(registry.name(key(CAMERA)), Some("cam-7"));
    registry.observe_sample(&answer(&[("liar.local", true)], Ipv4Addr::new(192, 168, 1, 66)), SECOND);
    assert_eq!(registry.name(key(CAMERA)), Some("cam-7"), "the name of another address");
    registry.observe_sample(&to_server(MessageType::Discover, CAMERA, HOST, Some("porch-cam")), SECOND);
    registry.observe_sample(&answer(&both, HOST), SECOND);
    assert_eq!(registry.name(key(CAMERA)), Some("porch-cam"));
    assert!(registry.set_name(key(CAMERA), "front door"));
    registry.observe_sample(&to_server(MessageType::Discover, CAMERA, HOST, Some("porch-cam")), SECOND);
    assert_eq!(registry.name(key(CAMERA)), Some("front door"));
}

#[test]
fn a_message_longer_than_a_sample_still_names_its_device() {
    let mut registry = registry();
    let mut names = vec![("cam-7.local", true)];
    names.extend(std::iter::repeat_n(("Another Service With A Long Name._http._tcp.local", false), 20));
    let frame = udp4(CAMERA, HOST, (5353, 5353), &mdns(&names));
    assert!(frame.len() > SampleCause::Mdns.most_bytes());
    registry.observe_sample(&sample(&frame), SECOND);
    assert_eq!(registry.name(key(CAMERA)), Some("cam-7"));
}

fn flow(src: &str, mac: [u8; 6]) -> (FlowKey, FlowRecord) {
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr::v6(v6.octets()),
    };
    let flow = FlowKey { a: address(ip(src)), b: address(ip("203.0.113.1")), ..FlowKey::default() };
    let out =
        FlowSide { packets: 1, src_mac: mac, point: ObservationPoint::ingress(PORT), ..FlowSide::default() };
    (flow, FlowRecord { out, ..FlowRecord::default() })
}

#[test]
fn flows_fill_gaps_and_never_take_an_address() {
    let mut registry = registry();
    let observe = |registry: &mut Registry, src: &str, mac, at| {
        let (flow, mut record) = flow(src, mac);
        record.out.last_ns = at;
        registry.observe_flow(&flow, &record, at)
    };
    observe(&mut registry, "192.168.1.20", PHONE, SECOND);
    observe(&mut registry, "198.51.100.9", PHONE, SECOND);
    assert_eq!(registry.addresses(key(PHONE)), [ip("192.168.1.20")], "a public source may be forged");
    let events = registry.observe_sample(&sample(&arp(CAMERA, CAMERA, HOST)), 2 * SECOND);
    assert!(events.contains(&IdentityEvent::Moved { ip: HOST.into(), from: key(PHONE), to: key(CAMERA) }));
    observe(&mut registry, "192.168.1.20", PHONE, 3 * SECOND);
    assert_eq!(registry.resolve(HOST.into()), Some(key(CAMERA)));
    for last in 0..=255_u8 {
        observe(&mut registry, &format!("10.0.0.{last}"), PHONE, 4 * SECOND);
    }
    assert_eq!(registry.addresses(key(PHONE)).len(), 16);

    observe(&mut registry, "192.168.1.20", CAMERA, 400 * SECOND);
    let spoof = registry.observe_sample(&sample(&arp(PHONE, PHONE, HOST)), 500 * SECOND);
    assert!(
        matches!(spoof[..], [IdentityEvent::Conflict { .. }]),
        "flows show that the camera is still there"
    );
}

#[test]
fn a_flow_answered_through_the_devices_own_port_makes_its_address_firm() {
    let (key_of_flow, mut record) = flow("192.168.1.20", CAMERA);
    let spoof = sample(&arp(PHONE, PHONE, HOST));
    for (port, moves) in [(PORT + 1, true), (PORT, false)] {
        let mut registry = registry();
        record.inward = FlowSide { packets: 1, point: ObservationPoint::egress(port), ..FlowSide::default() };
        registry.observe_flow(&key_of_flow, &record, SECOND);
        let events = registry.observe_sample(&spoof, 2 * SECOND);
        let moved = events.iter().any(|event| matches!(event, IdentityEvent::Moved { .. }));
        assert_eq!(moved, moves, "answers left through port {port}");
    }
}

#[test]
fn the_least_recently_seen_goes_first() {
    let mut registry = Registry::with_capacity(Vendors::built_in(), 2);
    registry.observe_sample(&sample(&arp(CAMERA, CAMERA, HOST)), SECOND);
    registry.observe_device(key(PHONE), 2 * SECOND);
    registry.observe_device(key(CAMERA), 3 * SECOND);
    let events = registry.observe_device(key(GATEWAY), 4 * SECOND);
    assert_eq!(events[0], IdentityEvent::Forgotten { device: key(PHONE) });
    let events = registry.observe_device(key(PHONE), 5 * SECOND);
    assert_eq!(events[0], IdentityEvent::Forgotten { device: key(CAMERA) });
    assert_eq!(registry.resolve(HOST.into()), None, "its addresses go with it");
}

#[test]
fn a_restored_device_keeps_its_age_and_yields_to_claims() {
    let mut before = registry();
    before.observe_sample(&to_server(MessageType::Request, CAMERA, HOST, Some("porch-cam")), SECOND);
    before.observe_sample(&acknowledged(CAMERA, HOST), SECOND);
    let wall = |seconds| Timestamp::from_second(seconds).unwrap();
    let known = before.device(key(CAMERA), Now { kernel_ns: 101 * SECOND, wall: wall(1_000) }).unwrap();
    let mut after = registry();
    let now = Now { kernel_ns: 5 * SECOND, wall: wall(2_000) };
    after.restore(8, &known, now);
    let device = DeviceKey::new(CAMERA, 8);
    assert_eq!(after.device(device, now).unwrap().first_seen, wall(900));
    assert_eq!((after.find("porch-cam"), after.resolve(HOST.into())), (Some(device), Some(device)));
    let events = after.observe_sample(&sample(&arp(PHONE, PHONE, HOST)), 6 * SECOND);
    assert!(events.iter().any(|event| matches!(event, IdentityEvent::Moved { .. })), "it may be long gone");
}
