//! What is known about a device, as people and the store see it.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidegate_common::device::DeviceKey;

use super::mac::Mac;

/// Where a name came from. A later one counts more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NameSource {
    /// Name of a service it announces by mDNS.
    Service,
    /// Its mDNS host name.
    Mdns,
    /// Its DHCP host name.
    Dhcp,
    /// An operator called it so.
    Operator,
}

/// A device at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Hardware address.
    pub mac: Mac,
    /// Interface it is behind.
    pub ifindex: u32,
    /// Its addresses, last used first.
    pub addresses: Vec<IpAddr>,
    /// What it is called.
    pub name: Option<String>,
    /// Who says so.
    pub name_source: Option<NameSource>,
    /// What it says about itself besides: `dhcp` and its vendor class, `mdns` and services it announces.
    #[serde(default)]
    pub says: Vec<String>,
    /// Its maker.
    pub vendor: Option<String>,
    /// Whether it chose its hardware address itself.
    pub randomised: bool,
    /// Contradictions between addresses and hardware addresses, in plain words, newest last.
    pub conflicts: Vec<String>,
    /// First sight of it.
    pub first_seen: Timestamp,
    /// Last sight of it.
    pub last_seen: Timestamp,
}

impl Device {
    /// Its key in the kernel's tables.
    pub const fn key(&self) -> DeviceKey {
        DeviceKey::new(self.mac.0, self.ifindex)
    }
}

/// How a claim stands to the one who has the address. Times are on the kernel clock, 0 where the gateway itself has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Contest {
    /// Whom the claimant told so, when it did by an answer (ARP reply, neighbour advertisement).
    pub told: Option<IpAddr>,
    /// Since when the holder has the address.
    pub held_since_ns: u64,
    /// When the holder last used the address.
    pub used_ns: u64,
    /// When anything was last heard of the holder.
    pub heard_ns: u64,
    /// The same was said lately.
    pub repeated: bool,
}

/// Something new about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityEvent {
    /// First sight of it.
    New {
        /// The device.
        device: DeviceKey,
    },
    /// It has another address.
    Address {
        /// The device.
        device: DeviceKey,
        /// The address.
        ip: IpAddr,
    },
    /// It has another name.
    Name {
        /// The device.
        device: DeviceKey,
        /// The name.
        name: String,
    },
    /// An address went from one device to another in good order: by a lease, or after a long silence.
    Moved {
        /// The address.
        ip: IpAddr,
        /// Who had it.
        from: DeviceKey,
        /// Who has it.
        to: DeviceKey,
    },
    /// A device claims an address that another one uses.
    Conflict {
        /// The address.
        ip: IpAddr,
        /// Who has it; `None` for the gateway itself.
        old: Option<DeviceKey>,
        /// Who claims it.
        new: DeviceKey,
        /// What else there is to know about it.
        contest: Contest,
    },
    /// There was no room for it any more.
    Forgotten {
        /// The device.
        device: DeviceKey,
    },
}
