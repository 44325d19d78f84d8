//! Whether a frame may pass: never-block → device isolation → device profile → exact address → prefix → bulk list.
//!
//! Both ends of a packet are looked up, so a block cuts both directions and established flows. An entry whose time is
//! over does not exist here. In monitor mode nothing is refused, only counted.

use aya_ebpf::btf_maps::lpm_trie::Key;
use tidegate_common::{
    counter::Counters,
    device::DeviceKey,
    flow::FlowRecord,
    parse::{Network, Packet, proto},
    pod::{Addr, MacKey},
    verdict::{Action, Level, Mode, Verdict, present, role},
};

use crate::{gate::Passage, maps, profile};

/// Why a frame is refused.
#[derive(Clone, Copy)]
enum Refusal {
    Address,
    Prefix,
    Feed,
    Device,
    Profile,
    Rate,
}

/// Whether the frame must be dropped. Counts what it decides.
#[inline(always)]
pub(crate) fn refuses(passage: &mut Passage<'_>, counters: &mut Counters) -> bool {
    let Some(refusal) = judge(passage, counters) else {
        return false;
    };
    let packets = u64::from(passage.packet.segments);
    if passage.config.mode != Mode::Enforce as u32 {
        counters.would_drop += packets;
        passage.would_drop = true;
        return false;
    }
    match refusal {
        Refusal::Address => counters.dropped_address += packets,
        Refusal::Prefix => counters.dropped_prefix += packets,
        Refusal::Feed => counters.dropped_feed += packets,
        Refusal::Device => counters.dropped_device += packets,
        Refusal::Profile => counters.dropped_profile += packets,
        Refusal::Rate => counters.dropped_rate += packets,
    }
    true
}

/// Whether a never-block entry covers either end, or the device that began the flow, or one this packet goes between: what is
/// found out about the flow may not harm it.
#[inline(always)]
pub(crate) fn spares(passage: &Passage<'_>, record: &FlowRecord) -> bool {
    let (initiator, _) = DeviceKey::new(record.out.src_mac, 0).words();
    packet_is_spared(initiator, passage.now_ns) != 0
}

/// 1 when a never-block entry covers this CPU's packet or the hardware address `initiator`.
///
/// A global function of numbers alone: the verifier follows it once, whatever leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn packet_is_spared(initiator: u64, now_ns: u64) -> u32 {
    let (Some(config), Some(scratch)) = (maps::config(), maps::scratch()) else { return 1 };
    let (packet, tables) = (&scratch.packet, config.present);
    let protects =
        |entry: Option<&'static mut Verdict>| entry.is_some_and(|entry| entry.is(Action::NeverBlock));
    let protects_device = |mac: [u8; 6]| protects(device_entry(mac).filter(|entry| entry.is_live(now_ns)));
    let spared = protects(exact(packet, packet.src, tables, now_ns))
        || protects(exact(packet, packet.dst, tables, now_ns))
        || tables & present::ALLOWED != 0 && (allowed(packet.src, now_ns) || allowed(packet.dst, now_ns))
        || tables & present::DEVICE != 0
            && (protects_device(packet.src_mac)
                || protects_device(packet.dst_mac)
                || protects_device(DeviceKey::from_words(initiator, 0).mac));
    u32::from(spared)
}

#[inline(always)]
fn judge(passage: &Passage<'_>, counters: &mut Counters) -> Option<Refusal> {
    let Passage { packet, config, now_ns, .. } = passage;
    let tables = config.present;
    let is_ip = matches!(packet.network, Network::V4 | Network::V6);

    let (mut source, mut destination) = (None, None);
    if is_ip {
        source = exact(packet, packet.src, tables, *now_ns);
        // Most of what is dropped comes from a blocked source. Unless something could spare it, its other end does not matter.
        if tables & (present::OPERATORS | present::ALLOWED | present::DEVICE) == 0
            && let Some(entry) = &mut source
            && entry.is(Action::Block)
        {
            hit(passage, entry);
            return Some(Refusal::Address);
        }
        destination = exact(packet, packet.dst, tables, *now_ns);
        if is_operators(&source)
            || is_operators(&destination)
            || tables & present::ALLOWED != 0
                && (allowed(packet.src, *now_ns) || allowed(packet.dst, *now_ns))
        {
            counters.never_blocked += u64::from(packet.segments);
            return None;
        }
    }

    if tables & present::DEVICE != 0 {
        let remote = if passage.point.is_ingress() { &destination } else { &source };
        match isolation(passage, roles_of(remote)) {
            Isolation::None => {}
            Isolation::Spared => {
                counters.never_blocked += u64::from(packet.segments);
                return None;
            }
            Isolation::Refused(refusal) => return Some(refusal),
        }
    }

    if !is_ip {
        return None;
    }
    end(passage, source, packet.src).or_else(|| end(passage, destination, packet.dst))
}

/// The live exact entry of an address.
#[inline(always)]
fn exact(packet: &Packet, address: Addr, tables: u32, now_ns: u64) -> Option<&'static mut Verdict> {
    let is_v4 = packet.network as u8 == Network::V4 as u8;
    let flag = if is_v4 { present::V4 } else { present::V6 };
    if tables & flag == 0 || !maps::may_have_verdict(address) {
        return None;
    }
    let entry = if is_v4 {
        maps::VERDICT_V4.get_ptr_mut(address.v4_key())
    } else {
        maps::VERDICT_V6.get_ptr_mut(address.words())
    };
    // SAFETY: the entry stays readable until the program ends; its counters are only ever approximate.
    let live = entry.map(|entry| unsafe { &mut *entry }).filter(|entry| entry.is_live(now_ns));
    let mut pointer = live.map_or(core::ptr::null_mut(), core::ptr::from_mut);
    // The compiler would remember why there is no entry instead of testing the pointer, and the verifier, which knows
    // only the pointer, would refuse its use.
    // SAFETY: the instruction copies a register onto itself.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) pointer, options(nostack, preserves_flags, pure, nomem));
    }
    // SAFETY: null, or the entry from above.
    unsafe { pointer.as_mut() }
}

#[inline(always)]
fn roles_of(entry: &Option<&'static mut Verdict>) -> u16 {
    match entry {
        Some(entry) if entry.is(Action::NeverBlock) => entry.roles,
        _ => 0,
    }
}

#[inline(always)]
fn is_operators(entry: &Option<&'static mut Verdict>) -> bool {
    roles_of(entry) & role::OPERATOR != 0
}

#[inline(always)]
fn allowed(address: Addr, now_ns: u64) -> bool {
    maps::ALLOWED.get(&Key::new(128, address.words())).is_some_and(|entry| entry.is_live(now_ns))
}

/// What one end's entries say; the first table that knows the address decides.
#[inline(always)]
fn end(passage: &Passage<'_>, exact: Option<&'static mut Verdict>, address: Addr) -> Option<Refusal> {
    let tables = passage.config.present;
    if let Some(entry) = exact {
        return apply(passage, entry, Refusal::Address);
    }
    if tables & present::PREFIXES != 0 {
        if let Some(entry) = maps::PREFIXES.get(&Key::new(128, address.words())) {
            // SAFETY: as for `exact`. The binding lends a trie's values shared although the kernel gives them writable.
            let entry = unsafe {
                &mut *core::ptr::with_exposed_provenance_mut::<Verdict>(
                    core::ptr::from_ref(entry).expose_provenance(),
                )
            };
            if entry.is_live(passage.now_ns) {
                return apply(passage, entry, Refusal::Prefix);
            }
        }
    }
    if tables & (present::FEED_V4 | present::FEED_V6) != 0 {
        return feed(passage, address);
    }
    None
}

#[inline(always)]
fn feed(passage: &Passage<'_>, address: Addr) -> Option<Refusal> {
    let entry = if passage.packet.network as u8 == Network::V4 as u8 {
        maps::FEED_V4.get_ptr_mut(address.v4_key())
    } else {
        maps::FEED_V6.get_ptr_mut(address.words())
    }?;
    // SAFETY: as for `exact`.
    let entry = unsafe { &mut *entry };
    if entry.slots >> (passage.config.feed_slot & 1) & 1 == 0 {
        return None;
    }
    entry.hits += u64::from(passage.packet.segments);
    Some(Refusal::Feed)
}

#[inline(always)]
fn apply(passage: &Passage<'_>, entry: &mut Verdict, refusal: Refusal) -> Option<Refusal> {
    if entry.is(Action::NeverBlock) {
        return None;
    }
    hit(passage, entry);
    if entry.is(Action::Block) {
        return Some(refusal);
    }
    if entry.is(Action::RateLimit) && !entry.take_token(passage.now_ns) {
        return Some(Refusal::Rate);
    }
    None
}

#[inline(always)]
fn hit(passage: &Passage<'_>, entry: &mut Verdict) {
    entry.hits += u64::from(passage.packet.segments);
    entry.hit_bytes += u64::from(passage.frame_len);
    entry.last_hit_ns = passage.now_ns;
}

enum Isolation {
    None,
    Spared,
    Refused(Refusal),
}

/// The entry of a device, live or not.
#[inline(always)]
fn device_entry(mac: [u8; 6]) -> Option<&'static mut Verdict> {
    // SAFETY: as for `exact`.
    maps::VERDICT_DEVICE.get_ptr_mut(MacKey::new(mac)).map(|entry| unsafe { &mut *entry })
}

/// What the entry of the device behind this port says: the sender on the way in, the receiver on the way out.
#[inline(always)]
fn isolation(passage: &Passage<'_>, remote_roles: u16) -> Isolation {
    let packet = passage.packet;
    let mac = if passage.point.is_ingress() { packet.src_mac } else { packet.dst_mac };
    let Some(entry) = device_entry(mac) else {
        return Isolation::None;
    };
    if entry.is_live(passage.now_ns) {
        if entry.is(Action::NeverBlock) {
            return Isolation::Spared;
        }
        if let Some(refusal) = at_level(passage, entry, remote_roles) {
            return Isolation::Refused(refusal);
        }
    }
    if entry.profile != 0 && profile::refuses(passage, entry.profile, remote_roles) {
        hit(passage, entry);
        return Isolation::Refused(Refusal::Profile);
    }
    Isolation::None
}

/// What the level of an isolation refuses.
#[inline(always)]
fn at_level(passage: &Passage<'_>, entry: &mut Verdict, remote_roles: u16) -> Option<Refusal> {
    let (packet, is_ingress) = (passage.packet, passage.point.is_ingress());
    let refused = match entry.level {
        level if level == Level::Full as u8 => true,
        level if level == Level::DhcpDnsOnly as u8 => !is_essential(packet, is_ingress, remote_roles),
        level if level == Level::CloudOnly as u8 => {
            !is_essential(packet, is_ingress, remote_roles) && !reaches_cloud(passage, remote_roles)
        }
        level if level == Level::RateLimit as u8 => {
            hit(passage, entry);
            return (!entry.take_token(passage.now_ns)).then_some(Refusal::Rate);
        }
        _ => {
            hit(passage, entry);
            false
        }
    };
    if !refused {
        return None;
    }
    hit(passage, entry);
    Some(Refusal::Device)
}

/// ARP, neighbour discovery, DHCP, and DNS with the gateway's resolver.
#[inline(always)]
pub(crate) fn is_essential(packet: &Packet, is_ingress: bool, remote_roles: u16) -> bool {
    if packet.network as u8 == Network::Arp as u8 {
        return true;
    }
    match packet.proto {
        proto::ICMPV6 => matches!(packet.icmp_type, 133..=137),
        proto::UDP | proto::TCP => {
            let port = if is_ingress { packet.dst_port } else { packet.src_port };
            port == 53 && remote_roles & role::DNS != 0
                || packet.proto == proto::UDP
                    && matches!(port, 67 | 547)
                    && is_dhcp_server(packet, is_ingress, remote_roles)
        }
        _ => false,
    }
}

/// NTP with a known server, and anything with the cloud endpoint.
#[inline(always)]
fn reaches_cloud(passage: &Passage<'_>, remote_roles: u16) -> bool {
    remote_roles & role::CLOUD != 0
        || passage.packet.proto == proto::UDP && remote_port(passage) == 123 && remote_roles & role::NTP != 0
}

#[inline(always)]
fn remote_port(passage: &Passage<'_>) -> u16 {
    if passage.point.is_ingress() { passage.packet.dst_port } else { passage.packet.src_port }
}

/// A device may ask everyone on the link for a lease, or a known server; whatever answers from the server port may
/// reach it.
#[inline(always)]
fn is_dhcp_server(packet: &Packet, is_ingress: bool, remote_roles: u16) -> bool {
    !is_ingress || packet.dst_mac[0] & 1 != 0 || remote_roles & role::DHCP != 0
}
