//! `tidegate replay --detect`: what a gateway would have found and done.

use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Serialize;

use super::{
    error::CliError,
    output::{Output, print, printable, table},
};
use crate::{
    config::Config,
    replay::{
        ReplayError,
        capture::{self, CaptureError},
        detect::{Counts, Detected, FoundBlock, FoundIncident, Protected, Watch, WatchError},
        flowlog::Entry,
        input::{self, CaptureFile, LogFile, Opened},
        link::Framer,
    },
};

/// What `--detect` is told.
pub(super) struct Settings<'a> {
    pub(super) files: &'a [PathBuf],
    pub(super) learn: &'a [PathBuf],
    pub(super) protected: &'a [IpNet],
    pub(super) config: Option<&'a Path>,
}

#[derive(Serialize)]
struct IncidentLine<'a> {
    incident: &'a FoundIncident,
}

#[derive(Serialize)]
struct BlockLine<'a> {
    block: &'a FoundBlock,
}

#[derive(Serialize)]
struct SummaryLine {
    summary: Counts,
}

/// Watches the files and prints what was found.
pub(super) fn run(settings: &Settings<'_>, output: Output) -> Result<(), CliError> {
    let config = match settings.config {
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    let every: Vec<PathBuf> = settings.learn.iter().chain(settings.files).cloned().collect();
    let progress = input::progress_of(&every);
    let open = |files: &[PathBuf]| -> Result<Vec<Opened>, ReplayError> {
        files.iter().map(|file| input::open(file, &progress)).collect()
    };
    // Every file is opened before any is watched: a refused one is refused at once.
    let (learn, files) = (open(settings.learn)?, open(settings.files)?);

    let mut watch = Watch::new(&config, Protected::new(settings.protected.to_vec()))?;
    let mut found = Detected::default();
    let mut counts = Counts::default();
    if !learn.is_empty() {
        watch.begin_learning();
        for file in learn {
            watch_file(&mut watch, file, &mut found, &mut Counts::default())?;
        }
        watch.finish_learning()?;
    }
    for file in files {
        watch_file(&mut watch, file, &mut found, &mut counts)?;
    }
    watch.finish()?;
    found.gather(&mut watch);
    drop(progress);

    counts.devices = watch.registry().len();
    counts.taken_for_devices = watch.protected().taken_for_devices();
    counts.baselines = watch.learner().status().filter(|device| device.model.is_some()).count();
    counts.learning_findings = watch.learning_findings();
    counts.incidents = found.incidents.len();
    counts.blocks = found.blocks.len();
    counts.until = Some(watch.now().wall);
    show(&found, counts, output)
}

fn watch_file(
    watch: &mut Watch,
    file: Opened,
    found: &mut Detected,
    counts: &mut Counts,
) -> Result<(), CliError> {
    match file {
        Opened::Log(log) => watch_log(watch, *log, found, counts),
        Opened::Capture(capture) => watch_capture(watch, capture, found, counts),
    }
}

/// Why a capture could not be watched.
enum Stopped {
    Capture(CaptureError),
    Watch(WatchError),
}

impl From<CaptureError> for Stopped {
    fn from(error: CaptureError) -> Self {
        Self::Capture(error)
    }
}

fn watch_capture(
    watch: &mut Watch,
    file: CaptureFile,
    found: &mut Detected,
    counts: &mut Counts,
) -> Result<(), CliError> {
    let CaptureFile { path, input } = file;
    let mut begun = false;
    let mut framer = Framer::default();
    let read = capture::read(input, |captured| {
        counts.packets += 1;
        let Ok(frame) = framer.ethernet(captured) else {
            counts.unframed += 1;
            return Ok(());
        };
        if !std::mem::replace(&mut begun, true) {
            watch.begin_file(captured.time_ns).map_err(Stopped::Watch)?;
        }
        watch.frame(captured.time_ns, frame).map_err(Stopped::Watch)?;
        found.gather(watch);
        Ok(())
    });
    match read {
        Ok(_) => Ok(()),
        Err(Stopped::Capture(cause)) => Err(ReplayError::Capture { path, cause }.into()),
        Err(Stopped::Watch(error)) => Err(error.into()),
    }
}

fn watch_log(
    watch: &mut Watch,
    mut file: LogFile,
    found: &mut Detected,
    counts: &mut Counts,
) -> Result<(), CliError> {
    let mut begun = false;
    while let Some(entry) = file.next_entry()? {
        if !std::mem::replace(&mut begun, true) {
            watch.begin_file(match &entry {
                Entry::Flow(flow) => flow.first_ns,
                Entry::Alert(alert) => alert.time_ns,
            })?;
        }
        match entry {
            Entry::Flow(flow) => {
                counts.packets = counts.packets.saturating_add(flow.packets());
                counts.flows += 1;
                watch.push(flow)?;
            }
            Entry::Alert(alert) => watch.alert(&alert)?,
        }
        found.gather(watch);
    }
    Ok(())
}

fn show(found: &Detected, counts: Counts, output: Output) -> Result<(), CliError> {
    if output.is_json() {
        for incident in found.incidents.values() {
            output.line(IncidentLine { incident }, |_| String::new())?;
        }
        for block in &found.blocks {
            output.line(BlockLine { block }, |_| String::new())?;
        }
        return output.line(SummaryLine { summary: counts }, |_| String::new());
    }
    let incidents = found.incidents.values().map(|found| {
        let incident = &found.incident;
        [
            incident.first_seen.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            incident.technique.clone(),
            who(&incident.subject, &found.addresses),
            incident.victim.map_or_else(|| "-".to_owned(), |victim| victim.to_string()),
            incident.evidence.to_string(),
            printable(&incident.explanation),
        ]
    });
    print(&table(
        ["FIRST SEEN", "TECHNIQUE", "SUBJECT", "VICTIM", "EVIDENCE", "WHAT WOULD HAVE BEEN DONE"],
        incidents,
        "no incident",
    ))?;
    let blocks = found.blocks.iter().map(|found| {
        let block = &found.enforcement;
        [
            block.installed_at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            who(&block.target.to_string(), &found.addresses),
            crate::enforce::names::action_name(block.action).to_owned(),
            block.level.map_or("-", crate::decide::level_name).to_owned(),
            block.rule.clone().unwrap_or_else(|| "model".to_owned()),
            block.technique.clone().unwrap_or_default(),
        ]
    });
    print("")?;
    print(&table(
        ["AT", "TARGET", "ACTION", "LEVEL", "RULE", "TECHNIQUE"],
        blocks,
        "nothing would have been blocked",
    ))?;
    if counts.unframed > 0 {
        print(&format!(
            "\n{} packets could not be watched: no Ethernet frame can be made of them (hint: `replay --flows` counts the reasons)",
            counts.unframed
        ))?;
    }
    if counts.taken_for_devices > 0 {
        print(&format!(
            "\nnobody has a private address: {} hosts that a DNS resolver answered were taken for devices (hint: `--protected PREFIX` names the networks behind the gateway)",
            counts.taken_for_devices
        ))?;
    }
    if counts.devices == 0 {
        print(
            "\nno host was taken for a device: none has a private address (hint: `--protected PREFIX` names the networks behind the gateway)",
        )?;
    }
    print(&format!(
        "\n{} packets watched, {} devices, {} with a baseline: {} incidents, {} verdicts",
        counts.packets - counts.unframed,
        counts.devices,
        counts.baselines,
        counts.incidents,
        counts.blocks
    ))
}

/// A device by its address where one is known: hardware addresses of logs are made up.
fn who(subject: &str, addresses: &[std::net::IpAddr]) -> String {
    match addresses.first() {
        Some(address) => format!("{subject} ({address})"),
        None => subject.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;

    #[test]
    fn a_log_that_begins_with_an_alert_is_of_its_time() {
        const ALERT: &str = r#"{"timestamp":"2026-05-04T10:00:00.000000+0000","event_type":"alert","src_ip":"192.168.1.7","src_port":40000,"dest_ip":"198.51.100.9","dest_port":80,"proto":"TCP","alert":{"signature":"test","severity":1}}"#;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("eve.json");
        std::fs::write(&path, format!("{ALERT}\n")).unwrap();
        let progress = input::progress_of(std::slice::from_ref(&path));
        let Opened::Log(log) = input::open(&path, &progress).unwrap() else {
            unreachable!("an alert is a line of a log")
        };
        let mut watch = Watch::new(&Config::default(), Protected::default()).unwrap();
        let mut found = Detected::default();
        watch_log(&mut watch, *log, &mut found, &mut Counts::default()).unwrap();
        let incident = found.incidents.values().next().unwrap();
        assert!(incident.incident.first_seen.to_string().starts_with("2026-05-04"), "{incident:?}");
    }
}
