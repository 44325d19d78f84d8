//! A command in its envelope: COSE_Sign1 with Ed25519 around a map in deterministic CBOR (RFC 8949, 4.2.1) or in JSON.
//!
//! The signature is verified before anything in it is believed. Whether the command is for this device and this time, and not seen
//! before, is `reading`'s to say.

use coset::cbor;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::body::{Value, read_cbor};
use crate::{
    messages::reason::Reason,
    policy::{
        KeyId, SigningKey, TrustAnchors,
        sealed::{Format, Purpose, SealError},
    },
};

/// Largest command, in bytes.
pub const MAX_BYTES: usize = 16 << 10;
/// Shortest and longest nonce, in bytes.
const NONCE: std::ops::RangeInclusive<usize> = 16..=64;
/// Longest id, device and verb, in bytes.
const LONGEST: usize = 128;

const COMMAND: Purpose = Purpose { context: b"tidegate command 1", most: MAX_BYTES };

/// A command as its author writes it, before it is signed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Names it in answers and logs.
    pub id: String,
    /// The device it is for, as its topic names it.
    pub device: String,
    /// When it was signed.
    pub issued: Timestamp,
    /// From then on it is refused.
    pub expires: Timestamp,
    /// 16 to 64 characters that its signer never uses again.
    pub nonce: String,
    /// What is to be done.
    pub verb: String,
    /// With what.
    #[serde(default, skip_serializing_if = "Value::is_nothing")]
    pub params: Value,
}

/// A command was not sealed or not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The envelope.
    #[error(transparent)]
    Envelope(#[from] SealError),
    /// What is in it.
    #[error("no command: {0}")]
    Content(String),
}

impl CommandError {
    /// The reason it is counted by.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Envelope(SealError::Unsigned(_)) => Reason::CommandUnsigned,
            Self::Envelope(SealError::UnknownKey(_)) => Reason::CommandKey,
            Self::Envelope(SealError::WrongSignature(_) | SealError::Algorithm) => Reason::CommandSignature,
            Self::Envelope(SealError::TooLarge(..) | SealError::Malformed(_)) | Self::Content(_) => {
                Reason::CommandFormat
            }
        }
    }
}

/// Signs a command.
pub fn seal(command: &Command, key: &SigningKey) -> Result<Vec<u8>, CommandError> {
    check(command)?;
    let value = cbor::Value::serialized(command).map_err(|error| content(&error))?;
    Ok(COMMAND.seal(deterministic(value)?, Format::Cbor, key)?)
}

/// Verifies an envelope and reads the command in it.
pub fn open(bytes: &[u8], anchors: &TrustAnchors) -> Result<(Command, KeyId), CommandError> {
    let opened = COMMAND.open(bytes, anchors)?;
    let command = match opened.format {
        Format::Json => serde_json::from_slice(&opened.payload).map_err(|error| content(&error))?,
        Format::Cbor => {
            // Names that come twice were refused with this; the order and the form of numbers are left to compare.
            read_cbor(&opened.payload).ok_or_else(|| content(&"not one map of CBOR"))?;
            let value: cbor::Value =
                cbor::from_reader(&opened.payload[..]).map_err(|error| content(&error))?;
            let command = value.deserialized().map_err(|error| content(&error))?;
            if deterministic(value)? != opened.payload {
                return Err(content(&"its CBOR is not deterministic (RFC 8949, 4.2.1)"));
            }
            command
        }
    };
    check(&command)?;
    Ok((command, opened.key))
}

fn check(command: &Command) -> Result<(), CommandError> {
    for (name, text) in [("id", &command.id), ("device", &command.device), ("verb", &command.verb)] {
        if text.is_empty() || text.len() > LONGEST || text.chars().any(char::is_control) {
            return Err(CommandError::Content(format!("{name} has no or more than {LONGEST} characters")));
        }
    }
    if !NONCE.contains(&command.nonce.len()) || !command.nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(content(&"the nonce has not 16 to 64 ASCII characters"));
    }
    if !matches!(command.params, Value::Nothing | Value::Map(_)) {
        return Err(content(&"its parameters have no names"));
    }
    if command.expires <= command.issued {
        return Err(content(&"it expires before it was issued"));
    }
    Ok(())
}

fn content(cause: &dyn std::fmt::Display) -> CommandError {
    CommandError::Content(cause.to_string())
}

/// The one form of a value in CBOR: names in the order of their bytes, numbers as short as they can be, lengths known.
fn deterministic(value: cbor::Value) -> Result<Vec<u8>, CommandError> {
    let mut bytes = Vec::new();
    cbor::into_writer(&ordered(value), &mut bytes).map_err(|error| content(&error))?;
    Ok(bytes)
}

fn ordered(value: cbor::Value) -> cbor::Value {
    match value {
        cbor::Value::Map(entries) => {
            let mut entries: Vec<_> =
                entries.into_iter().map(|(name, value)| (name, ordered(value))).collect();
            // The encoded length of a text comes before its bytes.
            entries.sort_by_cached_key(|(name, _)| {
                let text = name.as_text().unwrap_or_default();
                (text.len(), text.to_owned())
            });
            cbor::Value::Map(entries)
        }
        cbor::Value::Array(items) => cbor::Value::Array(items.into_iter().map(ordered).collect()),
        other => other,
    }
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
