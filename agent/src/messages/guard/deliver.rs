//! Gives released commands to the broker, one connection for each: as they came, to whoever subscribes to their topics.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tokio_util::bytes::{Buf as _, BytesMut};

use super::{hub::Hub, session::introduce, wire::Wire};
use crate::messages::{
    Report,
    codec::{self, Frame, Kind, Version},
    commands::Held,
};

/// How long a delivery may take.
const DELIVERY: Duration = Duration::from_secs(5);
/// Names the guard itself to the broker; every client's name there has a `/`.
const CLIENT_ID: &[u8] = b"tidegate";
/// Id of the only message of a connection.
const PACKET_ID: [u8; 2] = [0, 1];

/// Delivers whatever is released.
pub(super) async fn deliver_for_ever(hub: &Hub) {
    loop {
        while let Some((id, held)) = hub.commands.next_released() {
            let done = match timeout(DELIVERY, deliver(hub, &held)).await {
                Ok(done) => done.map_err(|error| error.to_string()),
                Err(_) => Err("the broker does not answer".to_owned()),
            };
            let cause = done.err();
            match cause {
                None => hub.commands.delivered(id),
                Some(_) => hub.commands.put_back(id, held),
            }
            hub.report(Report::Released(id, cause));
        }
        hub.commands.released.notified().await;
    }
}

async fn deliver(hub: &Hub, held: &Held) -> io::Result<()> {
    let (mut wire, mut bytes) = introduce(&hub.broker, &connect(held.version)).await?;
    let answer = next(&mut wire, &mut bytes).await?;
    if answer.get(3) != Some(&0) {
        return Err(io::Error::other("the broker refuses the guard"));
    }
    let (packet, qos) = as_new(held)?;
    wire.write_all(&packet).await?;
    let awaited = match qos {
        0 => {
            // Nothing acknowledges it, but what follows it is answered after it.
            wire.write_all(&[0xc0, 0]).await?;
            Kind::PingResp
        }
        1 => Kind::PubAck,
        _ => Kind::PubRec,
    };
    expect(&mut wire, &mut bytes, awaited).await?;
    if qos == 2 {
        wire.write_all(&[0x62, 2, PACKET_ID[0], PACKET_ID[1]]).await?;
        expect(&mut wire, &mut bytes, Kind::PubComp).await?;
    }
    wire.write_all(&[0xe0, 0]).await
}

/// A CONNECT without will and session.
fn connect(version: Version) -> Vec<u8> {
    let (level, properties): (u8, &[u8]) = match version {
        Version::V4 => (4, &[]),
        Version::V5 => (5, &[0]),
    };
    let body = [&[0, 4][..], b"MQTT", &[level, 2, 0, 60], properties, &[0, CLIENT_ID.len() as u8], CLIENT_ID];
    let body = body.concat();
    [&[0x10, body.len() as u8][..], &body].concat()
}

/// The PUBLISH with the connection's own packet id, and its quality of service.
fn as_new(held: &Held) -> io::Result<(Vec<u8>, u8)> {
    let cut = || io::Error::other("the held packet is cut short");
    let mut packet = held.packet.clone();
    let frame = codec::frame(&packet).ok().flatten().ok_or_else(cut)?;
    let first = packet.first_mut().ok_or_else(cut)?;
    // It was sent once by whoever sent it, and this is the first time here.
    *first &= !0x08;
    let qos = (*first >> 1) & 3;
    if qos > 0 {
        let at = frame.head + 2 + held.topic.len();
        packet.get_mut(at..at + 2).ok_or_else(cut)?.copy_from_slice(&PACKET_ID);
    }
    Ok((packet, qos))
}

/// Waits for a packet of this kind that says no failure.
async fn expect(wire: &mut Wire, bytes: &mut BytesMut, kind: Kind) -> io::Result<()> {
    let packet = next(wire, bytes).await?;
    let frame = codec::frame(&packet).map_err(io::Error::other)?;
    match frame {
        Some(Frame { kind: found, head, .. }) if found == kind && !codec::is_failure(&packet, head) => Ok(()),
        _ => Err(io::Error::other("the broker does not take the command")),
    }
}

/// The broker's next packet, whole.
async fn next(wire: &mut Wire, bytes: &mut BytesMut) -> io::Result<Vec<u8>> {
    loop {
        if let Some(frame) = codec::frame(bytes).map_err(io::Error::other)?
            && bytes.len() >= frame.len
        {
            let packet = bytes[..frame.len].to_vec();
            bytes.advance(frame.len);
            return Ok(packet);
        }
        if wire.read_buf(bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a refused packet is the test's failure")]
    use super::*;
    use crate::messages::connect::Connect;

    #[test]
    fn the_guard_introduces_itself_in_both_versions() {
        for version in [Version::V4, Version::V5] {
            let connect = Connect::decode(version, &connect(version)).unwrap();
            assert_eq!((connect.client_id.as_str(), connect.will), ("tidegate", None));
        }
    }
}
