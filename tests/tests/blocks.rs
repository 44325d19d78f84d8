//! Blocks of addresses and prefixes, end to end: what is cut, what is not, and for how long.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use common::{Conversation, drip, guarded};
use tidegate_tests::{
    process::Process,
    sniffer::Sniffer,
    topology::{ATTACKER, ATTACKER_V6, CLOUD, STREAM},
    wait_for,
};

#[test]
fn a_block_cuts_established_flows_in_both_directions_and_nothing_else() {
    let Some(net) =
        guarded("blocks::a_block_cuts_established_flows_in_both_directions_and_nothing_else", |_| {})
    else {
        return;
    };
    let (camera, attacker) = (net.device("camera"), &net.topology.attacker);
    let mut inwards = Conversation::begin(attacker, camera.address);
    let mut outwards = Conversation::begin(&camera.netns, ATTACKER);
    let mut between = Conversation::begin(&net.device("hub").netns, camera.address);
    net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--ttl", "10m"]);
    assert!(!inwards.goes_on(), "a flow the blocked host began");
    assert!(!outwards.goes_on(), "a flow begun with the blocked host");
    assert!(between.goes_on(), "another flow of the same device");
    assert!(net.is_cut(attacker, camera.address) && net.is_cut(&camera.netns, ATTACKER), "new flows");
    assert!(net.reaches(&camera.netns, STREAM), "another host");
    net.tidegate(&["blocks", "delete", &ATTACKER.to_string()]);
    assert!(net.reaches(attacker, camera.address), "after the block");
}

#[test]
fn a_block_cuts_traffic_between_two_ports() {
    let Some(net) = guarded("blocks::a_block_cuts_traffic_between_two_ports", |_| {}) else { return };
    let (camera, hub, plug) = (net.device("camera"), net.device("hub"), net.device("plug"));
    let mut cut = Conversation::begin(&hub.netns, camera.address);
    let mut kept = Conversation::begin(&hub.netns, plug.address);
    net.tidegate(&["blocks", "add", &camera.address.to_string(), "--ttl", "10m"]);
    assert!(!cut.goes_on());
    assert!(net.is_cut(&hub.netns, camera.address));
    assert!(kept.goes_on());
}

#[test]
fn a_prefix_is_blocked_as_a_whole() {
    let Some(net) = guarded("blocks::a_prefix_is_blocked_as_a_whole", |_| {}) else { return };
    let (camera, attacker) = (net.device("camera"), &net.topology.attacker);
    assert!(net.reaches(attacker, camera.address));
    net.tidegate(&["blocks", "add", "198.51.100.128/25", "--ttl", "10m"]);
    assert!(net.is_cut(attacker, camera.address));
    assert!(net.reaches(&camera.netns, CLOUD), "a neighbour outside the prefix");
    net.tidegate(&["blocks", "delete", "198.51.100.128/25"]);
    assert!(net.reaches(attacker, camera.address));
}

#[test]
fn ipv6_addresses_and_prefixes_are_blocked_alike() {
    let Some(net) = guarded("blocks::ipv6_addresses_and_prefixes_are_blocked_alike", |_| {}) else { return };
    let (camera, attacker) = (net.device("camera"), &net.topology.attacker);
    assert!(net.reaches(attacker, camera.address_v6));
    for target in [ATTACKER_V6.to_string(), "2001:db8::60/123".to_owned()] {
        net.tidegate(&["blocks", "add", &target, "--ttl", "10m"]);
        assert!(net.is_cut(attacker, camera.address_v6), "{target}");
        assert!(net.reaches(attacker, camera.address), "IPv4 beside {target}");
        net.tidegate(&["blocks", "delete", &target]);
        assert!(net.reaches(attacker, camera.address_v6), "after {target}");
    }
}

#[test]
fn a_rate_limit_leaves_its_rate() {
    let Some(net) = guarded("blocks::a_rate_limit_leaves_its_rate", |_| {}) else { return };
    let (camera, attacker) = (net.device("camera"), &net.topology.attacker);
    net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--rate", "20", "--ttl", "10m"]);
    let arrived = Sniffer::start(&camera.netns, "eth0", &format!("udp and src host {ATTACKER}")).unwrap();
    let sent = drip(attacker, camera.address, Duration::from_millis(5), Duration::from_secs(3));
    thread::sleep(Duration::from_millis(300));
    let passed = arrived.count();
    // Three seconds at 20 a second, and a bucket that was full; refusals by the camera take tokens as well.
    assert!((20..=110).contains(&passed), "{passed} of {sent} passed");
}

#[test]
fn a_block_ends_in_time_with_the_agent_dead() {
    let Some(mut net) = guarded("blocks::a_block_ends_in_time_with_the_agent_dead", |_| {}) else { return };
    let camera = net.device("camera").address;
    assert!(net.reaches(&net.topology.attacker, camera));
    let begun = Instant::now();
    net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--ttl", "6s"]);
    net.agent.kill();
    assert!(net.is_cut(&net.topology.attacker, camera), "while it lasts");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "this machine is too slow for the test to mean anything"
    );
    thread::sleep(Duration::from_millis(6_300).saturating_sub(begun.elapsed()));
    assert!(net.topology.reaches(&net.topology.attacker, camera), "after its end");
}

#[test]
fn a_kill_and_a_restart_let_no_packet_through() {
    let Some(mut net) = guarded("blocks::a_kill_and_a_restart_let_no_packet_through", |_| {}) else { return };
    let camera = net.device("camera").address;
    net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--ttl", "10m"]);
    thread::sleep(Duration::from_millis(50));
    let arrived =
        Sniffer::start(&net.device("camera").netns, "eth0", &format!("udp and src host {ATTACKER}")).unwrap();
    let attacker = &net.topology.attacker;
    thread::scope(|scope| {
        let flood = scope.spawn(|| drip(attacker, camera, Duration::from_millis(2), Duration::from_secs(5)));
        thread::sleep(Duration::from_millis(500));
        net.agent.kill();
        thread::sleep(Duration::from_millis(500));
        net.agent.restart(&net.topology).unwrap();
        assert!(flood.join().unwrap() > 1_000);
    });
    assert_eq!(arrived.count(), 0, "packets came through");
    assert_eq!(net.tidegate(&["status"])["resumed"], true, "tables were taken over");
    let blocks = net.agent.list(&["blocks", "list"], "blocks").unwrap();
    assert!(blocks.iter().any(|block| block["target"] == ATTACKER.to_string()), "{blocks:?}");
    assert!(net.is_cut(&net.topology.attacker, camera), "still in force after the restart");
}

#[test]
fn an_attack_that_goes_on_after_a_release_is_shut_out_again_at_once() {
    let name = "blocks::an_attack_that_goes_on_after_a_release_is_shut_out_again_at_once";
    let Some(net) = guarded(name, |_| {}) else { return };
    let camera = net.device("camera").address.to_string();
    let mut flood = net.topology.attacker.command("hping3");
    flood.args(["-q", "-n", "-S", "-p", "8080", "-i", "u500", &camera]);
    let _flood = Process::start(&mut flood, &net.topology.directory().join("hping3.log")).unwrap();
    let blocked = || {
        let blocks = net.agent.list(&["blocks", "list"], "blocks").unwrap();
        blocks.iter().any(|block| block["target"] == ATTACKER.to_string()).then_some(())
    };
    assert!(wait_for(Duration::from_secs(8), blocked).is_some(), "the flood is blocked");
    net.tidegate(&["blocks", "delete", &ATTACKER.to_string()]);
    assert!(wait_for(Duration::from_secs(8), blocked).is_some(), "and again\n{}", net.agent.said());
}

#[test]
fn monitor_mode_drops_nothing_and_counts_what_it_would_drop() {
    let name = "blocks::monitor_mode_drops_nothing_and_counts_what_it_would_drop";
    let Some(net) = guarded(name, |settings| settings.mode = "monitor") else { return };
    let camera = net.device("camera").address;
    let mut talk = Conversation::begin(&net.topology.attacker, camera);
    net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--ttl", "10m"]);
    assert!(talk.goes_on() && net.reaches(&net.topology.attacker, camera));
    let counters = net.tidegate(&["status"])["counters"].clone();
    assert!(counters["would_drop"].as_u64().unwrap_or(0) > 0, "{counters}");
    let dropped: u64 = counters["dropped"].as_u64().unwrap_or(0);
    assert_eq!(dropped, 0, "{counters}");
}

#[test]
fn never_block_wins_over_every_block() {
    let Some(net) = guarded("blocks::never_block_wins_over_every_block", |_| {}) else { return };
    let (camera, attacker) = (net.device("camera").address, &net.topology.attacker);
    let address = ATTACKER.to_string();
    net.tidegate(&["allow", "add", &address]);
    assert!(net.agent.ask(&["blocks", "add", &address]).is_err(), "a block of it is refused");
    // A prefix around it may be blocked; it is spared.
    net.tidegate(&["blocks", "add", "198.51.100.128/25", "--ttl", "10m"]);
    assert!(net.reaches(attacker, camera), "spared within a blocked prefix");
    net.tidegate(&["allow", "delete", &address]);
    assert!(net.is_cut(attacker, camera), "the prefix is in force once the protection ends");
}

#[test]
fn the_gateway_and_what_it_needs_cannot_be_blocked() {
    let Some(net) = guarded("blocks::the_gateway_and_what_it_needs_cannot_be_blocked", |_| {}) else {
        return;
    };
    for (what, address) in [
        ("the gateway", Ipv4Addr::new(192, 168, 77, 1)),
        ("the cloud endpoint", CLOUD),
        ("the time server", tidegate_tests::topology::NTP),
    ] {
        assert!(net.agent.ask(&["blocks", "add", &address.to_string()]).is_err(), "{what}");
        assert!(net.reaches(&net.device("camera").netns, address), "{what}");
    }
}
