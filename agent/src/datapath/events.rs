//! Events from the ring buffer. The bytes are the kernel's, yet every one is checked before it is believed.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use bytemuck::Zeroable as _;
use tidegate_common::{
    event::{
        EVENT_VERSION, EventHeader, EventKind, FlowCause, FlowEvent, SAMPLE_HEADER_BYTES, SampleCause,
        SampleEvent,
    },
    maps,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};

use super::{Datapath, DatapathError, load::open};

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A flow as it stood at `header.time_ns`.
    Flow(Box<FlowEvent>),
    /// The first bytes of a frame.
    Sample(Box<SampleEvent>),
}

/// Bytes that are no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than its header or its kind.
    #[error("event of {0} bytes is cut off")]
    Truncated(usize),
    /// Made by programs of another version.
    #[error("event of layout version {0}, expected {EVENT_VERSION}")]
    Version(u16),
    /// No such kind.
    #[error("event of unknown kind {0}")]
    Kind(u16),
    /// A field is outside its range.
    #[error("event with an impossible {0}")]
    Field(&'static str),
}

impl DecodeError {
    /// The error's name in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Truncated(_) => "truncated",
            Self::Version(_) => "version",
            Self::Kind(_) => "kind",
            Self::Field(_) => "field",
        }
    }
}

/// Decodes one event.
pub fn decode(bytes: &[u8]) -> Result<Event, DecodeError> {
    let header: EventHeader = read(bytes)?;
    if header.version != EVENT_VERSION {
        return Err(DecodeError::Version(header.version));
    }
    match header.kind {
        kind if kind == EventKind::Flow as u16 => {
            let event: FlowEvent = read(bytes)?;
            FlowCause::from_code(event.cause).ok_or(DecodeError::Field("cause"))?;
            Ok(Event::Flow(Box::new(event)))
        }
        kind if kind == EventKind::Sample as u16 => {
            let event = sample(bytes)?;
            SampleCause::from_code(event.cause).ok_or(DecodeError::Field("cause"))?;
            Ok(Event::Sample(event))
        }
        kind => Err(DecodeError::Kind(kind)),
    }
}

/// A sample, of which only the captured bytes are sent.
fn sample(bytes: &[u8]) -> Result<Box<SampleEvent>, DecodeError> {
    let mut event = Box::new(SampleEvent::zeroed());
    let room = bytemuck::bytes_of_mut(&mut *event);
    let length = bytes.len().min(room.len());
    room[..length].copy_from_slice(&bytes[..length]);
    let data = length.checked_sub(SAMPLE_HEADER_BYTES).ok_or(DecodeError::Truncated(bytes.len()))?;
    if usize::from(event.captured) > data {
        return Err(DecodeError::Field("captured length"));
    }
    // The ring hands out whole words.
    event.data[usize::from(event.captured)..].fill(0);
    Ok(event)
}

fn read<T: bytemuck::Pod>(bytes: &[u8]) -> Result<T, DecodeError> {
    let bytes = bytes.get(..size_of::<T>()).ok_or(DecodeError::Truncated(bytes.len()))?;
    Ok(bytemuck::pod_read_unaligned(bytes))
}

/// The reading end of the ring buffer.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl Events {
    /// The next event that is already there.
    pub fn take(&mut self) -> Option<Result<Event, DecodeError>> {
        self.ring.next().map(|bytes| decode(&bytes))
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl Datapath {
    /// Takes the ring buffer out; there is one reader.
    pub fn take_events(&mut self) -> Result<Events, DatapathError> {
        Ok(Events { ring: open(&mut self.programs, maps::EVENTS)? })
    }
}

/// How long an emptied buffer is left to fill. The kernel wakes a reader that is through, which costs it more than the event:
/// it must not do so for each one.
const FILLING: Duration = Duration::from_millis(3);

/// [`Events`] that wakes its task when something arrives. Needs a tokio runtime.
pub struct EventStream {
    inner: AsyncFd<Events>,
    emptied: Option<Instant>,
}

impl EventStream {
    /// Registers `events` with the current runtime.
    pub fn new(events: Events) -> io::Result<Self> {
        // SAFETY: the descriptor belongs to the table inside `events`, which lives as long as the registration.
        let inner = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) };
        Ok(Self { inner: inner.map_err(io::Error::from)?, emptied: None })
    }

    /// Waits until something is there, then hands at most `most` events to `each`; how many there were. May be cancelled while
    /// it waits.
    pub async fn drain(
        &mut self,
        most: usize,
        mut each: impl FnMut(Result<Event, DecodeError>),
    ) -> io::Result<usize> {
        if let Some(emptied) = self.emptied {
            sleep_until(emptied + FILLING).await;
        }
        let mut ready = self.inner.readable_mut().await?;
        let events = ready.get_inner_mut();
        let mut count = 0;
        while count < most {
            let Some(event) = events.take() else {
                ready.clear_ready();
                self.emptied = Some(Instant::now());
                break;
            };
            each(event);
            count += 1;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed decode is the test's failure")]

    use proptest::prelude::*;

    use super::*;

    fn flow_event() -> FlowEvent {
        let header = EventHeader {
            kind: EventKind::Flow as u16,
            version: EVENT_VERSION,
            length: size_of::<FlowEvent>() as u32,
            time_ns: 7,
        };
        FlowEvent { header, cause: FlowCause::Closed as u8, ..FlowEvent::default() }
    }

    #[test]
    fn a_flow_event_survives_the_ring() {
        let event = flow_event();
        assert_eq!(decode(bytemuck::bytes_of(&event)).unwrap(), Event::Flow(Box::new(event)));
    }

    #[test]
    fn foreign_bytes_are_named() {
        let event = flow_event();
        let bytes = bytemuck::bytes_of(&event);
        assert_eq!(decode(&bytes[..40]), Err(DecodeError::Truncated(40)));
        let other = FlowEvent { header: EventHeader { version: 9, ..event.header }, ..event };
        assert_eq!(decode(bytemuck::bytes_of(&other)), Err(DecodeError::Version(9)));
        let odd = FlowEvent { cause: 77, ..event };
        assert_eq!(decode(bytemuck::bytes_of(&odd)), Err(DecodeError::Field("cause")));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = decode(&bytes);
        }
    }
}
