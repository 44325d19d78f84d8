//! From the outbox to the wire: each waiting message in its envelope, checked against the service's limits.

use tidegate_wire::{Envelope, Report};

use super::{
    limits::{LimitError, check_publish},
    topics::Topics,
};
use crate::store::{Durability, Queued, Store, StoreError};

/// A message ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Its place in the gateway's order.
    pub sequence: u64,
    /// Where it goes.
    pub topic: String,
    /// What is sent.
    pub payload: Vec<u8>,
}

/// A message that can never be sent.
#[derive(Debug, thiserror::Error)]
pub enum Unsendable {
    /// The service would refuse it.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// It cannot be written.
    #[error("the message cannot be read back: {0}")]
    Body(#[from] serde_json::Error),
}

/// Puts a waiting message into its envelope.
pub fn outgoing(message: &Queued, gateway: &str, topics: &Topics) -> Result<Outgoing, Unsendable> {
    let body: Report = serde_json::from_str(&message.body)?;
    let envelope =
        Envelope::new(gateway, message.id.as_str(), message.at.to_string(), body).at(message.sequence);
    let payload = serde_json::to_vec(&envelope)?;
    let topic = topics.report(message.kind);
    check_publish(&topic, payload.len())?;
    Ok(Outgoing { sequence: message.sequence, topic, payload })
}

/// What waits after `after`, at most `most`, ready to be sent; and why the rest of it, which is dropped and counted, cannot be.
pub fn batch(
    store: &Store,
    gateway: &str,
    topics: &Topics,
    after: u64,
    most: u32,
) -> Result<(Vec<Outgoing>, Vec<Unsendable>), StoreError> {
    let (mut ready, mut unsendable) = (Vec::new(), Vec::new());
    for message in store.outbox_after(after, most)? {
        match outgoing(&message, gateway, topics) {
            Ok(message) => ready.push(message),
            Err(error) => {
                store.batch(Durability::Process, |store| store.discard(message.sequence))?;
                unsendable.push(error);
            }
        }
    }
    Ok((ready, unsendable))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

    use jiff::Timestamp;
    use tidegate_wire::Heartbeat;

    use super::*;
    use crate::store::MessageKind;

    fn queued(problem: String) -> Queued {
        let report = Report::Heartbeat(Heartbeat {
            version: "1".to_owned(),
            uptime_s: 1,
            enforcing: true,
            problems: vec![problem],
            devices: 1,
            blocks: 0,
            counters: std::collections::BTreeMap::new(),
        });
        Queued {
            sequence: 9,
            id: "id-9".to_owned(),
            device: String::new(),
            kind: MessageKind::Heartbeat,
            at: Timestamp::UNIX_EPOCH,
            body: serde_json::to_string(&report).unwrap(),
        }
    }

    #[test]
    fn the_cloud_reads_what_waited() {
        let sent = outgoing(&queued("x".to_owned()), "gw-1", &Topics::new("gw-1", "reports")).unwrap();
        assert_eq!(sent.topic, "$aws/rules/reports/tidegate/gw-1/heartbeat");
        let read: Envelope<Report> = serde_json::from_slice(&sent.payload).unwrap();
        assert_eq!((read.sequence, read.id.as_str(), read.gateway.as_str()), (Some(9), "id-9", "gw-1"));
        assert!(matches!(read.open().unwrap(), Report::Heartbeat(beat) if beat.problems == ["x"]));
    }

    #[test]
    fn what_is_too_large_is_refused_before_it_is_sent() {
        let refused = outgoing(&queued("x".repeat(130 << 10)), "gw-1", &Topics::new("gw-1", "reports"));
        assert!(matches!(refused, Err(Unsendable::Limit(LimitError::Payload(_)))));
    }
}
