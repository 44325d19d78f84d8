//! What all sessions of the guard share: limits, counters, rules as they are now, and which sessions are open.

use std::{
    collections::HashMap,
    hash::RandomState,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::limits::{Limits, Shared};
use crate::messages::{
    Abuse, Orders, Report, Settings,
    acl::{Grants, Rule},
    auth::Passwords,
    broker::Address,
    commands::Desk,
    guard::listen::Link,
    reason::{Counters, Reason, add},
    telemetry::{Stored, Watch},
    tls::Tls,
};
use crate::policy::TrustAnchors;

/// Rules and credentials as they are now.
#[derive(Clone, Default)]
pub(super) struct Live {
    pub(super) tls: Option<Tls>,
    pub(super) passwords: Option<Passwords>,
    pub(super) rules: Vec<Rule>,
    pub(super) command_keys: Option<TrustAnchors>,
}

/// How a client proved who it is; looked at again when files change.
#[derive(Clone, Debug)]
pub(super) enum Proof {
    Certificate(Vec<CertificateDer<'static>>),
    Password,
    None,
}

/// An open session, as much as is needed to cut it.
struct Open {
    source: IpAddr,
    identity: String,
    client_id: String,
    proof: Proof,
    cut: oneshot::Sender<Reason>,
}

/// Shared by all sessions.
pub(crate) struct Hub {
    pub(super) settings: Settings,
    pub(super) broker: Address,
    pub(super) counters: Arc<Counters>,
    pub(super) shared: Arc<Shared>,
    pub(super) commands: Arc<Desk>,
    pub(super) telemetry: Option<Arc<Watch>>,
    pub(super) hasher: RandomState,
    /// Bytes that sessions hold for packets on their way.
    pub(super) buffered: AtomicUsize,
    pub(super) orders: watch::Receiver<Arc<Orders>>,
    limits: Arc<Limits>,
    live: Mutex<Arc<Live>>,
    open: Mutex<HashMap<u64, Open>>,
    next: AtomicU64,
    reports: mpsc::Sender<Report>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    pub(super) fn new(
        settings: Settings,
        live: Live,
        learned: Vec<Stored>,
        Link { counters, commands, reports, orders, nursery, .. }: Link,
    ) -> Self {
        commands.configure(&orders.borrow().commands);
        commands.trust(live.command_keys.clone());
        let telemetry = settings.telemetry.clone().map(|telemetry| {
            Arc::new(Watch::new(telemetry, Arc::clone(&counters), learned, nursery, Timestamp::now()))
        });
        Self {
            telemetry,
            limits: Arc::new(settings.limits.clone()),
            broker: settings.broker.address(),
            settings,
            counters,
            shared: Arc::default(),
            commands,
            hasher: RandomState::new(),
            buffered: AtomicUsize::new(0),
            orders,
            live: Mutex::new(Arc::new(live)),
            open: Mutex::default(),
            next: AtomicU64::new(0),
            reports,
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    pub(super) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a refusal against its source, and reports it when it is one too many.
    pub(super) fn refuse(&self, source: IpAddr, identity: Option<&str>, reason: Reason) {
        self.counters.refuse(reason);
        let Some(repeated) = self.shared.refuse(source, reason, &self.limits, Instant::now()) else { return };
        let who = identity.unwrap_or("nobody known");
        tracing::warn!(%source, identity = who, reason = reason.name(), count = repeated.count, "refused again and again");
        self.report(Report::Abuse(Abuse {
            source,
            identity: identity.map(str::to_owned),
            reason: repeated.reason,
            count: repeated.count,
            meaning: repeated.meaning,
        }));
    }

    /// Tells the loop; never waits for it.
    pub(crate) fn report(&self, report: Report) {
        if self.reports.try_send(report).is_err() {
            add(&self.counters.reports_lost, 1);
        }
    }

    /// Tells the loop what there is to tell of telemetry, as far as it has room; the rest waits for the next time.
    pub(super) fn tell_telemetry(&self, is_end: bool) {
        let Some(telemetry) = &self.telemetry else { return };
        // Refusals keep room of their own.
        let room = self.reports.capacity().saturating_sub(self.reports.max_capacity() / 4);
        for report in telemetry.beat(Timestamp::now(), room, is_end) {
            self.report(report);
        }
    }

    /// Notes an open session; what is returned tells it when it is cut, and forgets it when dropped.
    pub(super) fn enter(
        self: &Arc<Self>,
        source: IpAddr,
        (identity, client_id): (String, String),
        proof: Proof,
    ) -> (Entry, oneshot::Receiver<Reason>) {
        let (cut, is_cut) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(number, Open { source, identity, client_id, proof, cut });
        self.counters.sessions.store(open.len() as u64, Ordering::Relaxed);
        (Entry { hub: Arc::clone(self), number }, is_cut)
    }

    /// Puts other rules and credentials in force, and cuts sessions that are not what they were.
    pub(super) fn renew(&self, live: Live) {
        self.commands.trust(live.command_keys.clone());
        let live = Arc::new(live);
        let before = std::mem::replace(
            &mut *self.live.lock().unwrap_or_else(PoisonError::into_inner),
            Arc::clone(&live),
        );
        self.cut(Reason::Revoked, |open| {
            let grants = |rules: &[Rule]| Grants::of(rules, &open.identity, &open.client_id);
            let is_proven = match &open.proof {
                Proof::Certificate(chain) => live.tls.as_ref().is_some_and(|tls| tls.trusts(chain)),
                Proof::Password => match (&live.passwords, &before.passwords) {
                    (Some(now), Some(before)) => now.unchanged(before, &open.identity),
                    _ => false,
                },
                Proof::None => true,
            };
            !is_proven || grants(&live.rules) != grants(&before.rules)
        });
    }

    /// Cuts the sessions of devices that the gateway has cut off.
    pub(super) fn isolate(&self, orders: &Orders) {
        self.cut(Reason::Isolated, |open| orders.is_cut(open.source));
    }

    fn cut(&self, reason: Reason, wanted: impl Fn(&Open) -> bool) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers: Vec<u64> =
            open.iter().filter(|(_, open)| wanted(open)).map(|(number, _)| *number).collect();
        for number in numbers {
            if let Some(open) = open.remove(&number) {
                tracing::info!(source = %open.source, identity = open.identity, reason = reason.name(), "session cut");
                // A session that just ended needs no cutting.
                let _ = open.cut.send(reason);
            }
        }
        self.counters.sessions.store(open.len() as u64, Ordering::Relaxed);
    }
}

/// An open session's place in the list.
pub(super) struct Entry {
    hub: Arc<Hub>,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut open = self.hub.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&self.number);
        self.hub.counters.sessions.store(open.len() as u64, Ordering::Relaxed);
    }
}
