//! The loop's side of neighbours: tells them what the gateway shut out by its own evidence, and judges what they tell.
//!
//! What a neighbour says is a finding like any other: it goes through `decide` and the enforcer on the neighbour's behalf, and is
//! never told on. The connections run on a thread of their own; the loop waits for none of it.

use std::{net::IpAddr, sync::Arc, thread};

use jiff::{SignedDuration, Timestamp};
use tokio::{
    runtime,
    sync::{mpsc, watch},
};

use super::{
    gateway::{Gateway, now},
    needs,
};
use crate::{
    api::{
        Neighbours as Counts,
        view::{NeighbourView, NeighboursView},
    },
    config::{neighbours::OnNotice, values::GatewayMode},
    decide::Response,
    enforce::{Author, EnforceError, Enforcement, Now, Refusal, State, Target},
    fleet::neighbours::{
        Admitted, Answer, Block, Board, Gatekeeper, Known, Link, Notice, OwnKey, Peer, Refused, Say,
        Surroundings, Told, is_outside, seal, serve,
    },
    learn::{Finding, Subject, Technique},
    store::Durability,
};

/// Notices that may wait for the loop.
const UNDER_WAY: usize = 16;
/// The rule that speaks for a neighbour.
const RULE: &str = "neighbour";
/// How much of the past is told again at start: no notice lives longer.
const PAST: SignedDuration = SignedDuration::from_hours(24);

/// Neighbours as the loop sees them.
pub(super) struct Neighbours {
    key: Arc<OwnKey>,
    peers: Arc<Vec<Peer>>,
    pub(super) board: Arc<Board>,
    gatekeeper: Gatekeeper,
    /// The connections end when this does.
    _stop: watch::Sender<bool>,
}

impl Gateway {
    /// Starts the connections if there are peers; what they bring. What is in force is told again: who knows it, says so.
    pub(super) fn start_neighbours(&mut self) -> Option<mpsc::Receiver<Told>> {
        let settings = &self.config.neighbours;
        if settings.peers.is_empty() {
            return None;
        }
        let (told, heard) = mpsc::channel(UNDER_WAY);
        let started = OwnKey::load(&settings.key).map_err(|error| error.to_string()).and_then(|key| {
            let (key, peers) = (Arc::new(key), Arc::new(settings.peers.clone()));
            let board = Arc::new(Board::new(&peers));
            let (stop, stopping) = watch::channel(false);
            let link = Link {
                listen: settings.listens_at(),
                peers: Arc::clone(&peers),
                own: Arc::clone(&key),
                board: Arc::clone(&board),
                told,
            };
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            let work = runtime.map_err(|error| error.to_string())?;
            thread::Builder::new()
                .name("neighbours".to_owned())
                .spawn(move || work.block_on(serve(link, stopping)))
                .map_err(|error| error.to_string())?;
            Ok(Neighbours { key, peers, board, gatekeeper: Gatekeeper::default(), _stop: stop })
        });
        match started {
            Ok(mut neighbours) => {
                neighbours.gatekeeper = self.recall_notices();
                self.neighbours = Some(neighbours);
                self.tell_again();
                Some(heard)
            }
            Err(cause) => {
                self.degraded(&format!("neighbours are neither told nor heard: {cause}"));
                None
            }
        }
    }

    fn recall_notices(&mut self) -> Gatekeeper {
        match self.store.neighbour_notices(now().wall) {
            Ok(known) => Gatekeeper::restore(known),
            Err(error) => {
                self.stored(Err(error));
                Gatekeeper::default()
            }
        }
    }

    /// Tells what earlier runs may not have told any more.
    fn tell_again(&mut self) {
        let now = now();
        let since = now.wall.checked_sub(PAST).unwrap_or(now.wall);
        match self.store.enforcements_to_restore(since) {
            Ok(records) => records.iter().for_each(|record| self.tell_of(record, now)),
            Err(error) => self.stored(Err(error)),
        }
    }

    /// Tells all neighbours of a verdict that was just installed, or taken back.
    pub(super) fn tell_neighbours(&self, record: &Enforcement, now: Now) {
        // A verdict that is confirmed was told when it was installed.
        if !record.state.is_live() || record.installed_at == now.wall {
            self.tell_of(record, now);
        }
    }

    fn tell_of(&self, record: &Enforcement, now: Now) {
        let Some(neighbours) = &self.neighbours else { return };
        let Some(notice) = self.notice_of(record, now.wall) else { return };
        match seal(&notice, &neighbours.key.signing) {
            Ok(sealed) => neighbours.board.tell(&notice, &sealed),
            Err(error) => tracing::warn!(%error, "a notice cannot be signed"),
        }
    }

    /// What neighbours are told of a verdict: of blocks of hosts outside by own evidence, while they last.
    fn notice_of(&self, record: &Enforcement, now: Timestamp) -> Option<Notice> {
        let Target::Address(address) = record.target else { return None };
        let terms = self.config.neighbour_terms();
        let is_own = record.author == Author::Automatic
            && record.action == tidegate_common::verdict::Action::Block
            && self.config.gateway.mode != GatewayMode::Monitor;
        if !is_own || !is_outside(address, terms.private) {
            return None;
        }
        let longest = SignedDuration::try_from(terms.max_ttl).unwrap_or(PAST).min(PAST);
        let (id, say, issued) = match record.state {
            State::Pending | State::Active => {
                let block = Block {
                    target: record.target,
                    incident: record.incident.clone()?,
                    technique: record.technique.clone()?,
                    confidence: (self.confidence_of(record) * 1_000.0).clamp(0.0, 1_000.0) as u16,
                };
                (record.id.clone(), Say::Block(block), record.installed_at)
            }
            State::Released | State::RolledBack | State::Suppressed => {
                (format!("{}-w", record.id), Say::Withdraw(record.id.clone()), record.ended_at?)
            }
            State::Expired | State::Withdrawn | State::Replaced => return None,
        };
        let expires = record.installed_at.checked_add(longest).ok()?.min(record.expires_at?);
        (expires > now && expires > issued).then_some(Notice { id, say, issued, expires })
    }

    fn confidence_of(&self, record: &Enforcement) -> f64 {
        let id = record.incident.as_deref().unwrap_or_default();
        let open = self.incidents.values().find(|incident| incident.id == id).map(|incident| incident.score);
        let score = open.or_else(|| Some(self.store.incident(id).ok()??.score));
        score.unwrap_or(self.config.response.min_confidence)
    }

    /// A peer brought a notice that it signed.
    pub(super) fn on_told(&mut self, told: Told) {
        let answer = match self.judge_notice(told.peer, &told.notice) {
            Ok(answer) => answer,
            Err(reason) => {
                tracing::info!(peer = told.peer, id = told.notice.id, %reason, "a neighbour's notice is refused");
                Answer::Refused(reason)
            }
        };
        // A peer that went away tells it again.
        let _ = told.answer.send(answer);
    }

    fn judge_notice(&mut self, peer: usize, notice: &Notice) -> Result<Answer, Refused> {
        let now = now();
        let terms = self.config.neighbour_terms();
        let Self { neighbours: Some(neighbours), registry, enforcer, .. } = self else {
            return Err(Refused::Failed);
        };
        let peer = neighbours.peers.get(peer).ok_or(Refused::UnknownPeer)?;
        let (key, name) = (peer.key.id(), peer.name.clone());
        let author = Author::Neighbour(name.clone());
        let protected = |address: IpAddr| {
            let inside = |net: &ipnet::IpNet| registry.holders().any(|(holder, _)| net.contains(&holder));
            registry.resolve(address).is_some()
                || registry.is_own(address)
                || needs::own_networks().iter().any(|net| net.contains(&address) && inside(net))
        };
        let around = Surroundings {
            protected: &protected,
            never_block: &|address| !enforcer.protectors(&address.into()).is_empty(),
            in_force: &|address| enforcer.get(&address.into()).is_some_and(|record| record.author != author),
        };
        let (known, answer) = match neighbours.gatekeeper.admit(key, notice, now, &terms, &around)? {
            Admitted::Withdraw(known) => self.withdraw(known, &name, now)?,
            Admitted::Block(address, left, block) => {
                let (enforcement, answer) = self.judge_told(&name, address, left, &block)?;
                let (id, until, target) = (notice.id.clone(), notice.expires, address.into());
                (Known { key, id, until, target, enforcement }, answer)
            }
        };
        let saved = self.store.batch(Durability::Process, |store| store.save_neighbour_notice(&known));
        self.stored(saved);
        if let Some(neighbours) = &mut self.neighbours {
            neighbours.gatekeeper.remember(known);
        }
        Ok(answer)
    }

    fn withdraw(&mut self, known: Known, name: &str, now: Now) -> Result<(Known, Answer), Refused> {
        let id = known.enforcement.as_deref().unwrap_or_default();
        match self.enforcer.withdraw(&known.target, id, &format!("neighbour {name} withdrew it"), now) {
            Ok(report) => self.commit(Ok(report), now),
            // It has ended, or something of the gateway's own took its place.
            Err(EnforceError::Refused(_)) => {}
            Err(error) => {
                self.degraded(&error.to_string());
                return Err(Refused::Failed);
            }
        }
        Ok((Known { enforcement: None, ..known }, Answer::Withdrawn))
    }

    /// Judges a block that a neighbour told as a finding of its own rule; the enforcement that came of it.
    fn judge_told(
        &mut self,
        name: &str,
        address: IpAddr,
        left: std::time::Duration,
        block: &Block,
    ) -> Result<(Option<String>, Answer), Refused> {
        let technique = Technique::by_id(&block.technique).unwrap_or(Technique::REPORTED);
        let mut response = self.config.response_config();
        response.block_s = left.as_secs().max(1);
        if self.config.neighbours.act == OnNotice::Observe {
            response.techniques.insert(technique.id.to_owned(), Response::Observe);
        }
        let at_ns = now().kernel_ns;
        let finding = Finding {
            subject: Subject::Remote(address),
            victim: None,
            technique,
            rule: Some(RULE),
            score: f64::from(block.confidence) / 1_000.0,
            p_value: 1e-6,
            first_ns: at_ns,
            at_ns,
            detail: format!("neighbour {name} blocked it, see incident {} there", block.incident),
            notes: Vec::new(),
        };
        match self.judge_for(Author::Neighbour(name.to_owned()), finding, &response) {
            Ok(Some(record)) => {
                let cuts = record.action != tidegate_common::verdict::Action::Observe;
                let is_real = cuts && self.config.gateway.mode != GatewayMode::Monitor;
                Ok((Some(record.id), if is_real { Answer::Taken } else { Answer::Observed }))
            }
            Ok(None) => Ok((None, Answer::Observed)),
            Err(EnforceError::Refused(refusal)) => Err(match refusal {
                Refusal::NeverBlock { .. } => Refused::NeverBlock,
                Refusal::InForce { .. } => Refused::InForce,
                Refusal::OnHold { .. } => Refused::OnHold,
                Refusal::BlastRadius { .. } => Refused::BlastRadius,
                Refusal::Invalid { .. } | Refusal::NotFound { .. } => Refused::Failed,
            }),
            Err(EnforceError::Table(_)) => Err(Refused::Failed),
        }
    }

    /// Why neighbours cannot be heard.
    pub(super) fn neighbour_problem(&self) -> Option<String> {
        let cause = self.neighbours.as_ref()?.board.deaf()?;
        Some(format!("neighbours cannot be heard: {cause}; see neighbours.listen"))
    }

    pub(super) fn neighbour_counts(&self) -> Counts {
        let counts = |neighbours: &Neighbours| Counts {
            peers: neighbours.board.peers(),
            strangers: neighbours.board.strangers(),
        };
        self.neighbours.as_ref().map(counts).unwrap_or_default()
    }

    pub(super) fn neighbours_view(&self) -> NeighboursView {
        let Some(neighbours) = &self.neighbours else { return NeighboursView::default() };
        let words = |counts: std::collections::BTreeMap<&'static str, u64>| {
            counts.into_iter().map(|(word, count)| (word.to_owned(), count)).collect()
        };
        let peer = |peer: crate::fleet::neighbours::PeerState| NeighbourView {
            name: peer.name,
            address: peer.address,
            key: peer.key,
            reached: peer.reached,
            trouble: peer.trouble,
            heard: peer.heard,
            waiting: peer.waiting as u64,
            dropped: peer.dropped,
            expired: peer.expired,
            answers: words(peer.answers),
            judged: words(peer.judged),
        };
        let strangers = neighbours.board.strangers().into_iter();
        NeighboursView {
            listen: self.started_with.neighbours.listens_at(),
            key: Some(neighbours.key.id().to_string()),
            problem: neighbours.board.deaf(),
            peers: neighbours.board.peers().into_iter().map(peer).collect(),
            strangers: strangers.map(|(reason, count)| (reason.name().to_owned(), count)).collect(),
        }
    }
}
