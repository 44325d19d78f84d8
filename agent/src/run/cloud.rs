//! The loop's end of the link to the cloud: gives what waits, stores what was acknowledged, takes policies that the fleet wants.
//!
//! The link runs on a thread of its own with a bounded channel each way; the loop never waits for it.

use std::{path::PathBuf, thread};

use jiff::{SignedDuration, Timestamp};
use tokio::{runtime, sync::mpsc};

use super::gateway::{Gateway, now};
use crate::{
    api::view::EventKind,
    config::Config,
    fleet::{
        drain::batch,
        jobs::{self, Ending},
        limits::check_shadow,
        link::{LinkSettings, News, Order, Wanted, serve},
        provision::identity::Files,
        shadow::{Reported, update},
        topics::Topics,
    },
    policy::{Reason, Refused},
    store::Durability,
};

/// Orders and news under way at most.
const UNDER_WAY: usize = 64;
/// Whose orders a policy from the shadow is.
const FLEET: &str = "fleet";

/// The link as the loop sees it.
#[derive(Debug, Default)]
pub(super) struct Cloud {
    pub(super) orders: Option<mpsc::Sender<Order>>,
    topics: Option<Topics>,
    pub(super) online: bool,
    /// Until the certificate ends, as it was last seen.
    pub(super) certificate_days: Option<u64>,
    pub(super) connects: u64,
    pub(super) failures: u64,
}

fn settings(config: &Config) -> LinkSettings {
    let cloud = &config.cloud;
    let path = |text: &String| Some(PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty());
    LinkSettings {
        endpoint: cloud.endpoint.clone(),
        port: cloud.port,
        thing: config.gateway_name(),
        rule: cloud.rule.clone(),
        tls: config.cloud_tls(),
        origins: cloud.policy_origins.clone(),
        web_ca: path(&cloud.policy_ca),
        defender: cloud.defender.format(),
    }
}

impl Gateway {
    /// Starts the link if it is wanted; its news. The thread ends when the loop does.
    pub(super) fn start_link(&mut self) -> Option<mpsc::Receiver<News>> {
        if !self.config.cloud.enabled || self.config.cloud.endpoint.is_empty() {
            return None;
        }
        let settings = settings(&self.config);
        let (orders, asked) = mpsc::channel(UNDER_WAY);
        let (news, told) = mpsc::channel(UNDER_WAY);
        self.cloud.topics = Some(Topics::new(&settings.thing, &settings.rule));
        self.cloud.orders = Some(orders);
        let started = runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            let link = move || runtime.block_on(serve(settings, asked, news));
            thread::Builder::new().name("cloud".to_owned()).spawn(link).map(drop)
        });
        if let Err(error) = started {
            self.degraded(&format!("the link to the cloud cannot be started: {error}"));
            return None;
        }
        Some(told)
    }

    pub(super) fn on_news(&mut self, news: News) {
        match news {
            News::Online => {
                self.cloud.online = true;
                self.cloud.connects += 1;
                self.problems.retain(|problem| !problem.starts_with(AWAY));
                self.tell(EventKind::Lifecycle, "the cloud is reached".to_owned(), None, None);
                self.report_metrics(now());
            }
            News::Offline(why) => {
                self.cloud.failures += 1;
                if std::mem::take(&mut self.cloud.online) || self.cloud.failures == 1 {
                    self.problems.retain(|problem| !problem.starts_with(AWAY));
                    self.degraded(&format!("{AWAY}: {why}"));
                }
            }
            News::Renewed => {
                let text = "the link to the cloud takes up the new certificate";
                self.tell(EventKind::Lifecycle, text.to_owned(), None, None);
            }
            News::Want { after, most } => self.give(after, most),
            News::Acknowledged(sequences) => {
                let stored = self.store.batch(Durability::Process, |store| store.acknowledge(&sequences));
                self.stored(stored.map(drop));
            }
            News::Desired(wanted) => self.on_desired(wanted),
            News::Fetched(wanted, fetched) => self.on_fetched(&wanted, fetched),
            News::Metrics(answer) => self.on_metrics_answered(answer),
        }
    }

    /// Says in time that the certificate ends; once it is replaced, no more.
    pub(super) fn watch_certificate(&mut self, now: Timestamp) {
        let cloud = &self.config.cloud;
        let files = Files { certificate: PathBuf::from(&cloud.certificate), key: PathBuf::from(&cloud.key) };
        // One that is not there or cannot be read is what the link reports.
        let ends = files.ends().ok().flatten();
        self.cloud.certificate_days =
            ends.map(|ends| u64::try_from(ends.duration_since(now).as_hours() / 24).unwrap_or(0));
        let ends = ends.filter(|ends| *ends < now + IN_TIME);
        let why = ends.map(|ends| format!("on {ends}; `tidegate provision --renew-within 30d` replaces it"));
        self.trouble(ENDING, why.as_deref());
    }

    fn give(&mut self, after: u64, most: u32) {
        let Some(topics) = self.cloud.topics.clone() else { return };
        let gateway = self.config.gateway_name();
        let (ready, unsendable) = match batch(&self.store, &gateway, &topics, after, most) {
            Ok(given) => given,
            Err(error) => return self.stored(Err(error)),
        };
        for error in unsendable {
            self.degraded(&format!("a report was dropped: {error}"));
        }
        self.order(Order::Messages(ready));
    }

    /// A full channel is the link's trouble: it asks again.
    pub(super) fn order(&self, order: Order) {
        if let Some(orders) = &self.cloud.orders {
            let _ = orders.try_send(order);
        }
    }

    fn on_desired(&mut self, wanted: Wanted) {
        let version = wanted.desired.version;
        let in_force = self.policies.in_force().map(|held| held.document.version);
        if in_force == Some(version) {
            self.answer_fleet(&wanted, None);
        } else if version > self.policies.highest() {
            self.order(Order::Fetch(wanted));
        } else {
            let detail = format!("version {version} is not newer than {}", self.policies.highest());
            self.answer_fleet(&wanted, Some((Reason::NotNewer.name().to_owned(), detail)));
        }
    }

    fn on_fetched(&mut self, wanted: &Wanted, fetched: Result<Vec<u8>, String>) {
        let desired = &wanted.desired;
        let fetched = fetched.and_then(|bytes| {
            let is_it = desired.is(&bytes);
            if is_it { Ok(bytes) } else { Err(format!("{} is not what was named", desired.url)) }
        });
        let applied = match fetched {
            Ok(sealed) => self.apply_policy(&sealed, FLEET).map(drop),
            Err(cause) => Err(self.refuse_policy(&Refused::new(Reason::Failed, cause).of(desired.version))),
        };
        let refused = applied.err().map(|refusal| {
            let reason = refusal.cause.rsplit_once('(').map_or("", |(_, reason)| reason);
            (reason.trim_end_matches(')').to_owned(), refusal.cause.clone())
        });
        self.answer_fleet(wanted, refused);
    }

    /// Tells the shadow, and the job if there is one, what became of a policy: in force, or refused with a word and a sentence.
    fn answer_fleet(&mut self, wanted: &Wanted, refused: Option<(String, String)>) {
        let version = self.policies.in_force().map(|held| held.document.version);
        let (refused, detail) = refused.unzip();
        let detail = detail.map(|detail| crate::fleet::report::clip(&detail));
        if let Some(id) = &wanted.job {
            let ending = match refused.as_deref() {
                None => Ending::Succeeded,
                Some(reason) if reason == Reason::Failed.name() => Ending::Failed,
                Some(_) => Ending::Rejected,
            };
            let update = jobs::update(ending, version, detail.as_deref().unwrap_or_default());
            self.order(Order::Job(id.clone(), update));
        }
        let update = update(&Reported { version, wanted: wanted.desired.version, refused, detail });
        match check_shadow(update.len()) {
            Ok(()) => self.order(Order::Shadow(update)),
            Err(error) => self.degraded(&format!("the shadow cannot be updated: {error}")),
        }
    }
}

const AWAY: &str = "the cloud is not reached";
const ENDING: &str = "the certificate for the cloud ends soon";
/// How long before its end a certificate that nobody replaced is a problem. The timer has tried for nine days by then.
const IN_TIME: SignedDuration = SignedDuration::from_hours(21 * 24);
