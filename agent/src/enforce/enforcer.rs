//! The only writer of kernel verdicts.
//!
//! What a target's entry should be follows from three layers: a never-block entry, else the enforcement in force, else a bulk
//! list's prefix; to the latter two a device's profile is added. Every operation changes a layer and then settles the targets it concerns, so no sequence of operations
//! can leave a verdict on a never-block target. It does no IO but the tables', reads no clock and decides nothing.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use serde::Serialize;
use tidegate_common::verdict::{Config, Mode, Verdict};

use super::{
    confirm::{Reachability, Ruling, Trials},
    feeds::FedPrefixes,
    mirror::Mirror,
    never_block::{self, NeverBlock},
    order::{self, Order, Shape},
    pace::{HoldCause, Pace},
    profiles::Profiles,
    record::{Author, EnforceError, Enforcement, Notice, Now, Refusal, Report, State},
    settings::Settings,
    target::{TableError, Target, VerdictTable},
};
use crate::store::IdSource;

/// How often what happened, since the agent started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Enforcements installed.
    pub installed: u64,
    /// Enforcements ended, by state.
    pub ended: BTreeMap<&'static str, u64>,
    /// Orders refused, by [`Refusal::label`].
    pub refused: BTreeMap<&'static str, u64>,
    /// Differences between kernel and desired state.
    pub drift: u64,
}

/// An enforcement and its kernel entry.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) record: Enforcement,
    pub(super) verdict: Verdict,
}

/// Turns orders into kernel entries and keeps both in step.
#[derive(Debug)]
pub struct Enforcer<T> {
    pub(super) kernel: Mirror<T>,
    pub(super) settings: Settings,
    pub(super) live: HashMap<Target, Live>,
    pub(super) never_block: NeverBlock,
    pub(super) fed: FedPrefixes,
    pub(super) profiles: Profiles,
    pub(super) pace: Pace,
    pub(super) trials: Trials,
    pub(super) tally: Tally,
    pub(super) ids: IdSource,
}

impl<T: VerdictTable> Enforcer<T> {
    /// An enforcer that writes to `table`. `config` is what the kernel holds now, or the settings to begin with; the presence
    /// flags and the bulk-list slot in it are kept, so that bulk lists stay in force until they are loaded again.
    /// Nothing is written before [`Self::restore`] or the first order.
    pub fn new(table: T, settings: Settings, config: Config) -> Self {
        Self {
            kernel: Mirror::new(table, config),
            settings,
            live: HashMap::new(),
            never_block: NeverBlock::default(),
            fed: FedPrefixes::default(),
            profiles: Profiles::default(),
            pace: Pace::default(),
            trials: Trials::default(),
            tally: Tally::default(),
            ids: IdSource::from_process(),
        }
    }

    /// Takes over new settings; verdicts in force keep their expiry.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Writes the global settings; presence flags and bulk-list slot in `base` are ignored.
    pub fn set_config(&mut self, base: Config) -> Result<(), TableError> {
        self.kernel.set_config(base)
    }

    /// Switches between monitor, enforce and bypass.
    pub fn set_mode(&mut self, mode: Mode) -> Result<(), TableError> {
        self.kernel.set_mode(mode)
    }

    /// The settings the kernel has.
    pub const fn config(&self) -> Config {
        self.kernel.config()
    }

    /// The table behind it, to read.
    pub const fn table(&self) -> &T {
        self.kernel.table()
    }

    /// Enforcements in force, oldest first, with hits as of the last [`Self::sweep`].
    pub fn live(&self) -> Vec<Enforcement> {
        let mut records: Vec<_> = self.live.values().map(|live| live.record.clone()).collect();
        records.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        records
    }

    /// The enforcement in force on exactly `target`.
    pub fn get(&self, target: &Target) -> Option<&Enforcement> {
        self.live.get(target).map(|live| &live.record)
    }

    /// What happened since the start.
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Automatic verdicts on devices and on addresses within the last hour.
    pub fn blast_radius(&self, now: Now) -> (usize, usize) {
        self.pace.used(now.kernel_ns)
    }

    /// Carries out `order`, or says why not.
    pub fn apply(&mut self, order: Order, now: Now) -> Result<Report, EnforceError> {
        let result = self.try_apply(order, now);
        self.count_refusal(&result);
        result
    }

    fn try_apply(&mut self, order: Order, now: Now) -> Result<Report, EnforceError> {
        let target = order.target.canonical();
        let shape = Shape::of(&order, &target)?;
        self.never_block.refuse(&target, &order.aliases, &order.author)?;
        self.check_in_force(&target, shape, &order.author)?;
        let author = order.author.clone();
        let cuts = shape.cuts();
        if author.is_machine() {
            self.pace.check_hold(&target, order.technique.as_deref(), now.kernel_ns)?;
            if cuts {
                self.pace.check_cap(&target, &author, &self.settings, now.kernel_ns)?;
            }
        }
        let (ttl, strikes) = match author {
            Author::Automatic => {
                let strike = self.pace.next_strike(&target, now.kernel_ns);
                (Some(self.settings.ttl(order.ttl, strike)), strike)
            }
            // It lasts as long as the neighbour says: repeats are counted where they are seen.
            Author::Neighbour(_) => (Some(self.settings.ttl(order.ttl, 1)), 0),
            Author::Operator(_) | Author::System => (order.ttl, 0),
        };

        let on_trial = author.is_machine() && cuts && self.settings.confirm_s > 0;
        let state = if on_trial { State::Pending } else { State::Active };
        let id = self.ids.next(now.wall);
        let rate_pps = order.rate_pps.unwrap_or(self.settings.rate_pps);
        let record = order::record(
            order,
            target,
            shape,
            rate_pps,
            id,
            state,
            strikes,
            ttl.map(|ttl| now.wall_in(ttl)),
            now,
        );
        let expires_ns = ttl.map_or(u64::MAX, |ttl| now.kernel_in(ttl));
        let verdict = order::verdict(&record, expires_ns, now.kernel_ns);

        let mut report = Report::default();
        let hits = self.hits_of(&target)?;
        let replaced = self.live.insert(target, Live { record: record.clone(), verdict });
        if let Err(cause) = self.settle(&target) {
            match replaced {
                Some(before) => self.live.insert(target, before),
                None => self.live.remove(&target),
            };
            return Err(cause.into());
        }
        if let Some(mut before) = replaced {
            order::add_hits(&mut before.record, hits.as_ref(), now);
            self.trials.end(&target);
            report.changes.push(self.close(
                before.record,
                State::Replaced,
                "a newer verdict took its place",
                now,
            ));
        }
        if author == Author::Automatic {
            self.pace.strike(target, strikes, expires_ns, &self.settings, now.kernel_ns);
        }
        if author.is_machine() {
            if cuts {
                self.pace.count(&target, &author, now.kernel_ns);
            }
            if on_trial {
                self.trials.begin(target, now.kernel_ns);
            }
        } else {
            self.pace.lift_target(&target);
        }
        self.tally.installed += 1;
        report.changes.push(record);
        Ok(report)
    }

    /// Takes back what is in force on `target`; the detector leaves it alone for the cooldown.
    pub fn release(&mut self, target: &Target, who: &str, now: Now) -> Result<Report, EnforceError> {
        let target = target.canonical();
        let Some(live) = self.live.get(&target) else {
            let result = Err(Refusal::NotFound { target }.into());
            self.count_refusal(&result);
            return result;
        };
        let technique = live.record.technique.clone();
        let is_machine = live.record.author.is_machine();
        let report = self.end(&target, State::Released, &format!("released by {who}"), now)?;
        self.pace.forgive(&target);
        if is_machine {
            let cooldown = Duration::from_secs(self.settings.cooldown_s);
            self.pace.hold(target, technique, HoldCause::Released, cooldown, now.kernel_ns);
        }
        Ok(report)
    }

    /// Takes back every enforcement for which `which` holds.
    pub fn flush(
        &mut self,
        who: &str,
        which: impl Fn(&Enforcement) -> bool,
        now: Now,
    ) -> Result<Report, EnforceError> {
        let targets = self.targets(|live| which(&live.record));
        targets.iter().try_fold(Report::default(), |mut report, target| {
            report.merge(self.release(target, who, now)?);
            Ok(report)
        })
    }

    /// A probe of the gateway's own reachability has come back: confirms verdicts on trial, or takes the newest back.
    pub fn on_reachability(&mut self, reachable: Reachability, now: Now) -> Result<Report, EnforceError> {
        let window = Duration::from_secs(self.settings.confirm_s);
        let Ruling { confirmed, rolled_back, lost, not_ours } =
            self.trials.report(now.kernel_ns, reachable, window);
        let mut report = Report::default();
        let hold = Duration::from_secs(self.settings.hold_s);
        for target in rolled_back {
            let because = format!("the gateway lost {} after it", lost.join(", "));
            report.merge(self.end(&target, State::RolledBack, &because, now)?);
            self.pace.hold(target, None, HoldCause::RolledBack, hold, now.kernel_ns);
            report.notices.push(Notice::RolledBack { target, lost: lost.clone() });
        }
        if not_ours {
            self.pace.lift(HoldCause::RolledBack);
            report.notices.push(Notice::OutageNotOurs { lost });
        }
        report.changes.extend(confirmed.iter().filter_map(|target| self.confirm(target)));
        Ok(report)
    }

    /// Ends the trial of the verdict on `target`; `None` when it is on none.
    pub fn confirm(&mut self, target: &Target) -> Option<Enforcement> {
        self.trials.end(target);
        let record = &mut self.live.get_mut(target)?.record;
        (record.state == State::Pending).then(|| {
            record.state = State::Active;
            record.clone()
        })
    }

    /// Reads hits, removes what has expired, and confirms what no probe has judged.
    pub fn sweep(&mut self, now: Now) -> Result<Report, EnforceError> {
        for (target, verdict) in self.kernel.table().entries()? {
            if let Some(live) = self.live.get_mut(&target) {
                order::add_hits(&mut live.record, Some(&verdict), now);
            }
        }
        let mut report = Report::default();
        for target in self.targets(|live| !live.verdict.is_live(now.kernel_ns)) {
            report.merge(self.end(&target, State::Expired, "its time was over", now)?);
        }
        let window = Duration::from_secs(self.settings.confirm_s);
        let unjudged = self.trials.unjudged(now.kernel_ns, window);
        report.changes.extend(unjudged.iter().filter_map(|target| self.confirm(target)));
        Ok(report)
    }

    pub(super) fn end(
        &mut self,
        target: &Target,
        state: State,
        because: &str,
        now: Now,
    ) -> Result<Report, EnforceError> {
        let hits = self.hits_of(target)?;
        let Some(live) = self.live.remove(target) else { return Ok(Report::default()) };
        if let Err(cause) = self.settle(target) {
            self.live.insert(*target, live);
            return Err(cause.into());
        }
        self.trials.end(target);
        let mut record = live.record;
        order::add_hits(&mut record, hits.as_ref(), now);
        Ok(Report { changes: vec![self.close(record, state, because, now)], notices: Vec::new() })
    }

    pub(super) fn close(
        &mut self,
        mut record: Enforcement,
        state: State,
        because: &str,
        now: Now,
    ) -> Enforcement {
        record.state = state;
        record.ended_at = Some(now.wall);
        record.ended_because = Some(because.to_owned());
        *self.tally.ended.entry(state.name()).or_default() += 1;
        record
    }

    fn hits_of(&self, target: &Target) -> Result<Option<Verdict>, TableError> {
        if self.live.contains_key(target) { self.kernel.table().get(target) } else { Ok(None) }
    }

    pub(super) fn targets(&self, which: impl Fn(&Live) -> bool) -> Vec<Target> {
        let mut found: Vec<_> =
            self.live.iter().filter(|(_, live)| which(live)).map(|(target, _)| *target).collect();
        found.sort_unstable();
        found
    }

    /// The entry that `target` should have.
    pub(super) fn wanted(&self, target: &Target) -> Option<Verdict> {
        let roles = self.never_block.roles(target);
        if roles != 0 {
            return Some(never_block::verdict(roles));
        }
        let verdict = self.live.get(target).map(|live| live.verdict).or_else(|| self.fed.verdict(target));
        match self.profiles.number(target) {
            0 => verdict,
            profile => Some(Verdict { profile, ..verdict.unwrap_or_default() }),
        }
    }

    /// Makes the kernel's entry of `target` what it should be.
    pub(super) fn settle(&mut self, target: &Target) -> Result<(), TableError> {
        match (self.wanted(target), self.kernel.get(target)) {
            (Some(wanted), Some(present)) if order::same(&wanted, present) => Ok(()),
            // A profile follows its names: what the kernel counted under the one before goes on.
            (Some(mut wanted), Some(present)) if wanted.profile != present.profile => {
                if let Some(counted) = self.kernel.table().get(target)? {
                    wanted.hits = counted.hits;
                    wanted.hit_bytes = counted.hit_bytes;
                    wanted.last_hit_ns = counted.last_hit_ns;
                }
                self.kernel.put(*target, wanted)
            }
            (Some(wanted), _) => self.kernel.put(*target, wanted),
            (None, Some(_)) => self.kernel.remove(target),
            (None, None) => Ok(()),
        }
    }

    fn count_refusal<R>(&mut self, result: &Result<R, EnforceError>) {
        if let Err(EnforceError::Refused(refusal)) = result {
            *self.tally.refused.entry(refusal.label()).or_default() += 1;
        }
    }
}
