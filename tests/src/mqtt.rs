//! As much of an MQTT 3.1.1 client as a sensor, a test or a load needs.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
/// Longest packet that is read; what the tests' brokers send is far shorter.
const LONGEST: usize = 1 << 20;

/// How a client presents itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hello<'a> {
    /// Name of the session.
    pub client_id: &'a str,
    /// User name and password.
    pub login: Option<(&'a str, &'a str)>,
    /// Topic and payload of the last will.
    pub will: Option<(&'a str, &'a [u8])>,
    /// Whether the broker keeps the session for the next connection.
    pub persistent: bool,
}

impl Hello<'_> {
    /// The CONNECT packet of MQTT 3.1.1, with a keep-alive of a minute.
    pub fn packet(&self) -> Vec<u8> {
        let mut flags = if self.persistent { 0 } else { 0x02 };
        let mut payload = Vec::new();
        push_text(&mut payload, self.client_id);
        if let Some((topic, message)) = self.will {
            flags |= 0x04;
            push_text(&mut payload, topic);
            payload.extend((message.len() as u16).to_be_bytes());
            payload.extend(message);
        }
        if let Some((name, password)) = self.login {
            flags |= 0xc0;
            push_text(&mut payload, name);
            push_text(&mut payload, password);
        }
        let mut body = Vec::new();
        push_text(&mut body, "MQTT");
        body.extend([4, flags, 0, 60]);
        body.extend(payload);
        packet(CONNECT, &body)
    }
}

/// A session with a broker.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    last_id: u16,
    /// Messages that came while something else was awaited.
    waiting: VecDeque<Packet>,
}

impl Client {
    /// Connects as `client_id` with a clean session.
    pub fn connect(broker: SocketAddr, client_id: &str, timeout: Duration) -> Result<Self> {
        Self::open(broker, &Hello { client_id, ..Hello::default() }, timeout)
    }

    /// Connects as `hello` says.
    pub fn open(broker: SocketAddr, hello: &Hello<'_>, timeout: Duration) -> Result<Self> {
        let mut stream =
            TcpStream::connect_timeout(&broker, timeout).context("the broker does not answer")?;
        stream.set_read_timeout(Some(timeout)).context("cannot set a timeout")?;
        stream.set_write_timeout(Some(timeout)).context("cannot set a timeout")?;
        stream.set_nodelay(true).context("cannot send at once")?;
        stream.write_all(&hello.packet()).context("cannot greet the broker")?;
        let answer = read_packet(&mut stream)?;
        if answer.first != CONNACK || answer.body.get(1) != Some(&0) {
            bail!("the broker refused the session: {answer:?}");
        }
        Ok(Self { stream, last_id: 0, waiting: VecDeque::new() })
    }

    /// Publishes and waits for the broker's acknowledgement.
    pub fn publish(&mut self, topic: &str, payload: &[u8]) -> Result<()> {
        self.publish_as(topic, payload, false)
    }

    /// Publishes a message that the broker keeps, and waits for the acknowledgement.
    pub fn retain(&mut self, topic: &str, payload: &[u8]) -> Result<()> {
        self.publish_as(topic, payload, true)
    }

    fn publish_as(&mut self, topic: &str, payload: &[u8], retain: bool) -> Result<()> {
        let id = self.next_id();
        self.send(&message(topic, payload, Some(id), retain))?;
        let answer = self.answer(PUBACK)?;
        if answer.body != id.to_be_bytes() {
            bail!("the broker did not acknowledge: {answer:?}");
        }
        Ok(())
    }

    /// Subscribes with quality 1; the code that the broker answers with, 0x80 for a refusal.
    pub fn subscribe(&mut self, filter: &str) -> Result<u8> {
        self.subscribe_with(filter, 1)
    }

    /// Subscribes with quality `qos`; the code that the broker answers with.
    pub fn subscribe_with(&mut self, filter: &str, qos: u8) -> Result<u8> {
        let mut body = self.next_id().to_be_bytes().to_vec();
        push_text(&mut body, filter);
        body.push(qos);
        self.send(&packet(SUBSCRIBE, &body))?;
        self.answer(SUBACK)?.body.last().copied().context("an empty SUBACK")
    }

    /// The next message: topic and payload. Acknowledges it.
    pub fn receive(&mut self) -> Result<(String, Vec<u8>)> {
        let packet = match self.waiting.pop_front() {
            Some(packet) => packet,
            None => self.answer(PUBLISH)?,
        };
        let cut = "a message that is cut short";
        let (length, rest) = packet.body.split_first_chunk::<2>().context(cut)?;
        let (topic, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into()).context(cut)?;
        let payload = if packet.first & 0x06 == 0 {
            rest
        } else {
            let (id, payload) = rest.split_first_chunk::<2>().context(cut)?;
            let mut ack = vec![PUBACK, 2];
            ack.extend(id);
            self.send(&ack)?;
            payload
        };
        Ok((String::from_utf8(topic.to_vec()).context("a topic that is no text")?, payload.to_vec()))
    }

    /// Sends any bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("cannot send to the broker")
    }

    /// Whether the broker has closed the connection, within the client's timeout.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        loop {
            match self.stream.read(&mut byte) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }

    /// A handle of the connection, by which someone else may end it.
    pub fn handle(&self) -> Result<TcpStream> {
        self.stream.try_clone().context("cannot share the connection")
    }

    /// The stream itself.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    fn next_id(&mut self) -> u16 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.last_id
    }

    fn answer(&mut self, kind: u8) -> Result<Packet> {
        loop {
            let packet = read_packet(&mut self.stream)?;
            match packet.first & 0xf0 {
                found if found == kind => return Ok(packet),
                PUBLISH => self.waiting.push_back(packet),
                _ => bail!("the broker sent something else: {packet:?}"),
            }
        }
    }
}

/// A PUBLISH, of quality 1 when it has an id.
pub fn message(topic: &str, payload: &[u8], id: Option<u16>, retain: bool) -> Vec<u8> {
    let mut body = Vec::with_capacity(topic.len() + payload.len() + 4);
    push_text(&mut body, topic);
    body.extend(id.map(u16::to_be_bytes).into_iter().flatten());
    body.extend(payload);
    packet(PUBLISH | if id.is_some() { 0x02 } else { 0 } | u8::from(retain), &body)
}

/// Lengths of the fixed header and of what follows it in the packet that `bytes` begin with; `None` when they go on.
pub fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((index + 2, length));
        }
    }
    None
}

#[derive(Debug)]
struct Packet {
    first: u8,
    body: Vec<u8>,
}

fn push_text(body: &mut Vec<u8>, text: &str) {
    body.extend((text.len() as u16).to_be_bytes());
    body.extend(text.as_bytes());
}

/// A packet with this first byte.
pub fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
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
    let first = byte[0];
    let mut length = 0_usize;
    for shift in [0, 7, 14, 21] {
        stream.read_exact(&mut byte).context("the broker stopped within a packet")?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    if length > LONGEST {
        bail!("the broker sent a packet of {length} bytes");
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).context("the broker stopped within a packet")?;
    Ok(Packet { first, body })
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
            prop_assert_eq!(read.first, PUBACK);
            prop_assert_eq!(read.body, body);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_packet(&mut &bytes[..]);
        }
    }
}
