//! Prints of TLS in recordings of real devices, beside what Wireshark 4.0 says of the same frames.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed run is the test's failure; a skip is said aloud"
)]

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    path::Path,
};

use super::{
    packets::{Measured, Meter, Times},
    protected::Protected,
};
use crate::{
    identity::{Heard, Names},
    replay::capture::{self, CaptureError, Captured},
};

const CAPTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/captures");

type Counts = BTreeMap<String, u64>;

/// Hellos by JA3, and answers by JA3S.
fn prints(path: &Path) -> (Counts, Counts, Vec<String>) {
    let (mut meter, mut names) = (Meter::default(), Names::default());
    let (mut devices, mut protected) = (HashMap::new(), Protected::default());
    let mut servers = Counts::new();
    let each = |captured: Captured<'_>| -> Result<(), CaptureError> {
        let now_ns = captured.time_ns;
        let times = Times { now_ns, window_ns: 30_000_000_000, active_timeout_ns: 30_000_000_000 };
        for measured in meter.frame(captured.frame, times, &mut protected, &mut devices) {
            let Measured::Sample(sample) = measured else { continue };
            if let Some(Heard::Tls(connection)) = names.observe(&sample, now_ns) {
                *servers.entry(connection.server.ja3s).or_default() += 1;
            }
        }
        Ok(())
    };
    capture::read(File::open(path).unwrap(), each).unwrap();
    let found: Vec<_> = devices.keys().flat_map(|device| names.prints(*device)).collect();
    let clients = found.iter().map(|print| (print.ja3.clone(), print.count)).collect();
    (clients, servers, found.into_iter().filter_map(|print| print.sni).collect())
}

#[test]
fn prints_of_recorded_devices_are_wiresharks() {
    let captures = Path::new(CAPTURES);
    if !captures.exists() {
        println!("SKIPPED prints_of_recorded_devices_are_wiresharks: {CAPTURES} is not here");
        return;
    }
    let counts =
        |list: &[(&str, u64)]| list.iter().map(|(hash, count)| ((*hash).to_owned(), *count)).collect();
    for (file, clients, servers, sni) in [
        (
            "iot-benign/aucad__iot-sentinel_WeMoLink_Setup-C-1-STA.pcap",
            &[("146c6a6537ba4cc22d874bf8ff346144", 13)][..],
            &[("91589ea825a2ee41810c85fab06d2ef6", 13)][..],
            &["api.xbcs.net"][..],
        ),
        (
            "iot-benign/aucad__iot-sentinel_D-LinkHomeHub_Setup-C-2-STA.pcap",
            &[("03219efe210c7d362ae83b2f96a1e6a4", 8), ("06b704c8ff61b9b37e5bacf2e8d0b37a", 5)],
            &[
                ("39f74f5618836d3c5f7dcccc9f67ba75", 3),
                ("9e4af711131ebfb2a0cff53c4f2d64e6", 1),
                ("c6cb99af55db43d25801874e49db788a", 2),
                ("ccc514751b175866924439bdbb5bba34", 2),
                ("fbe78c619e7ea20046131294ad087f05", 5),
            ],
            &[],
        ),
        (
            "iot-benign/aucad__iot-sentinel_TP-LinkPlugHS110_Setup-C-1-STA.pcap",
            &[("cc847787e1803cc91adeecfc721d1fc9", 1)],
            &[("39f74f5618836d3c5f7dcccc9f67ba75", 1)],
            &[],
        ),
        (
            "protocols/seladb__Tests_Pcap_Test_PcapExamples_IgmpPackets.pcap",
            &[("9a35e493f961ac377f948690b5334a9c", 1)],
            &[("18e962e106761869a61045bed0e81c2c", 1)],
            &["chmuthu-w7-tst3"],
        ),
    ] {
        let found = prints(&captures.join(file));
        assert_eq!((found.0, found.1), (counts(clients), counts(servers)), "{file}");
        assert_eq!(found.2, sni, "{file}");
    }
}
