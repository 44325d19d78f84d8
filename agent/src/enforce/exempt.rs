//! Changes to the never-block list, and the end of the verdicts they make void.

use super::{
    enforcer::Enforcer,
    record::{AllowEntry, Author, EnforceError, Notice, Now, Refusal, Report, State},
    target::{Target, VerdictTable},
};

impl<T: VerdictTable> Enforcer<T> {
    /// Makes `target` never-block, with `roles` (bits of `common::verdict::role`). What is in force on it, inside it or on one of
    /// its `aliases` (the host's other names) ends. The entry returned is the one to store.
    pub fn allow(
        &mut self,
        target: Target,
        roles: u16,
        aliases: &[Target],
        who: &str,
        note: &str,
        now: Now,
    ) -> Result<(AllowEntry, Report), EnforceError> {
        let target = target.canonical();
        if roles == 0 {
            return Err(Refusal::Invalid { target, cause: "a never-block entry needs a role" }.into());
        }
        let author = Author::Operator(who.to_owned());
        let entry = AllowEntry { target, roles, author, note: note.to_owned(), since: now.wall };
        self.never_block.allow(entry.clone());
        self.pace.forgive(&target);
        let report = self.suppress(&[target], aliases, now)?;
        Ok((entry, report))
    }

    /// Takes an operator's never-block entry away. `None` when there is none; the agent's own entries stay.
    pub fn disallow(&mut self, target: &Target) -> Result<Option<AllowEntry>, EnforceError> {
        let target = target.canonical();
        let entry = self.never_block.disallow(&target);
        self.settle(&target)?;
        Ok(entry)
    }

    /// Makes exactly these targets the agent's own never-block entries, with role bits: what the configuration lists and what
    /// the gateway itself depends on. Operators' entries are not touched.
    pub fn set_system<K: Into<Target> + Copy>(
        &mut self,
        wanted: &[(K, u16)],
        now: Now,
    ) -> Result<Report, EnforceError> {
        let changed = self.never_block.set_system(wanted, now.wall);
        self.suppress(&changed, &[], now)
    }

    /// The never-block list. A target has two entries when both an operator and the agent ([`Author::System`]) listed it.
    pub fn allowed(&self) -> Vec<AllowEntry> {
        self.never_block.rows()
    }

    /// The never-block entries that forbid a verdict on `target`; empty when it may be enforced.
    pub fn protectors(&self, target: &Target) -> Vec<AllowEntry> {
        self.never_block.rows_about(&target.canonical())
    }

    /// Settles `entries` of the never-block list and ends the verdicts that are void now.
    fn suppress(&mut self, entries: &[Target], aliases: &[Target], now: Now) -> Result<Report, EnforceError> {
        let mut report = Report::default();
        let void: Vec<(Target, Target)> = self
            .targets(|_| true)
            .into_iter()
            .filter_map(|target| {
                let author = &self.live.get(&target)?.record.author;
                match self.never_block.refuse(&target, &[], author) {
                    Err(Refusal::NeverBlock { entry, .. }) => Some((target, entry)),
                    _ => aliases.contains(&target).then_some((target, *entries.first()?)),
                }
            })
            .collect();
        for (target, by) in void {
            let because = format!("{by} was put on the never-block list");
            report.merge(self.end(&target, State::Suppressed, &because, now)?);
            report.notices.push(Notice::Suppressed { target, by });
        }
        self.fed.retain(|target| self.never_block.protector(target).is_none());
        self.settle_feeds()?;
        entries.iter().try_for_each(|entry| self.settle(entry))?;
        Ok(report)
    }
}
