//! Counters of the programs: one block a CPU, read and summed by the agent.

use bytemuck::{Pod, Zeroable};

use crate::parse::UNPARSED_REASONS;

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// What happened to packets and events on one CPU.
        ///
        /// `seen = in_flow + Σ unparsed + folded + repeated + dropped`, `events = received by the agent + events_lost`.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
        pub struct Counters {
            $($(#[$doc])* pub $field: u64,)*
            /// Packets in no flow, by [`crate::parse::Unparsed`] code.
            pub unparsed: [u64; UNPARSED_REASONS],
        }

        impl Counters {
            /// Names and values in order, `unparsed` left out.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field)),*].into_iter()
            }

            /// Adds another CPU's block.
            pub fn merge(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
                for (mine, theirs) in self.unparsed.iter_mut().zip(other.unparsed) {
                    *mine += theirs;
                }
            }
        }
    };
}

counters! {
    /// Packets that reached a program.
    seen,
    /// Packets counted in a flow record.
    in_flow,
    /// Packets of flows that found no room, counted in their device alone.
    folded,
    /// Packets already counted at another guarded port.
    repeated,
    /// Packets dropped by an address entry.
    dropped_address,
    /// Packets dropped by a prefix entry.
    dropped_prefix,
    /// Packets dropped by a bulk list.
    dropped_feed,
    /// Packets dropped by a device's isolation.
    dropped_device,
    /// Packets dropped by a rate limit.
    dropped_rate,
    /// Packets of flows that the kernel's forest cut.
    dropped_model,
    /// Packets that a device's profile does not list.
    dropped_profile,
    /// Packets that monitor mode let pass although a verdict asked to drop them.
    would_drop,
    /// Packets that an operator's never-block entry let pass before any verdict was looked at.
    never_blocked,
    /// Flows begun.
    flows,
    /// Scores given by the kernel's forests.
    scores,
    /// Flows cut by the kernel's forests, those that monitor mode let go on included.
    flows_cut,
    /// New flows refused by the flood guard.
    flood_guarded,
    /// New flows refused because the flow table was full.
    flow_table_full,
    /// Devices refused because the device table was full.
    device_table_full,
    /// Fragments in flows.
    fragments,
    /// Events the programs wanted to send.
    events,
    /// Events for which the ring buffer had no room.
    events_lost,
    /// Frames that tell who a device is, held back by the sample limit.
    samples_held,
    /// DNS messages and TLS hellos held back by their limits, or because the ring buffer was half full.
    names_held,
}

impl Counters {
    /// Packets dropped, whatever asked for it.
    pub const fn dropped(&self) -> u64 {
        self.dropped_address
            + self.dropped_prefix
            + self.dropped_feed
            + self.dropped_device
            + self.dropped_rate
            + self.dropped_model
            + self.dropped_profile
    }

    /// Packets in no flow, whatever the reason.
    pub fn unparsed_total(&self) -> u64 {
        self.unparsed.iter().sum()
    }

    /// Packets that the account does not explain: 0 on a quiet machine, a few while CPUs are between two counters.
    pub fn unaccounted(&self) -> i64 {
        let explained = self.in_flow + self.folded + self.repeated + self.dropped() + self.unparsed_total();
        self.seen.wrapping_sub(explained) as i64
    }
}
