//! What a device may do that is held to a profile. Asked only about devices whose entry names one.

use aya_ebpf::btf_maps::lpm_trie::Key;
use tidegate_common::{
    parse::{Network, proto},
    profile::{self, NetKey, PROFILE_BITS, ProfileTables, RuleKey},
    verdict::role,
};

use crate::{enforce::is_essential, gate::Passage, maps};

struct Tables;

impl ProfileTables for Tables {
    #[inline(always)]
    fn net(&self, key: NetKey) -> Option<u32> {
        maps::PROFILE_NETS.get(&Key::new(PROFILE_BITS + key.bits, key.words())).copied()
    }

    #[inline(always)]
    fn rule(&self, key: RuleKey) -> Option<u32> {
        // SAFETY: the agent adds entries and deletes them; it never changes one that a device's entry can lead to.
        unsafe { maps::PROFILE_RULES.get(&key) }.copied()
    }
}

/// Whether a packet of the device is none that its profile lists. What is not IP, and the gateway's own services, always pass.
#[inline(always)]
pub(crate) fn refuses(passage: &Passage<'_>, profile: u32, remote_roles: u16) -> bool {
    if !matches!(passage.packet.network, Network::V4 | Network::V6) {
        return false;
    }
    profile_permits(profile, u32::from(passage.point.is_ingress()), u32::from(remote_roles)) == 0
}

/// 1 when this CPU's packet is one that `profile` lets the device send or, on the way out, be sent.
///
/// A global function of numbers alone: the verifier follows it once, whatever leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn profile_permits(profile: u32, is_ingress: u32, remote_roles: u32) -> u32 {
    let Some(scratch) = maps::scratch() else { return 1 };
    let (packet, is_ingress, roles) = (&scratch.packet, is_ingress != 0, remote_roles as u16);
    let remote_port = if is_ingress { packet.dst_port } else { packet.src_port };
    let asks_time = packet.proto == proto::UDP && remote_port == 123 && roles & role::NTP != 0;
    let permitted = asks_time
        || is_essential(packet, is_ingress, roles)
        || profile::permits(profile, packet, is_ingress, &Tables);
    u32::from(permitted)
}
