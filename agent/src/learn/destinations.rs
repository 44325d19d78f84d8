//! Whom a device talks to: destinations first seen after its baseline, and whether they look like command and control or
//! like a place that data is carried off to.
//!
//! Regular contact is only looked for with hosts outside; name, time and discovery services are regular by nature. A gap
//! that the baseline already knows on the same port is a service that moved, not a beacon. Who cannot reach its host tries in
//! bursts: then the bursts have the beat, not the tries.

use std::{collections::VecDeque, net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use tidegate_common::{device::DeviceKey, parse::proto};

use super::{
    config::RuleConfig,
    contact::Contact,
    finding::{Finding, Subject},
    rules::{MILLI_NS, SECOND_NS, finding, forget, is_chatty, is_traceroute, seconds},
    services::MANY_HOSTS,
    technique::Technique,
};

const MAX_DESTINATIONS: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();
const MAX_STARTS: usize = 16;
/// Connections begun within these times of each other are one contact: a client's parallel ones, and those of one that tries
/// again and again for a while.
const BURSTS_NS: [u64; 3] = [250 * MILLI_NS, 10 * SECOND_NS, 60 * SECOND_NS];
/// How many times longer than a burst the gap between two must be.
const BURSTS_APART: u64 = 3;
/// Confidence in what such a device may honestly do, and in what others fetch from a device: it needs a second sign.
const DOUBTFUL_SCORE: f64 = 0.55;
/// Bytes are added up over this long.
const VOLUME_NS: u64 = 3_600 * SECOND_NS;
/// Packets a second from which on a large upload over UDP that nobody answers is a flood.
const THROWN_PPS: u32 = 500;
/// How far two gaps may differ to be the same habit.
const HABIT_TOLERANCE: f64 = 0.25;

/// A regular contact that belongs to the baseline: port and mean gap.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Habit {
    /// Port at the destination.
    pub port: u16,
    /// Mean gap between contacts, in milliseconds.
    pub gap_ms: u64,
}

#[derive(Debug, Default)]
struct Destination {
    /// Beginnings of contacts by grouping.
    starts: [VecDeque<u64>; BURSTS_NS.len()],
    last_ns: u64,
    volume_ns: u64,
    bytes_out: u64,
    bytes_in: u64,
}

/// Contacts of all devices by destination and port; bytes by destination under port 0.
pub(super) struct Destinations {
    by_port: LruCache<(DeviceKey, IpAddr, u16), Destination>,
}

/// What a device's baseline says of its contacts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past<'a> {
    pub(super) habits: &'a [Habit],
    /// Hosts that it talked to.
    pub(super) hosts: usize,
}

/// Mean and relative deviation of gaps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rhythm {
    pub(super) gap_ns: f64,
    jitter: f64,
}

impl Destinations {
    pub(super) fn new() -> Self {
        Self { by_port: LruCache::new(MAX_DESTINATIONS) }
    }

    /// Forgets contacts and volumes of which either end is meant.
    pub(super) fn forget(&mut self, about: &impl Fn(&Subject) -> bool) {
        forget(&mut self.by_port, |(device, destination, _)| {
            about(&Subject::Device(*device)) || about(&Subject::Remote(*destination))
        });
    }

    /// A device begins a flow with a host outside.
    pub(super) fn started(&mut self, device: DeviceKey, contact: &Contact<'_>) {
        if is_regular_by_nature(contact) {
            return;
        }
        let entry =
            self.by_port.get_or_insert_mut((device, contact.victim, contact.port), Destination::default);
        let pause_ns = contact.now_ns.saturating_sub(entry.last_ns);
        for (starts, burst_ns) in entry.starts.iter_mut().zip(BURSTS_NS) {
            // Between bursts there is silence; tries at all sorts of distances are none.
            if burst_ns > BURSTS_NS[0] && (burst_ns..burst_ns * BURSTS_APART).contains(&pause_ns) {
                starts.clear();
            }
            if starts.is_empty() || pause_ns > burst_ns {
                if starts.len() == MAX_STARTS {
                    starts.pop_front();
                }
                starts.push_back(contact.now_ns);
            }
        }
        entry.last_ns = contact.now_ns;
    }

    /// Whether the flow just begun makes the contacts with its destination a beacon.
    pub(super) fn beacon(
        &self,
        config: &RuleConfig,
        device: DeviceKey,
        contact: &Contact<'_>,
        past: Past<'_>,
    ) -> Option<Finding> {
        if is_regular_by_nature(contact) {
            return None;
        }
        let entry = self.by_port.peek(&(device, contact.victim, contact.port))?;
        let enough = (config.beacon_contacts as usize).clamp(3, MAX_STARTS);
        entry.starts.iter().find_map(|starts| {
            let first_ns = starts.len().checked_sub(enough).and_then(|first| starts.get(first).copied())?;
            let rhythm = rhythm(starts.iter().copied().skip(starts.len() - enough))?;
            beacon(config, contact, past, rhythm, enough as u64, first_ns)
        })
    }

    /// Whether the packets of one UDP flow come as regularly as a beacon's.
    pub(super) fn udp_beacon(config: &RuleConfig, contact: &Contact<'_>, past: Past<'_>) -> Option<Finding> {
        let out = &contact.record.out;
        if contact.protocol != proto::UDP
            || is_regular_by_nature(contact)
            || out.packets < u64::from(config.beacon_contacts)
        {
            return None;
        }
        // Gaps are squared in ticks of 1,024 ns.
        let gaps = (out.packets - 1) as f64;
        let mean_ticks = out.iat_mean_ns() as f64 / 1_024.0;
        let variance = (out.iat_sum_sq as f64 / gaps - mean_ticks * mean_ticks).max(0.0);
        let rhythm =
            Rhythm { gap_ns: out.iat_mean_ns() as f64, jitter: variance.sqrt() / mean_ticks.max(1.0) };
        beacon(config, contact, past, rhythm, out.packets, out.first_ns)
    }

    /// Adds what a flow carried since it was last looked at; the destination's volume out and in within the hour.
    pub(super) fn carried(
        &mut self,
        device: DeviceKey,
        destination: IpAddr,
        sent: u64,
        received: u64,
        now_ns: u64,
    ) -> (u64, u64) {
        let entry = self.by_port.get_or_insert_mut((device, destination, 0), Destination::default);
        if now_ns.saturating_sub(entry.volume_ns) > VOLUME_NS {
            *entry = Destination { volume_ns: now_ns, ..Destination::default() };
        }
        entry.bytes_out = entry.bytes_out.saturating_add(sent);
        entry.bytes_in = entry.bytes_in.saturating_add(received);
        (entry.bytes_out, entry.bytes_in)
    }

    /// The regular contacts of `device` so far, for its baseline.
    pub(super) fn habits(&self, device: DeviceKey) -> Vec<Habit> {
        let mut habits: Vec<Habit> = Vec::new();
        for ((owner, _, port), entry) in &self.by_port {
            if *owner != device {
                continue;
            }
            for starts in entry.starts.iter().filter(|starts| starts.len() >= 4) {
                let regular = rhythm(starts.iter().copied()).filter(|rhythm| rhythm.jitter < 0.5);
                if let Some(rhythm) = regular
                    && habits.len() < 64
                {
                    habits.push(Habit { port: *port, gap_ms: (rhythm.gap_ns / MILLI_NS as f64) as u64 });
                }
            }
        }
        habits
    }
}

fn beacon(
    config: &RuleConfig,
    contact: &Contact<'_>,
    past: Past<'_>,
    rhythm: Rhythm,
    contacts: u64,
    first_ns: u64,
) -> Option<Finding> {
    if !is_beat(config, contact.port, past, rhythm) {
        return None;
    }
    let detail = format!(
        "{contacts} contacts with {} port {}, a host never seen in its baseline, every {:.1} s and only {:.0} % off the beat",
        contact.victim,
        contact.port,
        rhythm.gap_ns / SECOND_NS as f64,
        rhythm.jitter * 100.0
    );
    let is_web = contact.protocol == proto::TCP && is_web(contact);
    let score = if is_web && past.hosts >= MANY_HOSTS { DOUBTFUL_SCORE } else { 0.85 };
    Some(finding(contact, Technique::COMMAND_AND_CONTROL, "beacon", score, first_ns, detail))
}

const fn is_web(contact: &Contact<'_>) -> bool {
    match contact.protocol {
        proto::TCP => matches!(contact.port, 80 | 443),
        proto::UDP => contact.port == 443,
        _ => false,
    }
}

/// Whether contacts come as regularly as a beacon's and are no habit.
pub(super) fn is_beat(config: &RuleConfig, port: u16, past: Past<'_>, rhythm: Rhythm) -> bool {
    let shortest_ns = f64::from(config.beacon_min_gap_ms) * MILLI_NS as f64;
    let longest_ns = f64::from(config.beacon_max_gap_s) * SECOND_NS as f64;
    let gap_ms = rhythm.gap_ns / MILLI_NS as f64;
    let is_habit = past
        .habits
        .iter()
        .any(|habit| habit.port == port && (habit.gap_ms as f64 - gap_ms).abs() <= HABIT_TOLERANCE * gap_ms);
    !is_habit && rhythm.jitter <= config.beacon_jitter && (shortest_ns..=longest_ns).contains(&rhythm.gap_ns)
}

/// Whether a volume sent to a destination that the baseline does not know is out of all proportion. What somebody fetches from a device is
/// that host's doing.
pub(super) fn exfiltration(
    config: &RuleConfig,
    contact: &Contact<'_>,
    device: DeviceKey,
    destination: IpAddr,
    (sent, received): (u64, u64),
    (past, largest_upload): (Past<'_>, u64),
) -> Option<Finding> {
    let limit = (config.exfil_min_bytes as f64).max(largest_upload as f64 * config.exfil_baseline_factor);
    let one_sided = sent as f64 >= received as f64 * config.exfil_out_ratio;
    if (sent as f64) < limit || !one_sided {
        return None;
    }
    let first_ns = contact.record.first_ns();
    let detail = format!(
        "{:.1} MB sent to {destination}, a host never seen in its baseline, in {} and {:.1} MB received; its largest \
         upload before was {:.1} MB",
        megabytes(sent),
        seconds(first_ns, contact.now_ns),
        megabytes(received),
        megabytes(largest_upload)
    );
    // Whoever carries something off wants it to arrive; what nobody ever answers, packet after packet, is thrown at somebody.
    let record = contact.record;
    let took_ns = record.last_ns().saturating_sub(first_ns).max(1);
    let thrown = contact.protocol == proto::UDP
        && received == 0
        && u128::from(record.out.packets) * u128::from(SECOND_NS)
            >= u128::from(took_ns) * u128::from(THROWN_PPS);
    let (technique, rule) = if thrown {
        (Technique::NETWORK_FLOOD, "udp_flood")
    } else {
        (Technique::EXFILTRATION, "exfiltration")
    };
    let is_fetched = contact.ends.initiator.is_none();
    let is_doubtful = is_fetched || (!thrown && past.hosts >= MANY_HOSTS && is_web(contact));
    let score = if is_doubtful { DOUBTFUL_SCORE } else { 0.88 };
    let found = finding(contact, technique, rule, score, first_ns, detail);
    if is_fetched {
        return Some(found);
    }
    Some(Finding { subject: Subject::Device(device), victim: Some(destination), ..found })
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

pub(super) fn is_regular_by_nature(contact: &Contact<'_>) -> bool {
    !matches!(contact.protocol, proto::TCP | proto::UDP)
        || is_traceroute(contact)
        || (is_chatty(contact.protocol, contact.port) && contact.port != 443)
        || (contact.protocol == proto::TCP && matches!(contact.port, 53 | 853))
}

pub(super) fn rhythm(starts: impl Iterator<Item = u64>) -> Option<Rhythm> {
    let starts: Vec<u64> = starts.collect();
    let gaps: Vec<f64> = starts.windows(2).map(|pair| pair[1].saturating_sub(pair[0]) as f64).collect();
    if gaps.len() < 2 {
        return None;
    }
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / (gaps.len() - 1) as f64;
    (mean > 0.0).then(|| Rhythm { gap_ns: mean, jitter: variance.sqrt() / mean })
}
