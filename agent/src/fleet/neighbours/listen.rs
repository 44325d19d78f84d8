//! Hears peers: takes their connections within limits, verifies what they bring, and answers what became of it.
//!
//! Whoever does not come from a peer's address is gone before a byte is read; whoever does and has another key ends in TLS. One
//! notice of a connection is under way at a time, so a peer can make nothing here grow.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls::Error, server::TlsStream};

use super::{
    dial::ASK_AFTER,
    frame::{self, Missing},
    link::{Link, Told},
    notice,
    refused::{Answer, Refused},
    tls,
};

/// Connections of one peer at most: one, and those that it lost without either side noticing yet.
const CONNECTIONS: usize = 4;
/// How long TLS may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Silence after which a peer is gone.
const GONE_AFTER: Duration = Duration::from_secs(3 * ASK_AFTER.as_secs());
/// What a refused notice costs its sender.
const REFUSAL_COSTS: Duration = Duration::from_millis(100);
/// Between tries to listen: the address may not be there yet.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// Hears peers until the task is ended.
pub(super) async fn listen(link: Link, address: SocketAddr) {
    let keys = link.peers.iter().map(|peer| peer.key.clone()).collect();
    let acceptor = match tls::acceptor(&link.own, keys) {
        Ok(acceptor) => acceptor,
        Err(error) => return link.board.listens(Err(error.to_string())),
    };
    let slots: Vec<_> = link.peers.iter().map(|_| Arc::new(Semaphore::new(CONNECTIONS))).collect();
    loop {
        match bind(address) {
            Ok(listener) => {
                link.board.listens(Ok(()));
                let error = accept(&link, &acceptor, &slots, &listener).await;
                link.board.listens(Err(error.to_string()));
            }
            Err(error) => link.board.listens(Err(error.to_string())),
        }
        sleep(TRY_AGAIN).await;
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    const BACKLOG: u32 = 64;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Takes connections until that is no longer possible.
async fn accept(
    link: &Link,
    acceptor: &TlsAcceptor,
    slots: &[Arc<Semaphore>],
    listener: &TcpListener,
) -> io::Error {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => match admit(link, slots, from.ip().to_canonical()) {
                    Ok(slot) => drop(tasks.spawn(hear(link.clone(), acceptor.clone(), stream, from, slot))),
                    Err((peer, reason)) => link.board.refuse(peer, reason),
                },
                // One that was gone before it was taken is no trouble of the others.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return error,
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// A slot of the peer at an address.
fn admit(
    link: &Link,
    slots: &[Arc<Semaphore>],
    from: IpAddr,
) -> Result<OwnedSemaphorePermit, (Option<usize>, Refused)> {
    let peer = link.peers.iter().position(|peer| peer.address.ip().to_canonical() == from);
    let slot = peer.and_then(|peer| slots.get(peer)).ok_or((None, Refused::UnknownPeer))?;
    Arc::clone(slot).try_acquire_owned().map_err(|_| (peer, Refused::TooMany))
}

/// One connection, to its end.
async fn hear(
    link: Link,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    from: SocketAddr,
    _slot: OwnedSemaphorePermit,
) {
    let refused = match shake_hands(&link, &acceptor, stream, from).await {
        Ok((peer, mut stream)) => match take_all(&link, peer, &mut stream).await {
            Missing::Ended => None,
            Missing::Refused(reason) => Some((Some(peer), reason)),
        },
        Err(reason) => Some((None, reason)),
    };
    if let Some((peer, reason)) = refused {
        link.board.refuse(peer, reason);
    }
}

/// TLS, and the peer that the key is of.
async fn shake_hands(
    link: &Link,
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    from: SocketAddr,
) -> Result<(usize, TlsStream<TcpStream>), Refused> {
    // Small answers should not wait; without that it works as well.
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
        Err(_) => return Err(Refused::TooSlow),
        Ok(Err(error)) => {
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
            let is_key = matches!(cause, Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented));
            return Err(if is_key { Refused::WrongKey } else { Refused::Handshake });
        }
        Ok(Ok(stream)) => stream,
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).ok_or(Refused::WrongKey)?;
    let is_it = |peer: &super::link::Peer| {
        peer.key.spki() == shown.as_ref() && peer.address.ip().to_canonical() == from.ip().to_canonical()
    };
    let peer = link.peers.iter().position(is_it).ok_or(Refused::WrongKey)?;
    link.board.heard(peer);
    Ok((peer, stream))
}

/// Takes notices until the connection ends.
async fn take_all(link: &Link, peer: usize, stream: &mut TlsStream<TcpStream>) -> Missing {
    loop {
        let bytes = match frame::read(stream, GONE_AFTER).await {
            Ok(bytes) => bytes,
            Err(missing) => return missing,
        };
        link.board.heard(peer);
        let answer = if bytes.is_empty() {
            &[][..]
        } else {
            let Some(answer) = judge(link, peer, &bytes).await else { return Missing::Ended };
            link.board.judged(peer, answer);
            if let Answer::Refused(_) = answer {
                sleep(REFUSAL_COSTS).await;
            }
            answer.name().as_bytes()
        };
        if let Err(missing) = frame::write(stream, answer).await {
            return missing;
        }
    }
}

/// What becomes of a notice; none when the loop has ended.
async fn judge(link: &Link, peer: usize, bytes: &[u8]) -> Option<Answer> {
    let key = &link.peers.get(peer)?.key;
    let notice = match notice::open(bytes, key, link.own.id()) {
        Ok(notice) => notice,
        Err(reason) => return Some(Answer::Refused(reason)),
    };
    let (answer, answered) = oneshot::channel();
    link.told.send(Told { peer, notice, answer }).await.ok()?;
    answered.await.ok()
}
