//! Both engines over real captures: no crash, an exact account, and the same records from the host and from the kernel.
//!
//! The captures are no part of the repository; the tests look for them beside it and say loudly when they are not there.

#![allow(clippy::unwrap_used, reason = "a failed run is the test's failure")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use tidegate::{
    datapath::object_is_embedded,
    replay::{
        ReplayError,
        engine::{Engine, HostEngine},
        input::{Files, open_all},
        kernel::KernelEngine,
        replay,
        report::Report,
    },
};
use tidegate_tests::{is_root, skipped};

const CAPTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/captures");
const CAPACITY: usize = 65_536;

/// Every capture, or nothing and a line that says so.
fn captures(test: &str) -> Vec<PathBuf> {
    let root = Path::new(CAPTURES);
    if !root.is_dir() {
        skipped(test, &format!("no captures in {}", root.display()));
        return Vec::new();
    }
    let list = |path: &Path| -> Vec<PathBuf> {
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let mut files: Vec<_> =
        list(root).iter().filter(|path| path.is_dir()).flat_map(|path| list(path)).collect();
    files.sort();
    files
}

fn can_run_programs(test: &str) -> bool {
    let can = is_root() && object_is_embedded();
    if !can {
        skipped(test, "needs root and the kernel programs");
    }
    can
}

/// The report of `files`, without the one field that only the kernel fills: when a record was last sent to the agent.
fn report<E: Engine>(files: &[PathBuf], engine: E) -> Result<Report, ReplayError> {
    let Files::Captures(files) = open_all(files)? else { panic!("a capture was taken for a flow log") };
    let (mut report, _) = replay(files, engine)?;
    for (_, record) in &mut report.flows {
        record.reported_ns = 0;
    }
    Ok(report)
}

#[test]
fn every_capture_is_accounted_exactly_or_refused() {
    for file in captures("every_capture_is_accounted_exactly_or_refused") {
        match report(std::slice::from_ref(&file), HostEngine::default()) {
            Ok(report) => {
                assert!(report.balances(), "{}: {:?}", file.display(), report.summary);
                assert_eq!(report.summary.lost, 0, "{}", file.display());
            }
            Err(error) => assert!(error.to_string().contains("hint"), "{error}"),
        }
    }
}

#[test]
fn host_and_kernel_agree_record_by_record() {
    const TEST: &str = "host_and_kernel_agree_record_by_record";
    if !can_run_programs(TEST) {
        return;
    }
    // One stream of all captures: loading the programs anew for each would take minutes.
    let mut files = captures(TEST);
    files.retain(|file| report(std::slice::from_ref(file), HostEngine::default()).is_ok());
    let host = report(&files, HostEngine::with_capacity(CAPACITY)).unwrap();
    let kernel = report(&files, KernelEngine::with_capacity(CAPACITY as u32).unwrap()).unwrap();
    assert_eq!(host.summary, kernel.summary);
    assert!(kernel.balances());
    assert_eq!(host.flows.len(), kernel.flows.len());
    for (host, kernel) in host.flows.iter().zip(&kernel.flows) {
        assert_eq!(host, kernel);
    }
}

/// A capture of `frames`, a microsecond apart, as a file that goes away with the directory.
fn written(directory: &Path, frames: &[Vec<u8>]) -> PathBuf {
    let mut bytes = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1].map(u32::to_le_bytes).concat();
    for (index, frame) in frames.iter().enumerate() {
        let length = frame.len() as u32;
        bytes.extend([7, index as u32, length, length].map(u32::to_le_bytes).concat());
        bytes.extend(frame);
    }
    let path = directory.join("frames.pcap");
    fs::write(&path, bytes).unwrap();
    path
}

/// Ethernet, IPv4, UDP from port `source`, `length` bytes in all.
fn udp(source: u16, length: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    frame.extend(((length - 14).min(65_535) as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend(source.to_be_bytes());
    frame.extend([0, 53, 0, 0, 0, 0]);
    frame.resize(length, 0);
    frame
}

#[test]
fn a_full_table_folds_the_same_packets_in_both_engines() {
    if !can_run_programs("a_full_table_folds_the_same_packets_in_both_engines") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let frames: Vec<_> = (0..900).map(|packet| udp(packet % 300, 60)).collect();
    let files = [written(directory.path(), &frames)];
    let host = report(&files, HostEngine::with_capacity(100)).unwrap();
    let kernel = report(&files, KernelEngine::with_capacity(100).unwrap()).unwrap();
    assert_eq!((host.summary.in_flows, host.summary.folded), (300, 600));
    assert_eq!(host, kernel);
}

#[test]
fn frames_at_the_limits_of_the_test_run_are_treated_alike() {
    if !can_run_programs("frames_at_the_limits_of_the_test_run_are_treated_alike") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut frames: Vec<_> = [60, 1_514, 3_520, 3_521, 9_014, 65_549, 73_152, 73_153]
        .into_iter()
        .enumerate()
        .map(|(source, length)| udp(source as u16, length))
        .collect();
    frames.extend([vec![], vec![2; 13], udp(9, 60)[..14].to_vec()]);
    // A header that lies beyond the first buffer of a long frame: six options headers of 2,048 bytes.
    let mut deep = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0x40, 0, 0, 64];
    deep.resize(54, 1);
    for next in [60, 60, 60, 60, 60, 17] {
        deep.extend([next, 255]);
        deep.resize(deep.len() + 2_046, 0);
    }
    deep.resize(16_384 + 54, 0);
    frames.push(deep);
    // A super-packet that was captured before its length was known.
    let mut unsized_packet = udp(20, 1_514);
    unsized_packet[16..18].fill(0);
    frames.push(unsized_packet);
    let files = [written(directory.path(), &frames)];
    let host = report(&files, HostEngine::with_capacity(CAPACITY)).unwrap();
    let kernel = report(&files, KernelEngine::with_capacity(CAPACITY as u32).unwrap()).unwrap();
    assert_eq!(host, kernel);
    let unparsed = &host.summary.unparsed;
    assert_eq!(
        (unparsed["frame_too_short"], unparsed["frame_too_long"], unparsed["truncated_ip"]),
        (2, 1, 1)
    );
    assert_eq!((host.summary.in_flows, unparsed["truncated_extension"]), (8, 1));
}
