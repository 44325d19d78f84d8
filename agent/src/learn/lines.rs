//! Orders over one connection that stays open: regular contact is not only call after call.
//!
//! Two shapes. A chat line (IRC) of a device whose baseline has none: botnets are led over it, things of a household do not chat.
//! And a line to a host or port that the baseline does not know, over which the same few bytes go at the same pace: that is how
//! malware waits for orders, and how cloud services keep their lines open, too. So the second is a sign that is reported once a
//! line and acted on only together with another. The pace is read off the kernel's reports: a line that is quiet for longer
//! than the active timeout is reported with each beat, a busier one with every so manieth.

use std::{collections::VecDeque, num::NonZeroUsize};

use lru::LruCache;
use tidegate_common::{flow::FlowKey, parse::proto};

use super::{
    config::RuleConfig,
    contact::Contact,
    destinations::{Past, is_beat, is_regular_by_nature, rhythm},
    finding::{Finding, Subject},
    rules::{Outcome, SECOND_NS, finding, forget, is_local, outcome},
    technique::Technique,
};

const MAX_LINES: NonZeroUsize = NonZeroUsize::new(2_048).unwrap();
/// Reports remembered of one line.
const MAX_BEATS: usize = 16;
/// Payload in both directions between two reports up to which a line only waits.
const FEW_BYTES: u64 = 2_048;
/// By how much one report may tell more than another: by this part of it and by some bytes.
const ALIKE_PART: u64 = 4;
const ALIKE_BYTES: u64 = 32;
const CHAT_CONFIDENCE: f64 = 0.75;
const LINE_CONFIDENCE: f64 = 0.55;

/// A report of a line.
#[derive(Clone, Copy, Debug)]
struct Beat {
    at_ns: u64,
    /// Payload in both directions since the line began.
    payload: u64,
}

#[derive(Debug, Default)]
struct Line {
    beats: VecDeque<Beat>,
    said: bool,
}

/// The lines that devices keep open to what their baselines do not know.
pub(super) struct Lines {
    lines: LruCache<(Subject, FlowKey), Line>,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { lines: LruCache::new(MAX_LINES) }
    }

    /// Forgets the lines of some subjects.
    pub(super) fn forget(&mut self, about: &impl Fn(&Subject) -> bool) {
        forget(&mut self.lines, |(subject, _)| about(subject));
    }

    /// A line is still open, and something was said over it since the last such report; `past` is the device's.
    pub(super) fn kept_open(
        &mut self,
        config: &RuleConfig,
        key: &FlowKey,
        contact: &Contact<'_>,
        past: Past<'_>,
    ) -> Option<Finding> {
        if contact.protocol != proto::TCP
            || is_regular_by_nature(contact)
            || outcome(contact.protocol, contact.record) != Outcome::Answered
        {
            return None;
        }
        let line = self.lines.get_or_insert_mut((contact.subject, *key), Line::default);
        if line.beats.len() == MAX_BEATS {
            line.beats.pop_front();
        }
        let payload = contact.record.out.payload_bytes + contact.record.inward.payload_bytes;
        line.beats.push_back(Beat { at_ns: contact.now_ns, payload });
        // One fewer than of calls: what is said must be alike, too.
        let enough = (config.beacon_contacts as usize).saturating_sub(1).clamp(3, MAX_BEATS);
        let late = || line.beats.iter().skip(line.beats.len().saturating_sub(enough));
        if line.said || late().count() < enough {
            return None;
        }
        let told: Vec<u64> =
            late().zip(late().skip(1)).map(|(one, next)| next.payload.saturating_sub(one.payload)).collect();
        let (least, most) = (*told.iter().min()?, *told.iter().max()?);
        let waits = least > 0 && most <= FEW_BYTES && most - least <= least / ALIKE_PART + ALIKE_BYTES;
        let rhythm = rhythm(late().map(|beat| beat.at_ns))?;
        if !waits || !is_beat(config, contact.port, past, rhythm) {
            return None;
        }
        line.said = true;
        let first_ns = contact.record.first_ns();
        let detail = format!(
            "a connection to {} port {}, which its baseline does not know, is kept open for {:.0} min with {least} to {most} bytes \
             every {:.0} s",
            contact.victim,
            contact.port,
            contact.now_ns.saturating_sub(first_ns) as f64 / (60 * SECOND_NS) as f64,
            rhythm.gap_ns / SECOND_NS as f64,
        );
        Some(finding(
            contact,
            Technique::COMMAND_AND_CONTROL,
            "standing_line",
            LINE_CONFIDENCE,
            first_ns,
            detail,
        ))
    }
}

/// A device that never chatted is answered by a host outside where chat servers listen; `is_usual` tells whether its baseline
/// knows such a port.
pub(super) fn chat(contact: &Contact<'_>, is_usual: impl Fn(u16) -> bool) -> Option<Finding> {
    let talks = contact.protocol == proto::TCP
        && is_chat(contact.port)
        && !is_local(contact.victim)
        && contact.record.out.payload_bytes > 0
        && outcome(contact.protocol, contact.record) == Outcome::Answered;
    if !talks || CHAT_PORTS.iter().any(|port| is_usual(*port)) {
        return None;
    }
    let detail = format!(
        "it talks to a chat server (IRC), {} port {}; its baseline has no such thing, and botnets are led that way",
        contact.victim, contact.port
    );
    let first_ns = contact.record.first_ns();
    Some(finding(contact, Technique::COMMAND_AND_CONTROL, "chat", CHAT_CONFIDENCE, first_ns, detail))
}

/// IRC, with TLS (RFC 7194) and without (IANA, and by custom).
const CHAT_PORTS: [u16; 13] = [194, 994, 6660, 6661, 6662, 6663, 6664, 6665, 6666, 6667, 6668, 6669, 6697];

fn is_chat(port: u16) -> bool {
    CHAT_PORTS.contains(&port)
}

#[cfg(test)]
mod tests {
    use crate::learn::{
        learner::tests::{SENSOR, learned},
        testing::{End, MS, S, Script, inside, outside},
    };

    /// A connection over which `bytes` go there and back every `gap`.
    fn line(to: End, gap: u64, bytes: impl Fn(u64) -> u32) -> Script {
        let mut script = Script::default();
        let from = inside(SENSOR, 50_000);
        script.tcp(0, (from, to), (1, 90), (1, 90), 10 * MS, false);
        for beat in 1..20 {
            let size = bytes(beat);
            let at = beat * gap;
            script.packet(at, from, to, 6, 0x18, size).packet(at + 5 * MS, to, from, 6, 0x18, size);
        }
        script
    }

    fn found(mut script: Script) -> Vec<(&'static str, u64, f64)> {
        let found = learned().play(&mut script, 900 * S);
        found.iter().filter_map(|(at, finding)| Some((finding.rule?, at / S, finding.score))).collect()
    }

    #[test]
    fn a_line_kept_open_to_an_unknown_host_is_reported_once() {
        let found = found(line(outside(500, 8_000), 40 * S, |_| 12));
        assert!(matches!(found[..], [("standing_line", at, score)] if at <= 300 && score < 0.6), "{found:?}");
    }

    #[test]
    fn lines_that_are_used_or_known_are_not() {
        assert!(found(line(outside(500, 8_000), 40 * S, |beat| 20 + (beat * 7_919 % 900) as u32)).is_empty());
        assert!(found(line(outside(1, 8_883), 40 * S, |_| 12)).is_empty());
    }

    #[test]
    fn a_chat_server_is_no_place_for_a_sensor() {
        let found = found(line(outside(500, 6_667), 45 * S, |beat| 20 + (beat * 7_919 % 900) as u32));
        assert!(matches!(found[..], [("chat", at, score), ..] if at <= 60 && score >= 0.6), "{found:?}");
    }
}
