//! A session's packets in both directions, once it is open: which pass, which end here, and what the guard says itself.
//!
//! Bytes in, bytes out: it does no IO and reads no clock. `relay` owns the buffers and the sockets.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use tokio_util::bytes::{BufMut as _, BytesMut};

use super::hub::Hub;
use crate::messages::{
    Report, answer,
    codec::{self, Frame, Kind, Malformed, Version},
    commands::id_text,
    connect::{Overridden, connack},
    judge::{Judge, Judgement},
    reason::{Reason, add},
    subscribe::{self, Subscribe},
};

/// SUBSCRIBEs with refused filters whose SUBACK is awaited.
const PENDING: usize = 64;
/// Deliveries of quality 2 that were refused and are not over.
const SWALLOWED: usize = 1_024;

/// What becomes of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on as it came.
    Pass,
    /// It ends here.
    Drop,
    /// This goes on in its place; never longer than it.
    Replace(BytesMut),
}

/// The protocol's side of a session.
#[derive(Debug)]
pub(super) struct Talk {
    hub: Arc<Hub>,
    judge: Judge,
    overridden: Overridden,
    expiry_s: u32,
    /// To the client, between the broker's packets.
    pub(super) answers: BytesMut,
    /// To the broker, between the client's packets.
    pub(super) acks: BytesMut,
    pending: HashMap<u16, Vec<Option<u8>>>,
    swallowed: HashSet<u16>,
    /// Messages of the client that the broker has not acknowledged.
    inflight: u16,
    is_open: bool,
    /// Whether the client wants refusals in words too.
    wants_words: bool,
    refused: Vec<Reason>,
}

impl Talk {
    /// A session whose CONNECT was just passed on; `expiry_s` is the longest that it may outlive the connection.
    pub(super) fn new(
        hub: Arc<Hub>,
        judge: Judge,
        overridden: Overridden,
        expiry_s: u32,
        wants_words: bool,
    ) -> Self {
        Self {
            hub,
            judge,
            overridden,
            expiry_s,
            answers: BytesMut::new(),
            acks: BytesMut::new(),
            pending: HashMap::new(),
            swallowed: HashSet::new(),
            inflight: 0,
            is_open: false,
            wants_words,
            refused: Vec::new(),
        }
    }

    /// Version of the session.
    pub(super) fn version(&self) -> Version {
        self.judge.client().version
    }

    /// What was refused since the last call.
    pub(super) fn take_refused(&mut self) -> Vec<Reason> {
        std::mem::take(&mut self.refused)
    }

    /// Whether the broker has taken the session.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether a packet of the client has to wait until the broker has acknowledged others. An acknowledgement never waits, or both
    /// ends would wait for each other.
    pub(super) fn must_wait(&self, packet: &[u8], frame: Frame) -> bool {
        let is_acknowledged = packet.first().is_some_and(|first| first & 0x06 != 0);
        frame.kind == Kind::Publish && is_acknowledged && self.inflight >= self.hub.limits().inflight
    }

    /// A whole packet of the client that came now.
    pub(super) fn up(&mut self, packet: &[u8], frame: Frame, now: Timestamp) -> Result<Fate, Malformed> {
        let version = self.version();
        let body = frame.len - frame.head;
        match (frame.kind, version) {
            (Kind::Publish, _) => self.publish(packet, frame, now),
            (Kind::Subscribe, _) => self.subscribe(packet),
            (Kind::Unsubscribe, _) => {
                for filter in subscribe::unsubscribed(version, packet)? {
                    self.judge.unsubscribe(&filter);
                }
                Ok(Fate::Pass)
            }
            (Kind::PubAck | Kind::PubRec | Kind::PubRel | Kind::PubComp, Version::V4) => {
                codec::packet_id(packet, frame.head)?;
                if body == 2 { Ok(Fate::Pass) } else { Err(Malformed("an acknowledgement of odd length")) }
            }
            (Kind::PubAck | Kind::PubRec | Kind::PubRel | Kind::PubComp, Version::V5) => {
                codec::packet_id(packet, frame.head)?;
                if body > 2 {
                    codec::Packet::decode(version, packet)?;
                }
                Ok(Fate::Pass)
            }
            (Kind::PingReq, _) | (Kind::Disconnect, Version::V4) if body == 0 => Ok(Fate::Pass),
            (Kind::Disconnect, Version::V5) => {
                Ok(subscribe::disconnect(version, packet, self.expiry_s)?.map_or(Fate::Pass, Fate::Replace))
            }
            _ => Err(Malformed("a packet that a client does not send now")),
        }
    }

    fn publish(&mut self, packet: &[u8], frame: Frame, now: Timestamp) -> Result<Fate, Malformed> {
        let version = self.version();
        let message = codec::publish(version, packet, frame.head)?;
        if message.alias.is_some() {
            return Err(Malformed("a topic alias, which the guard does not allow"));
        }
        let judgement = self.judge.publish(&message, now);
        if let Some(notice) = self.judge.take_notice() {
            self.hub.report(Report::Command(notice));
        }
        let (reason, words) = match judgement {
            Judgement::Pass => {
                add(&self.hub.counters.published, 1);
                self.inflight = self.inflight.saturating_add(u16::from(message.qos > 0));
                return Ok(Fate::Pass);
            }
            Judgement::Refuse(reason) => (reason, reason.name().to_owned()),
            Judgement::Hold(id) => (Reason::CommandHeld, format!("held as {}", id_text(id))),
        };
        self.refused.push(reason);
        let words = if self.wants_words { &words } else { "" };
        answer::refuse_publish(version, &message, reason, words, &mut self.answers);
        Ok(Fate::Drop)
    }

    fn subscribe(&mut self, packet: &[u8]) -> Result<Fate, Malformed> {
        let version = self.version();
        let subscribe = Subscribe::decode(version, packet)?;
        let refused: Vec<Option<Reason>> =
            subscribe.filters.iter().map(|filter| self.judge.subscribe(filter).err()).collect();
        self.refused.extend(refused.iter().flatten());
        let codes: Vec<Option<u8>> =
            refused.iter().map(|reason| reason.map(|reason| answer::suback_code(version, reason))).collect();
        if codes.iter().all(Option::is_none) {
            return Ok(Fate::Pass);
        }
        let has_room = self.pending.len() < PENDING && !self.pending.contains_key(&subscribe.id.get());
        if codes.iter().all(Option::is_some) || !has_room {
            let other = answer::suback_code(version, Reason::Subscriptions);
            let all: Vec<u8> = codes.iter().map(|code| code.unwrap_or(other)).collect();
            answer::suback(version, subscribe.id, &all, &mut self.answers);
            return Ok(Fate::Drop);
        }
        let id = subscribe.id.get();
        let allowed = subscribe.allowed(&codes)?;
        self.pending.insert(id, codes);
        Ok(Fate::Replace(allowed))
    }

    /// Bytes of a packet of the broker that [`Self::down`] has to see; the rest of a delivery passes or ends unseen.
    pub(super) fn needed(frame: Frame, bytes: &[u8]) -> usize {
        match frame.kind {
            Kind::Publish => {
                let topic = bytes
                    .get(frame.head..frame.head + 2)
                    .map_or(0, |length| usize::from(u16::from_be_bytes([length[0], length[1]])));
                (frame.head + 2 + topic + 2).min(frame.len)
            }
            _ => frame.len,
        }
    }

    /// A packet of the broker, of which at least [`Self::needed`] bytes are there.
    pub(super) fn down(&mut self, packet: &[u8], frame: Frame) -> Result<Fate, Malformed> {
        let version = self.version();
        if !self.is_open {
            if frame.kind != Kind::ConnAck {
                return Err(Malformed("the broker did not answer CONNECT first"));
            }
            let (ack, accepted) = connack(version, packet, self.overridden)?;
            self.is_open = accepted;
            // The guard's limits make it longer than it came, so it is said as an answer.
            self.answers.extend_from_slice(&ack);
            return Ok(Fate::Drop);
        }
        match frame.kind {
            Kind::Publish => self.deliver(packet, frame),
            Kind::PubAck | Kind::PubRec => {
                self.inflight = self.inflight.saturating_sub(1);
                Ok(Fate::Pass)
            }
            Kind::PubRel => {
                let id = codec::packet_id(packet, frame.head)?;
                if self.swallowed.remove(&id.get()) {
                    self.acknowledge(0x70, id.get());
                    return Ok(Fate::Drop);
                }
                Ok(Fate::Pass)
            }
            Kind::SubAck => {
                let id = codec::packet_id(packet, frame.head)?;
                let Some(codes) = self.pending.remove(&id.get()) else { return Ok(Fate::Pass) };
                let merged = subscribe::merge_suback(version, packet, frame.head, &codes)?;
                self.answers.extend_from_slice(&merged);
                Ok(Fate::Drop)
            }
            Kind::PubComp | Kind::UnsubAck | Kind::PingResp | Kind::Disconnect => Ok(Fate::Pass),
            _ => Err(Malformed("a packet that a broker does not send now")),
        }
    }

    fn deliver(&mut self, packet: &[u8], frame: Frame) -> Result<Fate, Malformed> {
        let cut = Malformed("a delivery that is cut short");
        let rest = packet.get(frame.head..).ok_or(cut)?;
        let (length, rest) = rest.split_first_chunk::<2>().ok_or(cut)?;
        let (topic, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(cut)?;
        let is_granted = std::str::from_utf8(topic).is_ok_and(|topic| self.judge.may_receive(topic));
        if is_granted {
            add(&self.hub.counters.delivered, 1);
            return Ok(Fate::Pass);
        }
        self.refused.push(Reason::Delivery);
        let qos = (packet[0] >> 1) & 3;
        if qos > 0 {
            let id = rest.first_chunk::<2>().map(|id| u16::from_be_bytes(*id)).ok_or(cut)?;
            if qos == 1 {
                self.acknowledge(0x40, id);
            } else if self.swallowed.len() < SWALLOWED {
                self.swallowed.insert(id);
                self.acknowledge(0x50, id);
            } else {
                return Err(Malformed("more refused deliveries than a broker may have on their way"));
            }
        }
        Ok(Fate::Drop)
    }

    /// Tells the broker in the client's place that a delivery arrived; both versions write success alike.
    fn acknowledge(&mut self, kind: u8, id: u16) {
        self.acks.put_slice(&[kind, 2]);
        self.acks.put_u16(id);
    }
}
