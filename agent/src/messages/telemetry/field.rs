//! The model of one numeric field: level, steps, slopes, range and repeats, and what does not fit them.
//!
//! A field is judged by how it differs from its own last values, so a daily cycle is no matter; range and repeats are learned over
//! a whole learning period. One that only grows, as meters and clocks do, is judged by its increments. Whatever hardly changed
//! is not judged: nothing is known of how it varies. Times are milliseconds of the wall clock.

#![allow(clippy::float_cmp, reason = "a value repeats only when it is the very same")]

use serde::{Deserialize, Serialize};

use super::{Learning, Sign, range::Range, recent::Recent, spread::Spread, units};

/// Changes from which on a field is judged, or taken for a meter.
const ENOUGH_CHANGES: u32 = 20;
/// Values before a field is taken for a meter.
const ENOUGH_VALUES: u32 = 64;
/// A meter falls at most once in so many changes.
const RISES: u32 = 50;
/// A step is odd above this many times the largest learned one …
const STEP_MOST: f64 = 3.0;
/// … and this many times the mean one.
const STEP_MEAN: f64 = 8.0;
/// The same for slopes.
const SLOPE_MOST: f64 = 2.5;
const SLOPE_MEAN: f64 = 8.0;
/// Intervals that a step may be stretched by when messages were missing. After more the last values say nothing; then the range
/// does, with this part of its span as a margin.
const STRETCH: f64 = 12.0;
const MARGIN: f64 = 0.25;
/// A value is stuck after this many times the longest learned run …
const RUN_MOST: u32 = 6;
/// … and so many messages at least.
const RUN_LEAST: u32 = 12;
/// The longest run that is learned grows by so much at a time, in percent.
const RUN_GROWTH: u32 = 25;
/// Times that a meter may begin anew within [`RESETS_OVER`] values: devices restart.
const RESETS: u32 = 3;
const RESETS_OVER: u32 = 256;
/// Weight of an interval in the mean one, once there are many.
const PERIOD_WEIGHT: f64 = 1.0 / 64.0;

/// What does not fit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Oddity {
    pub(super) sign: Sign,
    /// In words, without the field's name.
    pub(super) detail: String,
}

/// One field's model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Numbers {
    seen: u32,
    changes: u32,
    falls: u32,
    since_ms: u64,
    /// Learning is over.
    is_ready: bool,
    /// It only grows, and is judged by its increments.
    is_meter: bool,
    /// It was taken for a meter once and is none.
    is_no_meter: bool,
    /// Times lately that the meter began anew, and values since.
    resets: u32,
    since_reset: u32,
    last: f64,
    last_ms: u64,
    period_ms: f64,
    run: u32,
    run_since_ms: u64,
    longest_run: u32,
    recent: Recent,
    range: Range,
    steps: Spread,
    slopes: Spread,
}

/// A value beside what it is compared with.
struct View {
    /// The value, or a meter's increment an interval.
    value: f64,
    /// What was expected.
    level: f64,
    /// Intervals since the last value, 1 to [`STRETCH`].
    stretch: f64,
    /// Longer: the level is of another time.
    is_late: bool,
}

impl Numbers {
    /// How a value looks; `None` where a meter begins, or begins anew.
    fn view(&self, found: f64, now_ms: u64) -> Option<View> {
        let gap = now_ms.saturating_sub(self.last_ms) as f64;
        let intervals = if self.period_ms > 0.0 { (gap / self.period_ms).max(1.0) } else { 1.0 };
        let value = match self.is_meter {
            true if self.seen == 0 || found < self.last => return None,
            true => (found - self.last) / intervals,
            false => found,
        };
        let level = self.recent.level().unwrap_or(value);
        // A meter's increment was divided by what passed already.
        let stretch = if self.is_meter { 1.0 } else { intervals.min(STRETCH) };
        Some(View { value, level, stretch, is_late: stretch >= STRETCH })
    }

    /// The number that goes into the joint model; `None` where a meter begins anew.
    pub(super) fn signal(&self, found: f64, now_ms: u64) -> Option<f64> {
        self.view(found, now_ms).map(|view| view.value)
    }

    /// Whether enough is known of how it varies.
    pub(super) const fn is_judged(&self) -> bool {
        self.is_ready && self.changes >= ENOUGH_CHANGES
    }

    /// What does not fit about a value; changes nothing.
    pub(super) fn judge(&self, found: f64, now_ms: u64) -> Option<Oddity> {
        if !self.is_judged() {
            return None;
        }
        let view = self.view(found, now_ms)?;
        self.judge_step(&view).or_else(|| self.judge_slope(&view)).or_else(|| self.judge_run(found, now_ms))
    }

    fn judge_step(&self, view: &View) -> Option<Oddity> {
        let &View { value, level, stretch, is_late } = view;
        let (noise, usual) = (self.steps.most, self.range);
        let allowed = (STEP_MOST * noise).max(STEP_MEAN * self.steps.mean) * stretch;
        let is_odd = if is_late {
            !usual.holds(value, MARGIN * usual.span() + STEP_MOST * noise)
        } else {
            (value - level).abs() > allowed
        };
        let what = if self.is_meter { "an increment of " } else { "" };
        let learned =
            || format!("learned were {} to {}, steps up to {}", n(usual.low), n(usual.high), n(noise));
        let (sign, detail) = if is_odd && let Some(change) = units::change(level, value, noise) {
            let detail =
                format!("{what}{} after about {} looks like another unit ({change})", n(value), n(level));
            (Sign::UnitJump, detail)
        } else if is_odd && !usual.holds(value, 0.0) {
            (Sign::Spike, format!("{what}{} after about {}; {}", n(value), n(level), learned()))
        } else if is_odd {
            (Sign::Rate, format!("{what}{} after about {} is too fast; {}", n(value), n(level), learned()))
        } else if !usual.holds(value, usual.span() + STEP_MOST * noise) {
            (Sign::Range, format!("{what}{} is far outside; {}", n(value), learned()))
        } else {
            return None;
        };
        Some(Oddity { sign, detail })
    }

    fn judge_slope(&self, view: &View) -> Option<Oddity> {
        if self.is_meter || view.stretch > 2.0 || self.slopes.count == 0 {
            return None;
        }
        let slope = self.recent.slope_with(view.value)?.abs();
        let allowed = (SLOPE_MOST * self.slopes.most).max(SLOPE_MEAN * self.slopes.mean);
        (slope > allowed).then(|| Oddity {
            sign: Sign::Rate,
            detail: format!(
                "moved by {} in a few messages; learned were up to {}",
                n(slope),
                n(self.slopes.most)
            ),
        })
    }

    fn judge_run(&self, found: f64, now_ms: u64) -> Option<Oddity> {
        let run = if found == self.last { self.run.saturating_add(1) } else { 1 };
        let allowed = self.longest_run.saturating_mul(RUN_MOST).max(RUN_LEAST);
        let lasted_ms = now_ms.saturating_sub(self.run_since_ms);
        // The same message sent again and again within moments is no sensor that is stuck.
        let lasts = lasted_ms as f64 >= self.period_ms * f64::from(allowed) / 2.0;
        (run > allowed && lasts).then(|| Oddity {
            sign: Sign::Stuck,
            detail: format!(
                "{} in {run} messages over {} s; learned were at most {} in a row",
                n(found),
                lasted_ms / 1_000,
                self.longest_run
            ),
        })
    }

    /// Takes in a value that was judged normal, or that there was nothing to judge by yet. Whether it is learned anew from here on,
    /// as a meter or as none.
    pub(super) fn take(&mut self, found: f64, now_ms: u64, learning: &Learning) -> bool {
        if self.seen == 0 {
            self.since_ms = now_ms;
        }
        let view = self.view(found, now_ms);
        match &view {
            Some(view) => self.compare(view, found, now_ms),
            None => self.resets += u32::from(self.seen > 0),
        }
        self.since_reset = if view.is_some() { self.since_reset.saturating_add(1) } else { 0 };
        if self.since_reset > RESETS_OVER {
            self.resets = 0;
        }
        self.advance(found, now_ms);
        if let Some(view) = view {
            if view.is_late {
                self.recent.clear();
            }
            self.recent.push(view.value);
        }
        if let Some(slope) = self.recent.slope().map(f64::abs) {
            if self.is_ready {
                self.slopes.follow(slope, now_ms);
            } else {
                self.slopes.learn(slope);
            }
        }
        let is_new = self.choose();
        let has_seen = self.seen >= learning.messages;
        if !self.is_ready && has_seen && now_ms.saturating_sub(self.since_ms) >= learning.period_ms {
            self.is_ready = true;
            self.longest_run = self.longest_run.max(self.run);
        }
        is_new
    }

    fn compare(&mut self, view: &View, found: f64, now_ms: u64) {
        let step = (view.value - view.level).abs();
        if self.is_ready {
            if !view.is_late {
                self.steps.follow(step / view.stretch, now_ms);
            }
            self.range.follow(view.value, now_ms);
            if found != self.last && self.run > self.longest_run {
                let most = self.longest_run + self.longest_run * RUN_GROWTH / 100 + 1;
                self.longest_run = self.run.min(most);
            }
            return;
        }
        let is_odd = self.seen > 0 && !view.is_late && self.steps.learn(step / view.stretch);
        if !is_odd {
            self.range.learn(view.value);
        }
        if self.seen > 0 && found != self.last {
            self.longest_run = self.longest_run.max(self.run);
        }
    }

    fn advance(&mut self, found: f64, now_ms: u64) {
        if self.seen > 0 {
            let gap = now_ms.saturating_sub(self.last_ms) as f64;
            self.period_ms += (gap - self.period_ms) * PERIOD_WEIGHT.max(1.0 / f64::from(self.seen));
        }
        if self.seen > 0 && found == self.last {
            self.run = self.run.saturating_add(1);
        } else {
            self.changes = self.changes.saturating_add(u32::from(self.seen > 0));
            self.falls = self.falls.saturating_add(u32::from(self.seen > 0 && found < self.last));
            self.run = 1;
            self.run_since_ms = now_ms;
        }
        self.seen = self.seen.saturating_add(1);
        self.last = found;
        self.last_ms = now_ms;
    }

    /// Whether it is a meter; where that changes, everything is learned anew.
    fn choose(&mut self) -> bool {
        let grows = self.changes >= ENOUGH_CHANGES && self.falls.saturating_mul(RISES) <= self.changes;
        if self.is_meter && self.resets > RESETS {
            *self = Self { is_no_meter: true, ..Self::default() };
            true
        } else if !self.is_meter && !self.is_no_meter && !self.is_ready && self.seen >= ENOUGH_VALUES && grows
        {
            let (last, last_ms, since_ms, period_ms) =
                (self.last, self.last_ms, self.since_ms, self.period_ms);
            *self = Self { is_meter: true, seen: 1, last, last_ms, since_ms, period_ms, ..Self::default() };
            true
        } else {
            false
        }
    }

    /// The message was odd: nothing is learned from it, but time goes on, and so do repeats and meters.
    pub(super) fn pass_by(&mut self, found: f64, now_ms: u64) {
        if self.is_meter {
            self.last = found;
        } else if found == self.last {
            self.run = self.run.saturating_add(1);
        }
        self.last_ms = now_ms;
    }

    /// Whether it is as [`Self::take`] leaves it.
    pub(super) fn is_sound(&self) -> bool {
        self.steps.is_sound()
            && self.slopes.is_sound()
            && self.range.is_sound()
            && self.recent.is_sound()
            && self.period_ms.is_finite()
            && self.last.is_finite()
    }
}

/// A number as people read it.
fn n(value: f64) -> String {
    let digits =
        if value.abs() < 1e-3 || value.abs() >= 1e9 { format!("{value:.3e}") } else { format!("{value:.3}") };
    if value == 0.0 { "0".to_owned() } else { digits }
}
