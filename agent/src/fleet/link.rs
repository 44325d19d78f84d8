//! The connection to AWS IoT Core, or any broker that speaks MQTT 3.1.1 over mutual TLS. Here and in `provision` alone is rumqttc named.
//!
//! [`serve`] connects, is cut off, waits and connects again until nobody listens any more. It asks the loop for what waits in the
//! outbox, sends it in order with QoS 1 within the service's limits, and tells what was acknowledged; after a cut it asks again from
//! the first message without acknowledgement. It keeps nothing: whatever it holds is also in the outbox. A certificate that was replaced on the disk
//! is taken up by itself: the connection is ended in good order and made anew.

mod state;

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use rumqttc::{AsyncClient, LastWill, MqttOptions, QoS, TlsConfiguration, Transport};
use tidegate_common::pod::mix64;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use self::state::{State, TICK, WINDOW};
use super::{
    backoff::Backoff,
    defender::Format,
    drain::Outgoing,
    fetch::fetch,
    limits::{MAX_IN_FLIGHT, MAX_PAYLOAD},
    shadow::Desired,
    tls::{self, TlsFiles},
    topics::Topics,
};

/// How often it looks whether certificate and key on the disk are others.
const LOOK: Duration = Duration::from_secs(5);
/// For the goodbye before a connection with another certificate.
const PARTING: Duration = Duration::from_secs(2);
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
    /// Certificate and key were replaced: the next connection is made with them.
    Renewed,
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

/// Why a connection ended.
enum End {
    /// The loop is gone.
    Gone,
    Cut(String),
    /// There is another certificate.
    Renewed,
}

/// Keeps the link up until `orders` ends.
pub async fn serve(settings: LinkSettings, mut orders: mpsc::Receiver<Order>, news: mpsc::Sender<News>) {
    let mut backoff = Backoff::default();
    loop {
        let mark = tls::mark(&settings.tls);
        let end = match options(&settings) {
            Ok(options) => session(options, &settings, mark, &mut orders, &news, &mut backoff).await,
            Err(error) => End::Cut(error.to_string()),
        };
        let told = match end {
            End::Gone => return,
            End::Cut(why) => News::Offline(why),
            End::Renewed => News::Renewed,
        };
        if news.send(told).await.is_err() {
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

/// One connection, with certificate and key as they were at `mark`.
async fn session(
    options: MqttOptions,
    settings: &LinkSettings,
    mark: tls::Mark,
    orders: &mut mpsc::Receiver<Order>,
    news: &mpsc::Sender<News>,
    backoff: &mut Backoff,
) -> End {
    let (client, mut events) = AsyncClient::new(options, 2 * WINDOW);
    let topics = Topics::new(&settings.thing, &settings.rule);
    let state = RefCell::new(State::new(client.clone(), topics, settings.defender));
    let woken = Notify::new();
    let is_parting = Cell::new(false);
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
                Err(_) if is_parting.get() => return End::Renewed,
                Err(error) => return End::Cut(error.to_string()),
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
                    None => return End::Gone,
                },
                () = woken.notified() => {}
                _ = tick.tick() => {}
            }
            if !state.borrow_mut().work(news) {
                return End::Gone;
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
        End::Gone
    };
    let watching = async {
        // A pair that is half exchanged or wrong is looked at again; until then the connection stays.
        while tls::mark(&settings.tls) == mark || tls::broker(&settings.tls, settings.port).is_err() {
            sleep(LOOK).await;
        }
        is_parting.set(true);
        let _ = client.try_disconnect();
        sleep(PARTING).await;
        End::Renewed
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
        ended = fetching => ended,
        ended = watching => ended,
    }
}
