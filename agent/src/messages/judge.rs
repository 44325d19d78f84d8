//! What becomes of every message, subscription and delivery of a session. The one step that each of them passes.
//!
//! It knows the rules on topics, the limits, what the session did so far and what devices measure; it does no IO and reads no clock. What is refused is
//! told to the client in its own words by `answer`, and counted by the session.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    acl::{Grants, is_filter},
    codec::{Publish, Version},
    commands::{Desk, Incoming, Notice, Verdict},
    guard::limits::{Limits, Shared},
    reason::Reason,
    telemetry::{Watch, Watched},
};

/// Who a session belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Proven name.
    pub identity: String,
    /// Name of the session, as the client chose it.
    pub client_id: String,
    /// Version it speaks.
    pub version: Version,
    /// Where it is.
    pub source: IpAddr,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It goes on as it came.
    Pass,
    /// It ends here; the sender is told.
    Refuse(Reason),
    /// It waits for an operator, under this name; the sender is told.
    Hold(u64),
}

/// Judges one session.
#[derive(Debug)]
pub struct Judge {
    client: Client,
    grants: Grants,
    limits: Arc<Limits>,
    shared: Arc<Shared>,
    commands: Arc<Desk>,
    /// What is to be told of a command that was just judged.
    notice: Option<Box<Notice>>,
    subscriptions: HashSet<u64>,
    hasher: RandomState,
    telemetry: Option<Arc<Watch>>,
    /// The topics judged last: devices publish to the same few again and again.
    published: Option<(String, Option<Watched>)>,
    delivered: Option<String>,
}

impl Judge {
    /// The judge of a session of `client`.
    pub(crate) fn new(
        client: Client,
        grants: Grants,
        limits: Arc<Limits>,
        shared: Arc<Shared>,
        commands: Arc<Desk>,
        telemetry: Option<Arc<Watch>>,
        hasher: RandomState,
    ) -> Self {
        Self {
            client,
            grants,
            limits,
            shared,
            commands,
            notice: None,
            subscriptions: HashSet::new(),
            telemetry,
            hasher,
            published: None,
            delivered: None,
        }
    }

    /// Whom it judges.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Judges a message that the client wants to publish now.
    pub fn publish(&mut self, message: &Publish<'_>, now: Timestamp) -> Judgement {
        if self.published.as_ref().is_none_or(|(topic, _)| topic != message.topic) {
            if let Err(reason) = self.may_publish(message.topic) {
                return Judgement::Refuse(reason);
            }
            self.published = Some((message.topic.to_owned(), self.watched(message.topic)));
        }
        if let Some(verdict) = self.command(message, now) {
            return verdict;
        }
        if message.retain {
            let topic = self.hasher.hash_one(message.topic);
            let is_kept = !message.payload.is_empty();
            if !self.shared.retain(&self.client.identity, topic, is_kept, &self.limits) {
                return Judgement::Refuse(Reason::Retained);
            }
        }
        match (&self.telemetry, &self.published) {
            (Some(watch), Some((_, Some(watched)))) => watch.judge(watched, &self.client, message, now),
            _ => Judgement::Pass,
        }
    }

    fn watched(&self, topic: &str) -> Option<Watched> {
        self.telemetry.as_ref()?.watches(topic, &self.client.identity)
    }

    /// Judges a message on a topic of commands.
    fn command(&mut self, message: &Publish<'_>, now: Timestamp) -> Option<Judgement> {
        let Publish { topic, payload, retain, packet, .. } = *message;
        let Client { identity, version, source, .. } = &self.client;
        let (sender, version, source) = (identity.as_str(), *version, *source);
        let incoming = Incoming { topic, payload, retain, packet, version, sender, source };
        let (verdict, notice) = self.commands.judge(&incoming, now)?;
        self.notice = notice;
        Some(match verdict {
            Verdict::Pass => Judgement::Pass,
            Verdict::Refuse(reason) => Judgement::Refuse(reason),
            Verdict::Hold(id) => Judgement::Hold(id),
        })
    }

    /// What an operator should know of the command that was just judged.
    pub(crate) fn take_notice(&mut self) -> Option<Box<Notice>> {
        self.notice.take()
    }

    /// Judges a will: a message that the broker publishes when the connection breaks.
    pub fn will(&self, topic: &str, payload: &[u8], retain: bool) -> Result<(), Reason> {
        let kept = self.hasher.hash_one(topic);
        // Nobody could judge, or hold, what the broker says when a connection breaks.
        let is_unjudged =
            self.telemetry.as_ref().is_some_and(|watch| watch.refuses()) && self.watched(topic).is_some();
        let fits = payload.len() <= self.limits.will_bytes
            && !self.commands.is_command(topic)
            && !is_unjudged
            && self.may_publish(topic).is_ok()
            && (!retain
                || self.shared.retain(&self.client.identity, kept, !payload.is_empty(), &self.limits));
        if fits { Ok(()) } else { Err(Reason::Will) }
    }

    fn may_publish(&self, topic: &str) -> Result<(), Reason> {
        if !self.fits(topic) {
            Err(Reason::TopicShape)
        } else if !self.grants.may_publish(topic) {
            Err(Reason::PublishTopic)
        } else {
            Ok(())
        }
    }

    fn fits(&self, topic: &str) -> bool {
        topic.len() <= self.limits.topic_bytes && topic.split('/').count() <= self.limits.topic_levels
    }

    /// Judges a filter that the client wants to subscribe to.
    pub fn subscribe(&mut self, filter: &str) -> Result<(), Reason> {
        if !self.fits(filter) || !is_filter(filter) {
            return Err(Reason::TopicShape);
        }
        if !self.grants.may_subscribe(filter) {
            return Err(Reason::SubscribeTopic);
        }
        let filter = self.hasher.hash_one(filter);
        if !self.subscriptions.contains(&filter) && self.subscriptions.len() >= self.limits.subscriptions {
            return Err(Reason::Subscriptions);
        }
        self.subscriptions.insert(filter);
        Ok(())
    }

    /// The client gave a filter up.
    pub fn unsubscribe(&mut self, filter: &str) {
        self.subscriptions.remove(&self.hasher.hash_one(filter));
    }

    /// Whether the client may be given a message of `topic`: sessions outlive rules.
    pub fn may_receive(&mut self, topic: &str) -> bool {
        if self.delivered.as_deref() == Some(topic) {
            return true;
        }
        let granted = self.grants.may_receive(topic);
        if granted {
            self.delivered = Some(topic.to_owned());
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{acl::Rule, guard::limits::tests::limits};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn judge() -> Judge {
        let rule = Rule {
            who: "*".to_owned(),
            publish: vec!["d/%u/#".to_owned()],
            subscribe: vec!["d/%u/#".to_owned(), "news".to_owned()],
        };
        let (identity, client_id) = ("lamp".to_owned(), "l".to_owned());
        let source = [192, 0, 2, 1].into();
        let client = Client { identity, client_id, version: Version::V4, source };
        let grants = Grants::of(&[rule], "lamp", "l");
        let (limits, shared) = (Arc::new(limits()), Arc::default());
        Judge::new(client, grants, limits, shared, Arc::default(), None, RandomState::new())
    }

    fn message(topic: &str, retain: bool) -> Publish<'_> {
        Publish { topic, qos: 0, retain, id: None, alias: None, payload: b"on", packet: b"" }
    }

    #[test]
    fn a_message_passes_to_a_granted_topic_of_sound_shape() {
        let mut judge = judge();
        for _ in 0..2 {
            assert_eq!(judge.publish(&message("d/lamp/x", false), NOW), Judgement::Pass);
            let foreign = message("d/pump/x", false);
            assert_eq!(judge.publish(&foreign, NOW), Judgement::Refuse(Reason::PublishTopic));
        }
        let deep = message("d/lamp/a/b/c", false);
        assert_eq!(judge.publish(&deep, NOW), Judgement::Refuse(Reason::TopicShape));
        let long = format!("d/lamp/{}", "x".repeat(40));
        assert_eq!(judge.publish(&message(&long, false), NOW), Judgement::Refuse(Reason::TopicShape));
    }

    #[test]
    fn only_so_many_topics_are_retained() {
        let mut judge = judge();
        assert_eq!(judge.publish(&message("d/lamp/1", true), NOW), Judgement::Pass);
        assert_eq!(judge.publish(&message("d/lamp/2", true), NOW), Judgement::Pass);
        assert_eq!(judge.publish(&message("d/lamp/3", true), NOW), Judgement::Refuse(Reason::Retained));
        assert_eq!(judge.publish(&message("d/lamp/3", false), NOW), Judgement::Pass);
        assert_eq!(judge.will("d/lamp/4", b"gone", true), Err(Reason::Will));
    }

    #[test]
    fn a_will_is_a_message_and_small() {
        let judge = judge();
        assert_eq!(judge.will("d/lamp/w", b"gone", false), Ok(()));
        assert_eq!(judge.will("d/pump/w", b"gone", false), Err(Reason::Will));
        assert_eq!(judge.will("d/lamp/w", &[0; 101], false), Err(Reason::Will));
    }

    #[test]
    fn only_so_many_filters_are_subscribed_and_can_be_given_up() {
        let mut judge = judge();
        for filter in ["d/lamp/1", "d/lamp/2", "news", "news"] {
            assert_eq!(judge.subscribe(filter), Ok(()), "{filter}");
        }
        assert_eq!(judge.subscribe("d/lamp/3"), Err(Reason::Subscriptions));
        assert_eq!(judge.subscribe("#"), Err(Reason::SubscribeTopic));
        assert_eq!(judge.subscribe("d/#/x"), Err(Reason::TopicShape));
        judge.unsubscribe("news");
        assert_eq!(judge.subscribe("d/lamp/3"), Ok(()));
    }

    #[test]
    fn a_delivery_is_judged_too() {
        let mut judge = judge();
        assert!(judge.may_receive("news") && judge.may_receive("news") && !judge.may_receive("d/pump/1"));
    }
}
