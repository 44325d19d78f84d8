//! Events to the agent. A full ring buffer costs an event, never a packet or a count.

use tidegate_common::{
    counter::Counters,
    event::{EVENT_VERSION, EventHeader, EventKind, FlowCause, FlowEvent, SampleCause, SampleEvent},
    flow::{FlowKey, FlowRecord},
};

use crate::{
    gate::{HookFrame, Passage},
    maps::{self, Workspace},
};

#[inline(always)]
fn header<T>(kind: EventKind, time_ns: u64) -> EventHeader {
    EventHeader { kind: kind as u16, version: EVENT_VERSION, length: size_of::<T>() as u32, time_ns }
}

/// Reports a flow as it stands.
#[inline(always)]
pub(crate) fn flow(
    key: &FlowKey,
    record: &FlowRecord,
    cause: FlowCause,
    now_ns: u64,
    counters: &mut Counters,
) {
    counters.events += 1;
    let Some(mut slot) = maps::EVENTS.reserve_untyped::<FlowEvent>(0) else {
        counters.events_lost += 1;
        return;
    };
    // Field by field: put together first, the event would take most of the stack.
    // SAFETY: every field is written below.
    let event = unsafe { slot.assume_init_mut() };
    event.header = header::<FlowEvent>(EventKind::Flow, now_ns);
    event.key = *key;
    event.record = *record;
    event.cause = cause as u8;
    event.reserved = [0; 7];
    slot.submit(0);
}

/// Sends the first bytes of a frame, within the sample limit.
#[inline(always)]
pub(crate) fn sample<F: HookFrame>(
    passage: &Passage<'_>,
    frame: &F,
    cause: SampleCause,
    counters: &mut Counters,
    workspace: &mut Workspace,
) {
    if !workspace.samples.take(passage.config.sample_limit, passage.now_ns) {
        counters.samples_held += 1;
        return;
    }
    counters.events += 1;
    let Some(mut slot) = maps::EVENTS.reserve_untyped::<SampleEvent>(0) else {
        counters.events_lost += 1;
        return;
    };
    // SAFETY: every field is written below but `data`, of which `captured` tells how much is valid; the reservation
    // itself is readable kernel memory.
    let event = unsafe { slot.assume_init_mut() };
    event.header = header::<SampleEvent>(EventKind::Sample, passage.now_ns);
    event.point = passage.point;
    event.wire_len = passage.frame_len;
    event.cause = cause as u8;
    event.reserved = [0; 5];
    event.captured = frame.sample(&mut event.data);
    slot.submit(0);
}
