//! A policy in its envelope: the document as JSON inside COSE_Sign1.

use super::{
    document::Document,
    keys::{KeyId, SigningKey, TrustAnchors},
    sealed::{Format, Purpose, SealError},
    state::{Reason, Refused},
};

/// Largest envelope that is looked at, in bytes.
pub const MAX_BYTES: usize = 256 << 10;

const POLICY: Purpose = Purpose { context: b"tidegate policy 1", most: MAX_BYTES };

impl From<SealError> for Refused {
    fn from(error: SealError) -> Self {
        let reason = match error {
            SealError::TooLarge(..) => Reason::TooLarge,
            SealError::Unsigned(_) => Reason::Unsigned,
            SealError::Malformed(_) => Reason::Malformed,
            SealError::Algorithm => Reason::Algorithm,
            SealError::UnknownKey(_) => Reason::UnknownKey,
            SealError::WrongSignature(_) => Reason::WrongSignature,
        };
        Self::new(reason, error.to_string())
    }
}

/// Signs a document.
pub fn seal(document: &Document, key: &SigningKey) -> Result<Vec<u8>, Refused> {
    let payload = serde_json::to_vec(document).map_err(|error| {
        Refused::new(Reason::Malformed, format!("the document cannot be written: {error}"))
    })?;
    Ok(POLICY.seal(payload, Format::Json, key)?)
}

/// Verifies an envelope and reads the document in it. Whether the document may take effect is [`super::Policies`]' to say.
pub fn open(bytes: &[u8], anchors: &TrustAnchors) -> Result<(Document, KeyId), Refused> {
    let opened = POLICY.open(bytes, anchors)?;
    if opened.format != Format::Json {
        let cause = "the signed document is not declared as JSON".to_owned();
        return Err(Refused::new(Reason::Malformed, cause));
    }
    let document = serde_json::from_slice(&opened.payload).map_err(|error| {
        Refused::new(Reason::Malformed, format!("this version cannot read the signed document: {error}"))
    })?;
    Ok((document, opened.key))
}
