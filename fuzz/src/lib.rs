//! What several fuzz targets share: frames as the kernel samples them, and somebody who signs.

use std::sync::OnceLock;

use tidegate::{
    datapath::{Event, decode},
    policy::{
        SigningKey, TrustAnchors,
        sealed::{Format, Purpose},
    },
};
use tidegate_common::{
    event::{EVENT_VERSION, EventHeader, EventKind, SAMPLE_BYTES, SampleEvent},
    flow::ObservationPoint,
};

/// The interface that all samples come from.
const PORT: u32 = 3;

/// The samples in `input`, each through the ring buffer's decoder: a byte with the cause in its lower bits and the direction in its
/// highest, the length of the frame in two bytes, big-endian, and the frame. The last one may be cut off.
pub fn samples(mut input: &[u8]) -> impl Iterator<Item = SampleEvent> {
    let frames = std::iter::from_fn(move || {
        let ([flags, high, low], rest) = input.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        input = rest;
        Some((*flags, frame))
    });
    frames.filter_map(|(flags, frame)| sample(flags, frame))
}

fn sample(flags: u8, frame: &[u8]) -> Option<SampleEvent> {
    let captured = frame.len().min(SAMPLE_BYTES);
    let point = if flags & 0x80 == 0 { ObservationPoint::ingress } else { ObservationPoint::egress };
    let mut event = SampleEvent {
        header: EventHeader {
            kind: EventKind::Sample as u16,
            version: EVENT_VERSION,
            length: size_of::<SampleEvent>() as u32,
            time_ns: 0,
        },
        point: point(PORT),
        wire_len: frame.len() as u32,
        captured: captured as u16,
        cause: flags & 0x0f,
        reserved: [0; 5],
        data: [0; SAMPLE_BYTES],
    };
    event.data[..captured].copy_from_slice(&frame[..captured]);
    match decode(bytemuck::bytes_of(&event)) {
        Ok(Event::Sample(sample)) => Some(*sample),
        _ => None,
    }
}

/// A key for this run.
pub fn key() -> &'static SigningKey {
    static KEY: OnceLock<SigningKey> = OnceLock::new();
    KEY.get_or_init(|| {
        SigningKey::generate().ok().and_then(|text| SigningKey::parse(text.as_bytes()).ok()).expect("a key")
    })
}

/// Nobody but [`key`].
pub fn anchors() -> &'static TrustAnchors {
    static ANCHORS: OnceLock<TrustAnchors> = OnceLock::new();
    ANCHORS.get_or_init(|| TrustAnchors::parse(key().public_pem().as_bytes()).expect("its public half"))
}

/// `payload` signed by [`key`] for what `context` names, as JSON and as CBOR; nothing where it is too large.
pub fn sealed(context: &'static [u8], payload: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let purpose = Purpose { context, most: 256 << 10 };
    [Format::Json, Format::Cbor]
        .into_iter()
        .filter_map(move |format| purpose.seal(payload.to_vec(), format, key()).ok())
}
