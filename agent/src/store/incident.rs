//! Incidents and the evidence behind them.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::database::{Store, StoreError, document};
use crate::{enforce::Target, learn::Finding};

/// Pieces of evidence that are kept of one incident, the newest.
const EVIDENCE_KEPT: i64 = 100;

/// A value that stood out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// Name of the feature.
    pub name: String,
    /// Its value, in the feature's unit.
    pub value: f64,
    /// Normal values begin here.
    pub normal_low: f64,
    /// Normal values end here.
    pub normal_high: f64,
    /// Its share in what makes the whole anomalous, 0–1; 0 in records of versions that did not know it.
    #[serde(default)]
    pub share: f64,
}

/// Correlated evidence of one technique by one subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Sorts by time.
    pub id: String,
    /// MITRE ATT&CK id.
    pub technique: String,
    /// Its name.
    pub technique_name: String,
    /// Who is to blame, in words: an address or a hardware address.
    pub subject: String,
    /// The first victim known.
    pub victim: Option<IpAddr>,
    /// One line of plain words.
    pub summary: String,
    /// What happened and what follows, in plain words.
    pub explanation: String,
    /// Rule that fired; `None` when a model spoke.
    pub rule: Option<String>,
    /// Smallest p-value so far, 0–1.
    pub p_value: f64,
    /// Highest score so far, 0–1.
    pub score: f64,
    /// What stood out in the latest evidence.
    pub notes: Vec<Note>,
    /// First evidence.
    pub first_seen: Timestamp,
    /// Last evidence.
    pub last_seen: Timestamp,
    /// How often evidence came in.
    pub evidence: u64,
    /// Whether it goes on.
    pub open: bool,
    /// What was done, in plain words.
    pub response: String,
    /// What was done it to.
    pub target: Option<Target>,
    /// Why it was only observed.
    pub held_back: Option<String>,
}

impl Incident {
    /// A new incident from its first finding at wall-clock time `at`; response and explanation are still empty.
    pub fn open(id: String, finding: &Finding, at: Timestamp) -> Self {
        let mut incident = Self {
            id,
            technique: finding.technique.id.to_owned(),
            technique_name: finding.technique.name.to_owned(),
            subject: finding.subject.to_string(),
            victim: finding.victim,
            summary: String::new(),
            explanation: String::new(),
            rule: finding.rule.map(str::to_owned),
            p_value: 1.0,
            score: 0.0,
            notes: Vec::new(),
            first_seen: at,
            last_seen: at,
            evidence: 0,
            open: true,
            response: String::new(),
            target: None,
            held_back: None,
        };
        incident.add(finding, at);
        incident
    }

    /// Counts another finding in.
    pub fn add(&mut self, finding: &Finding, at: Timestamp) {
        self.summary.clone_from(&finding.detail);
        self.p_value = self.p_value.min(finding.p_value);
        self.score = self.score.max(finding.score);
        self.victim = self.victim.or(finding.victim);
        if !finding.notes.is_empty() {
            self.notes = finding.notes.iter().map(Note::from).collect();
        }
        self.last_seen = self.last_seen.max(at);
        self.evidence += 1;
    }
}

impl From<&crate::learn::FeatureNote> for Note {
    fn from(note: &crate::learn::FeatureNote) -> Self {
        let crate::learn::FeatureNote { name, value, normal_low, normal_high, share } = *note;
        Self { name: name.to_owned(), value, normal_low, normal_high, share }
    }
}

/// One piece of evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// When.
    pub at: Timestamp,
    /// The finding, as JSON.
    pub finding: serde_json::Value,
}

/// Which incidents to list. Last evidence first.
#[derive(Debug, Clone, Default)]
pub struct IncidentFilter {
    /// Those that go on (`true`) or those that do not.
    pub open: Option<bool>,
    /// By this subject, in the words of [`Incident::subject`].
    pub subject: Option<String>,
    /// Of this technique, by id.
    pub technique: Option<String>,
    /// With evidence since then.
    pub since: Option<Timestamp>,
    /// Without those that this rule opened.
    pub without_rule: Option<&'static str>,
    /// At most so many; `None` for all.
    pub limit: Option<u32>,
}

/// What the incidents that one rule opened come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub incidents: u32,
    /// Different subjects.
    pub subjects: u32,
    /// Pieces of evidence in all of them.
    pub evidence: u32,
    /// When the last piece came; `None` without incidents.
    pub last_seen: Option<Timestamp>,
}

impl Store {
    /// Writes an incident as it stands now.
    pub fn save_incident(&self, incident: &Incident) -> Result<(), StoreError> {
        const OPERATION: &str = "save an incident";
        const SQL: &str = "INSERT INTO incident (id, subject, technique, open, last_us, document)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)
            ON CONFLICT DO UPDATE SET open = excluded.open, last_us = excluded.last_us, document = excluded.document";
        self.write(
            OPERATION,
            SQL,
            &[
                &incident.id,
                &incident.subject,
                &incident.technique,
                &incident.open,
                &incident.last_seen.as_microsecond(),
                &document(OPERATION, incident)?,
            ],
        )
        .map(drop)
    }

    /// Adds evidence to an incident that was saved before; only the newest hundred pieces are kept.
    pub fn add_evidence(&self, incident: &str, finding: &Finding, at: Timestamp) -> Result<(), StoreError> {
        const OPERATION: &str = "save evidence";
        const ADD: &str = "INSERT INTO evidence (incident, at_us, document) VALUES (?1, ?2, ?3)";
        const TRIM: &str = "DELETE FROM evidence WHERE number IN
            (SELECT number FROM evidence WHERE incident = ?1 ORDER BY number DESC LIMIT -1 OFFSET ?2)";
        self.write(OPERATION, ADD, &[&incident, &at.as_microsecond(), &document(OPERATION, finding)?])?;
        self.write(OPERATION, TRIM, &[&incident, &EVIDENCE_KEPT]).map(drop)
    }

    /// The evidence of an incident, newest first.
    pub fn evidence(&self, incident: &str, limit: u32) -> Result<Vec<Evidence>, StoreError> {
        const QUERY: &str = "SELECT json_object('at', at_us, 'finding', json(document)) FROM evidence
            WHERE incident = ?1 ORDER BY number DESC LIMIT ?2";
        #[derive(Deserialize)]
        struct Row {
            at: i64,
            finding: serde_json::Value,
        }
        let rows: Vec<Row> = self.documents("list evidence", QUERY, &[&incident, &i64::from(limit)])?;
        let read = |row: Row| Evidence {
            at: Timestamp::from_microsecond(row.at).unwrap_or_default(),
            finding: row.finding,
        };
        Ok(rows.into_iter().map(read).collect())
    }

    /// Incidents by filter, last evidence first.
    pub fn incidents(&self, filter: &IncidentFilter) -> Result<Vec<Incident>, StoreError> {
        const QUERY: &str = "SELECT document FROM incident
            WHERE (?1 IS NULL OR open = ?1) AND (?2 IS NULL OR subject = ?2) AND (?3 IS NULL OR technique = ?3)
                AND (?4 IS NULL OR last_us >= ?4) AND (?5 IS NULL OR document ->> '$.rule' IS NOT ?5)
            ORDER BY last_us DESC, id DESC LIMIT ?6";
        let since = filter.since.map(Timestamp::as_microsecond);
        let limit = filter.limit.map_or(-1, i64::from);
        self.documents(
            "list incidents",
            QUERY,
            &[&filter.open, &filter.subject, &filter.technique, &since, &filter.without_rule, &limit],
        )
    }

    /// What the incidents that `rule` opened come to, of those that `filter`'s state and time allow.
    pub fn tally(&self, rule: &str, filter: &IncidentFilter) -> Result<Tally, StoreError> {
        const QUERY: &str = "SELECT count(*), count(DISTINCT subject), coalesce(sum(document ->> '$.evidence'), 0), max(last_us)
            FROM incident WHERE document ->> '$.rule' = ?1 AND (?2 IS NULL OR open = ?2) AND (?3 IS NULL OR last_us >= ?3)";
        let since = filter.since.map(Timestamp::as_microsecond);
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Tally {
                incidents: row.get(0)?,
                subjects: row.get(1)?,
                evidence: row.get(2)?,
                last_seen: row.get::<_, Option<i64>>(3)?.and_then(|us| Timestamp::from_microsecond(us).ok()),
            })
        };
        let tallies = self.rows("count incidents", QUERY, &[&rule, &filter.open, &since], read)?;
        Ok(tallies.into_iter().next().unwrap_or(Tally {
            incidents: 0,
            subjects: 0,
            evidence: 0,
            last_seen: None,
        }))
    }

    /// One incident by its id.
    pub fn incident(&self, id: &str) -> Result<Option<Incident>, StoreError> {
        Ok(self.documents("read an incident", "SELECT document FROM incident WHERE id = ?1", &[&id])?.pop())
    }
}
