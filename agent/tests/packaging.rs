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
