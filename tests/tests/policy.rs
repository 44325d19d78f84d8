//! Signed policies, end to end: what they change, what is refused, that they outlive a restart, and how they end.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

mod common;

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use common::{Guarded, guarded};
use serde_json::Value;
use tidegate_tests::{agent, topology::ATTACKER, wait_for};

/// Runs a command that asks no daemon; its errors.
fn offline(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(agent::built().unwrap()).args(arguments).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

const DAY: i64 = 86_400;

/// A policy of `version` with `settings`, signed by the key `name`, valid between two times in seconds from now.
fn sealed(net: &Guarded, name: &str, version: u64, valid: (i64, i64), settings: &str) -> String {
    let path = |ending: &str| net.topology.directory().join(format!("{name}-{version}{ending}"));
    let time = |offset: i64| {
        let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let output = Command::new("date")
            .args(["-u", "-d", &format!("@{}", seconds as i64 + offset), "+%Y-%m-%dT%H:%M:%SZ"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let (from, to) = (time(valid.0), time(valid.1));
    let document = format!(
        "version = {version}\nfleet = \"lab\"\ngateways = [\"gate\"]\nnot_before = \"{from}\"\nexpires = \"{to}\"\n\
         [settings]\n{settings}\n"
    );
    fs::write(path(".toml"), document).unwrap();
    let key = key(net, name).with_extension("key");
    let (document, out) = (path(".toml"), path(".policy"));
    let shown = |path: &PathBuf| path.display().to_string();
    offline(&["policy", "sign", &shown(&document), "--key", &shown(&key), "--output", &shown(&out)]).unwrap();
    shown(&out)
}

fn key(net: &Guarded, name: &str) -> PathBuf {
    let path = net.topology.directory().join(name);
    if !path.with_extension("key").exists() {
        offline(&["policy", "keygen", "--output", &path.display().to_string()]).unwrap();
    }
    path.with_extension("pub")
}

/// Where the trust anchors will stand: they are read whenever they are needed.
fn anchors() -> PathBuf {
    std::env::temp_dir().join(format!("tg-anchors-{}.pub", std::process::id()))
}

fn keys(anchors: &Path) -> [(&'static str, String); 3] {
    [
        ("policy.keys", format!("\"{}\"", anchors.display())),
        ("policy.fleet", "\"lab\"".to_owned()),
        ("gateway.name", "\"gate\"".to_owned()),
    ]
}

fn in_force(net: &Guarded) -> (Option<u64>, Value) {
    let view = net.tidegate(&["policy", "show"]);
    (view["version"].as_u64(), view["changes"].clone())
}

#[test]
fn a_policy_is_real_refusals_change_nothing_and_it_outlives_a_restart() {
    let name = "policy::a_policy_is_real_refusals_change_nothing_and_it_outlives_a_restart";
    let Some(mut net) = guarded(name, |settings| {
        settings.keys.extend(keys(&anchors()));
    }) else {
        return;
    };
    let anchors = anchors();
    let settings = format!(
        "sensitivity = \"high\"\ntechniques = {{ T1046 = \"observe\" }}\nnever_block = {{ addresses = [\"{ATTACKER}\"] }}\n\
         isolation = [{{ device = \"02:00:00:00:00:77\", level = \"cloud-only\", reason = \"waits\" }}]"
    );
    let first = sealed(&net, "fleet", 1, (-DAY, 2 * DAY), &settings);
    let refused = |net: &Guarded, file: &str, reason: &str| {
        let before = in_force(net);
        let error = net.agent.ask(&["policy", "apply", file]).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("hint:"), "{reason} in {error}");
        assert_eq!(in_force(net), before, "{reason} changed something");
        let count = &net.tidegate(&["policy", "show"])["refused"][reason];
        assert!(count.as_u64() >= Some(1), "{reason} is counted: {count}");
    };
    refused(&net, &first, "no-keys");
    fs::copy(key(&net, "fleet"), &anchors).unwrap();

    // What it would change is told, and nothing changes.
    let would = net.tidegate(&["policy", "check", &first]);
    assert!(would["changes"].to_string().contains("learning.sensitivity"), "{would}");
    assert_eq!(in_force(&net).0, None);
    net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--ttl", "10m"]);

    net.tidegate(&["policy", "apply", &first]);
    assert_eq!(in_force(&net).0, Some(1));
    let blocks = net.tidegate(&["blocks", "list"]).to_string();
    assert!(
        !blocks.contains(&ATTACKER.to_string()),
        "the policy's never-block entry ended the block: {blocks}"
    );
    assert!(blocks.contains("02:00:00:00:00:77") && blocks.contains("cloud-only"), "{blocks}");
    let error = net.agent.ask(&["blocks", "add", &ATTACKER.to_string()]).unwrap_err().to_string();
    assert!(error.contains("never"), "{error}");
    let config = net.agent.answer(&["config", "show"]).unwrap();
    assert!(config.contains("sensitivity") && config.contains("T1046"), "{config}");

    refused(&net, &first, "not-newer");
    refused(&net, &sealed(&net, "stranger", 2, (-DAY, 2 * DAY), ""), "unknown-key");
    refused(&net, &sealed(&net, "fleet", 3, (-3 * DAY, -DAY), ""), "expired");
    refused(&net, &sealed(&net, "fleet", 4, (DAY, 2 * DAY), ""), "not-yet-valid");
    refused(&net, &format!("{}/fleet-1.toml", net.topology.directory().display()), "unsigned");
    let whole = fs::read(&first).unwrap();
    let cut = net.topology.directory().join("cut.policy");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    refused(&net, &cut.display().to_string(), "malformed");

    net.agent.kill();
    net.agent.restart(&net.topology).unwrap();
    assert_eq!(in_force(&net).0, Some(1), "after a kill and a restart");
    let error = net.agent.ask(&["blocks", "add", &ATTACKER.to_string()]).unwrap_err().to_string();
    assert!(error.contains("never"), "{error}");

    net.tidegate(&["policy", "apply", &sealed(&net, "fleet", 5, (-DAY, 2 * DAY), "sensitivity = \"low\"")]);
    let blocks = net.tidegate(&["blocks", "list"]).to_string();
    assert!(!blocks.contains("02:00:00:00:00:77"), "an isolation ends with its policy: {blocks}");
    net.tidegate(&["policy", "rollback"]);
    assert_eq!(in_force(&net).0, Some(1));
    net.tidegate(&["policy", "rollback"]);
    let (version, changes) = in_force(&net);
    assert_eq!((version, changes.as_array().unwrap().len()), (None, 0), "the file rules");
    net.tidegate(&["blocks", "add", &ATTACKER.to_string(), "--ttl", "10m"]);
    refused(&net, &first, "not-newer");
    fs::remove_file(anchors).unwrap();
}

#[test]
fn a_policy_that_cuts_the_gateway_off_goes_back_and_one_whose_time_is_over_ends() {
    let name = "policy::a_policy_that_cuts_the_gateway_off_goes_back_and_one_whose_time_is_over_ends";
    // The cloud is behind the recorder, as behind a second router; nothing but its isolation can cut it off.
    const BEHIND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 40);
    let Some(net) = guarded(name, |settings| {
        settings.keys.extend(keys(&anchors()));
        settings.keys.push(("reachability.cloud", format!("[\"{BEHIND}:7\"]")));
        settings.keys.push(("reachability.interval", "\"1s\"".to_owned()));
    }) else {
        return;
    };
    fs::copy(key(&net, "fleet"), anchors()).unwrap();
    let recorder = net.device("recorder");
    recorder.netns.ip(&[format!("addr add {BEHIND}/32 dev lo")]).unwrap();
    net.topology.gateway.ip(&[format!("route add {BEHIND}/32 via {}", recorder.address)]).unwrap();
    let reaches = || net.reaches(&net.topology.gateway, BEHIND);
    assert!(reaches());

    net.tidegate(&["policy", "apply", &sealed(&net, "fleet", 1, (-DAY, DAY), "sensitivity = \"low\"")]);
    // A probe that succeeded must be on record before the next.
    thread::sleep(Duration::from_millis(2_500));
    let cutting =
        format!("isolation = [{{ device = \"{}\", level = \"full\", reason = \"mistake\" }}]", recorder.mac);
    net.tidegate(&["policy", "apply", &sealed(&net, "fleet", 2, (-DAY, DAY), &cutting)]);
    let back = wait_for(Duration::from_secs(15), || (in_force(&net).0 == Some(1)).then_some(()));
    assert!(back.is_some() && reaches(), "{:?}\n{}", in_force(&net), net.agent.said());
    let told = net.agent.answer(&["events"]).unwrap();
    assert!(told.contains("goes back: the gateway lost cloud"), "{told}");

    let brief = sealed(&net, "fleet", 3, (-DAY, 10), "sensitivity = \"high\"");
    net.tidegate(&["policy", "apply", &brief]);
    assert_eq!(in_force(&net).0, Some(3));
    // It is looked at twice a minute.
    let over = wait_for(Duration::from_mins(1), || in_force(&net).0.is_none().then_some(()));
    let (_, changes) = in_force(&net);
    assert!(over.is_some() && changes.as_array().unwrap().is_empty(), "the file rules: {changes}");
    let told = net.agent.answer(&["events"]).unwrap();
    assert!(told.contains("policy 3 has expired"), "{told}");
    fs::remove_file(anchors()).unwrap();
}
