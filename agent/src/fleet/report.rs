//! The agent's records in the words that go to the cloud. Texts are cut at [`MAX_TEXT`], so no report grows beyond a few of them.

use tidegate_common::verdict;
use tidegate_wire::{Action, BlockReport, IncidentReport, MAX_TEXT, Report};

use crate::{
    decide::level_name,
    enforce::{Author, Enforcement},
    store::Incident,
};

/// An incident as it stands.
pub fn incident(incident: &Incident) -> Report {
    Report::Incident(IncidentReport {
        incident: incident.id.clone(),
        technique: incident.technique.clone(),
        subject: clip(&incident.subject),
        victim: incident.victim.map(|victim| victim.to_string()),
        rule: incident.rule.clone(),
        score: incident.score,
        first_seen: incident.first_seen.to_string(),
        last_seen: incident.last_seen.to_string(),
        evidence: incident.evidence,
        open: incident.open,
        explanation: clip(&incident.explanation),
    })
}

/// An enforcement as it stands.
pub fn block(record: &Enforcement) -> Report {
    let action = match record.action {
        verdict::Action::Observe | verdict::Action::NeverBlock => Action::Observe,
        verdict::Action::RateLimit => Action::RateLimit,
        verdict::Action::Block => Action::Block,
        verdict::Action::Isolate => Action::Isolate,
    };
    let author = match &record.author {
        Author::Automatic => record.rule.clone().unwrap_or_else(|| "model".to_owned()),
        other => other.to_string(),
    };
    Report::Block(BlockReport {
        target: record.target.to_string(),
        action,
        level: record.level.map(|level| level_name(level).to_owned()),
        incident: record.incident.clone(),
        author: clip(&author),
        in_force: record.state.is_live(),
        expires: record.expires_at.map(|expires| expires.to_string()),
        hits: record.hits,
    })
}

/// `text`, cut at a character boundary to what every reader accepts.
pub fn clip(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = "ä".repeat(MAX_TEXT);
        assert_eq!(clip(&text).len(), MAX_TEXT);
        assert_eq!(clip(&format!("x{text}")).len(), MAX_TEXT - 1);
        assert_eq!(clip("short"), "short");
    }
}
