//! Tells one peer what waits for it: in order, each notice until it is answered, over one connection that is made again for ever.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{Error, pki_types::ServerName},
};

use super::{
    frame::{self, Missing},
    link::Link,
    refused::{Answer, Refused},
    tls,
};
use crate::fleet::{backoff::Backoff, link::chance};

/// How long a connection and TLS may take together.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Silence after which the peer is asked whether it is still there.
pub(super) const ASK_AFTER: Duration = Duration::from_secs(15);
/// The longest wait before the next try; a neighbour that comes back and dials is answered at once.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// An answer of a later version.
const OTHER: &str = "other";

/// Tells the peer at place `peer` until the task is ended.
pub(super) async fn keep_telling(link: Link, peer: usize) {
    let Some(settings) = link.peers.get(peer) else { return };
    let connector = match tls::connector(&link.own, settings.key.clone()) {
        Ok(connector) => connector,
        Err(error) => return link.board.unreached(peer, error.to_string()),
    };
    let mut backoff = Backoff::up_to(LONGEST_WAIT);
    loop {
        let why = match connect(&link, &connector, settings.address).await {
            Ok(mut stream) => tell(&link, peer, &mut stream, &mut backoff).await,
            Err(why) => why,
        };
        if let Trouble::Key = why {
            link.board.refuse(Some(peer), Refused::WrongKey);
        }
        link.board.unreached(peer, why.words());
        let wait = backoff.next(chance());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = link.board.woken(peer) => tokio::time::sleep(wait / 8).await,
        }
    }
}

/// Why a peer cannot be told anything.
#[derive(Debug)]
enum Trouble {
    Key,
    Unreachable(String),
    Ended(Missing),
}

impl Trouble {
    fn words(&self) -> String {
        match self {
            Self::Key => "it has another key than the configured one".to_owned(),
            Self::Unreachable(why) => format!("it cannot be reached: {why}"),
            Self::Ended(Missing::Refused(Refused::TooSlow)) => "it does not answer".to_owned(),
            Self::Ended(_) => {
                "it ended the connection; does it know this gateway's address and key?".to_owned()
            }
        }
    }
}

async fn connect(
    link: &Link,
    connector: &TlsConnector,
    to: SocketAddr,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Trouble> {
    let unreachable = |why: &dyn std::fmt::Display| Trouble::Unreachable(why.to_string());
    let connected = timeout(CONNECT_WITHIN, async {
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(|error| unreachable(&error))?;
        // The peer knows this gateway by the address it listens on.
        if let Some(own) = link.listen.filter(|own| !own.ip().is_unspecified()) {
            socket.bind(SocketAddr::new(own.ip(), 0)).map_err(|error| unreachable(&error))?;
        }
        let stream = socket.connect(to).await.map_err(|error| unreachable(&error))?;
        stream.set_nodelay(true).map_err(|error| unreachable(&error))?;
        connector.connect(ServerName::IpAddress(to.ip().into()), stream).await.map_err(|error| {
            match error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) {
                Some(Error::InvalidCertificate(_)) => Trouble::Key,
                _ => unreachable(&error),
            }
        })
    });
    connected.await.unwrap_or_else(|_| Err(Trouble::Unreachable("no answer in time".to_owned())))
}

/// Tells what waits as long as the connection holds; why it no longer does.
async fn tell(
    link: &Link,
    peer: usize,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    backoff: &mut Backoff,
) -> Trouble {
    loop {
        let next = link.board.next(peer);
        let bytes = next.as_ref().map_or(&[][..], |notice| &notice.bytes);
        let answer = match exchange(stream, bytes).await {
            Ok(answer) => answer,
            Err(missing) => return Trouble::Ended(missing),
        };
        backoff.reset();
        link.board.reached(peer);
        match next {
            Some(notice) => {
                link.board.answered(peer, &notice.id, Answer::word(&answer).unwrap_or(OTHER));
            }
            // Whatever is woken for is looked up above.
            None => _ = timeout(ASK_AFTER, link.board.woken(peer)).await,
        }
    }
}

async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    bytes: &[u8],
) -> Result<Vec<u8>, Missing> {
    frame::write(stream, bytes).await?;
    frame::read(stream, ANSWER_WITHIN).await
}
