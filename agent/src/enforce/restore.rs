//! Desired state meets the kernel: at start, and from time to time.
//!
//! At start the kernel may hold everything (the agent was restarted) or nothing (the machine was). Records carry wall-clock
//! times; remaining time is converted to the kernel clock, and a wall clock that was set back cannot make a verdict last longer
//! than it was meant to. A verdict nobody knows of is kept at start, because the agent may have died between installing and
//! recording it; later it is an intruder and removed.

use std::{collections::HashSet, time::Duration};

use tidegate_common::verdict::{Action, Level, Reason, Verdict};

use super::{
    enforcer::{Enforcer, Live},
    order::{alike, same, verdict},
    pace::HoldCause,
    record::{AllowEntry, Author, Drift, EnforceError, Enforcement, Notice, Now, Refusal, Report, State},
    target::{Target, VerdictTable},
};

/// Two expiries closer than this are the same one, converted there and back.
const CLOCK_SLACK_NS: u64 = 5_000_000_000;

impl<T: VerdictTable> Enforcer<T> {
    /// Takes up where the last run of the agent stopped.
    ///
    /// `records` are the enforcements in force according to the store, and those that ended within the longest of cooldown, hold,
    /// memory and one hour. `allowed` are the operators' never-block entries, `system` the agent's own, see [`Self::set_system`].
    pub fn restore<K: Into<Target> + Copy>(
        &mut self,
        mut records: Vec<Enforcement>,
        allowed: Vec<AllowEntry>,
        system: &[(K, u16)],
        now: Now,
    ) -> Result<Report, EnforceError> {
        let found = self.kernel.table().entries()?;
        self.kernel.adopt(&found);
        for mut entry in allowed {
            entry.target = entry.target.canonical();
            if entry.roles != 0 && entry.author != Author::System {
                self.never_block.allow(entry);
            }
        }
        self.never_block.set_system(system, now.wall);

        let mut report = Report::default();
        records.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        for record in records {
            self.remember(&record, now);
            if record.state.is_live() {
                self.resume(record, now, &mut report);
            }
        }
        for (target, verdict) in &found {
            self.adopt(*target, *verdict, now, &mut report);
        }
        let all: HashSet<Target> =
            found.iter().map(|(target, _)| *target).chain(self.every_target()).collect();
        for target in all {
            self.settle(&target)?;
        }
        self.kernel.set_config(self.kernel.config())?;
        Ok(report)
    }

    /// What the past says about the detector's pace.
    fn remember(&mut self, record: &Enforcement, now: Now) {
        if !record.author.is_machine() {
            return;
        }
        let age_ns = now.since(record.installed_at).as_nanos() as u64;
        if age_ns < 3_600_000_000_000 {
            self.pace.count(&record.target, &record.author, now.kernel_ns.saturating_sub(age_ns));
        }
        let ended = record.ended_at.or(record.expires_at).unwrap_or(now.wall);
        let (since, until) = (now.since(ended), now.until(ended));
        match record.state {
            State::Released => {
                self.pace.forgive(&record.target);
                let left = Duration::from_secs(self.settings.cooldown_s).saturating_sub(since);
                let technique = record.technique.clone();
                self.pace.hold(record.target, technique, HoldCause::Released, left, now.kernel_ns);
            }
            State::RolledBack => {
                let left = Duration::from_secs(self.settings.hold_s).saturating_sub(since);
                self.pace.hold(record.target, None, HoldCause::RolledBack, left, now.kernel_ns);
            }
            State::Suppressed | State::Withdrawn => {}
            _ if record.author == Author::Automatic
                && since < Duration::from_secs(self.settings.forget_s) =>
            {
                let expires_ns =
                    now.kernel_in(until.min(self.settings.ttl_max())).saturating_sub(since.as_nanos() as u64);
                self.pace.strike(record.target, record.strikes, expires_ns, &self.settings, now.kernel_ns);
            }
            _ => {}
        }
    }

    fn resume(&mut self, mut record: Enforcement, now: Now, report: &mut Report) {
        let target = record.target;
        if let Err(Refusal::NeverBlock { entry: by, .. }) =
            self.never_block.refuse(&target, &[], &record.author)
        {
            report.notices.push(Notice::Suppressed { target, by });
            let because = format!("{by} is on the never-block list");
            report.changes.push(self.close(record, State::Suppressed, &because, now));
            return;
        }
        let expires_ns = match record.expires_at {
            None => u64::MAX,
            Some(expires_at) => {
                let meant =
                    Duration::try_from(expires_at.duration_since(record.installed_at)).unwrap_or_default();
                let left = now.until(expires_at).min(meant);
                if left.is_zero() {
                    report.changes.push(self.close(record, State::Expired, "its time was over", now));
                    return;
                }
                record.expires_at = Some(now.wall_in(left));
                now.kernel_in(left)
            }
        };
        let mut entry = verdict(&record, expires_ns, now.kernel_ns);
        if let Some(present) = self.kernel.get(&target)
            && alike(present, &entry)
            && present.expires_ns.abs_diff(expires_ns) <= CLOCK_SLACK_NS
        {
            entry.expires_ns = present.expires_ns;
        }
        if record.state == State::Pending {
            self.trials.resume(target, now.kernel_ns);
        }
        if let Some(older) = self.live.insert(target, Live { record, verdict: entry }) {
            report.changes.push(self.close(
                older.record,
                State::Replaced,
                "a newer verdict took its place",
                now,
            ));
        }
    }

    /// Keeps a verdict found in the kernel that no record explains.
    fn adopt(&mut self, target: Target, found: Verdict, now: Now, report: &mut Report) {
        let known = self.live.contains_key(&target) || self.never_block.protector(&target).is_some();
        if known || !found.is_live(now.kernel_ns) {
            return;
        }
        if found.reason == Reason::Feed as u8 {
            self.fed.keep(target, found.rule);
            return;
        }
        let Some(action) = Action::from_code(found.action).filter(|action| *action != Action::NeverBlock)
        else {
            return;
        };
        let forever = found.expires_ns == u64::MAX;
        let left = Duration::from_nanos(found.expires_ns.saturating_sub(now.kernel_ns));
        let record = Enforcement {
            id: self.ids.next(now.wall),
            target,
            action,
            level: Level::from_code(found.level),
            reason: Reason::System,
            author: Author::System,
            rule: None,
            technique: None,
            incident: None,
            explanation: "found in the kernel at start without a record".to_owned(),
            rate_pps: found.rate_pps,
            strikes: 0,
            state: State::Active,
            installed_at: now.wall,
            expires_at: (!forever).then(|| now.wall_in(left)),
            ended_at: None,
            ended_because: None,
            hits: found.hits,
            hit_bytes: found.hit_bytes,
            last_hit_at: None,
        };
        report.notices.push(Notice::Drift { drift: Drift::Adopted, target });
        self.tally.drift += 1;
        report.changes.push(record.clone());
        self.live.insert(target, Live { record, verdict: Verdict { profile: 0, ..found } });
    }

    fn every_target(&self) -> Vec<Target> {
        let live = self.live.keys().copied();
        live.chain(self.never_block.targets())
            .chain(self.fed.targets())
            .chain(self.profiles.targets())
            .collect()
    }

    /// Compares the kernel with the desired state, repairs every difference and reports it.
    pub fn reconcile(&mut self, now: Now) -> Result<Report, EnforceError> {
        let found = self.kernel.table().entries()?;
        let mut missing: HashSet<Target> = self.every_target().into_iter().collect();
        let mut report = Report::default();
        let mut drifted = Vec::new();
        for (target, present) in &found {
            missing.remove(target);
            match self.wanted(target) {
                Some(wanted) if same(&wanted, present) => {}
                Some(wanted) if holds(&wanted, now) => drifted.push((Drift::Different, *target)),
                // An entry that has expired is removed without an alarm: to the kernel it is absent already.
                _ if !holds(present, now) => self.kernel.remove(target)?,
                _ => drifted.push((Drift::Unexpected, *target)),
            }
        }
        for target in missing {
            if self.wanted(&target).is_some_and(|wanted| holds(&wanted, now)) {
                drifted.push((Drift::Missing, target));
            }
        }
        drifted.extend(self.mend_profiles()?);
        drifted.sort_unstable_by_key(|(_, target)| *target);
        for (drift, target) in drifted {
            match self.wanted(&target).filter(|_| drift != Drift::Unexpected) {
                Some(wanted) => self.kernel.put(target, wanted)?,
                None => self.kernel.remove(&target)?,
            }
            self.tally.drift += 1;
            report.notices.push(Notice::Drift { drift, target });
        }
        self.kernel.rewrite_config()?;
        Ok(report)
    }
}

/// Whether the kernel acts upon the entry: a profile holds whether or not an isolation beside it has expired.
const fn holds(entry: &Verdict, now: Now) -> bool {
    entry.is_live(now.kernel_ns) || entry.profile != 0
}
