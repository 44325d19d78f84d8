//! Whether the gateway itself still reaches what it needs: resolver, time server, cloud endpoint.
//!
//! A probe sends real questions and believes any answer, a refusal included. A lost datagram is asked for once more. What
//! is not configured counts as reachable.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use simple_dns::{CLASS, Name, Packet, QCLASS, QTYPE, Question, TYPE};
use tokio::{
    net::{TcpStream, UdpSocket, lookup_host},
    time::timeout,
};

use crate::{
    config::{Config, values::Endpoint},
    enforce::Reachability,
};

const DNS_PORT: u16 = 53;
const NTP_PORT: u16 = 123;
/// Longest answer that is read; only its sender and first bytes matter.
const ANSWER_BYTES: usize = 512;
const ATTEMPTS: u32 = 2;

/// Whom to ask.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Targets {
    /// Resolvers.
    pub(super) dns: Vec<IpAddr>,
    /// Name to ask for.
    pub(super) dns_name: String,
    /// Time servers.
    pub(super) ntp: Vec<IpAddr>,
    /// Cloud endpoints.
    pub(super) cloud: Vec<Endpoint>,
    /// How long an answer may take.
    pub(super) answer_within: Duration,
}

impl Targets {
    /// Those of the configuration; the system's resolvers when it names none.
    pub(super) fn of(config: &Config) -> Self {
        let wanted = &config.reachability;
        let dns = if wanted.dns.is_empty() { super::needs::resolvers() } else { wanted.dns.clone() };
        Self {
            dns,
            dns_name: wanted.dns_name.clone(),
            ntp: wanted.ntp.clone(),
            cloud: wanted.cloud.clone(),
            answer_within: wanted.timeout.0,
        }
    }

    /// Whether there is anything to ask.
    pub(super) fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.ntp.is_empty() && self.cloud.is_empty()
    }

    /// Asks everyone at once. Of several servers of a kind one answer is enough.
    pub(super) async fn probe(&self) -> Reachability {
        let (name, time) = (dns_query(&self.dns_name), ntp_query());
        let (dns, ntp, cloud) = tokio::join!(
            self.any_answers(&self.dns, DNS_PORT, &name),
            self.any_answers(&self.ntp, NTP_PORT, &time),
            self.any_connects(),
        );
        Reachability { dns, ntp, cloud }
    }

    async fn any_answers(&self, servers: &[IpAddr], port: u16, query: &[u8]) -> bool {
        if servers.is_empty() {
            return true;
        }
        for _ in 0..ATTEMPTS {
            for server in servers {
                let asked = ask(SocketAddr::new(*server, port), query);
                if matches!(timeout(self.answer_within, asked).await, Ok(Ok(()))) {
                    return true;
                }
            }
        }
        false
    }

    async fn any_connects(&self) -> bool {
        if self.cloud.is_empty() {
            return true;
        }
        for endpoint in &self.cloud {
            let connect = async {
                let mut found = lookup_host(endpoint.to_string()).await?;
                let address = found.next().ok_or_else(|| io::Error::other("no address"))?;
                TcpStream::connect(address).await
            };
            if matches!(timeout(self.answer_within, connect).await, Ok(Ok(_))) {
                return true;
            }
        }
        false
    }
}

/// Sends `query` from a fresh port and waits for anything from that server.
async fn ask(server: SocketAddr, query: &[u8]) -> io::Result<()> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut answer = [0; ANSWER_BYTES];
    socket.recv(&mut answer).await.map(drop)
}

/// Empty only for a name that no resolver could be asked for; the configuration refuses those.
fn dns_query(name: &str) -> Vec<u8> {
    let mut packet = Packet::new_query(std::process::id() as u16);
    if let Ok(name) = Name::new(name) {
        packet.questions.push(Question::new(name, QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN), false));
    }
    packet.build_bytes_vec().unwrap_or_default()
}

/// A client's request of version 4 (RFC 5905, figure 8): only the first byte is not zero.
fn ntp_query() -> [u8; 48] {
    const NO_WARNING_VERSION_4_CLIENT: u8 = 0x23;
    let mut query = [0; 48];
    query[0] = NO_WARNING_VERSION_4_CLIENT;
    query
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed socket is the test's failure")]

    use super::*;

    #[tokio::test]
    async fn an_answer_is_reachable_and_silence_is_not() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let answering = tokio::spawn(async move {
            let mut query = [0; ANSWER_BYTES];
            let (length, from) = server.recv_from(&mut query).await.unwrap();
            server.send_to(&query[..length], from).await.unwrap();
            server
        });
        ask(address, &dns_query("example.com")).await.unwrap();
        let silent = answering.await.unwrap();
        let unanswered = timeout(Duration::from_millis(50), ask(address, &ntp_query())).await;
        assert!(unanswered.is_err());
        drop(silent);
    }

    #[tokio::test]
    async fn what_is_not_configured_counts_as_reachable() {
        let targets = Targets::default();
        assert!(targets.is_empty());
        assert_eq!(targets.probe().await, Reachability::ALL);
    }

    #[test]
    fn the_dns_query_asks_for_the_name() {
        let bytes = dns_query("gateway.example");
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.questions[0].qname.to_string(), "gateway.example");
    }
}
