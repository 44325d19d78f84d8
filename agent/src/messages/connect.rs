//! CONNECT and CONNACK: what a client says of itself, what the broker is told instead, and what the client learns of it.

use rmqtt_codec::{v3, v5};
use tokio_util::bytes::{Bytes, BytesMut};

use super::{
    acl,
    codec::{Malformed, Packet, Version, take_text},
};

/// Largest packet that a reason in words may make too large for a client, in bytes.
const SMALL: u32 = 128;

/// The version that a CONNECT names; `None` for one that the guard does not speak.
pub fn connect_version(packet: &[u8], head: usize) -> Result<Option<Version>, Malformed> {
    let cut = Malformed("CONNECT is cut short");
    let (name, rest) = take_text(packet.get(head..).ok_or(cut)?).ok_or(cut)?;
    match (name, rest.first()) {
        (b"MQTT", Some(4)) => Ok(Some(Version::V4)),
        (b"MQTT", Some(5)) => Ok(Some(Version::V5)),
        (b"MQTT" | b"MQIsdp", Some(_)) => Ok(None),
        _ => Err(Malformed("no CONNECT of MQTT")),
    }
}

/// A client's last will.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Topic it is published to.
    pub topic: String,
    /// What it says.
    pub payload: Bytes,
    /// Whether the broker keeps it.
    pub retain: bool,
}

/// What a client says when it connects.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Version of the session.
    pub version: Version,
    /// Name of the session.
    pub client_id: String,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Bytes>,
    /// Last will.
    pub will: Option<Will>,
    /// Longest silence that it promises, in seconds; 0 for none.
    pub keep_alive: u16,
    /// Seconds that the session is to outlive the connection (version 5).
    pub session_expiry_s: u32,
    /// Whether it asks for another way to authenticate (version 5).
    pub extended_auth: bool,
    /// Whether it can be told reasons in words (version 5): it wants them, and packets are not to be very small.
    pub wants_words: bool,
    packet: Packet,
}

impl Connect {
    /// Reads a whole CONNECT of `version`.
    pub fn decode(version: Version, packet: &[u8]) -> Result<Self, Malformed> {
        let packet = Packet::decode(version, packet)?;
        let text = |text: &str| text.to_owned();
        let connect = match &packet {
            Packet::V4(v3::Packet::Connect(connect)) => Self {
                version,
                client_id: text(&connect.client_id),
                username: connect.username.as_deref().map(text),
                password: connect.password.clone(),
                will: connect.last_will.as_ref().map(|will| Will {
                    topic: text(&will.topic),
                    payload: will.message.clone(),
                    retain: will.retain,
                }),
                keep_alive: connect.keep_alive,
                session_expiry_s: 0,
                extended_auth: false,
                wants_words: false,
                packet: packet.clone(),
            },
            Packet::V5(v5::Packet::Connect(connect)) => Self {
                version,
                client_id: text(&connect.client_id),
                username: connect.username.as_deref().map(text),
                password: connect.password.clone(),
                will: connect.last_will.as_ref().map(|will| Will {
                    topic: text(&will.topic),
                    payload: will.message.clone(),
                    retain: will.retain,
                }),
                keep_alive: connect.keep_alive,
                session_expiry_s: connect.session_expiry_interval_secs,
                extended_auth: connect.auth_method.is_some(),
                wants_words: connect.request_problem_info
                    && connect.max_packet_size.is_none_or(|most| most.get() >= SMALL),
                packet: packet.clone(),
            },
            _ => return Err(Malformed("not a CONNECT")),
        };
        match &connect.will {
            Some(will) if !acl::is_topic(&will.topic) => Err(Malformed("a will without a topic")),
            _ => Ok(connect),
        }
    }

    /// The CONNECT that the broker is given: no credentials, a client id of the guard's making, expiry and keep-alive within
    /// limits, and no topic aliases towards the client.
    pub fn forward(&self, client_id: String, keep_alive: u16, expiry_s: u32) -> Result<BytesMut, Malformed> {
        let packet = match self.packet.clone() {
            Packet::V4(v3::Packet::Connect(connect)) => {
                let mut connect = connect.client_id(client_id);
                (connect.username, connect.password, connect.keep_alive) = (None, None, keep_alive);
                Packet::V4(v3::Packet::Connect(Box::new(connect)))
            }
            Packet::V5(v5::Packet::Connect(connect)) => {
                let mut connect = connect.client_id(client_id);
                (connect.username, connect.password, connect.keep_alive) = (None, None, keep_alive);
                connect.session_expiry_interval_secs = expiry_s;
                connect.topic_alias_max = 0;
                Packet::V5(v5::Packet::Connect(Box::new(connect)))
            }
            other => other,
        };
        let mut bytes = BytesMut::new();
        packet.encode(&mut bytes)?;
        Ok(bytes)
    }
}

/// Keep-alive and expiry that the guard chose instead of the client, for the client of version 5 to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overridden {
    /// Keep-alive in seconds.
    pub keep_alive: Option<u16>,
    /// Session expiry in seconds.
    pub expiry_s: Option<u32>,
}

/// The broker's CONNACK as the client gets it: no topic aliases, the guard's own limits; and whether the session was accepted.
pub fn connack(
    version: Version,
    packet: &[u8],
    overridden: Overridden,
) -> Result<(BytesMut, bool), Malformed> {
    let (packet, accepted) = match Packet::decode(version, packet)? {
        Packet::V4(v3::Packet::ConnectAck(ack)) => {
            let accepted = ack.return_code == v3::ConnectAckReason::ConnectionAccepted;
            (Packet::V4(v3::Packet::ConnectAck(ack)), accepted)
        }
        Packet::V5(v5::Packet::ConnectAck(mut ack)) => {
            ack.topic_alias_max = 0;
            ack.assigned_client_id = None;
            ack.server_keepalive_sec = overridden.keep_alive.or(ack.server_keepalive_sec);
            ack.session_expiry_interval_secs = overridden.expiry_s.or(ack.session_expiry_interval_secs);
            let accepted = ack.reason_code == v5::ConnectAckReason::Success;
            (Packet::V5(v5::Packet::ConnectAck(ack)), accepted)
        }
        _ => return Err(Malformed("not a CONNACK")),
    };
    let mut bytes = BytesMut::new();
    packet.encode(&mut bytes)?;
    Ok((bytes, accepted))
}
