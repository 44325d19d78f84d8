//! What keeps Tidegate from doing harm, and what still holds when something fails, end to end.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use common::{Conversation, Guarded, SOON, drip, guarded};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tidegate_tests::{
    device::lease,
    process::Process,
    sniffer::Sniffer,
    topology::{ATTACKER, CLOUD},
    wait_for,
};

fn blocks(net: &Guarded) -> Vec<Value> {
    net.agent.list(&["blocks", "list"], "blocks").unwrap()
}

fn is_shut(net: &Guarded, target: &str) -> bool {
    blocks(net).iter().any(|block| block["target"] == target)
}

/// The newest events, as `tidegate events` shows them.
fn events(net: &Guarded) -> String {
    net.agent.answer(&["events"]).unwrap()
}

fn reload(net: &Guarded) {
    kill(Pid::from_raw(net.agent.pid() as i32), Signal::SIGHUP).unwrap();
}

/// A flood of the camera's web server by the attacker outside.
fn flood(net: &Guarded) -> Process {
    let mut flood = net.topology.attacker.command("hping3");
    flood.args(["-q", "-n", "-S", "-p", "8080", "-i", "u500", &net.device("camera").address.to_string()]);
    Process::start(&mut flood, &net.topology.directory().join("hping3.log")).unwrap()
}

#[test]
fn a_verdict_that_cuts_the_gateway_off_is_rolled_back_and_reported() {
    let name = "safeguards::a_verdict_that_cuts_the_gateway_off_is_rolled_back_and_reported";
    // The cloud is behind the recorder, as behind a second router; nothing but its isolation can cut it off.
    const BEHIND: &str = "192.0.2.40";
    let Some(net) = guarded(name, |settings| {
        settings.keys.push(("reachability.cloud", format!("[\"{BEHIND}:7\"]")));
        settings.keys.push(("reachability.interval", "\"1s\"".to_owned()));
    }) else {
        return;
    };
    let recorder = net.device("recorder");
    recorder.netns.ip(&[format!("addr add {BEHIND}/32 dev lo")]).unwrap();
    net.topology.gateway.ip(&[format!("route add {BEHIND}/32 via {}", recorder.address)]).unwrap();
    let gateway = &net.topology.gateway;
    assert!(net.reaches(gateway, BEHIND.parse::<std::net::Ipv4Addr>().unwrap()));
    // A probe that succeeded must be on record before the verdict.
    thread::sleep(Duration::from_millis(2_500));
    let mut worm = recorder.netns.command("hping3");
    worm.args(["-q", "-n", "-S", "-p", "23", "-i", "u10000", "-I", "eth0", "--rand-dest", "203.0.113.x"]);
    let _worm = Process::start(&mut worm, &net.topology.directory().join("worm.log")).unwrap();
    assert!(wait_for(Duration::from_secs(8), || is_shut(&net, recorder.mac).then_some(())).is_some());
    let shut = Instant::now();
    let freed = wait_for(Duration::from_secs(10), || (!is_shut(&net, recorder.mac)).then(|| shut.elapsed()));
    assert!(freed.is_some(), "still shut after 10 s: {:?}\n{}", blocks(&net), net.agent.said());
    let told = events(&net);
    assert!(told.contains("was released again") && told.contains("cloud"), "{told}");
    assert!(net.reaches(gateway, BEHIND.parse::<std::net::Ipv4Addr>().unwrap()), "after the roll-back");
    // The attack goes on, and the verdict must not come back to cut the gateway off again.
    thread::sleep(Duration::from_secs(2));
    assert!(!is_shut(&net, recorder.mac), "{:?}", blocks(&net));
}

#[test]
fn beyond_the_hourly_cap_verdicts_are_held_back_and_reported() {
    let name = "safeguards::beyond_the_hourly_cap_verdicts_are_held_back_and_reported";
    let Some(net) = guarded(name, |settings| {
        settings.keys.push(("enforcement.blast_radius_addresses_per_hour", "1".to_owned()));
    }) else {
        return;
    };
    let first = flood(&net);
    let shut = wait_for(Duration::from_secs(8), || is_shut(&net, &ATTACKER.to_string()).then_some(()));
    assert!(shut.is_some(), "the first attacker is within the cap");
    drop(first);
    let second = net.topology.become_attacker(1).unwrap();
    let _second = flood(&net);
    let held = wait_for(Duration::from_secs(8), || {
        let incidents = net.agent.list(&["incidents", "list"], "incidents").ok()?;
        incidents.into_iter().find(|incident| incident["subject"] == second.to_string())
    });
    let incident = held.unwrap_or_else(|| panic!("the second attack is noticed\n{}", net.agent.said()));
    let response = incident["response"].as_str().unwrap_or_default();
    assert!(response.contains("not enforced"), "{incident}");
    assert!(!is_shut(&net, &second.to_string()), "{:?}", blocks(&net));
    assert!(events(&net).contains("an hour"), "an alarm says why: {}", events(&net));
    assert!(is_shut(&net, &ATTACKER.to_string()), "what is in force stays");
}

#[test]
fn bulk_lists_are_swapped_as_a_whole_and_spare_never_block() {
    let name = "safeguards::bulk_lists_are_swapped_as_a_whole_and_spare_never_block";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hostile.txt");
    // The attacker is on every list, the neighbour changes.
    let write = |neighbour: u8| {
        let padding: Vec<String> = (0..2_000).map(|n| format!("100.64.{}.{}", n / 250, n % 250)).collect();
        let text = format!("# list\n{}\n{ATTACKER}\n203.0.113.{neighbour}\n", padding.join("\n"));
        fs::write(&file, text).unwrap();
    };
    write(1);
    let Some(net) = guarded(name, |settings| {
        settings.keys.push(("feeds.files", format!("[\"{}\"]", file.display())));
    }) else {
        return;
    };
    let (camera, attacker) = (net.device("camera"), &net.topology.attacker);
    assert!(!net.topology.reaches(attacker, camera.address), "a listed address");
    let arrived = Sniffer::start(&camera.netns, "eth0", &format!("udp and src host {ATTACKER}")).unwrap();
    thread::scope(|scope| {
        let attack =
            scope.spawn(|| drip(attacker, camera.address, Duration::from_millis(1), Duration::from_secs(3)));
        for neighbour in 2..12 {
            write(neighbour);
            reload(&net);
            thread::sleep(Duration::from_millis(200));
        }
        assert!(attack.join().unwrap() > 1_000);
    });
    assert_eq!(arrived.count(), 0, "packets came through while lists were swapped");
    let elsewhere = |last: u8| std::net::Ipv4Addr::new(203, 0, 113, last);
    assert!(net.reaches(&camera.netns, elsewhere(10)), "on the list before only");
    assert!(!net.topology.reaches(&camera.netns, elsewhere(11)), "on the newest list");
    net.tidegate(&["allow", "add", &ATTACKER.to_string()]);
    assert!(net.reaches(attacker, camera.address), "never-block wins over a list");
}

#[test]
fn a_device_left_dhcp_and_dns_renews_its_lease() {
    let Some(net) = guarded("safeguards::a_device_left_dhcp_and_dns_renews_its_lease", |_| {}) else {
        return;
    };
    let recorder = net.device("recorder");
    net.tidegate(&["devices", "isolate", recorder.mac, "--level", "dhcp-dns-only", "--ttl", "10m"]);
    assert!(!net.topology.reaches(&recorder.netns, CLOUD));
    recorder.netns.enter(|| lease(recorder)).unwrap();
}

#[test]
fn egress_is_enforced_by_a_filter_where_there_are_no_tcx_links() {
    let name = "safeguards::egress_is_enforced_by_a_filter_where_there_are_no_tcx_links";
    let Some(mut net) = guarded(name, |settings| {
        settings.keys.push(("gateway.tc", "\"clsact\"".to_owned()));
    }) else {
        return;
    };
    let hooks = |net: &Guarded| -> Vec<String> {
        let status = net.tidegate(&["status"]);
        let interfaces = status["interfaces"].as_array().unwrap();
        interfaces.iter().map(|interface| interface["tc"].as_str().unwrap().to_owned()).collect()
    };
    assert!(hooks(&net).iter().all(|hook| hook == "clsact"), "{:?}", hooks(&net));
    let camera = net.device("camera").address;
    let mut talk = Conversation::begin(&net.topology.attacker, camera);
    let arrived =
        Sniffer::start(&net.device("camera").netns, "eth0", &format!("icmp and src host {ATTACKER}"))
            .unwrap();
    net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--ttl", "10m"]);
    assert!(!talk.goes_on() && net.is_cut(&net.topology.attacker, camera));
    assert_eq!(arrived.count(), 0, "packets towards devices are dropped as they leave the gateway");
    net.agent.kill();
    assert!(!net.topology.reaches(&net.topology.attacker, camera), "with the agent dead");
    net.agent.restart(&net.topology).unwrap();
    assert!(!net.topology.reaches(&net.topology.attacker, camera), "after a restart");
    assert_eq!(arrived.count(), 0);
    let exact = wait_for(SOON, || (net.tidegate(&["status"])["unaccounted"] == 0).then_some(()));
    assert!(exact.is_some(), "{}", net.tidegate(&["status"]));
}

/// The capabilities that the service unit grants, in lower case without `CAP_`.
fn granted() -> Vec<String> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/tidegate.service");
    let text = fs::read_to_string(unit).unwrap();
    let list = text.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    list.split_whitespace().map(|name| name.trim_start_matches("CAP_").to_lowercase()).collect()
}

#[test]
fn it_starts_with_what_its_unit_grants_and_keeps_one_capability() {
    let name = "safeguards::it_starts_with_what_its_unit_grants_and_keeps_one_capability";
    const BPF: u64 = 1 << 39;
    let directory = tempfile::tempdir().unwrap();
    let Some(net) = guarded(name, |settings| {
        let script = directory.path().join("tidegate");
        let bounds: Vec<String> = granted().iter().map(|name| format!("+{name}")).collect();
        let text = format!(
            "#!/bin/sh\nexec setpriv --no-new-privs --bounding-set=-all,{} --inh-caps=-all {} \"$@\"\n",
            bounds.join(","),
            settings.binary.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        settings.binary = script;
    }) else {
        return;
    };
    let status = net.tidegate(&["status"]);
    assert_eq!(status["health"], "ok", "{status}");
    let process = fs::read_to_string(format!("/proc/{}/status", net.agent.pid())).unwrap();
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        let bits = process.lines().find_map(|line| line.strip_prefix(set)).unwrap();
        let bits = u64::from_str_radix(bits.trim(), 16).unwrap();
        let kept = if matches!(set, "CapInh:" | "CapAmb:") { 0 } else { BPF };
        assert_eq!(bits, kept, "{set} {bits:x}");
    }
    net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--ttl", "10m"]);
    assert!(net.is_cut(&net.topology.attacker, net.device("camera").address), "tables can still be written");
}

/// The directories of layouts below the pins.
fn layouts(pins: &Path) -> Vec<PathBuf> {
    fs::read_dir(pins).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn an_upgrade_to_another_layout_lets_no_packet_through() {
    let name = "safeguards::an_upgrade_to_another_layout_lets_no_packet_through";
    let Some(mut net) = guarded(name, |_| {}) else { return };
    let camera = net.device("camera").address;
    net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--ttl", "10m"]);
    thread::sleep(Duration::from_millis(50));
    let pins = net.topology.directory().join("bpf/tidegate");
    let own = layouts(&pins).pop().unwrap();
    let earlier = pins.join("00000000deadbeef");
    let arrived =
        Sniffer::start(&net.device("camera").netns, "eth0", &format!("udp and src host {ATTACKER}")).unwrap();
    let attacker = &net.topology.attacker;
    thread::scope(|scope| {
        let attack = scope.spawn(|| drip(attacker, camera, Duration::from_millis(2), Duration::from_secs(4)));
        thread::sleep(Duration::from_millis(300));
        net.agent.kill();
        // What an agent of another layout would have left: its tables and links under another name.
        fs::rename(&own, &earlier).unwrap();
        net.agent.restart(&net.topology).unwrap();
        assert!(attack.join().unwrap() > 1_000);
    });
    assert_eq!(arrived.count(), 0, "packets came through");
    assert_eq!(net.tidegate(&["status"])["resumed"], true, "links were taken over");
    assert!(is_shut(&net, &ATTACKER.to_string()), "{:?}", blocks(&net));
    assert_eq!(layouts(&pins), [own], "the earlier layout is gone");
}

/// A small file system that ends with this.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&at).unwrap();
        let options = format!("size={size}");
        mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Self(at)
    }
}

/// Writes until there is no room.
fn fill(disk: &Path) {
    let mut file = fs::File::create(disk.join("filler")).unwrap();
    while file.write_all(&[0; 4_096]).is_ok() {}
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A test that failed before the mount has nothing to unmount.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn with_a_full_disk_verdicts_still_take_effect_and_the_status_says_so() {
    let name = "safeguards::with_a_full_disk_verdicts_still_take_effect_and_the_status_says_so";
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let mut disk = None;
    let Some(net) = guarded(name, |settings| {
        disk = Some(Disk::mount(state.clone(), "4m"));
        settings.keys.push(("gateway.state_dir", format!("\"{}\"", state.display())));
    }) else {
        return;
    };
    let (camera, attacker) = (net.device("camera").address, &net.topology.attacker);
    assert_eq!(net.tidegate(&["status"])["health"], "ok");
    fill(&state);
    net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--ttl", "10m"]);
    assert!(net.is_cut(attacker, camera), "in force though it could not be stored");
    let status = net.tidegate(&["status"]);
    assert_eq!(status["health"], "degraded", "{status}");
    assert!(status["problems"].to_string().contains("database"), "{status}");
    fs::remove_file(state.join("filler")).unwrap();
    net.tidegate(&["blocks", "delete", &ATTACKER.to_string()]);
    assert!(net.reaches(attacker, camera));
}
