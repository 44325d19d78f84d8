//! The agent on its gateway: readiness, memory, who is who, the account of packets, reload, and a whole attack.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may stop at once")]

mod common;

use std::{fs, thread, time::Duration};

use common::{SOON, drip, guarded};
use tidegate_tests::{
    device::Devices,
    lab::{self, Options},
    topology::{ATTACKER, CLOUD, Place},
    wait_for,
};

/// Resident memory in KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn it_is_ready_soon_and_small() {
    let Some(net) = guarded("gateway::it_is_ready_soon_and_small", |_| {}) else { return };
    // The goal is a second on an idle machine with an optimised build; tests run beside each other, without optimisation.
    assert!(net.agent.ready_after < Duration::from_secs(5), "{:?}", net.agent.ready_after);
    let kib = resident_kib(net.agent.pid());
    assert!(kib < 64 * 1_024, "{kib} KiB resident");
    let status = net.tidegate(&["status"]);
    let interfaces = status["interfaces"].as_array().unwrap();
    assert_eq!(interfaces.len(), net.topology.devices.len());
    assert!(
        interfaces.iter().all(|interface| interface["xdp"] == "driver"),
        "veth has native XDP: {interfaces:?}"
    );
}

#[test]
fn devices_are_known_by_address_and_name() {
    let Some(net) = guarded("gateway::devices_are_known_by_address_and_name", |_| {}) else { return };
    let _devices = Devices::start(&net.topology).unwrap();
    let camera = net.device("camera");
    let known = wait_for(SOON, || {
        let devices = net.agent.list(&["devices", "list"], "devices").ok()?;
        let device = devices.into_iter().find(|device| device["mac"] == camera.mac)?;
        let addresses = device["addresses"].as_array()?;
        let has_address = addresses.iter().any(|address| *address == camera.address.to_string());
        (has_address && device["name"] == "camera").then_some(device)
    });
    let device = known.unwrap_or_else(|| panic!("{:?}", net.agent.list(&["devices", "list"], "devices")));
    assert_eq!(device["interface"], camera.port.as_str());
    assert_eq!(device["randomised"], false);
    assert_eq!(net.tidegate(&["devices", "show", "camera"])["mac"], camera.mac);
}

#[test]
fn hosts_outside_have_the_names_that_devices_asked_for() {
    let Some(net) = guarded("gateway::hosts_outside_have_the_names_that_devices_asked_for", |_| {}) else {
        return;
    };
    let _devices = Devices::start(&net.topology).unwrap();
    let named = wait_for(SOON, || {
        net.topology.devices.iter().find_map(|place| {
            let shown = net.agent.ask(&["devices", "show", place.mac]).ok()?;
            let mut peers = shown["peers"].as_array()?.iter();
            peers.find(|peer| peer["name"] == "cloud.test").cloned()
        })
    });
    let peer = named.expect("no device was told where cloud.test is");
    assert_eq!(
        (peer["address"].as_str(), peer["origin"].as_str()),
        (Some(CLOUD.to_string().as_str()), Some("dns"))
    );
}

#[test]
fn every_packet_is_accounted_for() {
    let Some(net) = guarded("gateway::every_packet_is_accounted_for", |_| {}) else { return };
    let devices = Devices::start(&net.topology).unwrap();
    net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--ttl", "10m"]);
    let camera = net.device("camera").address;
    drip(&net.topology.attacker, camera, Duration::from_millis(1), Duration::from_secs(2));
    drip(&net.topology.attacker, camera, Duration::from_millis(1), Duration::from_secs(1));
    drop(devices);
    // Packets on their way while the tables are read belong to neither side of the account.
    let exact = wait_for(SOON, || (net.tidegate(&["status"])["unaccounted"] == 0).then_some(()));
    assert!(exact.is_some(), "{}", net.tidegate(&["status"]));
}

#[test]
fn a_reload_changes_settings_and_loses_nothing() {
    let Some(net) = guarded("gateway::a_reload_changes_settings_and_loses_nothing", |_| {}) else { return };
    let camera = net.device("camera").address;
    net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--ttl", "10m"]);
    let config = net.topology.directory().join("tidegate.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("mode = \"enforce\"", "mode = \"monitor\"")).unwrap();
    let pid = net.agent.pid();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGHUP).unwrap();
    let reloaded = wait_for(SOON, || (net.tidegate(&["status"])["mode"] == "monitor").then_some(()));
    assert!(reloaded.is_some(), "{}", net.tidegate(&["status"]));
    assert!(net.reaches(&net.topology.attacker, camera), "monitor mode drops nothing");
    fs::write(&config, text).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGHUP).unwrap();
    let back = wait_for(SOON, || (net.tidegate(&["status"])["mode"] == "enforce").then_some(()));
    assert!(back.is_some(), "{}", net.tidegate(&["status"]));
    assert!(net.is_cut(&net.topology.attacker, camera), "the block outlived both reloads");
    assert_eq!(net.tidegate(&["status"])["pid"], pid);
}

#[test]
fn a_broken_configuration_is_refused_on_reload_and_the_old_one_stays() {
    let name = "gateway::a_broken_configuration_is_refused_on_reload_and_the_old_one_stays";
    let Some(mut net) = guarded(name, |_| {}) else { return };
    net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--ttl", "10m"]);
    fs::write(net.topology.directory().join("tidegate.toml"), "[gateway]\nmode = \"sometimes\"\n").unwrap();
    let pid = nix::unistd::Pid::from_raw(net.agent.pid() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(net.tidegate(&["status"])["mode"], "enforce");
    assert!(net.is_cut(&net.topology.attacker, net.device("camera").address));
    assert!(net.reaches(&net.device("camera").netns, CLOUD));
    net.agent.kill();
    assert!(net.agent.restart(&net.topology).is_err(), "and a start with it is refused");
}

#[test]
fn attacks_from_outside_and_inside_are_shut_out_and_every_service_is_kept() {
    let name = "gateway::attacks_from_outside_and_inside_are_shut_out_and_every_service_is_kept";
    if !tidegate_tests::is_root() {
        tidegate_tests::skipped(name, "needs root for network namespaces and kernel programs");
        return;
    }
    let Some(binary) = tidegate_tests::agent::built() else {
        tidegate_tests::skipped(name, "the agent is not built; `cargo xtask test` builds it first");
        return;
    };
    let _alone = tidegate_tests::alone().unwrap();
    let options = Options {
        binary,
        emulator: None,
        scenarios: ["vertical-scan", "arp-spoof", "arp-spoof-device"].map(str::to_owned).to_vec(),
        warm_up: Duration::from_secs(3),
        quiet: Duration::ZERO,
    };
    let report = lab::run(&options, &mut |progress| eprintln!("{progress:?}")).unwrap();
    assert!(report.is_good(), "{report:?}");
}

#[test]
fn a_device_with_a_baseline_is_judged_in_the_kernel_and_a_flow_far_from_it_is_cut() {
    let name = "gateway::a_device_with_a_baseline_is_judged_in_the_kernel_and_a_flow_far_from_it_is_cut";
    let cutting = |settings: &mut tidegate_tests::agent::Settings| {
        settings.keys.push(("response.cut_flows", "true".to_owned()));
    };
    let Some(net) = guarded(name, cutting) else { return };
    let (camera, plug) = (net.device("camera"), net.device("plug"));
    for device in [camera, plug] {
        assert!(net.reaches(&device.netns, CLOUD));
    }
    let counter = |counter: &str| net.tidegate(&["status"])["counters"][counter].as_u64().unwrap();
    let speak =
        |place: &Place| drip(&place.netns, ATTACKER, Duration::from_millis(2), Duration::from_millis(60));
    speak(camera);
    assert_eq!(counter("scores"), 0, "without a baseline nothing is judged");

    let file = net.topology.directory().join("camera.json");
    let path = file.to_str().unwrap();
    net.agent.answer(&["model", "export", camera.mac, "--file", path]).unwrap();
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    // Name lookups, answered, and nothing else.
    let lookup = |row: u32| {
        let noise = row * 37 % 64;
        [256, 256, 1_500 + noise, 1_800 + noise, 1_300, 1_600, 0, 0, 3_000 + noise, 0, 0, 420, 0, 117, 1, 0]
    };
    state["ready"] = true.into();
    state["flows"] = (0..300).map(lookup).map(|row| serde_json::json!(row)).collect();
    fs::write(&file, state.to_string()).unwrap();
    net.agent.answer(&["model", "import", camera.mac, "--file", path]).unwrap();

    let judged = wait_for(Duration::from_secs(10), || {
        speak(camera);
        (counter("flows_cut") > 0).then_some(())
    });
    assert!(judged.is_some(), "{}", net.tidegate(&["status"]));
    assert!(counter("dropped_model") > 0);
    let incidents = wait_for(SOON, || {
        let incidents = net.agent.list(&["incidents", "list"], "incidents").ok()?;
        incidents.iter().any(|incident| incident.to_string().contains("the kernel cut")).then_some(())
    });
    assert!(incidents.is_some(), "{:?}", net.agent.list(&["incidents", "list"], "incidents"));
    let cut = counter("flows_cut");
    speak(plug);
    assert_eq!(counter("flows_cut"), cut, "a device without a baseline is never cut");
    assert!(net.reaches(&plug.netns, CLOUD));
}
