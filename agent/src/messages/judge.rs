//! What becomes of every message, subscription and delivery of a session. The one step that each of them passes.
//!
//! It knows the rules on topics, the limits, and what the session did so far; it does no IO and reads no clock. What is refused is
//! told to the client in its own words by `answer`, and counted by the session.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use super::{
    acl::{Grants, is_filter},
    codec::{Publish, Version},
    guard::limits::{Limits, Shared},
    reason::Reason,
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
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It goes on as it came.
    Pass,
    /// It ends here; the sender is told.
    Refuse(Reason),
}

/// Judges one session.
#[derive(Debug)]
pub struct Judge {
    client: Client,
    grants: Grants,
    limits: Arc<Limits>,
    shared: Arc<Shared>,
    subscriptions: HashSet<u64>,
    hasher: RandomState,
    /// The topics judged last: devices publish to the same few again and again.
    published: Option<String>,
    delivered: Option<String>,
}

impl Judge {
    /// The judge of a session of `client`.
    pub(crate) fn new(
        client: Client,
        grants: Grants,
        limits: Arc<Limits>,
        shared: Arc<Shared>,
        hasher: RandomState,
    ) -> Self {
        Self {
            client,
            grants,
            limits,
            shared,
            subscriptions: HashSet::new(),
            hasher,
            published: None,
            delivered: None,
        }
    }

    /// Whom it judges.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Judges a message that the client wants to publish.
    pub fn publish(&mut self, message: &Publish<'_>) -> Judgement {
        if self.published.as_deref() != Some(message.topic) {
            if let Err(reason) = self.may_publish(message.topic) {
                return Judgement::Refuse(reason);
            }
            self.published = Some(message.topic.to_owned());
        }
        if message.retain {
            let topic = self.hasher.hash_one(message.topic);
            let is_kept = !message.payload.is_empty();
            if !self.shared.retain(&self.client.identity, topic, is_kept, &self.limits) {
                return Judgement::Refuse(Reason::Retained);
            }
        }
        Judgement::Pass
    }

    /// Judges a will: a message that the broker publishes when the connection breaks.
    pub fn will(&self, topic: &str, payload: &[u8], retain: bool) -> Result<(), Reason> {
        let kept = self.hasher.hash_one(topic);
        let fits = payload.len() <= self.limits.will_bytes
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

    fn judge() -> Judge {
        let rule = Rule {
            who: "*".to_owned(),
            publish: vec!["d/%u/#".to_owned()],
            subscribe: vec!["d/%u/#".to_owned(), "news".to_owned()],
        };
        let client = Client { identity: "lamp".to_owned(), client_id: "l".to_owned(), version: Version::V4 };
        let grants = Grants::of(&[rule], "lamp", "l");
        Judge::new(client, grants, Arc::new(limits()), Arc::default(), RandomState::new())
    }

    fn message(topic: &str, retain: bool) -> Publish<'_> {
        Publish { topic, qos: 0, retain, id: None, alias: None, payload: b"on" }
    }

    #[test]
    fn a_message_passes_to_a_granted_topic_of_sound_shape() {
        let mut judge = judge();
        for _ in 0..2 {
            assert_eq!(judge.publish(&message("d/lamp/x", false)), Judgement::Pass);
            let foreign = message("d/pump/x", false);
            assert_eq!(judge.publish(&foreign), Judgement::Refuse(Reason::PublishTopic));
        }
        let deep = message("d/lamp/a/b/c", false);
        assert_eq!(judge.publish(&deep), Judgement::Refuse(Reason::TopicShape));
        let long = format!("d/lamp/{}", "x".repeat(40));
        assert_eq!(judge.publish(&message(&long, false)), Judgement::Refuse(Reason::TopicShape));
    }

    #[test]
    fn only_so_many_topics_are_retained() {
        let mut judge = judge();
        assert_eq!(judge.publish(&message("d/lamp/1", true)), Judgement::Pass);
        assert_eq!(judge.publish(&message("d/lamp/2", true)), Judgement::Pass);
        assert_eq!(judge.publish(&message("d/lamp/3", true)), Judgement::Refuse(Reason::Retained));
        assert_eq!(judge.publish(&message("d/lamp/3", false)), Judgement::Pass);
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
