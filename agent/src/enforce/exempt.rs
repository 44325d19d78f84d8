//! Changes to the never-block list, and the end of the verdicts they make void.

use std::net::IpAddr;

use super::{
    enforcer::Enforcer,
    record::{AllowEntry, Author, EnforceError, Notice, Now, Refusal, Report, State},
    target::{Target, VerdictTable},
};

impl<T: VerdictTable> Enforcer<T> {
    /// Makes `target` never-block. What is in force on it, inside it or on one of its `aliases` (the host's other names) ends.
    pub fn allow(
        &mut self,
        target: Target,
        aliases: &[Target],
        who: &str,
        note: &str,
        now: Now,
    ) -> Result<(AllowEntry, Report), EnforceError> {
        let target = target.canonical();
        let author = Author::Operator(who.to_owned());
        let entry = self.never_block.allow(target, author, note.to_owned(), now.wall);
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

    /// Gives exactly these addresses the roles the gateway itself depends on (bits of `common::verdict::role`).
    pub fn set_system(&mut self, roles: &[(IpAddr, u16)], now: Now) -> Result<Report, EnforceError> {
        let changed = self.never_block.set_system(roles, now.wall);
        self.suppress(&changed, &[], now)
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
