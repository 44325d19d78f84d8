//! The endless answer of `/v1/events/follow`: one JSON document a line, until the daemon stops or the reader leaves.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use jiff::Timestamp;
use tokio::sync::{
    broadcast::{self, error::RecvError},
    watch,
};

use crate::api::view::{EventKind, EventView, Versioned};

type Next = Pin<Box<dyn Future<Output = (Option<Bytes>, Sources)> + Send>>;

struct Sources {
    events: broadcast::Receiver<EventView>,
    shutdown: watch::Receiver<bool>,
}

/// A body that ends when the daemon stops.
pub(super) struct EventBody {
    next: Option<Next>,
}

impl EventBody {
    pub(super) fn new(events: broadcast::Receiver<EventView>, shutdown: watch::Receiver<bool>) -> Self {
        Self { next: Some(Box::pin(next(Sources { events, shutdown }))) }
    }
}

async fn next(mut sources: Sources) -> (Option<Bytes>, Sources) {
    let received = tokio::select! {
        received = sources.events.recv() => received,
        _ = sources.shutdown.wait_for(|stop| *stop) => Err(RecvError::Closed),
    };
    let event = match received {
        Ok(event) => Some(event),
        Err(RecvError::Lagged(count)) => Some(EventView {
            time: Timestamp::now(),
            kind: EventKind::Alarm,
            message: format!("{count} events were left out because this reader is too slow"),
            target: None,
            incident: None,
        }),
        Err(RecvError::Closed) => None,
    };
    let line = event.and_then(|event| {
        let mut line = serde_json::to_vec(&Versioned::from(event)).ok()?;
        line.push(b'\n');
        Some(Bytes::from(line))
    });
    (line, sources)
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(pending) = self.next.as_mut() else { return Poll::Ready(None) };
        let (line, sources) = ready!(pending.as_mut().poll(context));
        self.next = line.is_some().then(|| Box::pin(next(sources)) as Next);
        Poll::Ready(line.map(|line| Ok(Frame::data(line))))
    }
}
