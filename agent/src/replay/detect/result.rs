//! What a watch found, gathered for people and scripts.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use serde::Serialize;

use super::Watch;
use crate::{
    enforce::{Enforcement, Target},
    judge::{self, Judged},
    store::Incident,
};

/// An incident, with the addresses of whom it is about.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FoundIncident {
    /// The incident.
    #[serde(flatten)]
    pub incident: Incident,
    /// Addresses of the device that is to blame; empty for a host outside.
    pub addresses: Vec<IpAddr>,
    /// Seconds from the first evidence to the first finding.
    pub detect_s: f64,
}

/// A verdict that would have been in force.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FoundBlock {
    /// The verdict.
    #[serde(flatten)]
    pub enforcement: Enforcement,
    /// Addresses of the device.
    pub addresses: Vec<IpAddr>,
}

/// Everything found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detected {
    /// Incidents by id, which is in order of time.
    pub incidents: BTreeMap<String, FoundIncident>,
    /// Verdicts in order of time.
    pub blocks: Vec<FoundBlock>,
}

/// The counts of everything found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Packets of the recordings that were watched, without those that were learned from.
    pub packets: u64,
    /// Packets among them that stand in no Ethernet frame: their link layer is not read, or its header is broken.
    pub unframed: u64,
    /// Flows of logs among the recordings.
    pub flows: u64,
    /// Devices known at the end.
    pub devices: usize,
    /// Hosts with public addresses taken for devices because a DNS resolver answered them.
    pub taken_for_devices: usize,
    /// Devices with a baseline at the end.
    pub baselines: usize,
    /// Findings in what was to be learned: each made its device start over.
    pub learning_findings: u64,
    /// Incidents.
    pub incidents: usize,
    /// Verdicts.
    pub blocks: usize,
    /// When the recording ended.
    pub until: Option<Timestamp>,
}

impl Detected {
    /// Takes what `watch` judged since the last time.
    pub fn gather(&mut self, watch: &mut Watch) {
        for judged in watch.take_judged() {
            self.add(watch, judged);
        }
    }

    fn add(&mut self, watch: &Watch, judged: Judged) {
        let Judged { decision, incident, report, .. } = judged;
        let addresses = addresses(watch, &decision.target);
        let finding = &decision.finding;
        let detect_s = finding.at_ns.saturating_sub(finding.first_ns) as f64 / 1e9;
        self.incidents
            .entry(incident.id.clone())
            .and_modify(|known| known.incident = incident.clone())
            .or_insert(FoundIncident { incident, addresses: addresses.clone(), detect_s });
        let installed =
            report.into_iter().flat_map(|report| report.changes).filter(|record| record.state.is_live());
        self.blocks
            .extend(installed.map(|enforcement| FoundBlock { enforcement, addresses: addresses.clone() }));
    }
}

fn addresses(watch: &Watch, target: &Target) -> Vec<IpAddr> {
    let own = |target: Target| match target {
        Target::Address(address) => Some(address),
        _ => None,
    };
    match target {
        Target::Device(_) => judge::aliases(watch.registry(), target).into_iter().filter_map(own).collect(),
        _ => Vec::new(),
    }
}
