//! Events to the agent. A full ring buffer costs an event, never a packet or a count.

use tidegate_common::{
    counter::Counters,
    event::{
        EVENT_VERSION, EventHeader, EventKind, FlowCause, FlowEvent, SAMPLE_HEADER_BYTES, SampleCause,
        SampleEvent,
    },
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

/// Sends the first bytes of a frame, within the limit of its cause. Names wait for nothing: what is needed for them may never take the
/// room of flows.
#[inline(always)]
pub(crate) fn sample<F: HookFrame>(
    passage: &Passage<'_>,
    frame: &F,
    cause: SampleCause,
    counters: &mut Counters,
    workspace: &mut Workspace,
) {
    let Passage { config, now_ns, .. } = *passage;
    let (quota, limit, held) = match cause {
        SampleCause::Dns => (&mut workspace.dns, config.dns_limit, &mut counters.names_held),
        SampleCause::Hello => (&mut workspace.hellos, config.hello_limit, &mut counters.names_held),
        _ => (&mut workspace.samples, config.sample_limit, &mut counters.samples_held),
    };
    // Nobody wants them.
    if limit == 0 {
        return;
    }
    let is_name = matches!(cause, SampleCause::Dns | SampleCause::Hello);
    if !quota.take(limit, now_ns) || is_name && maps::events_are_crowded() {
        *held += 1;
        return;
    }
    let event = &mut workspace.sample;
    event.point = passage.point;
    event.wire_len = passage.frame_len;
    event.cause = cause as u8;
    event.reserved = [0; 5];
    event.captured = frame.sample(&mut event.data, cause.most_bytes());
    let length = SAMPLE_HEADER_BYTES + event.captured as usize;
    event.header =
        EventHeader { length: length as u32, ..header::<SampleEvent>(EventKind::Sample, passage.now_ns) };
    counters.events += 1;
    counters.events_lost += u64::from(!maps::send(event, length));
}
