//! The connection to AWS IoT Core, or any broker that speaks MQTT 3.1.1 over mutual TLS. Here and in `provision/claim.rs` alone is rumqttc named.
//!
//! [`serve`] connects, is cut off, waits and connects again until nobody listens any more. It asks the loop for what waits in the
//! outbox, sends it in order with QoS 1 within the service's limits, and tells what was acknowledged; after a cut it asks again from
//! the first message without acknowledgement. It keeps nothing: whatever it holds is also in the outbox.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use rumqttc::{
    AsyncClient, Event, LastWill, MqttOptions, Outgoing as Sent, Packet, QoS, TlsConfiguration, Transport,
};
use tidegate_common::pod::mix64;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    backoff::Backoff,
    defender::{self, Format},
    drain::Outgoing,
    fetch::fetch,
    jobs::{self, Ending, Job},
    limits::{MAX_IN_FLIGHT, MAX_PAYLOAD, Pace, check_publish, check_subscriptions},
    shadow::{Desired, desired},
    tls::{self, TlsFiles},
    topics::Topics,
};

/// Messages asked for at a time.
const BATCH: u32 = 50;
/// Messages without acknowledgement at most.
const WINDOW: usize = 50;
/// How often it looks for work when nothing else happens.
const TICK: Duration = Duration::from_millis(200);
/// Silence after which the broker is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Room for packet headers beside the payload, in bytes.
const HEADERS: usize = 1_024;

/// Where to connect, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSettings {
    /// Host name of the endpoint, which its certificate must bear.
    pub endpoint: String,
    /// Port; on 443 the protocol is named by ALPN.
    pub port: u16,
    /// Client id and thing name.
    pub thing: String,
    /// Rule that takes reports.
    pub rule: String,
    /// Certificate, key, authorities.
    pub tls: TlsFiles,
    /// Where policies may be fetched from.
    pub origins: Vec<String>,
    /// Authorities for fetching; none for the system's.
    pub web_ca: Option<PathBuf>,
    /// How metrics for Device Defender are written, if they are sent.
    pub defender: Option<Format>,
}

/// A policy that the fleet wants, and who is told what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The policy.
    pub desired: Desired,
    /// The job that brought it; none for the shadow, which is always told.
    pub job: Option<String>,
}

/// What the loop tells the link.
#[derive(Debug)]
pub enum Order {
    /// What waits, in answer to [`News::Want`].
    Messages(Vec<Outgoing>),
    /// A shadow update.
    Shadow(String),
    /// A job ends, with this message.
    Job(String, String),
    /// A policy is to be fetched.
    Fetch(Wanted),
    /// Metrics for Device Defender.
    Metrics(Vec<u8>),
}

/// What the link tells the loop.
#[derive(Debug)]
pub enum News {
    /// Connected.
    Online,
    /// Not connected, and why.
    Offline(String),
    /// The messages after this sequence number are wanted, at most so many.
    Want {
        /// The last one that is held already.
        after: u64,
        /// How many.
        most: u32,
    },
    /// These were acknowledged.
    Acknowledged(Vec<u64>),
    /// The fleet wants this policy.
    Desired(Wanted),
    /// It was fetched, or not.
    Fetched(Wanted, Result<Vec<u8>, String>),
    /// Device Defender took the metrics, or said why not.
    Metrics(Result<(), String>),
}

/// Keeps the link up until `orders` ends.
pub async fn serve(settings: LinkSettings, mut orders: mpsc::Receiver<Order>, news: mpsc::Sender<News>) {
    let mut backoff = Backoff::default();
    loop {
        let why = match options(&settings) {
            Ok(options) => session(options, &settings, &mut orders, &news, &mut backoff).await,
            Err(error) => Some(error.to_string()),
        };
        let Some(why) = why else { return };
        if news.send(News::Offline(why)).await.is_err() {
            return;
        }
        let until = Instant::now() + backoff.next(chance());
        // Orders of the connection that is gone are of no use to the next one, which asks anew.
        while let Ok(order) = tokio::time::timeout_at(until, orders.recv()).await {
            if order.is_none() {
                return;
            }
        }
    }
}

/// 0–1, different on every gateway at every time; nothing secret depends on it.
pub(super) fn chance() -> f64 {
    let now_ns = Timestamp::now().as_nanosecond() as u64;
    f64::from(mix64(now_ns ^ u64::from(std::process::id()) << 40)) / f64::from(u32::MAX)
}

fn options(settings: &LinkSettings) -> Result<MqttOptions, tls::TlsError> {
    let config = tls::broker(&settings.tls, settings.port)?;
    let topics = Topics::new(&settings.thing, &settings.rule);
    let mut options = MqttOptions::new(&settings.thing, &settings.endpoint, settings.port);
    let will = LastWill::new(topics.presence(), r#"{"online":false}"#, QoS::AtLeastOnce, true);
    options
        .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))))
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_session(true)
        .set_inflight(MAX_IN_FLIGHT)
        .set_max_packet_size(MAX_PAYLOAD + HEADERS, MAX_PAYLOAD + HEADERS)
        .set_last_will(will);
    Ok(options)
}

/// One connection; why it ended, or nothing when the loop is gone.
async fn session(
    options: MqttOptions,
    settings: &LinkSettings,
    orders: &mut mpsc::Receiver<Order>,
    news: &mpsc::Sender<News>,
    backoff: &mut Backoff,
) -> Option<String> {
    let (client, mut events) = AsyncClient::new(options, 2 * WINDOW);
    let topics = Topics::new(&settings.thing, &settings.rule);
    let state = RefCell::new(State::new(client, topics, settings.defender));
    let woken = Notify::new();
    let (fetches, mut wanted) = mpsc::channel::<Wanted>(4);
    // A poll that is cut short would give a half-made connection up: it runs beside the rest to the end.
    let reading = async {
        loop {
            match events.poll().await {
                Ok(event) => {
                    let online = state.borrow_mut().on_event(event);
                    if online {
                        backoff.reset();
                    }
                    woken.notify_one();
                }
                Err(error) => return Some(error.to_string()),
            }
        }
    };
    let writing = async {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Fetch(wanted)) => _ = fetches.try_send(wanted),
                    Some(order) => state.borrow_mut().on_order(order),
                    None => return None,
                },
                () = woken.notified() => {}
                _ = tick.tick() => {}
            }
            if !state.borrow_mut().work(news) {
                return None;
            }
        }
    };
    let fetching = async {
        while let Some(wanted) = wanted.recv().await {
            let fetched = fetch(&wanted.desired.url, &settings.origins, settings.web_ca.as_deref()).await;
            if news.send(News::Fetched(wanted, fetched)).await.is_err() {
                break;
            }
        }
        // The loop is gone; the writer ends the session.
        sleep(Duration::MAX).await;
        None
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
        ended = fetching => ended,
    }
}

/// What a connection knows.
struct State {
    client: AsyncClient,
    topics: Topics,
    /// Where metrics for Device Defender go.
    metrics: Option<String>,
    connected: bool,
    began: Instant,
    pace: Pace,
    /// Given by the loop, not yet to the client.
    queue: VecDeque<Outgoing>,
    /// Given to the client, not yet numbered by it; nothing for what is no report.
    handed: VecDeque<Option<u64>>,
    /// Numbered, not yet acknowledged.
    in_flight: HashMap<u16, u64>,
    acknowledged: Vec<u64>,
    untold: VecDeque<News>,
    cursor: u64,
    asked: Option<Instant>,
}

impl State {
    fn new(client: AsyncClient, topics: Topics, defender: Option<Format>) -> Self {
        Self {
            client,
            metrics: defender.map(|format| topics.defender(format)),
            topics,
            connected: false,
            began: Instant::now(),
            pace: Pace::default(),
            queue: VecDeque::new(),
            handed: VecDeque::new(),
            in_flight: HashMap::new(),
            acknowledged: Vec::new(),
            untold: VecDeque::new(),
            cursor: 0,
            asked: None,
        }
    }

    /// Something came or went; whether the connection is up since now.
    fn on_event(&mut self, event: Event) -> bool {
        match event {
            Event::Incoming(Packet::ConnAck(_)) => {
                self.connected = true;
                self.untold.push_back(News::Online);
                let mut subscriptions = self.topics.subscriptions();
                let answers = ["accepted", "rejected"];
                subscriptions.extend(
                    self.metrics.iter().flat_map(|topic| answers.map(|answer| format!("{topic}/{answer}"))),
                );
                if check_subscriptions(subscriptions.len()).is_ok() {
                    for topic in subscriptions {
                        // The request channel is empty: this is the first thing on the connection.
                        let _ = self.client.try_subscribe(topic, QoS::AtLeastOnce);
                    }
                }
                self.publish(self.topics.presence(), br#"{"online":true}"#.to_vec(), true);
                self.publish(self.topics.shadow("get"), Vec::new(), false);
                self.publish(self.topics.jobs("$next/get"), b"{}".to_vec(), false);
                return true;
            }
            Event::Incoming(Packet::PubAck(ack)) => {
                self.acknowledged.extend(self.in_flight.remove(&ack.pkid));
            }
            Event::Outgoing(Sent::Publish(number)) => {
                if let Some(Some(sequence)) = self.handed.pop_front() {
                    self.in_flight.insert(number, sequence);
                }
            }
            Event::Incoming(Packet::Publish(publish)) => {
                if publish.topic == self.topics.shadow("get/accepted") {
                    let wanted = desired(&publish.payload).map(|desired| Wanted { desired, job: None });
                    self.untold.extend(wanted.map(News::Desired));
                } else if publish.topic == self.topics.jobs("notify-next")
                    || publish.topic == self.topics.jobs("$next/get/accepted")
                {
                    self.on_job(&publish.payload);
                } else if self.metrics.as_ref().is_some_and(|topic| publish.topic.starts_with(topic)) {
                    let refusal = defender::refusal(&publish.topic, &publish.payload);
                    self.untold.push_back(News::Metrics(refusal.map_or(Ok(()), Err)));
                } else if publish.topic == self.topics.shadow("update/delta") {
                    // A delta holds only what differs: the whole is asked for.
                    self.publish(self.topics.shadow("get"), Vec::new(), false);
                }
            }
            _ => {}
        }
        false
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Messages(messages) => {
                // An empty answer waits for the next second, and one that comes twice counts once.
                let Some(last) = messages.last().map(|last| last.sequence) else { return };
                self.queue.extend(messages.into_iter().filter(|message| message.sequence > self.cursor));
                self.cursor = self.cursor.max(last);
                self.asked = None;
            }
            Order::Shadow(update) => self.publish(self.topics.shadow("update"), update.into_bytes(), false),
            Order::Job(id, update) => {
                self.publish(self.topics.jobs(&format!("{id}/update")), update.into_bytes(), false);
            }
            Order::Metrics(report) => {
                if let Some(topic) = self.metrics.clone() {
                    self.publish(topic, report, false);
                }
            }
            Order::Fetch(_) => {}
        }
    }

    fn on_job(&mut self, message: &[u8]) {
        match jobs::next(message) {
            Some(Job { id, desired: Some(desired) }) => {
                self.untold.push_back(News::Desired(Wanted { desired, job: Some(id) }));
            }
            Some(Job { id, desired: None }) => {
                let update = jobs::update(Ending::Rejected, None, "its document names no policy");
                self.on_order(Order::Job(id, update));
            }
            None => {}
        }
    }

    fn publish(&mut self, topic: String, payload: Vec<u8>, retain: bool) {
        if self.connected
            && check_publish(&topic, payload.len()).is_ok()
            && self.client.try_publish(topic, QoS::AtLeastOnce, retain, payload).is_ok()
        {
            self.handed.push_back(None);
        }
    }

    /// Hands on what may be sent, tells the loop what there is to tell, and asks for more. Whether anybody listens.
    fn work(&mut self, news: &mpsc::Sender<News>) -> bool {
        let second = self.began.elapsed().as_secs();
        while self.connected && self.in_flight.len() + self.handed.len() < WINDOW {
            let Some(next) = self.queue.front() else { break };
            if !self.pace.take(second, next.payload.len()) {
                break;
            }
            let Some(Outgoing { sequence, topic, payload }) = self.queue.pop_front() else { break };
            // The window is smaller than the client's channel, so there is room.
            if self.client.try_publish(topic, QoS::AtLeastOnce, false, payload).is_ok() {
                self.handed.push_back(Some(sequence));
            }
        }
        if !self.acknowledged.is_empty() {
            self.untold.push_back(News::Acknowledged(std::mem::take(&mut self.acknowledged)));
        }
        let is_due = self.asked.is_none_or(|at| at.elapsed() > 5 * TICK);
        if self.connected && self.queue.is_empty() && self.untold.is_empty() && is_due {
            self.asked = Some(Instant::now());
            self.untold.push_back(News::Want { after: self.cursor, most: BATCH });
        }
        while let Some(item) = self.untold.pop_front() {
            match news.try_send(item) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(item)) => {
                    self.untold.push_front(item);
                    break;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
            }
        }
        true
    }
}
