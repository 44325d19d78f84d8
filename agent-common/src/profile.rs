//! What a device with a profile may do: which remote network, protocol and ports, in which direction.
//!
//! A profile is a few networks, found by the longest prefix, and under each of them exact rules. Whoever compiles one puts the
//! rules of a wider network under every narrower one too, so one network decides. A packet costs one look at the networks and at
//! most five at the rules; no connection state is kept: whether a connection may begin is asked of the packet that begins it.

use bytemuck::{Pod, Zeroable};

use crate::{
    parse::{Fragment, Packet, proto, tcp_flag},
    pod::Addr,
};

/// What a rule lets happen: bits.
pub mod may {
    /// The device may send.
    pub const SEND: u32 = 0x01;
    /// The device may be sent to.
    pub const RECEIVE: u32 = 0x02;
    /// The device may begin a TCP connection.
    pub const CONNECT: u32 = 0x04;
    /// The device may be asked for a TCP connection.
    pub const ACCEPT: u32 = 0x08;
}

/// A network of a profile; the key of a longest-prefix table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetKey {
    /// [`crate::verdict::Verdict::profile`] of the device.
    pub profile: u32,
    /// Bits of `address` that count, 0–128; those of IPv4 networks stand behind 96 others.
    pub bits: u32,
    /// First address of the network.
    pub address: Addr,
}

/// Bits of a [`NetKey`] in front of the address, which always count.
pub const PROFILE_BITS: u32 = 64;

impl NetKey {
    /// The key for one address.
    #[inline(always)]
    pub const fn of(profile: u32, address: Addr) -> Self {
        Self { profile, bits: 128, address }
    }

    /// Profile and address in one row, as the table wants them.
    #[inline(always)]
    pub const fn words(self) -> [u64; 3] {
        let [first, second] = self.address.words();
        [self.profile as u64, first, second]
    }
}

/// What a [`RuleKey`] speaks of.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Packets with these ports.
    Ports = 0,
    /// Packets of the protocol whose ports nobody can read: later fragments, cut headers. Allowed when any ports are.
    Unread = 1,
}

/// One rule of a network. A port of 0 stands for all of them, a protocol of 0 too.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct RuleKey {
    /// Number of the network, unique among all profiles.
    pub net: u32,
    /// Port at the other end.
    pub remote_port: u16,
    /// Port of the device.
    pub local_port: u16,
    /// IP protocol.
    pub proto: u8,
    /// [`Scope`] code.
    pub scope: u8,
    /// Always zero.
    pub reserved: u16,
}

impl RuleKey {
    /// The rule for these ports.
    #[inline(always)]
    pub const fn ports(net: u32, proto: u8, remote_port: u16, local_port: u16) -> Self {
        Self { net, remote_port, local_port, proto, scope: Scope::Ports as u8, reserved: 0 }
    }

    /// The rule for packets without readable ports.
    #[inline(always)]
    pub const fn unread(net: u32, proto: u8) -> Self {
        Self { net, remote_port: 0, local_port: 0, proto, scope: Scope::Unread as u8, reserved: 0 }
    }
}

/// Where networks and rules are looked up.
pub trait ProfileTables {
    /// Number of the narrowest network around a key's address.
    fn net(&self, key: NetKey) -> Option<u32>;
    /// What a rule lets happen, see [`may`].
    fn rule(&self, key: RuleKey) -> Option<u32>;
}

/// Whether the device with `profile` may take part in `packet`: as its sender when `is_ingress`, else as its receiver.
#[inline(always)]
pub fn permits<T: ProfileTables>(profile: u32, packet: &Packet, is_ingress: bool, tables: &T) -> bool {
    const SYN_ACK: u8 = tcp_flag::SYN | tcp_flag::ACK;
    if is_upkeep(packet, is_ingress) {
        return true;
    }
    let (remote, remote_port, local_port) = if is_ingress {
        (packet.dst, packet.dst_port, packet.src_port)
    } else {
        (packet.src, packet.src_port, packet.dst_port)
    };
    let Some(net) = tables.net(NetKey::of(profile, remote)) else {
        return false;
    };
    let begins = packet.proto == proto::TCP && packet.tcp_flags & SYN_ACK == tcp_flag::SYN;
    let needed = match (is_ingress, begins) {
        (true, false) => may::SEND,
        (true, true) => may::SEND | may::CONNECT,
        (false, false) => may::RECEIVE,
        (false, true) => may::RECEIVE | may::ACCEPT,
    };
    let lets = |key: RuleKey| tables.rule(key).is_some_and(|may| may & needed == needed);
    let is_unread = packet.unparsed.is_some() || packet.fragment as u8 == Fragment::Later as u8;
    if is_unread {
        return lets(RuleKey::unread(net, packet.proto)) || lets(RuleKey::ports(net, 0, 0, 0));
    }
    lets(RuleKey::ports(net, packet.proto, remote_port, 0))
        || local_port != 0
            && (lets(RuleKey::ports(net, packet.proto, 0, local_port))
                || lets(RuleKey::ports(net, packet.proto, remote_port, local_port)))
        || remote_port != 0 && lets(RuleKey::ports(net, packet.proto, 0, 0))
        || lets(RuleKey::ports(net, 0, 0, 0))
}

/// What every host on a link needs and no profile lists: group membership (RFC 3376, 3810), and to be told of errors on the way
/// (RFC 792, 4443), without which a path's packet size is never found.
#[inline(always)]
const fn is_upkeep(packet: &Packet, is_ingress: bool) -> bool {
    const IGMP: u8 = 2;
    match packet.proto {
        IGMP => true,
        proto::ICMP => !is_ingress && matches!(packet.icmp_type, 3 | 11 | 12),
        proto::ICMPV6 => {
            matches!(packet.icmp_type, 130..=132 | 143) || !is_ingress && matches!(packet.icmp_type, 1..=4)
        }
        _ => false,
    }
}

const _: () = assert!(size_of::<RuleKey>() == 12);

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, vec::Vec};

    use super::*;
    use crate::parse::Network;

    /// One profile, number 7, with one network around one address.
    struct One {
        address: Addr,
        rules: BTreeMap<RuleKey, u32>,
    }

    impl ProfileTables for One {
        fn net(&self, key: NetKey) -> Option<u32> {
            (key.profile == 7 && key.address == self.address).then_some(1)
        }

        fn rule(&self, key: RuleKey) -> Option<u32> {
            self.rules.get(&key).copied()
        }
    }

    const CLOUD: Addr = Addr::v4([198, 51, 100, 1]);

    fn one(rules: &[(RuleKey, u32)]) -> One {
        One { address: CLOUD, rules: rules.iter().copied().collect() }
    }

    fn packet(proto: u8, src: (Addr, u16), dst: (Addr, u16), tcp_flags: u8) -> Packet {
        Packet {
            network: Network::V4,
            src: src.0,
            src_port: src.1,
            dst: dst.0,
            dst_port: dst.1,
            proto,
            tcp_flags,
            segments: 1,
            ..Packet::default()
        }
    }

    #[test]
    fn a_connection_begins_only_in_the_direction_that_the_rule_names() {
        let tables = one(&[(RuleKey::ports(1, proto::TCP, 443, 0), may::SEND | may::CONNECT | may::RECEIVE)]);
        let device = (Addr::v4([10, 0, 0, 2]), 40_000);
        let verdicts: Vec<bool> = [tcp_flag::SYN, tcp_flag::SYN | tcp_flag::ACK, tcp_flag::ACK]
            .into_iter()
            .flat_map(|flags| {
                let out = packet(proto::TCP, device, (CLOUD, 443), flags);
                let back = packet(proto::TCP, (CLOUD, 443), device, flags);
                [permits(7, &out, true, &tables), permits(7, &back, false, &tables)]
            })
            .collect();
        assert_eq!(verdicts, [true, false, true, true, true, true]);
        let elsewhere = packet(proto::TCP, device, (CLOUD, 80), tcp_flag::SYN);
        assert!(!permits(7, &elsewhere, true, &tables), "another port");
        let other = packet(proto::TCP, device, (Addr::v4([198, 51, 100, 2]), 443), tcp_flag::SYN);
        assert!(!permits(7, &other, true, &tables), "another host");
        assert!(!permits(8, &packet(proto::TCP, device, (CLOUD, 443), 0), true, &tables), "another profile");
    }

    #[test]
    fn a_rule_may_name_the_devices_own_port_or_none() {
        let device = (Addr::v4([10, 0, 0, 2]), 8_080);
        let ask = packet(proto::TCP, (CLOUD, 50_000), device, tcp_flag::SYN);
        let serves = one(&[(RuleKey::ports(1, proto::TCP, 0, 8_080), may::RECEIVE | may::ACCEPT)]);
        assert!(permits(7, &ask, false, &serves));
        let all = one(&[(RuleKey::ports(1, proto::TCP, 0, 0), may::RECEIVE | may::ACCEPT)]);
        assert!(permits(7, &ask, false, &all));
        let whatever = one(&[(RuleKey::ports(1, 0, 0, 0), may::RECEIVE | may::ACCEPT)]);
        assert!(permits(7, &ask, false, &whatever));
        let both = one(&[(RuleKey::ports(1, proto::TCP, 50_000, 8_080), may::RECEIVE | may::ACCEPT)]);
        assert!(permits(7, &ask, false, &both));
        assert!(!permits(7, &ask, true, &whatever), "the device may not send");
    }

    #[test]
    fn fragments_pass_where_any_of_their_protocol_may() {
        let tables = one(&[
            (RuleKey::ports(1, proto::UDP, 53, 0), may::SEND),
            (RuleKey::unread(1, proto::UDP), may::SEND),
        ]);
        let mut later = packet(proto::UDP, (Addr::v4([10, 0, 0, 2]), 0), (CLOUD, 0), 0);
        assert!(!permits(7, &later, true, &tables));
        later.fragment = Fragment::Later;
        assert!(permits(7, &later, true, &tables));
        later.proto = proto::TCP;
        assert!(!permits(7, &later, true, &tables));
    }
}
