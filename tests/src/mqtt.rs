//! As much of an MQTT 3.1.1 client as a sensor needs: connect, publish with acknowledgement.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH_QOS1: u8 = 0x32;
const PUBACK: u8 = 0x40;

/// A session with a broker.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    last_id: u16,
}

impl Client {
    /// Connects as `client_id` with a clean session.
    pub fn connect(broker: SocketAddr, client_id: &str, timeout: Duration) -> Result<Self> {
        let mut stream =
            TcpStream::connect_timeout(&broker, timeout).context("the broker does not answer")?;
        stream.set_read_timeout(Some(timeout)).context("cannot set a timeout")?;
        stream.set_write_timeout(Some(timeout)).context("cannot set a timeout")?;
        stream.set_nodelay(true).context("cannot send at once")?;
        let mut body = Vec::new();
        push_text(&mut body, "MQTT");
        // Protocol level 4, clean session, keep-alive of a minute.
        body.extend([4, 0x02, 0, 60]);
        push_text(&mut body, client_id);
        stream.write_all(&packet(CONNECT, &body)).context("cannot greet the broker")?;
        let answer = read_packet(&mut stream)?;
        if answer.kind != CONNACK || answer.body.get(1) != Some(&0) {
            bail!("the broker refused the session: {answer:?}");
        }
        Ok(Self { stream, last_id: 0 })
    }

    /// Publishes and waits for the broker's acknowledgement.
    pub fn publish(&mut self, topic: &str, payload: &[u8]) -> Result<()> {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        let mut body = Vec::new();
        push_text(&mut body, topic);
        body.extend(self.last_id.to_be_bytes());
        body.extend(payload);
        self.stream.write_all(&packet(PUBLISH_QOS1, &body)).context("cannot publish")?;
        let answer = read_packet(&mut self.stream)?;
        if answer.kind != PUBACK || answer.body != self.last_id.to_be_bytes() {
            bail!("the broker did not acknowledge: {answer:?}");
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Packet {
    kind: u8,
    body: Vec<u8>,
}

fn push_text(body: &mut Vec<u8>, text: &str) {
    body.extend((text.len() as u16).to_be_bytes());
    body.extend(text.as_bytes());
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    let mut length = body.len();
    loop {
        let low = (length & 0x7f) as u8;
        length >>= 7;
        packet.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

fn read_packet(stream: &mut impl Read) -> Result<Packet> {
    let mut byte = [0];
    stream.read_exact(&mut byte).context("the broker is silent")?;
    let kind = byte[0] & 0xf0;
    let mut length = 0_usize;
    for shift in [0, 7, 14, 21] {
        stream.read_exact(&mut byte).context("the broker stopped within a packet")?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    // Answers to a publisher are a few bytes; anything long is not one.
    if length > 1_024 {
        bail!("the broker sent {length} bytes to a publisher");
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).context("the broker stopped within a packet")?;
    Ok(Packet { kind, body })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_packet_is_read_as_it_was_written(body in proptest::collection::vec(any::<u8>(), 0..600)) {
            let read = read_packet(&mut &packet(PUBACK, &body)[..]).unwrap();
            prop_assert_eq!(read.kind, PUBACK);
            prop_assert_eq!(read.body, body);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_packet(&mut &bytes[..]);
        }
    }
}
