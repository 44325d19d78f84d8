//! Kinds told from real captures of devices at set-up, beside what the captures' names say they are.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed capture is the test's failure; figures are told"
)]

use std::{collections::BTreeMap, fs::File, path::Path};

use tidegate::{
    config::Config,
    judge,
    kind::Kind,
    replay::{
        capture::{self, CaptureError},
        detect::{Protected, Watch, WatchError},
    },
};

const CAPTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/captures/iot-benign");

/// What the captures' names mean. Several kinds where a name leaves it open.
const LABELS: &[(&str, &[Kind])] = &[
    ("Aria", &[Kind::Scale]),
    ("Withings", &[Kind::Scale]),
    ("D-LinkCam", &[Kind::Camera]),
    ("D-LinkDayCam", &[Kind::Camera]),
    ("EdimaxCam", &[Kind::Camera]),
    ("EdnetCam", &[Kind::Camera]),
    ("blink-cam", &[Kind::Camera]),
    ("D-LinkDoorSensor", &[Kind::Sensor]),
    ("D-LinkSensor", &[Kind::Sensor]),
    ("D-LinkWaterSensor", &[Kind::Sensor]),
    ("D-LinkSiren", &[Kind::Siren]),
    ("D-LinkHomeHub", &[Kind::Hub]),
    ("EdnetGateway", &[Kind::Hub]),
    ("HueBridge", &[Kind::Hub]),
    ("HueSwitch", &[Kind::Hub, Kind::Plug]),
    ("Lightify", &[Kind::Hub]),
    ("MAXGateway", &[Kind::Hub]),
    ("WeMoLink", &[Kind::Hub]),
    ("sifely-hub", &[Kind::Hub]),
    ("HomeMaticPlug", &[Kind::Plug, Kind::Hub]),
    ("D-LinkSwitch", &[Kind::Plug]),
    ("EdimaxPlug", &[Kind::Plug]),
    ("TP-LinkPlug", &[Kind::Plug]),
    ("WeMoInsightSwitch", &[Kind::Plug]),
    ("WeMoSwitch", &[Kind::Plug]),
    ("SmarterCoffee", &[Kind::Appliance]),
    ("iKettle2", &[Kind::Appliance]),
];

#[derive(Debug)]
struct Failed(#[expect(dead_code, reason = "told when a test fails")] String);

impl From<CaptureError> for Failed {
    fn from(error: CaptureError) -> Self {
        Self(error.to_string())
    }
}

impl From<WatchError> for Failed {
    fn from(error: WatchError) -> Self {
        Self(error.to_string())
    }
}

/// The kind of the device that sent most in a capture, and why.
fn kind_in(path: &Path) -> Option<(Kind, f64, String)> {
    let mut watch = Watch::new(&Config::default(), Protected::default()).unwrap();
    let mut begun = false;
    capture::read(File::open(path).unwrap(), |captured| {
        if captured.link == capture::LINK_ETHERNET {
            if !std::mem::replace(&mut begun, true) {
                watch.begin_file(captured.time_ns)?;
            }
            watch.frame(captured.time_ns, captured.frame)?;
        }
        Ok::<(), Failed>(())
    })
    .unwrap();
    watch.finish().unwrap();
    let (device, record) = watch.devices().iter().max_by_key(|(_, record)| record.packets_out)?;
    let bytes = (record.bytes_out, record.bytes_in);
    let opinion = judge::kind_of(watch.registry(), watch.learner(), *device, bytes, watch.now())?;
    Some((opinion.kind, opinion.confidence, opinion.reasons.join("; ")))
}

#[test]
fn kinds_of_real_devices_are_seldom_wrong() {
    let Ok(entries) = std::fs::read_dir(CAPTURES) else {
        println!("SKIPPED kinds_of_real_devices_are_seldom_wrong: {CAPTURES} is absent");
        return;
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Some((_, kinds)) = LABELS.iter().find(|(label, _)| name.contains(label)) else { continue };
        let told = kind_in(&path);
        let outcome = match &told {
            Some((kind, ..)) if kinds.contains(kind) => "right",
            Some(_) => "wrong",
            None => "unknown",
        };
        *counts.entry(outcome).or_default() += 1;
        let told = told.map_or_else(
            || "-".to_owned(),
            |(kind, confidence, why)| format!("{} {confidence:.2} {why}", kind.name()),
        );
        println!("{outcome:8} {name}: {told}");
    }
    println!("{counts:?}");
    let of = |outcome: &str| counts.get(outcome).copied().unwrap_or(0);
    assert!(of("wrong") * 10 <= of("right") + of("wrong"), "{counts:?}");
    assert!(of("right") * 3 >= of("right") + of("wrong") + of("unknown"), "{counts:?}");
}
