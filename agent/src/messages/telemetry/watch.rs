//! The models of all topics: where messages pass and from where things are taken away to be told, stored and sent.
//!
//! One lock, which only the guard's own thread takes: sessions while they judge a message, and its beat. Devices and topics are
//! bounded; one that is new finds room only where another has been silent for a day, so nobody pushes out what was learned by
//! making names up.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use jiff::Timestamp;

use super::{
    Anomalous, Nursery, Settings, Sign,
    batch::Batch,
    payload::Reading,
    spread::DAY_MS,
    topic::{Odd, Outcome, Topic},
};
use crate::messages::{
    Report,
    acl::matches,
    codec::Publish,
    judge::{Client, Judgement},
    reason::{Counters, Reason, add},
};

/// Odd messages that wait to be told.
const ALARMS: usize = 256;
/// How often a model is stored.
const STORE_EVERY_MS: u64 = 5 * 60 * 1_000;
/// Batches and models handed on at a time.
const AT_A_TIME: usize = 16;

/// An odd message, as the loop is told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Alarm {
    /// The device by its topic.
    pub device: String,
    /// The topic.
    pub topic: String,
    /// Who published it.
    pub identity: String,
    /// From where.
    pub source: IpAddr,
    /// What is odd.
    pub sign: Sign,
    /// The field, if it is one.
    pub field: Option<String>,
    /// In words.
    pub detail: String,
    /// Messages with this sign since all was calm.
    pub count: u32,
    /// How sure it is that somebody does it on purpose, 0–1.
    pub confidence: f64,
    /// P-value of the joint model, where it spoke.
    pub p_value: Option<f64>,
    /// Whether the message was refused.
    pub is_refused: bool,
}

/// A model as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The device by its topic.
    pub device: String,
    /// The topic.
    pub topic: String,
    /// The model.
    pub model: Topic,
}

/// Which device a telemetry topic is of; kept by a session for the topic it published to last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    device: String,
}

#[derive(Debug)]
struct Known {
    device: String,
    model: Topic,
    batch: Batch,
    heard_ms: u64,
    stored_ms: u64,
    is_changed: bool,
}

#[derive(Debug)]
struct State {
    topics: HashMap<String, Known>,
    reading: Reading,
    alarms: VecDeque<Alarm>,
    nursery: Nursery,
}

/// All that is known of telemetry.
#[derive(Debug)]
pub(crate) struct Watch {
    settings: Settings,
    counters: Arc<Counters>,
    state: Mutex<State>,
}

impl Watch {
    pub(crate) fn new(
        settings: Settings,
        counters: Arc<Counters>,
        stored: Vec<Stored>,
        nursery: Nursery,
        now: Timestamp,
    ) -> Self {
        let now_ms = millis(now);
        let reading = Reading::new(settings.shape);
        let mut topics = HashMap::new();
        for Stored { device, topic, model } in stored.into_iter().take(settings.models) {
            let Some(model) = model.revive(settings.shape.fields) else { continue };
            let known = Known {
                device,
                model,
                batch: Batch::default(),
                heard_ms: now_ms,
                stored_ms: now_ms,
                is_changed: false,
            };
            topics.insert(topic, known);
        }
        let state = State { topics, reading, alarms: VecDeque::new(), nursery };
        Self { settings, counters, state: Mutex::new(state) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing that holds it can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose telemetry `topic` is, published by `identity`; `None` for no telemetry.
    pub(crate) fn watches(&self, topic: &str, identity: &str) -> Option<Watched> {
        let filter = self.settings.topics.iter().find(|filter| matches(filter, topic))?;
        let place = filter.split('/').position(|level| level == "+");
        let device = place.and_then(|place| topic.split('/').nth(place)).unwrap_or(identity);
        Some(Watched { device: device.to_owned() })
    }

    /// Whether messages that do not fit are refused.
    pub(crate) fn refuses(&self) -> bool {
        self.settings.anomalous == Anomalous::Refuse
    }

    /// Judges a message that the client may publish.
    pub(crate) fn judge(
        &self,
        watched: &Watched,
        client: &Client,
        message: &Publish<'_>,
        now: Timestamp,
    ) -> Judgement {
        let tallies = &self.counters.telemetry;
        let mut state = self.state();
        let state = &mut *state;
        let now_ms = millis(now);
        add(&tallies.messages, 1);
        let read = state.reading.read(message.payload);
        add(&tallies.unreadable, u64::from(read.is_err()));
        if !state.topics.contains_key(message.topic) && !self.admit(state, watched, message.topic, now_ms) {
            add(&tallies.no_room, 1);
            return Judgement::Pass;
        }
        let Some(known) = state.topics.get_mut(message.topic) else { return Judgement::Pass };
        known.heard_ms = now_ms;
        known.is_changed = true;
        let reading = read.map(|()| &state.reading);
        let batch = self.settings.forward_every.is_some().then_some(&mut known.batch);
        match known.model.message(reading, now_ms, &self.settings, batch) {
            Outcome::Learning => add(&tallies.learning, 1),
            Outcome::Normal => {}
            Outcome::Relearned => add(&tallies.relearned, 1),
            Outcome::Odd(odd) => {
                return self.odd(odd, known.device.clone(), &mut state.alarms, client, message);
            }
        }
        Judgement::Pass
    }

    fn odd(
        &self,
        odd: Odd,
        device: String,
        alarms: &mut VecDeque<Alarm>,
        client: &Client,
        message: &Publish<'_>,
    ) -> Judgement {
        let tallies = &self.counters.telemetry;
        add(tallies.odd(odd.sign), 1);
        let is_refused = self.refuses();
        if odd.is_news && alarms.len() >= ALARMS {
            add(&tallies.untold, 1);
        } else if odd.is_news {
            alarms.push_back(Alarm {
                device,
                topic: message.topic.to_owned(),
                identity: client.identity.clone(),
                source: client.source,
                sign: odd.sign,
                field: odd.field,
                detail: odd.detail,
                count: odd.count,
                confidence: odd.sign.confidence(odd.is_repeated),
                p_value: odd.p_value,
                is_refused,
            });
        }
        if is_refused { Judgement::Refuse(Reason::Telemetry) } else { Judgement::Pass }
    }

    /// Makes room for a new topic; whether there is any.
    fn admit(&self, state: &mut State, watched: &Watched, topic: &str, now_ms: u64) -> bool {
        let of_device = |known: &Known| known.device == watched.device;
        let has_room = |topics: &HashMap<String, Known>| {
            let of_this = topics.values().filter(|known| of_device(known)).count();
            if of_this > 0 {
                return of_this < self.settings.topics_per_device;
            }
            topics.len() < self.settings.models
                && topics.values().map(|known| &*known.device).collect::<std::collections::HashSet<_>>().len()
                    < self.settings.devices
        };
        if !has_room(&state.topics) {
            state.topics.retain(|_, known| now_ms.saturating_sub(known.heard_ms) < DAY_MS);
            if !has_room(&state.topics) {
                return false;
            }
        }
        let known = Known {
            device: watched.device.clone(),
            model: Topic::default(),
            batch: Batch::default(),
            heard_ms: now_ms,
            stored_ms: now_ms,
            is_changed: false,
        };
        state.topics.insert(topic.to_owned(), known);
        true
    }

    /// What is to be told, sent and stored now, at most `room` of it; the rest waits. At the end everything is stored. Joint models
    /// that have grown are taken up, and others handed over to be grown.
    pub(crate) fn beat(&self, now: Timestamp, room: usize, is_end: bool) -> Vec<Report> {
        let mut state = self.state();
        let state = &mut *state;
        let now_ms = millis(now);
        while let Some((topic, grown)) = state.nursery.grown() {
            if let Some(known) = state.topics.get_mut(&topic) {
                known.model.put(grown);
            }
        }
        for (topic, known) in &mut state.topics {
            if !state.nursery.tend(topic, &mut known.model) {
                break;
            }
        }
        let told = state.alarms.len().min(room);
        let mut reports: Vec<Report> =
            state.alarms.drain(..told).map(|alarm| Report::Odd(Box::new(alarm))).collect();
        let most = if is_end { room } else { room.min(told + AT_A_TIME) };
        let every_ms = self.settings.forward_every.map(|every| every.as_millis() as u64);
        let is_due = |known: &Known| {
            let waits_ms = known.batch.since_ms().map(|since_ms| now_ms.saturating_sub(since_ms));
            every_ms.zip(waits_ms).is_some_and(|(every_ms, waits_ms)| is_end || waits_ms >= every_ms)
        };
        for (topic, known) in &mut state.topics {
            if reports.len() < most && is_due(known) {
                let report = known.batch.take(&known.device, topic);
                add(&self.counters.telemetry.summarised, report.left_out);
                reports.push(Report::Measured(Box::new(report)));
            }
            let is_old =
                known.is_changed && (is_end || now_ms.saturating_sub(known.stored_ms) >= STORE_EVERY_MS);
            if reports.len() < most && is_old {
                known.is_changed = false;
                known.stored_ms = now_ms;
                let (device, topic, model) = (known.device.clone(), topic.clone(), known.model.clone());
                reports.push(Report::Learned(Box::new(Stored { device, topic, model })));
            }
        }
        let judged = state.topics.values().filter(|known| known.model.is_ready()).count();
        let tallies = &self.counters.telemetry;
        tallies.topics.store(state.topics.len() as u64, Ordering::Relaxed);
        tallies.judged_topics.store(judged as u64, Ordering::Relaxed);
        reports
    }
}

/// Milliseconds of the wall clock since 1970.
fn millis(wall: Timestamp) -> u64 {
    u64::try_from(wall.as_millisecond()).unwrap_or(0)
}
