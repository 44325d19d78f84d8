//! Invariants of absence: what must not appear in which room. See docs/ARCHITECTURE.md.

#![allow(clippy::expect_used, reason = "an unreadable source file is the test's failure")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Source files below `agent/src`, without those that only tests use.
fn sources() -> Vec<(PathBuf, String)> {
    fn collect(directory: &Path, root: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(directory).expect("a source directory") {
            let path = entry.expect("a directory entry").path();
            if path.is_dir() {
                collect(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                // Unit tests stand at the end of a file and may do what they like.
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
                let name = path.strip_prefix(root).expect("a path below the root").to_owned();
                found.push((name, code));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    found.retain(|(name, _)| {
        let stem = name.file_stem().unwrap_or_default().to_string_lossy();
        !(stem == "tests" || stem.ends_with("_tests") || stem == "testing" || stem == "properties")
    });
    assert!(found.len() > 50, "only {} source files were found", found.len());
    found
}

/// Files outside `rooms` with a line of code, comments left out, that holds one of `words`.
fn outside(rooms: &[&str], words: &[&str]) -> Vec<String> {
    let inside = |name: &Path| rooms.iter().any(|room| name.starts_with(room));
    named(&sources().into_iter().filter(|(name, _)| !inside(name)).collect::<Vec<_>>(), words)
}

/// Files of `rooms` with such a line.
fn within(rooms: &[&str], words: &[&str]) -> Vec<String> {
    let inside = |name: &Path| rooms.iter().any(|room| name.starts_with(room));
    named(&sources().into_iter().filter(|(name, _)| inside(name)).collect::<Vec<_>>(), words)
}

fn named(files: &[(PathBuf, String)], words: &[&str]) -> Vec<String> {
    let code = |text: &str| -> Vec<String> {
        text.lines().map(str::trim).filter(|line| !line.starts_with("//")).map(str::to_owned).collect()
    };
    files
        .iter()
        .flat_map(|(name, text)| {
            code(text).into_iter().map(move |line| format!("{}: {line}", name.display()))
        })
        .filter(|line| words.iter().any(|word| line.contains(word)))
        .collect()
}

#[test]
fn only_datapath_names_aya() {
    assert_eq!(outside(&["datapath"], &["aya::", "use aya", "aya_log"]), Vec::<String>::new());
}

#[test]
fn only_link_claim_and_proof_name_rumqttc() {
    let rooms =
        ["fleet/link.rs", "fleet/link/state.rs", "fleet/provision/claim.rs", "fleet/provision/proof.rs"];
    assert_eq!(outside(&rooms, &["rumqttc"]), Vec::<String>::new());
}

#[test]
fn only_their_rooms_name_the_sdks_of_aws() {
    assert_eq!(
        outside(&["fleet/aws.rs", "fleet/provision/registry.rs"], &["aws_sdk_iot", "aws_sdk_sts"]),
        Vec::<String>::new()
    );
    assert_eq!(outside(&["fleet/watch/client.rs"], &["aws_sdk_cloudwatch"]), Vec::<String>::new());
}

#[test]
fn only_run_starts_tasks_and_threads() {
    assert_eq!(outside(&["run", "run.rs"], &["::spawn(", "spawn_blocking("]), Vec::<String>::new());
}

#[test]
fn only_enforce_writes_verdict_tables() {
    let writes = [".put(&", ".feed_mark(", ".feed_clear(", ".profile_add(", ".profile_delete("];
    assert_eq!(outside(&["enforce", "datapath"], &writes), Vec::<String>::new());
}

#[test]
fn learn_and_decide_do_no_io_and_read_no_clock() {
    let forbidden = [
        "std::fs",
        "std::net::Tcp",
        "std::net::Udp",
        "tokio",
        "Instant::now",
        "SystemTime",
        "Timestamp::now",
        "rusqlite",
    ];
    assert_eq!(within(&["learn", "decide"], &forbidden), Vec::<String>::new());
}

#[test]
fn the_kernel_abi_knows_no_floats_and_no_standard_library() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent-common/src/lib.rs");
    let text = fs::read_to_string(root).expect("the common crate");
    assert!(text.contains("#![no_std]") && text.contains("deny(clippy::float_arithmetic)"));
}
