//! Attacks as the usual tools send them, and traffic that looks busy but is honest.

use std::net::{IpAddr, Ipv4Addr};

use tidegate_common::{device::DeviceWindow, parse::proto};

use super::*;
use crate::learn::Nature;
use crate::learn::testing::{ACK, End, FIN, MS, S, Script, Sim, device, inside, outside};

/// Plays an attack; the first finding of `rule` must come within `most` and blame `subject`.
fn caught(script: &mut Script, rule: &str, subject: Subject, most: u64) -> Finding {
    let found = Sim::new().play(script, 20 * S);
    let first = found.iter().find(|(_, finding)| finding.rule == Some(rule) && finding.subject == subject);
    let Some((at, finding)) = first else { panic!("no {rule} by {subject} in {found:#?}") };
    assert!(*at <= most, "{rule} after {} ms: {}", at / MS, finding.detail);
    let others: Vec<_> = found.iter().filter(|(_, finding)| finding.subject != subject).collect();
    assert!(others.is_empty(), "others blamed: {others:#?}");
    finding.clone()
}

/// Plays honest traffic; no rule may fire.
fn honest(script: &mut Script, until: u64) {
    let found = Sim::new().play(script, until);
    let fired: Vec<_> = found.iter().filter(|(_, finding)| finding.rule.is_some()).collect();
    assert!(fired.is_empty(), "{fired:#?}");
}

fn remote(End(address, _): End) -> Subject {
    Subject::Remote(IpAddr::V4(address))
}

const INFECTED: u8 = 66;

fn infected() -> Subject {
    Subject::Device(device(INFECTED))
}

#[test]
fn a_syn_scan_of_closed_ports() {
    let mut script = Script::default();
    for port in 1..1_000u16 {
        script.refused(u64::from(port) * 3 * MS, outside(7, 51_000), inside(7, port));
    }
    let finding = caught(&mut script, "vertical_scan", remote(outside(7, 0)), 200 * MS);
    assert_eq!(finding.technique, Technique::ACTIVE_SCANNING);
    assert!(finding.detail.starts_with("9 different ports of 10.0.0.7 tried in 0.1 s"), "{}", finding.detail);
}

#[test]
fn a_syn_scan_of_filtered_ports_and_from_inside() {
    let mut script = Script::default();
    for port in 1..500u16 {
        script.syn(u64::from(port) * 10 * MS, inside(INFECTED, 51_000), inside(7, port));
    }
    let finding = caught(&mut script, "vertical_scan", infected(), 300 * MS);
    assert_eq!(finding.technique, Technique::NETWORK_SERVICE_DISCOVERY);
}

#[test]
fn probes_with_odd_flags() {
    for flags in [0, FIN, FIN | 0x28] {
        let mut script = Script::default();
        for port in 1..200u16 {
            script.packet(
                u64::from(port) * 5 * MS,
                outside(7, 50_001),
                inside(7, port),
                proto::TCP,
                flags,
                0,
            );
        }
        caught(&mut script, "vertical_scan", remote(outside(7, 0)), 300 * MS);
    }
}

#[test]
fn a_udp_scan_even_from_port_53() {
    for (source, most) in [(40_000, 2 * S), (53, 7 * S)] {
        let mut script = Script::default();
        for port in 1..200u16 {
            script.udp(u64::from(port) * 100 * MS, outside(7, source), inside(7, 2_000 + port), 0);
        }
        caught(&mut script, "vertical_scan", remote(outside(7, 0)), most);
    }
}

#[test]
fn a_flood_that_is_over_before_anything_else_is_seen() {
    let mut script = Script::default();
    for port in 0..200u16 {
        script.syn(u64::from(port) * MS, outside(7, 20_000 + port), inside(7, 443));
    }
    caught(&mut script, "syn_flood", remote(outside(7, 0)), 2 * S);
}

#[test]
fn a_flood_to_everybody() {
    let mut script = Script::default();
    let everybody = End(Ipv4Addr::BROADCAST, 67);
    for packet in 0..2_000u64 {
        script.udp(packet * MS / 2, inside(INFECTED, 68), everybody, 250);
    }
    caught(&mut script, "broadcast_flood", infected(), S);
}

#[test]
fn a_patient_scan() {
    let mut script = Script::default();
    for port in 1..100u16 {
        script.refused(u64::from(port) * 9 * S / 2, outside(7, 40_000), inside(7, port));
    }
    let found = Sim::new().play(&mut script, 450 * S);
    assert!(
        found.iter().any(|(at, finding)| finding.rule == Some("slow_vertical_scan") && *at < 280 * S),
        "{found:?}"
    );
}

#[test]
fn telnet_scanning_like_mirai() {
    for (gap, most) in [(10 * MS, 1_100 * MS), (50 * MS, 2 * S)] {
        for port in [23, 2323] {
            let mut script = Script::default();
            for host in 0..400u32 {
                script.syn(
                    u64::from(host) * gap,
                    inside(INFECTED, 40_000 + host as u16),
                    outside(host * 77, port),
                );
            }
            let finding = caught(&mut script, "horizontal_scan", infected(), most);
            assert!(finding.detail.contains("(Telnet)"), "{}", finding.detail);
            assert_eq!(finding.technique, Technique::NETWORK_SERVICE_DISCOVERY);
        }
    }
}

#[test]
fn a_peer_that_looks_for_others_is_told_and_leases_are_no_scan() {
    let mut script = Script::default();
    for host in 0..120u32 {
        let (peer, server) = (inside(INFECTED, 27_005), outside(host * 77, 27_015));
        let at = u64::from(host) * 50 * MS;
        script.udp(at, peer, server, 25);
        if host % 4 != 0 {
            script.udp(at + 80 * MS, server, peer, 200);
        }
        script.udp(at, inside(9, 67), inside(100 + host as u8, 68), 300);
    }
    let found = Sim::new().play(&mut script, 30 * S);
    let scans: Vec<_> = found.iter().filter(|(_, finding)| finding.rule == Some("horizontal_scan")).collect();
    assert!(!scans.is_empty(), "{found:?}");
    assert!(
        scans.iter().all(|(_, finding)| finding.subject == infected() && finding.score < 0.6),
        "{scans:?}"
    );
}

#[test]
fn a_sweep_of_hosts_by_tcp_udp_and_ping() {
    for (protocol, port) in [(proto::TCP, 8_080), (proto::UDP, 161), (proto::ICMP, 0)] {
        let mut script = Script::default();
        for host in 1..250u8 {
            let flags = if protocol == proto::TCP { 2 } else { 0 };
            let source = if protocol == proto::ICMP { 0 } else { 50_000 };
            script.packet(
                u64::from(host) * 20 * MS,
                outside(7, source),
                inside(host, port),
                protocol,
                flags,
                8,
            );
        }
        caught(&mut script, "horizontal_scan", remote(outside(7, 0)), 2 * S);
    }
}

#[test]
fn a_syn_flood_with_and_without_answers() {
    for answered in [false, true] {
        let mut script = Script::default();
        for packet in 0..8_000u32 {
            let at = u64::from(packet) * MS / 2;
            let from = outside(7, 1_024 + packet as u16);
            script.syn(at, from, inside(7, 80));
            if answered {
                script.packet(at + MS, inside(7, 80), from, proto::TCP, 0x12, 0);
                script.packet(at + 2 * MS, from, inside(7, 80), proto::TCP, 4, 0);
            }
        }
        let finding = caught(&mut script, "syn_flood", remote(outside(7, 0)), S);
        assert_eq!(finding.technique, Technique::SYN_FLOOD);
    }
}

#[test]
fn a_slow_syn_flood_is_caught_after_its_first_half_second() {
    let mut script = Script::default();
    for packet in 0..900u32 {
        script.syn(u64::from(packet) * 4 * MS, outside(7, 1_024 + packet as u16), inside(7, 80));
    }
    caught(&mut script, "syn_flood", remote(outside(7, 0)), 1_100 * MS);
}

#[test]
fn floods_within_one_flow() {
    for (protocol, flags, rule, gap) in [
        (proto::TCP, 2, "syn_flood", MS / 10),
        (proto::UDP, 0, "udp_flood", MS / 10),
        (proto::ICMP, 0, "icmp_flood", MS),
    ] {
        let mut script = Script::default();
        let (from, to) = if protocol == proto::ICMP { (0, 0) } else { (4_000, 80) };
        for packet in 0..5_000u64 {
            script.packet(packet * gap, outside(7, from), inside(7, to), protocol, flags, 0);
        }
        caught(&mut script, rule, remote(outside(7, 0)), 600 * MS);
    }
}

#[test]
fn a_udp_flood_from_ever_new_ports() {
    for port in [9_999, 53] {
        let mut script = Script::default();
        for packet in 0..12_000u32 {
            script.udp(u64::from(packet) * MS / 10, outside(7, 1_024 + packet as u16), inside(7, port), 0);
        }
        caught(&mut script, "udp_flood", remote(outside(7, 0)), S);
    }
}

#[test]
fn a_flood_of_forged_sources_blames_the_device_inside_and_nobody_outside() {
    let mut script = Script::default();
    for packet in 0..3_000u32 {
        let forged = End(Ipv4Addr::from(0x0a63_0000 + packet), 1_024 + packet as u16);
        script.syn(u64::from(packet) * MS / 2, forged, outside(7, 80));
    }
    caught(&mut script, "syn_flood", infected(), S);

    let mut script = Script::default();
    for packet in 0..6_000u32 {
        script.syn(
            u64::from(packet) * MS / 2,
            outside(packet * 7_919 % 60_000, 1_024 + packet as u16),
            inside(7, 80),
        );
    }
    let many = Subject::Remote(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    caught(&mut script, "distributed_flood", many, 2 * S);
}

fn guesses(port: u16, gap: u64, count: u32) -> Script {
    let mut script = Script::default();
    for guess in 0..count {
        let from = outside(7, 40_000 + guess as u16);
        script.tcp(
            u64::from(guess) * gap,
            (from, inside(7, port)),
            (6, 40 + guess % 8),
            (6, 60),
            10 * MS,
            true,
        );
    }
    script
}

#[test]
fn password_guessing() {
    for (port, gap, most) in [
        (22, 20 * MS, S),
        (22, 100 * MS, 1_500 * MS),
        (23, 50 * MS, S),
        (21, 100 * MS, 1_500 * MS),
        (80, 20 * MS, 1_200 * MS),
        (1_883, 100 * MS, 4_500 * MS),
        (8_883, 50 * MS, 2_500 * MS),
    ] {
        let finding = caught(&mut guesses(port, gap, 150), "brute_force", remote(outside(7, 0)), most);
        assert_eq!(finding.technique, Technique::BRUTE_FORCE);
    }
}

#[test]
fn an_arp_sweep() {
    let mut window = DeviceWindow { epoch: 5, arp_requests: 250, ..DeviceWindow::default() };
    for host in 0..250 {
        window.arp_targets.add(tidegate_common::pod::mix64(host));
    }
    let found = Sim::new().learner.observe_window(device(INFECTED), &window, 150 * S);
    assert_eq!(found[0].rule, Some("arp_sweep"));
    window.arp_targets = tidegate_common::device::Sketch::default();
    window.arp_targets.add(1);
    assert!(Sim::new().learner.observe_window(device(INFECTED), &window, 150 * S).is_empty());
}

#[test]
fn one_attack_gives_few_findings() {
    let mut script = Script::default();
    for port in 1..20_000u16 {
        script.refused(u64::from(port) * MS, outside(7, 51_000), inside(7, port));
    }
    let found = Sim::new().play(&mut script, 30 * S);
    let of = |rule| found.iter().filter(|(_, finding)| finding.rule == Some(rule)).count();
    assert_eq!(of("vertical_scan"), 1, "{found:#?}");
    assert!(found.len() <= 3, "{found:#?}");
}

#[test]
fn a_camera_streams() {
    // 8 Mbit/s for 30 s: over TCP to the cloud, over UDP to a recorder that never answers.
    let mut script = Script::default();
    let gap = 1_200_000;
    script.tcp(0, (inside(20, 40_000), outside(9, 443)), (25_000, 1_200), (6_000, 0), gap, false);
    for packet in 0..25_000u64 {
        script.udp(packet * gap, inside(21, 50_000), inside(30, 50_002), 1_200);
    }
    honest(&mut script, 40 * S);
}

#[test]
fn a_hub_polls_ten_devices_every_second() {
    let mut script = Script::default();
    for second in 0..120u64 {
        for target in 0..10u8 {
            let at = second * S + u64::from(target) * 20 * MS;
            let port = 30_000 + (second * 10) as u16 + u16::from(target);
            script.tcp(at, (inside(2, port), inside(100 + target, 80)), (2, 90), (2, 300), 5 * MS, true);
            script.ask(at + 500 * MS, inside(2, 5_683), inside(100 + target, 5_683), 60);
            script.packet(at + 600 * MS, inside(2, 0), inside(100 + target, 0), proto::ICMP, 0, 56);
        }
    }
    honest(&mut script, 125 * S);
}

#[test]
fn a_browser_opens_forty_connections_to_ten_hosts() {
    let mut script = Script::default();
    for page in 0..6u32 {
        for connection in 0..40u32 {
            let at = u64::from(page) * 3 * S + u64::from(connection) * 5 * MS;
            let from = inside(3, 40_000 + (page * 40 + connection) as u16);
            let to = outside(100 + page * 10 + connection % 10, 443);
            script.tcp(at, (from, to), (10, 300), (30, 1_300), 10 * MS, connection % 3 == 0);
        }
    }
    honest(&mut script, 30 * S);
}

#[test]
fn a_device_that_asks_for_names_all_the_time() {
    let mut script = Script::default();
    for query in 0..6_000u32 {
        script.ask(u64::from(query) * 10 * MS, inside(4, 20_000 + query as u16), inside(1, 53), 120);
    }
    // A resolver of its own, asking thirty servers.
    for query in 0..3_000u32 {
        script.ask(
            u64::from(query) * 20 * MS,
            inside(5, 20_000 + query as u16),
            outside(query % 30, 53),
            300,
        );
    }
    honest(&mut script, 70 * S);
}

#[test]
fn a_firmware_download_and_a_quic_one() {
    let mut script = Script::default();
    script.tcp(0, (inside(6, 40_000), outside(9, 443)), (8_000, 0), (20_000, 1_400), MS / 10, true);
    for packet in 0..20_000u64 {
        script.udp(packet * MS / 10, outside(9, 443), inside(6, 40_001), 1_200);
        if packet % 10 == 0 {
            script.udp(packet * MS / 10, inside(6, 40_001), outside(9, 443), 35);
        }
    }
    honest(&mut script, 20 * S);
}

#[test]
fn discovery_by_multicast_and_the_answers_to_it() {
    let mut script = Script::default();
    let ssdp = End(Ipv4Addr::new(239, 255, 255, 250), 1_900);
    let mdns = End(Ipv4Addr::new(224, 0, 0, 251), 5_353);
    for round in 0..60u64 {
        for host in 10..40u8 {
            script.udp(round * S + u64::from(host) * MS, inside(host, 5_353), mdns, 200);
            script.udp(
                round * S + u64::from(host) * MS,
                inside(host, 1_900),
                inside(2, 41_000 + round as u16),
                300,
            );
        }
        script.udp(round * S, inside(2, 41_000 + round as u16), ssdp, 130);
    }
    honest(&mut script, 65 * S);
}

#[test]
fn a_reconnect_storm_after_an_outage() {
    for kind in 0..3 {
        let mut script = Script::default();
        for attempt in 0..20u16 {
            let (from, to) = (inside(8, 40_000 + attempt), outside(9, 8_883));
            let at = u64::from(attempt) * 500 * MS;
            match kind {
                0 => script.syn(at, from, to),
                1 => script.refused(at, from, to),
                _ => script.tcp(at, (from, to), (3, 250), (2, 40), 5 * MS, true),
            };
        }
        script.tcp(10 * S, (inside(8, 41_000), outside(9, 8_883)), (50, 100), (50, 40), 100 * MS, false);
        honest(&mut script, 20 * S);
    }
}

#[test]
fn five_users_behind_one_address() {
    let mut script = Script::default();
    for user in 0..5u32 {
        for connection in 0..60u32 {
            let at = u64::from(user) * 150 * MS + u64::from(connection) * 60 * MS;
            let from = inside(9, (20_000 + user * 2_000 + connection) as u16);
            // Popular sites are shared, the rest is each user's own.
            let site = if connection % 2 == 0 { connection % 8 } else { 100 + user * 20 + connection % 15 };
            script.tcp(at, (from, outside(site, 443)), (12, 200), (30, 1_200), 8 * MS, connection % 2 == 0);
            script.ask(at, inside(9, (40_000 + user * 2_000 + connection) as u16), inside(1, 53), 100);
        }
    }
    honest(&mut script, 20 * S);
}

#[test]
fn conversations_nobody_saw_begin() {
    let mut script = Script::default();
    for client in 0..300u16 {
        script.packet(
            u64::from(client) * 2 * MS,
            outside(9, 443),
            inside(3, 40_000 + client),
            proto::TCP,
            ACK,
            1_000,
        );
        script.packet(
            u64::from(client) * 2 * MS + MS,
            inside(3, 40_000 + client),
            outside(9, 443),
            proto::TCP,
            ACK,
            0,
        );
    }
    for reply in 0..50u16 {
        script.udp(u64::from(reply) * 20 * MS, outside(10, 53), inside(3, 50_000 + reply), 100);
    }
    honest(&mut script, 10 * S);
}

#[test]
fn a_traceroute_and_a_passive_ftp_session() {
    let mut script = Script::default();
    for hop in 0..90u16 {
        script.udp(u64::from(hop) * 50 * MS, inside(3, 40_000), outside(9, 33_434 + hop), 32);
    }
    for file in 0..40u16 {
        let data = (inside(3, 42_000 + file), outside(10, 50_000 + file));
        script.tcp(u64::from(file) * 200 * MS, data, (5, 0), (20, 1_400), 2 * MS, true);
    }
    honest(&mut script, 20 * S);
}

#[test]
fn line_after_line_to_a_login_is_an_anomaly_and_no_more() {
    let mut script = Script::default();
    script.tcp(0, (outside(7, 40_000), inside(7, 21)), (400, 20), (400, 30), 30 * MS, true);
    let found = Sim::new().play(&mut script, 20 * S);
    let fired: Vec<_> = found.iter().filter(|(_, finding)| finding.rule.is_some()).collect();
    assert_eq!(fired.len(), 1, "{fired:#?}");
    assert_eq!((fired[0].1.rule, fired[0].1.nature()), (Some("login_dialogue"), Nature::Anomaly));
}

#[test]
fn a_long_ftp_download_and_a_typed_telnet_session_are_honest() {
    let mut script = Script::default();
    script.tcp(0, (inside(7, 40_000), outside(7, 21)), (400, 0), (400, 1_400), 30 * MS, true);
    script.tcp(0, (inside(7, 40_001), outside(7, 23)), (400, 1), (400, 1), 30 * MS, true);
    honest(&mut script, 30 * S);
}
