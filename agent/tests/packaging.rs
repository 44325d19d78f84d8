//! The files in packaging/ fit the agent and each other.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a file that cannot be read is the test's failure"
)]

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use tidegate::config::Config;
use toml::Table;

fn packaging(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(name)
}

fn names(table: &Table, section: &str) -> BTreeSet<String> {
    table[section].as_table().expect(section).keys().cloned().collect()
}

fn strings(value: &toml::Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Vector itself is asked where it is installed; what can be told without it is checked everywhere.
#[test]
fn vector_forwards_every_log_and_every_part_is_connected() {
    let path = packaging("vector.toml");
    let table: Table = fs::read_to_string(&path).unwrap().parse().unwrap();
    let (sources, transforms) = (names(&table, "sources"), names(&table, "transforms"));
    let inputs = |part: &toml::Value| strings(&part["inputs"]).into_iter().collect::<BTreeSet<_>>();
    let of_transforms: BTreeSet<String> =
        table["transforms"].as_table().unwrap().values().flat_map(&inputs).collect();
    let of_sinks: BTreeSet<String> = table["sinks"].as_table().unwrap().values().flat_map(&inputs).collect();
    assert_eq!(of_transforms, sources);
    assert_eq!(of_sinks, transforms);

    let eve = Config::default().eve_path().expect("the event log is on by default");
    let read = strings(&table["sources"]["tidegate"]["include"]);
    assert_eq!(read, [eve.display().to_string()]);

    for transform in table["transforms"].as_table().unwrap().values() {
        let program = transform["source"].as_str().unwrap();
        for (open, close) in [('(', ')'), ('{', '}')] {
            assert_eq!(program.matches(open).count(), program.matches(close).count(), "{program}");
        }
        // A line that is no JSON must not stop the transform: every fallible call names what holds instead.
        assert_eq!(
            program.matches("parse_json(").count() + program.matches("object(").count(),
            program.matches("??").count()
        );
    }

    match Command::new("vector")
        .args(["validate", "--no-environment"])
        .arg(&path)
        .env("TIDEGATE_LOGS", "http://[::1]:9/")
        .output()
    {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(_) => eprintln!("skipped: `vector validate` of packaging/vector.toml: vector is not installed"),
    }
}

/// Values of a setting in a unit, in order.
fn values(unit: &str, key: &str) -> Vec<String> {
    let text = fs::read_to_string(packaging(unit)).unwrap();
    let of = |line: &str| Some(line.strip_prefix(key)?.strip_prefix('=')?.to_owned());
    text.lines().filter_map(of).collect()
}

#[test]
fn the_renewal_runs_daily_without_any_capability_on_the_files_of_the_configuration() {
    let unit = "tidegate-renew.service";
    let cloud = Config::default().cloud;
    assert_eq!(values(unit, "Type"), ["oneshot"]);
    assert_eq!(values(unit, "ConditionPathExists"), std::slice::from_ref(&cloud.certificate));
    assert_eq!(values(unit, "CapabilityBoundingSet"), [""]);
    let writable = values(unit, "ReadWritePaths");
    for file in [cloud.certificate, cloud.key] {
        assert_eq!(PathBuf::from(file).parent().unwrap().to_str().unwrap(), writable[0]);
    }
    let timer = "tidegate-renew.timer";
    assert_eq!(values(timer, "OnCalendar"), ["daily"]);
    assert_eq!(values(timer, "Persistent"), ["yes"]);
    assert_eq!(values(timer, "RandomizedDelaySec").len(), 1, "a fleet does not ask at once");

    // The daemon's configuration, and a command line that the program takes.
    let command = values(unit, "ExecStart").remove(0);
    let (program, arguments) = command.split_once(' ').unwrap();
    assert!(values("tidegate.service", "ExecStart")[0].starts_with(program));
    let (before, config) = arguments.rsplit_once(' ').unwrap();
    assert!(values("tidegate.service", "ExecStart")[0].ends_with(config));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    let absent = directory.path().join("cloud.crt");
    fs::write(&file, format!("[cloud]\nendpoint = \"cloud.test\"\ncertificate = {absent:?}\n")).unwrap();
    let mut tidegate = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = tidegate.args(before.split(' ')).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("no certificate to renew"), "{said}");
}

/// systemd is asked where it is installed. It wants the program to exist: the units it sees name another one.
#[test]
fn systemd_takes_every_unit() {
    let directory = tempfile::tempdir().unwrap();
    let units = ["tidegate.service", "tidegate-renew.service", "tidegate-renew.timer"];
    let copies = units.map(|unit| {
        let text = fs::read_to_string(packaging(unit)).unwrap();
        let copy = directory.path().join(unit);
        fs::write(&copy, text.replace("/usr/local/bin/tidegate", "/bin/true")).unwrap();
        copy
    });
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&copies).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && !said.contains("tidegate"), "{said}");
        }
        Err(_) => eprintln!("skipped: `systemd-analyze verify` of packaging/: systemd is not installed"),
    }
}
