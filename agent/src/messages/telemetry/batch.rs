//! Measurements of a topic on their way to the cloud: one by one up to a number, and summed up in any case.
//!
//! A batch that cannot be handed on stays and takes in what comes next; so it never grows beyond its bounds, and only the
//! single measurements beyond them are lost to their summary, counted.

use jiff::{SignedDuration, Timestamp};
use tidegate_wire::{Mark, Measurement, Summary, TelemetryReport};

use super::{payload::Reading, topic::Odd};

/// Bytes of single measurements in a batch, estimated: well below what the service takes in a message.
const MOST_BYTES: usize = 48 << 10;
/// Bytes of a number and what stands around it.
const NUMBER: usize = 25;
/// Longest explanation, in bytes.
const LONGEST_DETAIL: usize = 512;

/// What waits of a topic.
#[derive(Debug, Default)]
pub(super) struct Batch {
    from_ms: Option<u64>,
    to_ms: u64,
    fields: Vec<String>,
    measurements: Vec<Measurement>,
    summaries: Vec<Summary>,
    bytes: usize,
    left_out: u64,
}

impl Batch {
    /// Takes in a message. The first marked ones have room of their own.
    pub(super) fn add(&mut self, reading: &Reading, odd: Option<&Odd>, now_ms: u64, most: usize) {
        let from_ms = *self.from_ms.get_or_insert(now_ms);
        self.to_ms = now_ms;
        let mut values = vec![None; self.fields.len()];
        for (path, kind, value) in reading.leaves() {
            if !kind.is_number() {
                continue;
            }
            let known = self.fields.iter().position(|field| field == path);
            let place = known.unwrap_or_else(|| {
                self.fields.push(path.to_owned());
                self.summaries.push(Summary { count: 0, min: value, max: value, mean: 0.0, last: value });
                values.push(None);
                self.fields.len() - 1
            });
            values[place] = Some(value);
            // What is odd is told by itself and would spoil what is normal.
            if odd.is_none() {
                include(&mut self.summaries[place], value);
            }
        }
        let mark = odd.map(|odd| Mark {
            sign: odd.sign.name().to_owned(),
            field: odd.field.clone(),
            detail: odd.detail[..odd.detail.floor_char_boundary(LONGEST_DETAIL)].to_owned(),
        });
        let size = values.len() * NUMBER + mark.as_ref().map_or(NUMBER, |mark| mark.detail.len() + 256);
        let room = if mark.is_some() { 2 * most } else { most };
        if self.measurements.len() >= room || self.bytes + size > MOST_BYTES {
            self.left_out += 1;
            return;
        }
        self.bytes += size;
        self.measurements.push(Measurement { after_ms: now_ms.saturating_sub(from_ms), values, mark });
    }

    /// Since when something waits.
    pub(super) const fn since_ms(&self) -> Option<u64> {
        self.from_ms
    }

    /// What waits, and how many measurements are in the summary only. Nothing waits afterwards.
    pub(super) fn take(&mut self, device: &str, topic: &str) -> TelemetryReport {
        let Self { from_ms, to_ms, fields, measurements, mut summaries, left_out, .. } = std::mem::take(self);
        summaries.iter_mut().filter(|summary| summary.count > 0).for_each(|summary| {
            // The mean of finite numbers far apart lies between them, whatever rounding says.
            summary.mean = summary.mean.clamp(summary.min, summary.max);
        });
        TelemetryReport {
            device: device.to_owned(),
            topic: topic.to_owned(),
            from: wall(from_ms.unwrap_or(to_ms)).to_string(),
            to: wall(to_ms).to_string(),
            fields,
            measurements,
            summaries,
            left_out,
        }
    }
}

fn include(summary: &mut Summary, value: f64) {
    if summary.count == 0 {
        (summary.min, summary.max) = (value, value);
    }
    summary.count += 1;
    summary.min = summary.min.min(value);
    summary.max = summary.max.max(value);
    summary.mean += (value - summary.mean) / summary.count as f64;
    summary.last = value;
}

fn wall(ms: u64) -> Timestamp {
    let since = SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX));
    Timestamp::UNIX_EPOCH.checked_add(since).unwrap_or(Timestamp::MAX)
}
