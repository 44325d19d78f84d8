//! A connection from its first byte to its last: TLS, CONNECT, who it is, the broker behind, then the relay.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_util::bytes::BytesMut;

use super::{
    hub::{Hub, Live, Proof},
    relay::{End, Relay},
    talk::Talk,
    wire::Wire,
};
use crate::messages::{
    acl::{Grants, is_sound_name},
    answer,
    broker::Address,
    codec::{self, Kind, Version},
    connect::{Connect, Overridden, connect_version},
    judge::{Client, Judge},
    reason::Reason,
    tls,
};

/// How long the broker may take to answer, and to come back after it died.
const BROKER: Duration = Duration::from_secs(3);
/// How long a device's address may take to be known.
const KNOWN: Duration = Duration::from_secs(3);
/// Bytes of a CONNECT without its will: nobody has proven anything yet, and anybody may send one.
const GREETING: usize = 8 << 10;
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// A connection that was admitted; counted out when it ends, however it ends.
pub(super) struct Guest {
    pub(super) hub: Arc<Hub>,
    pub(super) source: IpAddr,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.hub.shared.leave(self.source);
    }
}

/// A refusal, and whom to tell how.
struct Refused {
    reason: Reason,
    identity: Option<String>,
    answer: Option<(Wire, Version)>,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self { reason, identity: None, answer: None }
    }
}

/// A client that said CONNECT.
struct Greeted {
    wire: Wire,
    connect: Connect,
    /// What it sent after CONNECT.
    first: BytesMut,
    chain: Vec<CertificateDer<'static>>,
}

/// Serves one connection until it ends.
pub(super) async fn serve(guest: Guest, stream: TcpStream, with_tls: bool) {
    let hub = &guest.hub;
    let live = hub.live();
    let deadline = Instant::now() + hub.limits().connect_timeout;
    let greeted = match timeout_at(deadline, greet(hub, &live, stream, with_tls)).await {
        Ok(Ok(Some(greeted))) => greeted,
        Ok(Ok(None)) => return,
        Ok(Err(refused)) => return refuse(&guest, refused).await,
        Err(_) => return hub.refuse(guest.source, None, Reason::ConnectTimeout),
    };
    if let Err(refused) = open(&guest, &live, greeted).await {
        refuse(&guest, refused).await;
    }
}

async fn refuse(guest: &Guest, refused: Refused) {
    guest.hub.refuse(guest.source, refused.identity.as_deref(), refused.reason);
    tracing::debug!(source = %guest.source, reason = refused.reason.name(), "connection refused");
    let Some((mut wire, version)) = refused.answer else { return };
    // Whoever does not read the answer does not learn it.
    let _ = timeout(Duration::from_secs(1), async {
        wire.write_all(&answer::connack(version, refused.reason)).await?;
        wire.shutdown().await
    })
    .await;
}

/// TLS and CONNECT; `None` when the client leaves without a word, as those do who only look whether somebody listens.
async fn greet(
    hub: &Hub,
    live: &Live,
    stream: TcpStream,
    with_tls: bool,
) -> Result<Option<Greeted>, Refused> {
    // Small packets go out at once; a kernel that refuses only makes it slower.
    let _ = stream.set_nodelay(true);
    let (mut wire, chain) = if with_tls {
        let tls = live.tls.as_ref().ok_or(Reason::Tls)?;
        let stream = tls.acceptor.accept(stream).await.map_err(|cause| {
            tracing::debug!(%cause, "no TLS with a client");
            Reason::Tls
        })?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        (Wire::Tls(Box::new(stream)), chain)
    } else {
        (Wire::Tcp(stream), Vec::new())
    };
    let mut bytes = BytesMut::with_capacity(1_024);
    let frame = loop {
        if let Some(frame) = codec::frame(&bytes).map_err(|_| Reason::Malformed)? {
            if frame.kind != Kind::Connect {
                return Err(Reason::Malformed.into());
            }
            if frame.len > GREETING + hub.limits().will_bytes {
                return Err(Reason::PacketSize.into());
            }
            if bytes.len() >= frame.len {
                break frame;
            }
        }
        bytes.reserve(1_024);
        // A connection that breaks ends like one that is closed.
        if wire.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return if bytes.is_empty() { Ok(None) } else { Err(Reason::Malformed.into()) };
        }
    };
    let packet = bytes.split_to(frame.len);
    let Some(version) = connect_version(&packet, frame.head).map_err(|_| Reason::Malformed)? else {
        return Err(Refused { reason: Reason::Version, identity: None, answer: Some((wire, Version::V4)) });
    };
    match Connect::decode(version, &packet) {
        Ok(connect) => Ok(Some(Greeted { wire, connect, first: bytes, chain })),
        Err(_) => Err(Refused { reason: Reason::Malformed, identity: None, answer: Some((wire, version)) }),
    }
}

/// Who it is, and how that is proven.
fn authenticate(hub: &Hub, live: &Live, greeted: &Greeted) -> Result<(String, Proof), Reason> {
    let connect = &greeted.connect;
    if let (Some(leaf), Some(tls)) = (greeted.chain.first(), &live.tls) {
        let identity = tls::identity_of(leaf, tls.identity).ok_or(Reason::Credentials)?;
        return Ok((identity, Proof::Certificate(greeted.chain.clone())));
    }
    if let (Some(passwords), Some(name)) = (&live.passwords, &connect.username) {
        let password = connect.password.as_deref().unwrap_or_default();
        let is_right = passwords.verify(name, password);
        return if is_right { Ok((name.clone(), Proof::Password)) } else { Err(Reason::Credentials) };
    }
    if hub.settings.anonymous && connect.username.is_none() {
        return Ok(("anonymous".to_owned(), Proof::None));
    }
    Err(Reason::Credentials)
}

/// Whether a bound identity comes from its device; waits a while for an address that nobody has yet.
async fn is_at_home(hub: &Hub, identity: &str, source: IpAddr) -> bool {
    let mut orders = hub.orders.clone();
    let waited = timeout(KNOWN, async {
        loop {
            let known = {
                let orders = orders.borrow_and_update();
                let Some(home) = orders.bindings.get(identity) else { return true };
                orders.addresses.get(&source).map(|device| device == home)
            };
            match known {
                Some(is_home) => return is_home,
                None if orders.changed().await.is_err() => return false,
                None => {}
            }
        }
    });
    waited.await.unwrap_or(false)
}

/// Everything about a CONNECT that the guard judges, then the session itself.
async fn open(guest: &Guest, live: &Arc<Live>, greeted: Greeted) -> Result<(), Refused> {
    let hub = &guest.hub;
    let limits = Arc::clone(hub.limits());
    let version = greeted.connect.version;
    let client_id = greeted.connect.client_id.clone();
    let (identity, proof) = match authenticate(hub, live, &greeted) {
        Ok(known) => known,
        Err(reason) => {
            return Err(Refused {
                reason,
                identity: greeted.connect.username,
                answer: Some((greeted.wire, version)),
            });
        }
    };
    let judge = Judge::new(
        Client { identity: identity.clone(), client_id: client_id.clone(), version, source: guest.source },
        Grants::of(&live.rules, &identity, &client_id),
        Arc::clone(&limits),
        Arc::clone(&hub.shared),
        Arc::clone(&hub.commands),
        hub.telemetry.clone(),
        hub.hasher.clone(),
    );
    let longest = limits.keep_alive.as_secs().clamp(1, u16::MAX.into()) as u16;
    let asked = greeted.connect.keep_alive;
    let keep_alive = if asked == 0 { longest } else { asked.min(longest) };
    let most_s = u32::try_from(limits.session_expiry.as_secs()).unwrap_or(u32::MAX - 1);
    let expiry_s = greeted.connect.session_expiry_s.min(most_s);
    let overridden = Overridden {
        keep_alive: (keep_alive != asked).then_some(keep_alive),
        expiry_s: (expiry_s != greeted.connect.session_expiry_s).then_some(expiry_s),
    };
    let wants_words = greeted.connect.wants_words;
    let judged = async {
        if !is_sound_name(&client_id) {
            return Err(Reason::ClientId);
        }
        if greeted.connect.extended_auth {
            return Err(Reason::Credentials);
        }
        if !is_at_home(hub, &identity, guest.source).await {
            return Err(Reason::WrongDevice);
        }
        if let Some(will) = &greeted.connect.will {
            judge.will(&will.topic, &will.payload, will.retain)?;
        }
        // An identity has no `/`, so no client can take the session of another identity.
        let name = format!("{identity}/{client_id}");
        let connect = greeted.connect.forward(name, keep_alive, expiry_s).map_err(|_| Reason::Malformed)?;
        reach(&hub.broker, &connect).await.map_err(|_| Reason::BrokerAway)
    };
    let (broker, answer) = match judged.await {
        Ok(reached) => reached,
        Err(reason) => {
            return Err(Refused { reason, identity: Some(identity), answer: Some((greeted.wire, version)) });
        }
    };

    let talk = Talk::new(Arc::clone(hub), judge, overridden, most_s, wants_words);
    let silence = Duration::from_secs(u64::from(keep_alive)) * 3 / 2;
    if !matches!(proof, Proof::None) {
        hub.shared.prove(guest.source);
    }
    let (entry, cut) = hub.enter(guest.source, (identity.clone(), client_id), proof);
    // What changed before the session was on the list did not cut it.
    if hub.orders.borrow().is_cut(guest.source) {
        return Err(Refused { reason: Reason::Isolated, identity: Some(identity), answer: None });
    }
    if !Arc::ptr_eq(live, &hub.live()) {
        return Err(Refused { reason: Reason::Revoked, identity: Some(identity), answer: None });
    }
    let on_refused: Box<dyn FnMut(Reason) + Send> = {
        let (hub, source, identity) = (Arc::clone(hub), guest.source, identity.clone());
        Box::new(move |reason| hub.refuse(source, Some(&identity), reason))
    };
    let mut relay = Relay::new(
        Arc::clone(hub),
        (greeted.wire, broker),
        talk,
        (greeted.first, answer),
        silence,
        on_refused,
    );
    let end = tokio::select! {
        end = relay.run() => end,
        Ok(reason) = cut => End::Refused(reason),
    };
    drop(entry);
    if let End::Refused(reason) = end {
        hub.refuse(guest.source, Some(&identity), reason);
        tracing::debug!(source = %guest.source, identity, reason = reason.name(), "session ended");
        if let Some(last) = answer::disconnect(version, reason) {
            relay.say(last).await;
        }
    }
    Ok(())
}

/// A connection to the broker on which `connect` was said, and what it answered; tries again while it may be starting.
async fn reach(broker: &Address, connect: &[u8]) -> io::Result<(Wire, BytesMut)> {
    let deadline = Instant::now() + BROKER;
    loop {
        match timeout_at(deadline, introduce(broker, connect)).await {
            Ok(Ok(reached)) => return Ok(reached),
            Ok(Err(error)) if Instant::now() + TRY_AGAIN >= deadline => return Err(error),
            Ok(Err(_)) => sleep(TRY_AGAIN).await,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

pub(super) async fn introduce(broker: &Address, connect: &[u8]) -> io::Result<(Wire, BytesMut)> {
    let mut wire = match broker {
        Address::Unix(path) => UnixStream::connect(path).await.map(Wire::Unix)?,
        Address::Tcp(endpoint) => {
            let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
            stream.set_nodelay(true)?;
            Wire::Tcp(stream)
        }
    };
    wire.write_all(connect).await?;
    let mut answer = BytesMut::with_capacity(256);
    // A broker that dies may still take a connection, and never answer on it.
    while codec::frame(&answer).map_err(io::Error::other)?.is_none_or(|frame| answer.len() < frame.len) {
        if wire.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((wire, answer))
}
