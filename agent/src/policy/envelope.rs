//! The envelope: COSE_Sign1 (RFC 9052, tag 18) with the document as JSON inside.
//!
//! Protected are the algorithm, the content type and the key's name; nothing outside the signature is believed. The signature also
//! covers a context string, so what was signed for another purpose is no policy.

use coset::{
    CoseSign1, CoseSign1Builder, HeaderBuilder, RegisteredLabel, RegisteredLabelWithPrivate,
    TaggedCborSerializable as _,
    iana::{Algorithm, CoapContentFormat},
};

use super::{
    document::Document,
    keys::{KeyId, SigningKey, TrustAnchors},
    state::{Reason, Refused},
};

/// Largest envelope that is looked at, in bytes.
pub const MAX_BYTES: usize = 256 << 10;

/// What else the signature covers.
const CONTEXT: &[u8] = b"tidegate policy 1";

/// Signs a document.
pub fn seal(document: &Document, key: &SigningKey) -> Result<Vec<u8>, Refused> {
    let payload = serde_json::to_vec(document).map_err(|error| {
        Refused::new(Reason::Malformed, format!("the document cannot be written: {error}"))
    })?;
    let protected = HeaderBuilder::new()
        .algorithm(Algorithm::Ed25519)
        .content_format(CoapContentFormat::Json)
        .key_id(key.id().0.to_vec())
        .build();
    let sealed = CoseSign1Builder::new()
        .protected(protected)
        .payload(payload)
        .create_signature(CONTEXT, |message| key.sign(message))
        .build();
    let bytes = sealed.to_tagged_vec().map_err(|error| {
        Refused::new(Reason::Malformed, format!("the envelope cannot be written: {error}"))
    })?;
    if bytes.len() > MAX_BYTES {
        return Err(too_large(bytes.len()));
    }
    Ok(bytes)
}

/// Verifies an envelope and reads the document in it. Whether the document may take effect is [`super::Policies`]' to say.
pub fn open(bytes: &[u8], anchors: &TrustAnchors) -> Result<(Document, KeyId), Refused> {
    if bytes.len() > MAX_BYTES {
        return Err(too_large(bytes.len()));
    }
    let malformed =
        |cause: String| Refused::new(Reason::Malformed, format!("no COSE_Sign1 envelope: {cause}"));
    // A document that nobody sealed is text; CBOR of this tag begins with 0xd2.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(u8::is_ascii_graphic) {
        return Err(Refused::new(Reason::Unsigned, "the document is not signed".to_owned()));
    }
    let sealed = CoseSign1::from_tagged_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    if sealed.signature.is_empty() {
        return Err(Refused::new(Reason::Unsigned, "the envelope has no signature".to_owned()));
    }
    let header = &sealed.protected.header;
    let is_ed25519 = matches!(
        header.alg,
        Some(RegisteredLabelWithPrivate::Assigned(Algorithm::Ed25519 | Algorithm::EdDSA))
    );
    if !is_ed25519 {
        return Err(Refused::new(Reason::Algorithm, "the signature is not Ed25519".to_owned()));
    }
    if !header.crit.is_empty() {
        return Err(malformed("it has critical headers that this version does not know".to_owned()));
    }
    if header.content_type != Some(RegisteredLabel::Assigned(CoapContentFormat::Json)) {
        return Err(malformed("its content is not declared as JSON".to_owned()));
    }
    let id = <[u8; 8]>::try_from(header.key_id.as_slice())
        .map(KeyId)
        .map_err(|_| malformed("the signer's key is not named".to_owned()))?;
    if !anchors.knows(id) {
        return Err(Refused::new(Reason::UnknownKey, format!("key {id} is none of the trust anchors")));
    }
    let payload = sealed.payload.as_deref().ok_or_else(|| malformed("it is empty".to_owned()))?;
    let verified = sealed.verify_signature(CONTEXT, |signature, message| {
        if anchors.verify(id, message, signature) { Ok(()) } else { Err(()) }
    });
    if verified.is_err() {
        return Err(Refused::new(Reason::WrongSignature, format!("the signature is not that of key {id}")));
    }
    let document = serde_json::from_slice(payload).map_err(|error| {
        Refused::new(Reason::Malformed, format!("this version cannot read the signed document: {error}"))
    })?;
    Ok((document, id))
}

fn too_large(bytes: usize) -> Refused {
    Refused::new(Reason::TooLarge, format!("{bytes} bytes are more than the {MAX_BYTES} of a policy"))
}
