//! What one connection of the link knows: what is queued, handed over and in flight, and what came back. It sends through the client and waits for
//! nothing.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use rumqttc::{AsyncClient, Event, Outgoing as Sent, Packet, QoS};
use tokio::{sync::mpsc, time::Instant};

use super::{News, Order, Wanted};
use crate::fleet::{
    defender::{self, Format},
    drain::Outgoing,
    jobs::{self, Ending, Job},
    limits::{Pace, check_publish, check_subscriptions},
    shadow::desired,
    topics::Topics,
};

/// Messages asked for at a time.
const BATCH: u32 = 50;
/// Messages without acknowledgement at most.
pub(super) const WINDOW: usize = 50;
/// How often it looks for work when nothing else happens.
pub(super) const TICK: Duration = Duration::from_millis(200);

/// What a connection knows.
pub(super) struct State {
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
    pub(super) fn new(client: AsyncClient, topics: Topics, defender: Option<Format>) -> Self {
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
    pub(super) fn on_event(&mut self, event: Event) -> bool {
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

    pub(super) fn on_order(&mut self, order: Order) {
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
    pub(super) fn work(&mut self, news: &mpsc::Sender<News>) -> bool {
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
