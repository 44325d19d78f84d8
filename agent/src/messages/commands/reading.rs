//! From the bytes of a command to what it says: signature, device, time and replay of a sealed one; the form of any.

use jiff::Timestamp;

use super::{
    Route, Settings,
    body::{self, Body, Value},
    envelope::{self, MAX_BYTES},
    replay::{self, Seen, Stale, Window},
};
use crate::{
    messages::reason::Reason,
    policy::{KeyId, TrustAnchors, sealed::FIRST_BYTE},
};

/// A command that does not pass.
pub(super) struct Denied {
    pub(super) reason: Reason,
    pub(super) why: String,
}

pub(super) fn denied<T>(reason: Reason, why: impl Into<String>) -> Result<T, Denied> {
    Err(Denied { reason, why: why.into() })
}

/// A command that signature and form let through.
pub(super) struct Read {
    pub(super) body: Body,
    pub(super) signed: Option<(String, KeyId)>,
    pub(super) seen: Option<Seen>,
    pub(super) expires: Option<Timestamp>,
}

/// What a command is read by.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) settings: &'a Settings,
    /// Whose signatures count.
    pub(super) anchors: Option<&'a TrustAnchors>,
    /// What was seen.
    pub(super) window: &'a Window,
    /// Until when what is seen will be known of after any end; none when nobody keeps records.
    pub(super) recorded_until: Option<Timestamp>,
}

impl Reader<'_> {
    /// Signature, device, time and replay of a sealed command, and what any command says.
    pub(super) fn read(&self, payload: &[u8], route: Route<'_>, now: Timestamp) -> Result<Read, Denied> {
        if payload.first() == Some(&FIRST_BYTE) {
            return self.read_signed(payload, route, now);
        }
        if !self.settings.allow_unsigned {
            return denied(Reason::CommandUnsigned, "it is not signed");
        }
        if payload.len() > MAX_BYTES {
            return denied(
                Reason::CommandFormat,
                format!("{} bytes are more than {MAX_BYTES}", payload.len()),
            );
        }
        let body = match body::read(payload) {
            Some(value) => Body::of_plain(&value, &self.settings.verb_keys, route.verb),
            None if self.settings.allow_unknown => {
                let value = match std::str::from_utf8(payload) {
                    Ok(text) => Value::Text(text.to_owned()),
                    Err(_) => Value::Bytes(payload.to_vec()),
                };
                Body::new(route.verb.to_owned(), &value)
            }
            None => None,
        };
        match body {
            Some(body) => Ok(Read { body, signed: None, seen: None, expires: None }),
            None => denied(Reason::CommandFormat, "it is neither sound JSON nor CBOR"),
        }
    }

    fn read_signed(&self, payload: &[u8], route: Route<'_>, now: Timestamp) -> Result<Read, Denied> {
        let Some(anchors) = self.anchors else {
            return denied(Reason::CommandKey, "commands.keys names no trusted key");
        };
        let (command, key) = envelope::open(payload, anchors)
            .map_err(|error| Denied { reason: error.reason(), why: error.to_string() })?;
        if command.device != route.device {
            let why = format!("it is for {:?} and came on a topic of {:?}", command.device, route.device);
            return denied(Reason::CommandDevice, why);
        }
        if now.saturating_add(self.settings.skew).is_ok_and(|latest| command.issued > latest) {
            return denied(
                Reason::CommandEarly,
                format!("it was issued at {}, and it is {now}", command.issued),
            );
        }
        if command.expires <= now {
            return denied(
                Reason::CommandExpired,
                format!("it was valid until {}, and it is {now}", command.expires),
            );
        }
        if command.expires.duration_since(command.issued) > self.settings.life {
            return denied(Reason::CommandLifetime, "it is valid for longer than commands.max_lifetime");
        }
        if self.recorded_until.is_some_and(|then| now > then) {
            return denied(Reason::CommandRoom, "what is seen now could not be known of after a restart");
        }
        let seen = Seen { key, nonce: replay::digest(&command.nonce), issued: command.issued };
        match self.window.check(&seen) {
            Ok(()) => {}
            Err(Stale::Seen) => return denied(Reason::CommandReplayed, "it was seen before"),
            Err(Stale::Before(then)) => {
                let why = format!("it was issued before {then}, and may have been seen; sign it anew");
                return denied(Reason::CommandReplayed, why);
            }
            Err(Stale::NoRoom) => {
                return denied(Reason::CommandRoom, "too many commands wait to be written down");
            }
        }
        match Body::new(command.verb, &command.params) {
            Some(body) => Ok(Read {
                body,
                signed: Some((command.id, key)),
                seen: Some(seen),
                expires: Some(command.expires),
            }),
            None => denied(Reason::CommandFormat, "its parameters are too many or come twice"),
        }
    }
}
