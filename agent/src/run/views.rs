//! What the loop knows, in the words of the API.

use jiff::{SignedDuration, Timestamp};
use tidegate_common::verdict::Verdict;

use crate::{
    api::view::{AllowView, BlockView, IncidentView, InterfaceView, NoteView, RoleWord, TechniqueView},
    datapath::{Attached, EgressHook, IngressMode},
    enforce::{AllowEntry, Author, Enforcement, Now},
    store::Incident,
};

/// The wall-clock time of a moment on the kernel clock.
pub(super) fn wall_of(then_ns: u64, now: Now) -> Timestamp {
    let ago = SignedDuration::from_nanos(now.kernel_ns.saturating_sub(then_ns) as i64);
    now.wall.checked_sub(ago).unwrap_or(now.wall)
}

pub(super) fn block(record: &Enforcement, now: Now) -> BlockView {
    let author = match &record.author {
        Author::Automatic => record.rule.clone().unwrap_or_else(|| "model".to_owned()),
        other => other.to_string(),
    };
    BlockView {
        target: record.target,
        action: record.action.into(),
        level: record.level.map(Into::into),
        rate_pps: (record.rate_pps > 0).then_some(record.rate_pps),
        reason: record.reason.into(),
        author,
        detail: record.explanation.clone(),
        incident: record.incident.clone(),
        created: record.installed_at,
        expires: record.expires_at,
        ttl_s: record.expires_at.map(|expires| now.until(expires).as_secs()),
        repeat: record.strikes.max(1),
        hits: record.hits,
        hit_bytes: record.hit_bytes,
        last_hit: record.last_hit_at,
    }
}

pub(super) fn allow(entry: &AllowEntry, kernel: Option<&Verdict>) -> AllowView {
    AllowView {
        target: entry.target,
        roles: RoleWord::of_bits(entry.roles),
        author: entry.author.to_string(),
        reason: entry.note.clone(),
        created: Some(entry.since),
        hits: kernel.map_or(0, |verdict| verdict.hits),
    }
}

pub(super) fn incident(incident: &Incident) -> IncidentView {
    IncidentView {
        id: incident.id.clone(),
        technique: TechniqueView { id: incident.technique.clone(), name: incident.technique_name.clone() },
        subject: incident.subject.clone(),
        victim: incident.victim,
        summary: incident.summary.clone(),
        first_seen: incident.first_seen,
        last_seen: incident.last_seen,
        evidence: incident.evidence,
        open: incident.open,
        score: incident.score,
        response: incident.response.clone(),
    }
}

pub(super) fn notes(incident: &Incident) -> Vec<NoteView> {
    let view = |note: &crate::store::Note| NoteView {
        name: note.name.clone(),
        value: note.value,
        normal_low: note.normal_low,
        normal_high: note.normal_high,
        share: note.share,
    };
    incident.notes.iter().map(view).collect()
}

pub(super) fn interface(attached: &Attached) -> InterfaceView {
    let xdp = match attached.ingress {
        IngressMode::Driver => "driver",
        IngressMode::Generic => "generic",
    };
    let tc = match attached.egress {
        EgressHook::Tcx => "tcx",
        EgressHook::Clsact => "clsact",
    };
    InterfaceView {
        name: attached.interface.clone(),
        ifindex: attached.ifindex,
        xdp: xdp.to_owned(),
        tc: tc.to_owned(),
        fallback: attached.fallback.clone(),
    }
}
