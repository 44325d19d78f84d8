//! Whether a script is caught, for the tests of every rule.

use crate::learn::{
    Finding, Subject,
    testing::{S, Script, Sim},
};

/// Plays an attack; the first finding of `rule` must blame `subject` within `most`, and nobody else may be blamed.
pub(super) fn caught_within(script: &mut Script, rule: &str, subject: Subject, most: u64) -> Finding {
    let found = Sim::new().play(script, most + 20 * S);
    let first = found.iter().find(|(_, finding)| finding.rule == Some(rule) && finding.subject == subject);
    let Some((at, finding)) = first else { panic!("no {rule} by {subject} in {found:#?}") };
    assert!(*at <= most, "{rule} after {} s: {}", at / S, finding.detail);
    finding.clone()
}

/// Plays honest traffic; no rule may fire.
pub(super) fn honest(script: &mut Script, until: u64) {
    let found = Sim::new().play(script, until);
    let fired: Vec<_> = found.iter().filter(|(_, finding)| finding.rule.is_some()).collect();
    assert!(fired.is_empty(), "{fired:#?}");
}
