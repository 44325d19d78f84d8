//! Whether a certificate is let in by the broker, before anything depends on it.
//!
//! It connects under the thing's own name, because the certificate's policy allows no other. A broker lets one client of a name in: the link of a
//! running daemon is put out for a moment and comes again by itself. Nothing is subscribed to or said.

use std::{sync::Arc, time::Duration};

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, TlsConfiguration, Transport};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::fleet::tls::{self, TlsFiles};

/// What was attached a moment ago takes a while to count everywhere at AWS.
const PATIENCE: Duration = Duration::from_mins(3);
/// For one try.
const TRY: Duration = Duration::from_secs(20);
const BETWEEN_TRIES: Duration = Duration::from_secs(5);
/// For the goodbye.
const PARTING: Duration = Duration::from_secs(2);

/// Something that a certificate has to prove itself to.
#[allow(async_fn_in_trait, reason = "only used on the thread of the command line")]
pub trait Proof {
    /// Whether the certificate of `tls` is let in; why not.
    async fn is_let_in(&self, tls: &TlsFiles) -> Result<(), String>;
}

/// The broker of the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Host name.
    pub endpoint: String,
    /// Port.
    pub port: u16,
    /// The thing, as whom the link connects.
    pub thing: String,
}

impl Broker {
    async fn connect(&self, tls: &TlsFiles) -> Result<(), String> {
        let config = tls::broker(tls, self.port).map_err(|error| error.to_string())?;
        let mut options = MqttOptions::new(&self.thing, &self.endpoint, self.port);
        options
            .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))))
            .set_clean_session(true);
        let (client, mut events) = AsyncClient::new(options, 2);
        loop {
            // An answer that is no welcome is an error of the poll.
            if let Event::Incoming(Packet::ConnAck(_)) =
                events.poll().await.map_err(|error| error.to_string())?
            {
                break;
            }
        }
        // A broker that misses the goodbye finds out by itself.
        if client.try_disconnect().is_ok() {
            let _ = timeout(PARTING, async { while events.poll().await.is_ok() {} }).await;
        }
        Ok(())
    }
}

impl Proof for Broker {
    async fn is_let_in(&self, tls: &TlsFiles) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let until = end.min(Instant::now() + TRY);
            let cause = match timeout_at(until, self.connect(tls)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(cause)) => cause,
                Err(_) => format!("no answer within {} s", TRY.as_secs()),
            };
            if Instant::now() + BETWEEN_TRIES > end {
                return Err(format!("{}:{}: {cause}", self.endpoint, self.port));
            }
            sleep(BETWEEN_TRIES).await;
        }
    }
}
