//! The forest in the kernel: at a checkpoint the flow is judged by its device's own model, if it has one.
//!
//! The sum is the very number that the agent computes from the same record. A flow that scores below the model's limit is cut
//! for a while, its present packet included; the agent hears of it at once. What is on a never-block list is never cut, and
//! a forest that cannot be read judges nothing.

use tidegate_common::{
    counter::Counters,
    feature::flow_features,
    flow::{FlowKey, FlowRecord},
    forest::{Barrier, TREES, Values, path_of_four},
};

use crate::{enforce, gate::Passage, maps};

/// Scores the flow; whether it is cut from now on.
#[inline(always)]
pub(crate) fn cuts(
    passage: &Passage<'_>,
    key: &FlowKey,
    record: &mut FlowRecord,
    judged: &mut Judged,
    counters: &mut Counters,
) -> bool {
    let Some(device) = record.initiating_device() else { return false };
    let Some(model) = maps::model(&device) else { return false };
    judged.key = *key;
    let sum = path_sum(model.first_tree);
    if sum == 0 {
        return false;
    }
    counters.scores += 1;
    record.score = sum;
    record.model_generation = model.generation;
    if sum >= model.cut_below || enforce::spares(passage, record) {
        return false;
    }
    record.cut_until_ns = passage.now_ns + u64::from(passage.config.cut_ms) * 1_000_000;
    counters.flows_cut += 1;
    true
}

/// The flow that [`path_sum`] is about.
#[repr(C)]
pub(crate) struct Judged {
    key: FlowKey,
    values: Values,
}

/// Summed path length of the flow in this CPU's [`Judged`] over the forest that begins at `first_tree`; 0 when a tree is
/// missing.
///
/// A global function of numbers alone: the verifier follows it once, whatever leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn path_sum(first_tree: u32) -> u32 {
    let Some(scratch) = maps::scratch() else { return 0 };
    let Judged { key, values } = &mut scratch.workspace.judged;
    let Some(record) = maps::FLOWS.get_ptr_mut(&*key) else { return 0 };
    // SAFETY: the entry stays readable until the program ends.
    *values = Values::of(&flow_features(key, unsafe { &*record }));
    let (mut sum, mut tree) = (0, 0);
    while tree < TREES as u32 {
        let at = first_tree + tree;
        let (Some(a), Some(b), Some(c), Some(d)) =
            (maps::tree(at), maps::tree(at + 1), maps::tree(at + 2), maps::tree(at + 3))
        else {
            return 0;
        };
        sum += path_of_four::<Instruction>([a, b, c, d], values);
        tree += 4;
    }
    sum
}

/// An instruction that changes nothing, but that neither compiler nor verifier sees through.
struct Instruction;

impl Barrier for Instruction {
    #[inline(always)]
    fn opaque(mut value: u64) -> u64 {
        // SAFETY: the instruction copies a register to itself.
        unsafe {
            core::arch::asm!("{0} = {0}", inout(reg) value, options(nostack, preserves_flags, pure, nomem));
        }
        value
    }
}
