//! MQTT clients of the scenario: who listens, who measures, and who publishes with version 5 to be told what became of it.

use std::{
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::PORT;
use crate::{
    mqtt::{Client, Hello},
    topology::{GATEWAY, Place},
};

/// How long the gateway may take to answer; who hears nothing for so long has been cut off.
const TIMEOUT: Duration = Duration::from_secs(4);
/// How long a listener may hear nothing.
const SILENCE: Duration = Duration::from_mins(10);
/// Between two measurements.
const PERIOD: Duration = Duration::from_millis(50);

/// Where the gateway's guard listens.
pub(super) fn guard() -> SocketAddr {
    SocketAddr::from((GATEWAY, PORT))
}

/// A session of `user`, whose password is the name, as `client_id` from `place`.
pub(super) fn connect(place: &Place, user: &str, client_id: &str, timeout: Duration) -> Result<Client> {
    let hello = Hello { client_id, login: Some((user, user)), ..Hello::default() };
    place
        .netns
        .enter(|| Client::open(guard(), &hello, TIMEOUT))
        .and_then(|client| {
            client.handle()?.set_read_timeout(Some(timeout)).context("cannot set a timeout")?;
            Ok(client)
        })
        .with_context(|| format!("{client_id} cannot connect as {user}"))
}

/// One session for as long as the gateway answers.
pub(super) fn session(place: &Place, user: &str) -> Result<Client> {
    connect(place, user, user, TIMEOUT)
}

/// A message that was heard.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) at: Instant,
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
}

/// Someone who subscribed and writes down all that comes.
#[derive(Debug)]
pub(super) struct Ear {
    heard: Arc<Mutex<Vec<Heard>>>,
    handle: TcpStream,
    thread: Option<JoinHandle<()>>,
}

impl Ear {
    /// Subscribes to `filter` as `user` from `place`.
    pub(super) fn open(place: &Place, user: &str, client_id: &str, filter: &str) -> Result<Self> {
        let mut client = connect(place, user, client_id, SILENCE)?;
        let granted = client.subscribe(filter)?;
        anyhow::ensure!(granted < 0x80, "{user} may not subscribe to {filter}");
        let handle = client.handle()?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&heard);
        let thread = thread::spawn(move || {
            while let Ok((topic, payload)) = client.receive() {
                let message = Heard { at: Instant::now(), topic, payload };
                list.lock().unwrap_or_else(PoisonError::into_inner).push(message);
            }
        });
        Ok(Self { heard, handle, thread: Some(thread) })
    }

    /// How often something like this came.
    pub(super) fn count(&self, is_meant: impl Fn(&Heard) -> bool) -> u64 {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().filter(|message| is_meant(message)).count() as u64
    }

    /// When this payload came first.
    pub(super) fn when(&self, payload: &[u8]) -> Option<Instant> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().find(|message| message.payload == payload).map(|message| message.at)
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        // The gateway may have ended the session already.
        let _ = self.handle.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug, Default)]
struct Dial {
    stop: AtomicBool,
    is_forged: AtomicBool,
    /// Measurements published and acknowledged: true ones and forged ones.
    told: [AtomicU64; 2],
}

/// A sensor that measures until it is stopped or cut.
#[derive(Debug)]
pub(super) struct Meter {
    dial: Arc<Dial>,
    thread: Option<JoinHandle<()>>,
}

impl Meter {
    /// Publishes what `place` measures.
    pub(super) fn start(place: &Place) -> Result<Self> {
        let mut client = session(place, place.name)?;
        let topic = topic(place.name);
        let dial = Arc::new(Dial::default());
        let shown = Arc::clone(&dial);
        let thread = thread::spawn(move || {
            for step in 0_u64.. {
                let is_forged = shown.is_forged.load(Ordering::Relaxed);
                let stop = shown.stop.load(Ordering::Relaxed);
                if stop || client.publish(&topic, measured(step, is_forged).as_bytes()).is_err() {
                    return;
                }
                shown.told[usize::from(is_forged)].fetch_add(1, Ordering::Relaxed);
                thread::sleep(PERIOD);
            }
        });
        Ok(Self { dial, thread: Some(thread) })
    }

    /// From now on it says what is not so.
    pub(super) fn forge(&self) {
        self.dial.is_forged.store(true, Ordering::Relaxed);
    }

    /// True measurements that were published, and forged ones.
    pub(super) fn told(&self) -> (u64, u64) {
        let [honest, forged] = &self.dial.told;
        (honest.load(Ordering::Relaxed), forged.load(Ordering::Relaxed))
    }

    /// Whether it still measures.
    pub(super) fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends it.
    pub(super) fn stop(&mut self) {
        self.dial.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A session that was cut ended it before.
            let _ = thread.join();
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where a device publishes what it measures.
pub(super) fn topic(device: &str) -> String {
    format!("devices/{device}/telemetry")
}

/// What a device measures at its `step`: a room's temperature and humidity, or a temperature that no room has.
fn measured(step: u64, is_forged: bool) -> String {
    let wave = (step * 7 % 11) as f64 / 10.0;
    let temperature = if is_forged { 900.5 } else { 20.0 + wave };
    format!(r#"{{"t":{temperature:.1},"h":{:.1}}}"#, 50.0 - wave)
}

/// The code with which the guard answers a message of `user` from `place`, by mosquitto's own client with version 5; 0x80 and more are
/// refusals.
pub(super) fn told(place: &Place, user: &str, topic: &str, file: &std::path::Path) -> Result<u8> {
    let (port, file) = (PORT.to_string(), file.display().to_string());
    let address = GATEWAY.to_string();
    let broker = ["-h", &address, "-p", &port, "-V", "5", "-q", "1", "-d", "-u", user, "-P", user];
    let message = ["-i", "panel", "-t", topic, "-f", &file];
    let output = place.netns.output("mosquitto_pub", &[&broker[..], &message].concat())?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    code(&said).with_context(|| format!("mosquitto_pub got no answer: {said}"))
}

fn code(said: &str) -> Option<u8> {
    let line = said.lines().find(|line| line.contains("received PUBACK"))?;
    let digits = line.split_once("RC:")?.1;
    digits.split(|other: char| !other.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;

    #[test]
    fn the_code_of_an_acknowledgement_is_found() {
        assert_eq!(
            code("Client hub sending PUBLISH\nClient hub received PUBACK (Mid: 1, RC:135)\n"),
            Some(135)
        );
        assert_eq!(code("Client hub received PUBACK (Mid: 1, RC:0)"), Some(0));
        assert_eq!(code("Error: Connection refused"), None);
    }

    #[test]
    fn what_is_forged_is_far_from_what_is_measured() {
        for step in 0..100 {
            assert!(measured(step, false).starts_with("{\"t\":2"));
            assert!(measured(step, true).starts_with("{\"t\":900.5"));
        }
    }
}
