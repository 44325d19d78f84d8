//! Which other devices a device talks to: learned with its baseline, and asked about afterwards.

use std::{collections::HashSet, net::IpAddr};

use super::{
    contact::Contact,
    device::{Device, Phase},
    finding::Finding,
    rules::{Progress, Rules},
};

/// A flow between devices as it stands; a finding when its initiator has a baseline without the other one.
pub(super) fn met(
    rules: &mut Rules,
    state: &mut Device,
    own: &HashSet<IpAddr>,
    contact: &Contact<'_>,
    before: &Progress,
) -> Option<Finding> {
    let answered_now = !before.answered && Progress::of(contact).answered;
    if contact.ends.responder.is_none() || !answered_now || own.contains(&contact.victim) {
        return None;
    }
    match state.phase {
        Phase::Learning => {
            state.known.put(contact.victim, ());
            None
        }
        Phase::Ready if state.known.get(&contact.victim).is_none() => rules.met(contact),
        Phase::Ready => None,
    }
}
