//! TLS hellos: the first payload of each end of a connection is looked at, and what begins a handshake goes to the agent.
//!
//! A ClientHello that does not fit one segment is followed for at most two more; nothing is put together here.

use aya_ebpf::bindings::BPF_ANY;
use tidegate_common::{
    counter::Counters,
    event::SampleCause,
    flow::{FlowKey, FlowRecord, Sender},
    sample::{HELLO_REST, Hello, Place, hello_of, place_of},
};

use crate::{
    emit,
    gate::{HookFrame, Passage},
    maps::{self, Workspace},
};

/// A packet that was just counted.
pub(crate) struct Seen<'a> {
    pub(crate) key: &'a FlowKey,
    pub(crate) record: &'a FlowRecord,
    pub(crate) sender: Sender,
}

/// Sends the frame if it carries a hello or the rest of one.
#[inline(always)]
pub(crate) fn sample<F: HookFrame>(
    passage: &Passage<'_>,
    frame: &F,
    seen: Seen<'_>,
    counters: &mut Counters,
    workspace: &mut Workspace,
) {
    let packet = passage.packet;
    let Some(place) = place_of(packet, seen.record, seen.sender, passage.point) else { return };
    if passage.config.hello_limit == 0 {
        return;
    }
    let is_hello = match place {
        Place::FirstOut | Place::FirstIn => {
            let Some(prefix) = frame.prefix(packet.payload_at) else { return };
            match (hello_of(prefix, packet.payload_len), place) {
                (Some(Hello::Client { rest }), Place::FirstOut) => {
                    if rest > 0 && rest <= HELLO_REST {
                        // Without room for it the agent gets the first part alone.
                        let _ = maps::HELLOS.insert(seen.key, &rest, u64::from(BPF_ANY));
                    }
                    true
                }
                (Some(Hello::Server), Place::FirstIn) => true,
                _ => false,
            }
        }
        Place::Rest => is_awaited(seen.key, packet.payload_len),
    };
    if is_hello {
        emit::sample(passage, frame, SampleCause::Hello, counters, workspace);
    }
}

/// Whether a part of a ClientHello is still to come, of which `payload_len` bytes are here.
#[inline(always)]
fn is_awaited(key: &FlowKey, payload_len: u32) -> bool {
    let Some(rest) = maps::HELLOS.get_ptr_mut(key) else { return false };
    // SAFETY: the entry stays readable until the program ends.
    let rest = unsafe { &mut *rest };
    let awaited = *rest > 0;
    *rest = rest.saturating_sub(payload_len);
    awaited
}
