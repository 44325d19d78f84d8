//! The gateway's numbers on their way to CloudWatch: read at an interval, handed to a thread of their own, never waited for.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
    time::Instant,
};

use aws_credential_types::provider::SharedCredentialsProvider;
use tokio::{runtime, sync::mpsc};

use super::gateway::Gateway;
use crate::{
    api::Snapshot,
    fleet::{
        aws,
        watch::{
            Tally,
            client::Client,
            data::{Reading, figures},
            serve,
        },
    },
};

/// Readings under way to the thread at most; it keeps many more.
const UNDER_WAY: usize = 16;

/// The sending thread as the loop sees it.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    readings: Option<mpsc::Sender<Reading>>,
    before: Option<Box<Snapshot>>,
    read_at: Option<Instant>,
    tally: Arc<Tally>,
}

impl Numbers {
    pub(super) fn sent(&self) -> u64 {
        self.tally.sent.load(Ordering::Relaxed)
    }

    pub(super) fn failed(&self) -> u64 {
        self.tally.failed.load(Ordering::Relaxed)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.tally.dropped.load(Ordering::Relaxed)
    }
}

impl Gateway {
    /// Starts the sending thread if it is wanted. It ends when the loop does.
    pub(super) fn start_numbers(&mut self) {
        let section = &self.config.cloudwatch;
        if !section.enabled {
            return;
        }
        let (sender, readings) = mpsc::channel(UNDER_WAY);
        let tally = Arc::clone(&self.numbers.tally);
        let region = Some(section.region.clone())
            .filter(|region| !region.is_empty())
            .or_else(|| aws::region_of(&self.config.cloud.endpoint).map(ToOwned::to_owned));
        let credentials = self.config.role_alias().map(SharedCredentialsProvider::new);
        let (namespace, gateway) = (section.namespace.clone(), self.config.gateway_name());
        let high_resolution = section.high_resolution;
        let started = runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            let work = async move {
                let config = aws::config(region, credentials).await;
                serve(Client::new(&config, &namespace, &gateway, high_resolution), readings, &tally).await;
            };
            thread::Builder::new()
                .name("cloudwatch".to_owned())
                .spawn(move || runtime.block_on(work))
                .map(drop)
        });
        match started {
            Ok(()) => self.numbers.readings = Some(sender),
            Err(error) => self.degraded(&format!("numbers cannot be sent to CloudWatch: {error}")),
        }
    }

    /// Reads the numbers when it is time to.
    pub(super) fn tell_numbers(&mut self) {
        let Some(readings) = self.numbers.readings.clone() else { return };
        let interval = self.config.cloudwatch.interval.0;
        let is_early = |at: Instant| at.elapsed() < interval;
        if self.numbers.read_at.is_some_and(is_early) {
            return;
        }
        // What cannot be read now is reported by whoever reads it for a reason.
        let Ok(snapshot) = self.metrics() else { return };
        self.numbers.read_at = Some(Instant::now());
        let figures = figures(&snapshot, self.numbers.before.as_deref());
        self.numbers.before = Some(snapshot);
        let reading = Reading { at: std::time::SystemTime::now(), figures };
        if readings.try_send(reading).is_err() {
            self.numbers.tally.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
