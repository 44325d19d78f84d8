//! The gateway's numbers in CloudWatch, and alarms over them.
//!
//! `data` turns what the loop knows into a few figures, `alarms` says which alarms and which dashboard a gateway has: both are pure.
//! `client` speaks to CloudWatch, on a thread of its own when the daemon sends figures; [`serve`] keeps what could not be sent, within
//! a bound. Nothing here is asked about traffic, and the loop never waits for it.

pub mod alarms;
pub mod client;
pub mod data;

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use self::{client::Client, data::Reading};
use super::{backoff::Backoff, link::chance};

/// Readings kept while CloudWatch cannot be reached: a day of minutes. CloudWatch takes figures of the last two weeks.
const KEPT: usize = 1_440;
/// Readings in one request; the service takes 1,000 figures.
const READINGS_PER_REQUEST: usize = 1_000 / data::MOST_FIGURES;

/// What became of readings.
#[derive(Debug, Default)]
pub struct Tally {
    /// Figures that CloudWatch took.
    pub sent: AtomicU64,
    /// Requests that failed.
    pub failed: AtomicU64,
    /// Readings that found no room.
    pub dropped: AtomicU64,
}

/// Sends readings until the loop ends.
pub async fn serve(client: Client, mut readings: mpsc::Receiver<Reading>, tally: &Tally) {
    let mut backlog: VecDeque<Reading> = VecDeque::new();
    let mut backoff = Backoff::default();
    let mut retry_at = Instant::now();
    loop {
        tokio::select! {
            reading = readings.recv() => match reading {
                Some(reading) => backlog.push_back(reading),
                None => return,
            },
            () = sleep_until(retry_at), if !backlog.is_empty() => {}
        }
        if backlog.len() > KEPT {
            backlog.pop_front();
            tally.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if backlog.is_empty() || Instant::now() < retry_at {
            continue;
        }
        let count = backlog.len().min(READINGS_PER_REQUEST);
        let request: Vec<&Reading> = backlog.range(..count).collect();
        match client.send(&request).await {
            Ok(figures) => {
                backlog.drain(..count);
                backoff.reset();
                retry_at = Instant::now();
                tally.sent.fetch_add(figures, Ordering::Relaxed);
            }
            Err(error) => {
                if tally.failed.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!("CloudWatch takes no figures: {error}; {}", error.hint);
                }
                retry_at = Instant::now() + backoff.next(chance()).max(Duration::from_secs(1));
            }
        }
    }
}
