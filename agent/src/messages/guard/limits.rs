//! What one client or source may take, and how it is counted. Time is an argument.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    num::NonZeroUsize,
    sync::Mutex,
    time::{Duration, Instant},
};

use lru::LruCache;

use crate::messages::reason::{Meaning, Reason};

/// Sources remembered; the one silent for longest is forgotten for a new one.
const SOURCES: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();
/// Identities whose retained topics are counted.
const IDENTITIES: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();
/// Addresses remembered from which somebody proved who it is; apart from the others, which a storm makes up.
const PROVEN: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();
/// Refusals are counted over this long.
const MINUTE: Duration = Duration::from_mins(1);
/// Wrong passwords in a minute after which a source has to wait for the next.
const GUESSES: u32 = 10;

/// What clients may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections together.
    pub connections: usize,
    /// Connections of one address.
    pub connections_per_source: usize,
    /// New connections of one address in a second.
    pub connects_per_second: u32,
    /// New connections in a second of all addresses together from which nobody has proven who it is.
    pub strangers_per_second: u32,
    /// For TLS and CONNECT together.
    pub connect_timeout: Duration,
    /// Bytes of a packet.
    pub packet_bytes: usize,
    /// For a packet that was begun.
    pub packet_timeout: Duration,
    /// Messages that a client publishes in a second.
    pub messages_per_second: u32,
    /// Bytes that a client publishes in a second.
    pub bytes_per_second: u32,
    /// Messages of quality 1 and 2 that wait for an acknowledgement, in each direction.
    pub inflight: u16,
    /// Subscriptions of a session.
    pub subscriptions: usize,
    /// Retained topics of an identity.
    pub retained: usize,
    /// Bytes of a topic.
    pub topic_bytes: usize,
    /// Levels of a topic.
    pub topic_levels: usize,
    /// Bytes of a will.
    pub will_bytes: usize,
    /// How long a client may leave what it is given unread.
    pub slow_reader: Duration,
    /// Longest keep-alive.
    pub keep_alive: Duration,
    /// How long a session outlives its connection.
    pub session_expiry: Duration,
    /// Messages that the broker keeps for a session.
    pub queued_messages: u32,
    /// Bytes of unfinished packets of all clients together.
    pub buffered_bytes: usize,
}

/// Allowance that grows with time up to what one second brings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, left: per_second, at: now }
    }

    /// Takes `amount`, into debt if need be.
    pub(crate) fn take(&mut self, amount: usize, now: Instant) {
        let grown = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.left = (self.left + grown).min(self.per_second) - amount as f64;
        self.at = now;
    }

    /// When the debt is paid; `None` without debt.
    pub(crate) fn until(&self) -> Option<Instant> {
        (self.left < 0.0).then(|| self.at + Duration::from_secs_f64(-self.left / self.per_second))
    }
}

#[derive(Debug)]
struct Source {
    connects: Bucket,
    since: Instant,
    refused: HashMap<Reason, u32>,
}

impl Source {
    fn new(limits: &Limits, now: Instant) -> Self {
        Self { connects: Bucket::new(limits.connects_per_second, now), since: now, refused: HashMap::new() }
    }

    fn refresh(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= MINUTE {
            self.since = now;
            self.refused.clear();
        }
    }
}

/// Refusals that became worth a report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Repeated {
    /// Why it was refused.
    pub(crate) reason: Reason,
    /// How often within a minute.
    pub(crate) count: u32,
    /// What that means.
    pub(crate) meaning: Meaning,
}

#[derive(Debug)]
struct State {
    sources: LruCache<IpAddr, Source>,
    proven: LruCache<IpAddr, ()>,
    /// What strangers may take together: a storm of connections from many addresses costs no more handshakes than that.
    strangers: Option<Bucket>,
    open: HashMap<IpAddr, usize>,
    retained: LruCache<String, HashSet<u64>>,
}

/// What all sessions count together. Bounded whatever clients do: sources and identities by number, open connections by the
/// limit on them.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
}

impl Default for Shared {
    fn default() -> Self {
        let state = State {
            sources: LruCache::new(SOURCES),
            proven: LruCache::new(PROVEN),
            strangers: None,
            open: HashMap::new(),
            retained: LruCache::new(IDENTITIES),
        };
        Self { state: Mutex::new(state) }
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing that holds it can panic half-way through a change.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Counts a new connection in, unless it is one too many. What was admitted must be [`Self::leave`]d.
    pub(crate) fn admit(
        &self,
        source: IpAddr,
        limits: &Limits,
        open: usize,
        now: Instant,
    ) -> Result<(), Reason> {
        let mut state = self.state();
        let state = &mut *state;
        let known = state.sources.get_or_insert_mut(source, || Source::new(limits, now));
        known.refresh(now);
        if known.refused.get(&Reason::Credentials).is_some_and(|guesses| *guesses >= GUESSES) {
            return Err(Reason::LockedOut);
        }
        if known.connects.until().is_some_and(|then| then > now) {
            return Err(Reason::ConnectRate);
        }
        let is_proven = state.proven.get(&source).is_some();
        let strangers = state.strangers.get_or_insert_with(|| Bucket::new(limits.strangers_per_second, now));
        if !is_proven && strangers.until().is_some_and(|then| then > now) {
            return Err(Reason::StrangerRate);
        }
        known.connects.take(1, now);
        if open >= limits.connections {
            return Err(Reason::Connections);
        }
        let of_source = state.open.entry(source).or_insert(0);
        if *of_source >= limits.connections_per_source {
            return Err(Reason::SourceConnections);
        }
        *of_source += 1;
        strangers.take(usize::from(!is_proven), now);
        Ok(())
    }

    /// Somebody at `source` has proven who it is.
    pub(crate) fn prove(&self, source: IpAddr) {
        self.state().proven.put(source, ());
    }

    /// Counts an admitted connection out.
    pub(crate) fn leave(&self, source: IpAddr) {
        let mut state = self.state();
        if let Some(open) = state.open.get_mut(&source) {
            *open -= 1;
            if *open == 0 {
                state.open.remove(&source);
            }
        }
    }

    /// Counts a refusal; what it means when this one makes it worth a report, which happens once a minute.
    pub(crate) fn refuse(
        &self,
        source: IpAddr,
        reason: Reason,
        limits: &Limits,
        now: Instant,
    ) -> Option<Repeated> {
        let mut state = self.state();
        let known = state.sources.get_or_insert_mut(source, || Source::new(limits, now));
        known.refresh(now);
        let count = known.refused.entry(reason).or_insert(0);
        *count = count.saturating_add(1);
        let meaning = reason.meaning()?;
        (*count == meaning.threshold).then_some(Repeated { reason, count: *count, meaning })
    }

    /// Whether `identity` may keep a message under `topic`; a message without payload gives the topic back.
    pub(crate) fn retain(&self, identity: &str, topic: u64, is_kept: bool, limits: &Limits) -> bool {
        let mut state = self.state();
        let topics = state.retained.get_or_insert_mut_ref(identity, HashSet::new);
        if !is_kept {
            topics.remove(&topic);
            return true;
        }
        let fits = topics.contains(&topic) || topics.len() < limits.retained;
        if fits {
            topics.insert(topic);
        }
        fits
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn limits() -> Limits {
        Limits {
            connections: 100,
            connections_per_source: 3,
            connects_per_second: 5,
            strangers_per_second: 50,
            connect_timeout: Duration::from_secs(1),
            packet_bytes: 1_000,
            packet_timeout: Duration::from_secs(1),
            messages_per_second: 10,
            bytes_per_second: 1_000,
            inflight: 4,
            subscriptions: 3,
            retained: 2,
            topic_bytes: 40,
            topic_levels: 4,
            will_bytes: 100,
            slow_reader: Duration::from_secs(1),
            keep_alive: Duration::from_mins(1),
            session_expiry: Duration::from_hours(1),
            queued_messages: 10,
            buffered_bytes: 10_000,
        }
    }

    fn source(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn debt_is_paid_with_time() {
        let now = Instant::now();
        let mut bucket = Bucket::new(10, now);
        bucket.take(10, now);
        assert_eq!(bucket.until(), None);
        bucket.take(5, now);
        assert_eq!(bucket.until(), Some(now + Duration::from_millis(500)));
        bucket.take(0, now + Duration::from_secs(9));
        assert_eq!(bucket.until(), None);
    }

    #[test]
    fn a_source_has_its_own_number_and_rate_of_connections() {
        let (shared, limits, now) = (Shared::default(), limits(), Instant::now());
        for _ in 0..3 {
            assert_eq!(shared.admit(source(1), &limits, 0, now), Ok(()));
        }
        assert_eq!(shared.admit(source(1), &limits, 0, now), Err(Reason::SourceConnections));
        shared.leave(source(1));
        assert_eq!(shared.admit(source(1), &limits, 0, now), Ok(()));
        assert_eq!(shared.admit(source(2), &limits, 100, now), Err(Reason::Connections));
        shared.leave(source(1));
        let _ = shared.admit(source(1), &limits, 0, now);
        assert_eq!(shared.admit(source(1), &limits, 0, now), Err(Reason::ConnectRate));
        assert_eq!(shared.admit(source(3), &limits, 0, now), Ok(()), "others are not held up");
    }

    #[test]
    fn strangers_share_a_rate_that_does_not_hold_up_whom_is_known() {
        let (shared, limits, now) = (Shared::default(), limits(), Instant::now());
        shared.prove(source(1));
        let storm = |from: u32, now| {
            let sources =
                (from..from + 1_000).map(|number| IpAddr::from((0x0a00_0000 + number).to_be_bytes()));
            let taken = sources.filter(|stranger| shared.admit(*stranger, &limits, 0, now).is_ok());
            taken.map(|stranger| shared.leave(stranger)).count()
        };
        // One goes into debt.
        assert_eq!(storm(0, now), 51);
        assert_eq!(shared.admit(source(2), &limits, 0, now), Err(Reason::StrangerRate));
        assert_eq!(shared.admit(source(1), &limits, 0, now), Ok(()));
        assert_eq!(storm(1_000, now + Duration::from_secs(1)), 50);
        // It was refused for what others did, so it is not suspected of anything.
        assert_eq!(Reason::StrangerRate.meaning(), None);
        assert_eq!(shared.admit(source(2), &limits, 0, now + Duration::from_secs(3)), Ok(()));
    }

    #[test]
    fn whoever_guesses_has_to_wait_and_is_reported_once() {
        let (shared, limits, now) = (Shared::default(), limits(), Instant::now());
        let reports: Vec<_> =
            (0..20).filter_map(|_| shared.refuse(source(1), Reason::Credentials, &limits, now)).collect();
        assert_eq!(reports.len(), 1);
        assert_eq!(reports[0].meaning.technique, crate::learn::Technique::BRUTE_FORCE);
        assert_eq!(shared.admit(source(1), &limits, 0, now), Err(Reason::LockedOut));
        assert_eq!(shared.admit(source(1), &limits, 0, now + MINUTE), Ok(()));
    }

    #[test]
    fn retained_topics_are_counted_by_identity_and_can_be_given_back() {
        let (shared, limits) = (Shared::default(), limits());
        assert!(shared.retain("a", 1, true, &limits) && shared.retain("a", 2, true, &limits));
        assert!(shared.retain("a", 1, true, &limits), "the same topic again");
        assert!(!shared.retain("a", 3, true, &limits) && shared.retain("b", 3, true, &limits));
        assert!(shared.retain("a", 1, false, &limits) && shared.retain("a", 3, true, &limits));
    }

    #[test]
    fn many_sources_take_bounded_room() {
        let (shared, limits, now) = (Shared::default(), limits(), Instant::now());
        for number in 0..10_000_u32 {
            let _ = shared.refuse(IpAddr::from(number.to_be_bytes()), Reason::Malformed, &limits, now);
        }
        assert_eq!(shared.state().sources.len(), SOURCES.get());
    }
}
