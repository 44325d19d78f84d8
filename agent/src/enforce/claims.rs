//! Who may change what is in force: an operator everything, the detector what it sees go further, a neighbour its own word alone.

use super::{
    enforcer::Enforcer,
    names,
    order::Shape,
    record::{Author, EnforceError, Now, Refusal, Report, State},
    target::{Target, VerdictTable},
};

impl<T: VerdictTable> Enforcer<T> {
    /// Refuses when `author` may not replace what is in force on `target` by a verdict of the shape `wanted`.
    pub(super) fn check_in_force(
        &self,
        target: &Target,
        wanted: Shape,
        author: &Author,
    ) -> Result<(), Refusal> {
        let Some(live) = self.live.get(target) else { return Ok(()) };
        let shape = Shape { action: live.record.action, level: live.record.level };
        let may = match (author, &live.record.author) {
            (Author::Operator(_) | Author::System, _) => true,
            // What it sees for itself no neighbour can take back.
            (Author::Automatic, Author::Neighbour(_)) => wanted >= shape,
            (Author::Automatic, Author::Automatic | Author::System) => wanted > shape,
            (Author::Neighbour(new), Author::Neighbour(old)) => new == old,
            (Author::Automatic, Author::Operator(_)) | (Author::Neighbour(_), _) => false,
        };
        if may {
            return Ok(());
        }
        Err(Refusal::InForce {
            target: *target,
            action: names::action_name(live.record.action),
            cuts: shape.cuts(),
            author: live.record.author.clone(),
        })
    }

    /// Takes back the enforcement `id` on `target`, if it is still in force: its author does, and nothing is held against it.
    pub fn withdraw(
        &mut self,
        target: &Target,
        id: &str,
        because: &str,
        now: Now,
    ) -> Result<Report, EnforceError> {
        let target = target.canonical();
        if self.live.get(&target).is_none_or(|live| live.record.id != id) {
            return Err(Refusal::NotFound { target }.into());
        }
        self.end(&target, State::Withdrawn, because, now)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "fixed targets and times are valid")]

    use std::time::Duration;

    use super::{
        super::{
            order::Order,
            tests::{at, automatic, enforcer, manual, target},
        },
        *,
    };

    const HOST: &str = "192.0.2.7";

    fn told(by: &str, text: &str) -> Order {
        let author = Author::Neighbour(by.to_owned());
        Order { author, ttl: Some(Duration::from_mins(1)), ..automatic(text) }
    }

    fn label<T: std::fmt::Debug>(result: Result<T, EnforceError>) -> &'static str {
        match result {
            Err(EnforceError::Refused(refusal)) => refusal.label(),
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn a_neighbours_word_lasts_as_it_says_is_on_trial_and_is_no_strike() {
        let mut enforcer = enforcer();
        for round in 0..3 {
            let record = enforcer.apply(told("east", HOST), at(round * 100)).unwrap().changes.remove(0);
            assert_eq!((record.state, record.strikes), (State::Pending, 0));
            assert_eq!(record.expires_at, Some(at(round * 100 + 60).wall));
            enforcer.sweep(at(round * 100 + 61)).unwrap();
        }
        let own = enforcer.apply(automatic(HOST), at(400)).unwrap().changes.remove(0);
        assert_eq!(own.strikes, 1);
        let long = Order { ttl: Some(Duration::from_secs(u64::MAX)), ..told("east", "192.0.2.8") };
        let record = enforcer.apply(long, at(400)).unwrap().changes.remove(0);
        assert_eq!(record.expires_at, Some(at(400 + 24 * 3_600).wall), "bounded by max_ttl");
    }

    #[test]
    fn a_neighbour_replaces_its_own_word_alone_and_gives_way_to_all_others() {
        let mut enforcer = enforcer();
        let first = enforcer.apply(told("east", HOST), at(0)).unwrap().changes.remove(0);
        assert_eq!(label(enforcer.apply(told("west", HOST), at(1))), "in-force");
        let second = enforcer.apply(told("east", HOST), at(2)).unwrap().changes.pop().unwrap();
        assert_eq!(label(enforcer.withdraw(&target(HOST), &first.id, "", at(3))), "not-found");
        // Seen here, it is the gateway's own, and no neighbour takes it back.
        assert!(enforcer.apply(automatic(HOST), at(4)).is_ok());
        assert_eq!(label(enforcer.withdraw(&target(HOST), &second.id, "", at(5))), "not-found");
        assert_eq!(label(enforcer.apply(told("east", HOST), at(6))), "in-force");
        assert!(enforcer.apply(manual(HOST), at(7)).is_ok());
        assert_eq!(label(enforcer.apply(told("east", HOST), at(8))), "in-force");
    }

    #[test]
    fn what_is_withdrawn_may_be_said_again_and_what_an_operator_released_not() {
        let mut enforcer = enforcer();
        let first = enforcer.apply(told("east", HOST), at(0)).unwrap().changes.remove(0);
        let ended = enforcer.withdraw(&target(HOST), &first.id, "east withdrew it", at(1)).unwrap();
        assert_eq!(ended.changes[0].state, State::Withdrawn);
        assert!(enforcer.table().verdicts.is_empty());
        enforcer.apply(told("east", HOST), at(2)).unwrap();
        enforcer.release(&target(HOST), "eve", at(3)).unwrap();
        assert_eq!(label(enforcer.apply(told("east", HOST), at(4))), "on-hold");
        assert_eq!(label(enforcer.apply(told("east", "0.0.0.0"), at(5))), "invalid");
    }

    #[test]
    fn neighbours_share_a_blast_radius_that_is_not_the_detectors() {
        let mut enforcer = enforcer();
        for number in 0..201_u32 {
            let host = format!("203.0.{}.{}", number / 200, number % 200 + 1);
            let by = if number % 2 == 0 { "east" } else { "west" };
            let result = enforcer.apply(told(by, &host), at(1));
            if number < 200 { result.map(drop).unwrap() } else { assert_eq!(label(result), "blast-radius") }
        }
        assert_eq!(enforcer.blast_radius(at(1)), (0, 0));
        assert!(enforcer.apply(automatic("198.51.100.1"), at(1)).is_ok());
        enforcer.allow(target("198.51.100.2"), 1, &[], "eve", "", at(1)).unwrap();
        assert_eq!(label(enforcer.apply(told("east", "198.51.100.2"), at(3_700))), "never-block");
    }
}
