//! Which end of a logged flow is a device.

use std::net::IpAddr;

use ipnet::IpNet;
use tidegate_common::device::DeviceKey;

use crate::replay::{engine::POINT, flowlog::LoggedSide, link};

/// The networks behind the gateway.
#[derive(Clone, Debug, Default)]
pub struct Protected {
    prefixes: Vec<IpNet>,
}

impl Protected {
    /// These networks; none for those that the log itself counts as local, or else every private address.
    pub const fn new(prefixes: Vec<IpNet>) -> Self {
        Self { prefixes }
    }

    /// Whether the sender of `side` is a host on the protected side.
    pub fn holds(&self, address: IpAddr, side: &LoggedSide) -> bool {
        let private = match address {
            IpAddr::V4(v4)
                if v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast() || v4.is_loopback() =>
            {
                return false;
            }
            IpAddr::V6(v6) if v6.is_unspecified() || v6.is_multicast() || v6.is_loopback() => return false,
            IpAddr::V4(v4) => v4.is_private() || v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
        };
        if self.prefixes.is_empty() {
            return side.local.unwrap_or(private);
        }
        self.prefixes.iter().any(|prefix| prefix.contains(&address))
    }
}

/// The device that has a protected address, by the log's hardware address or one made up.
pub fn device_of(address: IpAddr, side: &LoggedSide) -> DeviceKey {
    DeviceKey::new(side.mac.unwrap_or_else(|| link::made_up(address)), POINT.ifindex())
}
