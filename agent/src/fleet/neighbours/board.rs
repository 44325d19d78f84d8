//! What the connections share with the loop: queues, states and counts of every peer. Locks are held for moments only.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::{
    link::Peer,
    notice::Notice,
    queue::{Queue, Waiting},
    refused::{Answer, Refused},
};

/// A peer and what passed between it and the gateway since the start.
#[derive(Clone, Debug)]
pub struct PeerState {
    /// Its name in the configuration.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// The name of its key.
    pub key: String,
    /// Whether it can be told something now.
    pub reached: bool,
    /// Why not.
    pub trouble: Option<String>,
    /// When it was heard last.
    pub heard: Option<Timestamp>,
    /// Notices that wait for it.
    pub waiting: usize,
    /// Notices to it that found no room.
    pub dropped: u64,
    /// Notices to it that expired before it could be told.
    pub expired: u64,
    /// Its answers to notices, by word.
    pub answers: BTreeMap<&'static str, u64>,
    /// What became of its notices, refused ones included.
    pub judged: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
struct Entry {
    state: PeerState,
    queue: Queue,
}

#[derive(Debug, Default)]
struct Shared {
    peers: Vec<Entry>,
    strangers: BTreeMap<Refused, u64>,
    deaf: Option<String>,
}

/// Queues, states and counts.
#[derive(Debug)]
pub struct Board {
    shared: Mutex<Shared>,
    wakes: Vec<Notify>,
}

impl Board {
    /// A board for `peers`, who are known by their place in it.
    pub fn new(peers: &[Peer]) -> Self {
        let entry = |peer: &Peer| Entry {
            state: PeerState {
                name: peer.name.clone(),
                address: peer.address,
                key: peer.key.id().to_string(),
                reached: false,
                trouble: None,
                heard: None,
                waiting: 0,
                dropped: 0,
                expired: 0,
                answers: BTreeMap::new(),
                judged: BTreeMap::new(),
            },
            queue: Queue::default(),
        };
        let shared = Shared { peers: peers.iter().map(entry).collect(), ..Shared::default() };
        Self { shared: Mutex::new(shared), wakes: peers.iter().map(|_| Notify::new()).collect() }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Counts and queues are whole after every statement.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T: Default>(&self, peer: usize, change: impl FnOnce(&mut Entry) -> T) -> T {
        self.lock().peers.get_mut(peer).map(change).unwrap_or_default()
    }

    /// Puts a sealed notice into every peer's queue.
    pub fn tell(&self, notice: &Notice, sealed: &[u8]) {
        for entry in &mut self.lock().peers {
            entry.queue.push(Waiting {
                id: notice.id.clone(),
                expires: notice.expires,
                bytes: sealed.to_vec(),
            });
        }
        self.wakes.iter().for_each(Notify::notify_one);
    }

    /// Counts what became of a peer's notice.
    pub fn judged(&self, peer: usize, answer: Answer) {
        self.with(peer, |entry| *entry.state.judged.entry(answer.name()).or_default() += 1);
    }

    /// Every peer, in the order of the configuration.
    pub fn peers(&self) -> Vec<PeerState> {
        let state = |entry: &Entry| PeerState {
            waiting: entry.queue.len(),
            dropped: entry.queue.dropped,
            expired: entry.queue.expired,
            ..entry.state.clone()
        };
        self.lock().peers.iter().map(state).collect()
    }

    /// Connections refused that were no peer's, by reason.
    pub fn strangers(&self) -> BTreeMap<Refused, u64> {
        self.lock().strangers.clone()
    }

    /// Why nobody can be heard.
    pub fn deaf(&self) -> Option<String> {
        self.lock().deaf.clone()
    }

    pub(super) fn listens(&self, result: Result<(), String>) {
        self.lock().deaf = result.err();
    }

    /// Counts a refusal: of a peer's, or of a stranger's.
    pub(super) fn refuse(&self, peer: Option<usize>, reason: Refused) {
        match peer {
            Some(peer) => self.judged(peer, Answer::Refused(reason)),
            None => *self.lock().strangers.entry(reason).or_default() += 1,
        }
    }

    /// A peer was heard; if it could not be told something before, this is the time to try.
    pub(super) fn heard(&self, peer: usize) {
        let wake = self.with(peer, |entry| {
            entry.state.heard = Some(Timestamp::now());
            !entry.state.reached
        });
        if wake && let Some(notify) = self.wakes.get(peer) {
            notify.notify_one();
        }
    }

    pub(super) fn reached(&self, peer: usize) {
        self.with(peer, |entry| (entry.state.reached, entry.state.trouble) = (true, None));
    }

    pub(super) fn unreached(&self, peer: usize, why: String) {
        self.with(peer, |entry| (entry.state.reached, entry.state.trouble) = (false, Some(why)));
    }

    /// Waits until there may be something to do for a peer.
    pub(super) async fn woken(&self, peer: usize) {
        match self.wakes.get(peer) {
            Some(notify) => notify.notified().await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn next(&self, peer: usize) -> Option<Waiting> {
        self.with(peer, |entry| entry.queue.front(Timestamp::now()))
    }

    pub(super) fn answered(&self, peer: usize, id: &str, word: &'static str) {
        self.with(peer, |entry| {
            entry.queue.done(id);
            *entry.state.answers.entry(word).or_default() += 1;
        });
    }
}
