//! Questions to the registry: which device is meant, and what is known about it.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use tidegate_common::device::DeviceKey;

use super::{
    device::Device,
    mac::Mac,
    registry::{Entry, REPEAT_NS, Registry},
};
use crate::enforce::Now;

impl Registry {
    /// How many devices are known.
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// The device that has `ip`.
    pub fn resolve(&self, ip: IpAddr) -> Option<DeviceKey> {
        self.holdings.get(&ip.to_canonical()).map(|holding| holding.device)
    }

    /// Every address and the device that has it.
    pub fn holders(&self) -> impl Iterator<Item = (IpAddr, Mac)> {
        self.holdings.iter().map(|(address, holding)| (*address, Mac(holding.device.mac)))
    }

    /// Whether the address is one of the gateway's own.
    pub fn is_own(&self, ip: IpAddr) -> bool {
        self.own.contains(&ip.to_canonical())
    }

    /// Addresses of others that the device claimed lately, and who has them; `None` for the gateway itself.
    pub fn contested_by(&self, device: DeviceKey, now_ns: u64) -> Vec<(IpAddr, Option<DeviceKey>)> {
        let told = self.devices.get(&device).map(|entry| &entry.told).into_iter().flatten();
        told.filter(|(_, at_ns)| now_ns.saturating_sub(*at_ns) < REPEAT_NS)
            .filter_map(|(ip, _)| match self.resolve(*ip) {
                None if self.own.contains(ip) => Some((*ip, None)),
                Some(holder) if holder.mac != device.mac => Some((*ip, Some(holder))),
                _ => None,
            })
            .collect()
    }

    /// The device called `text`: an address, a hardware address, or a name (case and `.local` do not count). Of several, the one
    /// seen last.
    pub fn find(&self, text: &str) -> Option<DeviceKey> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return self.resolve(ip);
        }
        let latest = |matches: &dyn Fn(&DeviceKey, &Entry) -> bool| {
            let found = self.devices.iter().filter(|(key, entry)| matches(key, entry));
            found.max_by_key(|(key, entry)| (entry.last_ns, **key)).map(|(key, _)| *key)
        };
        if let Ok(mac) = text.parse::<Mac>() {
            return latest(&|key, _| key.mac == mac.0);
        }
        let wanted = text.trim().trim_end_matches(".local").to_lowercase();
        latest(&|_, entry| entry.name.as_ref().is_some_and(|(_, name)| name.to_lowercase() == wanted))
    }

    /// What a device is called, if anything.
    pub fn name(&self, device: DeviceKey) -> Option<&str> {
        self.devices.get(&device)?.name.as_ref().map(|(_, name)| name.as_str())
    }

    /// A device's addresses, last used first.
    pub fn addresses(&self, device: DeviceKey) -> Vec<IpAddr> {
        let Some(entry) = self.devices.get(&device) else { return Vec::new() };
        let mut addresses = entry.addresses.clone();
        let last = |ip: &IpAddr| self.holdings.get(ip).map_or(0, |holding| holding.last_ns);
        addresses.sort_by_key(|ip| (std::cmp::Reverse(last(ip)), *ip));
        addresses
    }

    /// A device as it is now.
    pub fn device(&self, device: DeviceKey, now: Now) -> Option<Device> {
        let entry = self.devices.get(&device)?;
        let mac = Mac(device.mac);
        Some(Device {
            mac,
            ifindex: device.ifindex,
            addresses: self.addresses(device),
            name: entry.name.as_ref().map(|(_, name)| name.clone()),
            name_source: entry.name.as_ref().map(|(source, _)| *source),
            says: entry.says.iter().cloned().collect(),
            vendor: self.vendors.of(mac).map(str::to_owned),
            randomised: mac.is_locally_administered(),
            conflicts: entry.conflicts.iter().cloned().collect(),
            first_seen: wall_at(entry.first_ns, now),
            last_seen: wall_at(entry.last_ns as i64, now),
        })
    }

    /// All devices, last seen first.
    pub fn devices(&self, now: Now) -> Vec<Device> {
        let mut keys: Vec<_> = self.devices.iter().map(|(key, entry)| (entry.last_ns, *key)).collect();
        keys.sort_unstable_by_key(|key| std::cmp::Reverse(*key));
        keys.into_iter().filter_map(|(_, key)| self.device(key, now)).collect()
    }
}

fn wall_at(then_ns: i64, now: Now) -> Timestamp {
    let ago = SignedDuration::from_nanos((now.kernel_ns as i64).saturating_sub(then_ns));
    now.wall.checked_sub(ago.max(SignedDuration::ZERO)).unwrap_or(Timestamp::UNIX_EPOCH)
}
