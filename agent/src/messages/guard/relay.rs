//! Carries a session's bytes between client and broker, with the time limits of both.
//!
//! A packet of the client waits until it is whole and was judged; what passes goes on as it lies in the buffer. Reading stops while
//! the other side does not take what is there, so a session holds at most one packet and one read in each direction.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{
    io::AsyncWrite,
    time::{Sleep, sleep_until},
};
use tokio_util::{
    bytes::{Buf as _, BytesMut},
    io::poll_read_buf,
};

use super::{
    flow::{ANSWERS, Down, Up},
    hub::Hub,
    talk::Talk,
    wire::Wire,
};
use crate::messages::reason::{Reason, add};

/// Bytes read at once.
const READ: usize = 64 << 10;
/// Longest sleep of a session that has nothing to wait for.
const FAR: Duration = Duration::from_hours(24);

/// Why a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The client closed.
    Client,
    /// The broker closed.
    Broker,
    /// The guard cut it.
    Refused(Reason),
}

impl From<Reason> for End {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason)
    }
}

/// A session on its way.
pub(super) struct Relay {
    hub: Arc<Hub>,
    client: Wire,
    broker: Wire,
    pub(super) talk: Talk,
    up: Up,
    down: Down,
    is_mid_answer: bool,
    is_mid_ack: bool,
    silence: Duration,
    heard: Instant,
    unread: Option<Instant>,
    accounted: usize,
    timer: Pin<Box<Sleep>>,
    /// What the session said that is to be counted against its source.
    on_refused: Box<dyn FnMut(Reason) + Send>,
}

impl Relay {
    /// A session whose client has sent `first` after CONNECT, and whose broker has answered with `answer`.
    pub(super) fn new(
        hub: Arc<Hub>,
        (client, broker): (Wire, Wire),
        talk: Talk,
        (first, answer): (BytesMut, BytesMut),
        silence: Duration,
        on_refused: Box<dyn FnMut(Reason) + Send>,
    ) -> Self {
        let now = Instant::now();
        let limits = &Arc::clone(hub.limits());
        Self {
            up: Up::new(first, limits, now),
            down: Down::new(answer),
            hub,
            client,
            broker,
            talk,
            is_mid_answer: false,
            is_mid_ack: false,
            silence,
            heard: now,
            unread: None,
            accounted: 0,
            timer: Box::pin(sleep_until((now + FAR).into())),
            on_refused,
        }
    }

    /// Runs until either side ends or the guard cuts it.
    pub(super) async fn run(&mut self) -> End {
        let end = match self.judge_down() {
            Ok(()) => poll_fn(|cx| self.poll(cx)).await,
            Err(end) => end,
        };
        for reason in self.talk.take_refused() {
            (self.on_refused)(reason);
        }
        end
    }

    /// Says why to the client if that can be done at once.
    pub(super) async fn say(&mut self, last: BytesMut) {
        if self.down.is_between_packets() && !self.is_mid_answer {
            let mut bytes = last;
            // Whoever does not read it does not learn it.
            let said = poll_fn(|cx| {
                while !bytes.is_empty() {
                    ready!(write(&mut self.client, cx, &mut bytes, None))?;
                }
                Pin::new(&mut self.client).poll_flush(cx)
            });
            let _ = tokio::time::timeout(Duration::from_millis(200), said).await;
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            match self.turn(cx) {
                Ok(true) => {}
                Ok(false) => {
                    let next = match self.next_deadline() {
                        Ok(next) => next,
                        Err(reason) => return Poll::Ready(End::Refused(reason)),
                    };
                    if next < self.timer.deadline().into_std() || self.timer.is_elapsed() {
                        self.timer.as_mut().reset(next.into());
                    }
                    if self.timer.as_mut().poll(cx).is_pending() {
                        return match self.account() {
                            Ok(()) => Poll::Pending,
                            Err(reason) => Poll::Ready(End::Refused(reason)),
                        };
                    }
                }
                Err(end) => return Poll::Ready(end),
            }
        }
    }

    /// Moves what can be moved; whether anything was.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = self.read_client(cx)?;
        moved |= self.write_broker(cx)?;
        moved |= self.read_broker(cx)?;
        // Counted before the client is told.
        for reason in self.talk.take_refused() {
            (self.on_refused)(reason);
        }
        moved |= self.write_client(cx)?;
        if self.up.is_ended && self.up.passed == 0 && !self.up.is_held {
            return Err(End::Client);
        }
        if self.down.is_ended && self.down.passed == 0 && !self.down.is_held && self.talk.answers.is_empty() {
            return Err(End::Broker);
        }
        Ok(moved)
    }

    fn read_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.up.passed >= READ || self.talk.answers.len() >= ANSWERS {
            return Ok(false);
        }
        let mut moved = false;
        if self.up.is_held {
            let before = self.up.passed;
            self.judge_up()?;
            moved = self.up.passed != before || !self.up.is_held;
        }
        if self.up.is_held || self.up.is_ended {
            return Ok(moved);
        }
        make_room(&mut self.up.bytes);
        match poll_read_buf(Pin::new(&mut self.client), cx, &mut self.up.bytes) {
            Poll::Ready(Ok(count)) if count > 0 => {
                self.heard = Instant::now();
                add(&self.hub.counters.bytes_in, count as u64);
                self.judge_up()?;
                Ok(true)
            }
            // A connection that breaks ends like one that is closed.
            Poll::Ready(_) => {
                self.up.is_ended = true;
                Ok(true)
            }
            Poll::Pending => Ok(moved),
        }
    }

    fn judge_up(&mut self) -> Result<(), End> {
        let waits = self.up.judge(&mut self.talk, self.hub.limits(), (Instant::now(), Timestamp::now()))?;
        add(&self.hub.counters.throttled, waits);
        Ok(())
    }

    fn write_broker(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        loop {
            let acks = &mut self.talk.acks;
            let turn = if !acks.is_empty() && (self.is_mid_ack || self.up.passed == 0) && self.talk.is_open()
            {
                let written = write(&mut self.broker, cx, &mut self.talk.acks, None);
                self.is_mid_ack = !self.talk.acks.is_empty();
                written
            } else if self.up.passed > 0 {
                write(&mut self.broker, cx, &mut self.up.bytes, Some(&mut self.up.passed))
            } else {
                return Ok(moved);
            };
            match turn {
                Poll::Ready(Ok(_)) => moved = true,
                Poll::Ready(Err(_)) => return Err(End::Broker),
                Poll::Pending => return Ok(moved),
            }
        }
    }

    fn read_broker(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let is_waiting = self.down.is_held && !self.talk.answers.is_empty();
        if self.down.passed > 0 || is_waiting || (self.down.is_ended && !self.down.is_held) {
            return Ok(false);
        }
        if self.down.is_held {
            return self.judge_down().map(|()| true);
        }
        make_room(&mut self.down.bytes);
        match poll_read_buf(Pin::new(&mut self.broker), cx, &mut self.down.bytes) {
            Poll::Ready(Ok(count)) if count > 0 => self.judge_down().map(|()| true),
            Poll::Ready(_) => {
                self.down.is_ended = true;
                Ok(true)
            }
            Poll::Pending => Ok(false),
        }
    }

    fn judge_down(&mut self) -> Result<(), End> {
        self.down.judge(&mut self.talk).map_err(|cause| {
            tracing::warn!(%cause, "the broker sends what the guard does not understand");
            End::Broker
        })
    }

    fn write_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        loop {
            let at_boundary = self.down.is_between_packets();
            let turn = if !self.talk.answers.is_empty() && (self.is_mid_answer || at_boundary) {
                let written = write(&mut self.client, cx, &mut self.talk.answers, None);
                self.is_mid_answer = !self.talk.answers.is_empty();
                written
            } else if self.down.passed > 0 {
                write(&mut self.client, cx, &mut self.down.bytes, Some(&mut self.down.passed))
            } else {
                self.unread = None;
                // TLS holds back what it was given until it is flushed.
                return match Pin::new(&mut self.client).poll_flush(cx) {
                    Poll::Ready(Err(_)) => Err(End::Client),
                    _ => Ok(moved),
                };
            };
            match turn {
                Poll::Ready(Ok(count)) => {
                    add(&self.hub.counters.bytes_out, count as u64);
                    self.unread = None;
                    moved = true;
                }
                Poll::Ready(Err(_)) => return Err(End::Client),
                Poll::Pending => {
                    self.unread.get_or_insert_with(Instant::now);
                    return Ok(moved);
                }
            }
        }
    }

    /// The next moment at which time runs out for something; the reason when it has.
    fn next_deadline(&self) -> Result<Instant, Reason> {
        let now = Instant::now();
        let limits = self.hub.limits();
        let reads = !self.up.is_held && self.up.passed < READ;
        let deadlines = [
            self.up.unfinished.map(|since| (since + limits.packet_timeout, Reason::PacketTimeout)),
            self.unread.map(|since| (since + limits.slow_reader, Reason::SlowReader)),
            reads.then(|| (self.heard + self.silence, Reason::KeepAlive)),
        ];
        let mut next = now + FAR;
        for (then, reason) in deadlines.into_iter().flatten() {
            if then <= now {
                return Err(reason);
            }
            next = next.min(then);
        }
        if self.up.is_held {
            next = self.up.debt().map_or(next, |paid| next.min(paid)).max(now + Duration::from_millis(1));
        }
        Ok(next)
    }

    /// Gives back what is not needed, and counts what is.
    fn account(&mut self) -> Result<(), Reason> {
        for bytes in [&mut self.up.bytes, &mut self.down.bytes, &mut self.talk.answers, &mut self.talk.acks] {
            if bytes.capacity() > 2 * bytes.len() {
                *bytes = BytesMut::from(&bytes[..]);
            }
        }
        let held = self.up.bytes.capacity()
            + self.down.bytes.capacity()
            + self.talk.answers.capacity()
            + self.talk.acks.capacity();
        let total = &self.hub.buffered;
        if held > self.accounted {
            let more = held - self.accounted;
            let before = total.fetch_add(more, Ordering::Relaxed);
            self.accounted = held;
            if before + more > self.hub.limits().buffered_bytes {
                return Err(Reason::Memory);
            }
        } else {
            total.fetch_sub(self.accounted - held, Ordering::Relaxed);
            self.accounted = held;
        }
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.hub.buffered.fetch_sub(self.accounted, Ordering::Relaxed);
    }
}

/// Room for the next read without moving what is there more often than needed.
fn make_room(bytes: &mut BytesMut) {
    if bytes.capacity() - bytes.len() < READ / 2 {
        bytes.reserve(READ);
    }
}

/// Writes the front of `bytes`, of which `passed` may go, and takes off what went.
fn write(
    wire: &mut Wire,
    cx: &mut Context<'_>,
    bytes: &mut BytesMut,
    passed: Option<&mut usize>,
) -> Poll<io::Result<usize>> {
    let most = passed.as_ref().map_or(bytes.len(), |passed| **passed);
    match ready!(Pin::new(wire).poll_write(cx, &bytes[..most])) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        Ok(count) => {
            bytes.advance(count);
            if let Some(passed) = passed {
                *passed -= count;
            }
            Poll::Ready(Ok(count))
        }
        Err(error) => Poll::Ready(Err(error)),
    }
}
