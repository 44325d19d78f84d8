//! Letting go: after an operator took a verdict back, only what its subject does from then on is evidence.
//!
//! Flows outlive verdicts: what was begun before and is reported, closed or swept later belongs to what was forgiven. Of a flow
//! that goes on, what was counted between two reports since then is new.

use std::{cell::RefCell, collections::HashSet};

use tidegate_common::flow::FlowRecord;

use super::{
    finding::Subject,
    learner::Learner,
    rules::{Progress, Since, forget},
};

impl Learner {
    /// Forgets the reports about some subjects and all evidence against them: only what they do from now on counts, and it is
    /// reported at once.
    pub fn forget_reports(&mut self, about: impl Fn(&Subject) -> bool, now_ns: u64) {
        let meant = RefCell::new(HashSet::new());
        let about = |subject: &Subject| {
            let is_meant = about(subject);
            if is_meant {
                meant.borrow_mut().insert(*subject);
            }
            is_meant
        };
        forget(&mut self.reported, |(subject, technique, ..)| about(subject) && !technique.is_empty());
        self.signs.forget(&about);
        self.destinations.forget(&about);
        self.inbound.forget(&about);
        self.lines.forget(&about);
        for (device, state) in &mut self.devices {
            if about(&Subject::Device(*device)) {
                state.drop_evidence();
            }
        }
        self.rules.forget(about);
        for subject in meant.into_inner() {
            self.released.put(subject, now_ns);
        }
    }

    /// How much of a flow, last looked at when it was as in `before`, its subject did since it was last released.
    pub(super) fn since_release(&self, subject: &Subject, record: &FlowRecord, before: &Progress) -> Since {
        let released_ns = self.released.peek(subject).copied().unwrap_or(0);
        if record.first_ns() >= released_ns {
            Since::Whole
        } else if before.at_ns >= released_ns {
            Since::Rest
        } else {
            Since::Nothing
        }
    }
}

#[cfg(test)]
#[path = "release_tests.rs"]
mod tests;
