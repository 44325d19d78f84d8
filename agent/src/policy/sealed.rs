//! COSE_Sign1 (RFC 9052, tag 18) with Ed25519 around any payload: the one envelope of everything that is signed here.
//!
//! Protected are the algorithm, the content type and the key's name; nothing outside the signature is believed. The signature also
//! covers a context string, so what was signed for one purpose is nothing for another. What is inside is its owner's to read.

use coset::{
    CoseSign1, CoseSign1Builder, HeaderBuilder, RegisteredLabel, RegisteredLabelWithPrivate,
    TaggedCborSerializable as _,
    iana::{Algorithm, CoapContentFormat},
};

use super::keys::{KeyId, SigningKey, TrustAnchors};

/// The first byte of every envelope: tag 18 of CBOR.
pub const FIRST_BYTE: u8 = 0xd2;

/// What an envelope is for.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    /// What else the signature covers.
    pub context: &'static [u8],
    /// Largest envelope, in bytes.
    pub most: usize,
}

/// How the payload is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// CBOR.
    Cbor,
}

/// What a good envelope holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The payload.
    pub payload: Vec<u8>,
    /// How it is written.
    pub format: Format,
    /// Who signed it.
    pub key: KeyId,
}

/// An envelope was not made or not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Larger than its purpose allows.
    #[error("{0} bytes are more than the {1} allowed")]
    TooLarge(usize, usize),
    /// It is text, or bears no signature.
    #[error("{0}")]
    Unsigned(&'static str),
    /// It is no such envelope.
    #[error("no COSE_Sign1 envelope: {0}")]
    Malformed(String),
    /// The signature is of another kind.
    #[error("the signature is not Ed25519")]
    Algorithm,
    /// Nobody trusts the signer.
    #[error("key {0} is none of the trust anchors")]
    UnknownKey(KeyId),
    /// The signature does not fit.
    #[error("the signature is not that of key {0}")]
    WrongSignature(KeyId),
}

impl Purpose {
    /// Signs a payload.
    pub fn seal(&self, payload: Vec<u8>, format: Format, key: &SigningKey) -> Result<Vec<u8>, SealError> {
        let content = match format {
            Format::Json => CoapContentFormat::Json,
            Format::Cbor => CoapContentFormat::Cbor,
        };
        let protected = HeaderBuilder::new()
            .algorithm(Algorithm::Ed25519)
            .content_format(content)
            .key_id(key.id().0.to_vec())
            .build();
        let sealed = CoseSign1Builder::new()
            .protected(protected)
            .payload(payload)
            .create_signature(self.context, |message| key.sign(message))
            .build();
        let bytes = sealed.to_tagged_vec().map_err(|error| SealError::Malformed(error.to_string()))?;
        if bytes.len() > self.most { Err(SealError::TooLarge(bytes.len(), self.most)) } else { Ok(bytes) }
    }

    /// Verifies an envelope. Nothing of it is believed before its signature.
    pub fn open(&self, bytes: &[u8], anchors: &TrustAnchors) -> Result<Opened, SealError> {
        if bytes.len() > self.most {
            return Err(SealError::TooLarge(bytes.len(), self.most));
        }
        // Text that nobody sealed.
        if bytes.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(u8::is_ascii_graphic) {
            return Err(SealError::Unsigned("the document is not signed"));
        }
        let malformed = |cause: &str| SealError::Malformed(cause.to_owned());
        let sealed =
            CoseSign1::from_tagged_slice(bytes).map_err(|error| SealError::Malformed(error.to_string()))?;
        if sealed.signature.is_empty() {
            return Err(SealError::Unsigned("the envelope has no signature"));
        }
        let header = &sealed.protected.header;
        let is_ed25519 = matches!(
            header.alg,
            Some(RegisteredLabelWithPrivate::Assigned(Algorithm::Ed25519 | Algorithm::EdDSA))
        );
        if !is_ed25519 {
            return Err(SealError::Algorithm);
        }
        if !header.crit.is_empty() {
            return Err(malformed("it has critical headers that this version does not know"));
        }
        let format = match header.content_type {
            Some(RegisteredLabel::Assigned(CoapContentFormat::Json)) => Format::Json,
            Some(RegisteredLabel::Assigned(CoapContentFormat::Cbor)) => Format::Cbor,
            _ => return Err(malformed("its content is declared neither as JSON nor as CBOR")),
        };
        let key = <[u8; 8]>::try_from(header.key_id.as_slice())
            .map(KeyId)
            .map_err(|_| malformed("the signer's key is not named"))?;
        if !anchors.knows(key) {
            return Err(SealError::UnknownKey(key));
        }
        if sealed.payload.is_none() {
            return Err(malformed("it is empty"));
        }
        let verified = sealed.verify_signature(self.context, |signature, message| {
            if anchors.verify(key, message, signature) { Ok(()) } else { Err(()) }
        });
        if verified.is_err() {
            return Err(SealError::WrongSignature(key));
        }
        Ok(Opened { payload: sealed.payload.unwrap_or_default(), format, key })
    }
}
