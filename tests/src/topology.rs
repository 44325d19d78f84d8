//! Wires and addresses of the lab.
//!
//! ```text
//!   attacker ─┐
//!             ├─ internet ── wan0 gateway lan0…lanN ── one device a port
//!   (services)┘              (bridge br-lan, routed without NAT, so that attackers outside reach devices)
//! ```
//! All addresses are of ranges set aside for documentation or private use (RFC 5737, 3849, 1918, 4193).

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use crate::netns::{Netns, remove_directory};

/// The gateway on its LAN.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// The gateway on its LAN, IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
/// The attacker on the internet, in its first scenario.
pub const ATTACKER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 130);
/// The attacker on the internet, IPv6.
pub const ATTACKER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x66);
/// Resolver on the internet.
pub const DNS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);
/// Time server.
pub const NTP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 123);
/// Where cameras stream to.
pub const STREAM: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 20);
/// MQTT broker.
pub const BROKER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 30);
/// Web service of smart plugs.
pub const CLOUD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 40);
/// Where malware reports to.
pub const COMMAND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 99);
/// Where stolen data goes.
pub const DROP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 98);
/// Hosts that answer every connection with a reset, as most of the internet does.
pub const ELSEWHERE: &str = "203.0.113.0/24";

/// A device's place.
#[derive(Debug)]
pub struct Place {
    /// What it is called, also by DHCP.
    pub name: &'static str,
    /// Hardware address.
    pub mac: &'static str,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its IPv6 address.
    pub address_v6: Ipv6Addr,
    /// The gateway's port it is behind.
    pub port: String,
    /// Its namespace, with the interface `eth0`.
    pub netns: Netns,
}

/// Names and hardware addresses of the devices; the last two are the ones that turn hostile.
const DEVICES: [(&str, &str); 6] = [
    ("camera", "28:57:be:00:00:11"),
    ("sensor", "24:0a:c4:00:00:12"),
    ("plug", "50:c7:bf:00:00:13"),
    ("hub", "00:17:88:00:00:14"),
    ("recorder", "9c:8e:cd:00:00:15"),
    ("visitor", "b8:27:eb:00:00:16"),
];

/// Everything the lab is made of.
#[derive(Debug)]
pub struct Topology {
    /// Servers outside.
    pub internet: Netns,
    /// An attacker outside.
    pub attacker: Netns,
    /// Router between both sides; Tidegate runs here.
    pub gateway: Netns,
    /// The protected side.
    pub devices: Vec<Place>,
    directory: PathBuf,
}

impl Topology {
    /// Creates namespaces, links, addresses, and a directory with a BPF file system.
    pub fn create() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("tg-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let internet = Netns::create(&prefix, "internet")?;
        let attacker = Netns::create(&prefix, "attacker")?;
        let gateway = Netns::create(&prefix, "gateway")?;
        let mut devices = Vec::new();
        for (index, (name, mac)) in DEVICES.into_iter().enumerate() {
            let last = 11 + index as u8;
            devices.push(Place {
                name,
                mac,
                address: Ipv4Addr::new(192, 168, 77, last),
                address_v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(last)),
                port: format!("lan{index}"),
                netns: Netns::create(&prefix, name)?,
            });
        }
        let directory = Path::new("/run").join(prefix);
        fs::create_dir_all(directory.join("bpf")).context("cannot create the lab's directory")?;
        let topology = Self { internet, attacker, gateway, devices, directory };
        topology.wire().context("cannot wire the lab")?;
        mount(Some("bpf"), &topology.directory.join("bpf"), Some("bpf"), MsFlags::empty(), None::<&str>)
            .context("cannot mount a BPF file system")?;
        Ok(topology)
    }

    fn wire(&self) -> Result<()> {
        for netns in [&self.internet, &self.attacker, &self.gateway]
            .into_iter()
            .chain(self.devices.iter().map(|place| &place.netns))
        {
            netns.sysctl("ipv6/conf/all/accept_dad", "0")?;
            netns.sysctl("ipv6/conf/default/accept_dad", "0")?;
        }
        for (key, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            // The lab's floods must reach the devices through the gateway, not end in its courtesy limits.
            ("ipv4/icmp_ratelimit", "0"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/default/send_redirects", "0"),
        ] {
            self.gateway.sysctl(key, value)?;
        }
        // Whoever spoofs ARP to listen passes on what he hears, or the victim would notice at once.
        self.device("visitor")?.netns.sysctl("ipv4/ip_forward", "1")?;
        let (gateway, attacker) = (self.gateway.name(), self.attacker.name());
        let mut internet = vec![
            "link add wan type bridge".to_owned(),
            format!("link add gw type veth peer name wan0 netns {gateway}"),
            format!("link add atk type veth peer name eth0 netns {attacker}"),
            "link set gw master wan up".to_owned(),
            "link set atk master wan up".to_owned(),
            "link set wan up".to_owned(),
            "addr add 198.51.100.1/24 dev wan".to_owned(),
            "addr add 2001:db8::1/64 dev wan nodad".to_owned(),
            format!("route add local {ELSEWHERE} dev lo"),
            "route add 192.168.77.0/24 via 198.51.100.2".to_owned(),
            "route add fd77::/64 via 2001:db8::2".to_owned(),
        ];
        for address in [DNS, NTP, STREAM, BROKER, CLOUD, COMMAND, DROP] {
            internet.push(format!("addr add {address}/24 dev wan"));
        }
        let mut lan = vec![
            "link set wan0 up".to_owned(),
            "addr add 198.51.100.2/24 dev wan0".to_owned(),
            "addr add 2001:db8::2/64 dev wan0 nodad".to_owned(),
            "link add br-lan type bridge".to_owned(),
        ];
        for place in &self.devices {
            let (port, mac, netns) = (&place.port, place.mac, place.netns.name());
            lan.push(format!("link add {port} type veth peer name eth0 address {mac} netns {netns}"));
            lan.push(format!("link set {port} master br-lan up"));
        }
        lan.extend([
            "link set br-lan up".to_owned(),
            format!("addr add {GATEWAY}/24 dev br-lan"),
            format!("addr add {GATEWAY_V6}/64 dev br-lan nodad"),
        ]);
        // The gateway's default routes need the internet's side of the wire first.
        self.internet.ip(&internet[..3])?;
        self.gateway.ip(&lan)?;
        self.internet.ip(&internet[3..])?;
        self.gateway.ip(&["route add default via 198.51.100.1", "route add default via 2001:db8::1"])?;
        self.attacker.ip(&["link set eth0 up"])?;
        self.become_attacker(0)?;
        for place in &self.devices {
            place.netns.ip(&[
                "link set eth0 up",
                &format!("addr add {}/24 dev eth0", place.address),
                &format!("addr add {}/64 dev eth0 nodad", place.address_v6),
                &format!("route add default via {GATEWAY}"),
                &format!("route add default via {GATEWAY_V6}"),
            ])?;
        }
        Ok(())
    }

    /// Gives the attacker on the internet the address of scenario `number`, below 120.
    pub fn become_attacker(&self, number: u8) -> Result<Ipv4Addr> {
        let [a, b, c, _] = ATTACKER.octets();
        let address = Ipv4Addr::new(a, b, c, 130 + number % 120);
        self.attacker.ip(&[
            "addr flush dev eth0 scope global",
            &format!("addr add {address}/24 dev eth0"),
            &format!("addr add {ATTACKER_V6}/64 dev eth0 nodad"),
            "route replace 192.168.77.0/24 via 198.51.100.2",
            "route replace fd77::/64 via 2001:db8::2",
        ])?;
        Ok(address)
    }

    /// The device of that name.
    pub fn device(&self, name: &str) -> Result<&Place> {
        self.devices
            .iter()
            .find(|place| place.name == name)
            .with_context(|| format!("there is no device {name}"))
    }

    /// Where configuration, state, logs and pins of this lab live.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether `netns` reaches `to`; up to a second.
    pub fn reaches(&self, netns: &Netns, to: impl Into<IpAddr>) -> bool {
        let to = to.into().to_string();
        netns.output("ping", &["-n", "-c", "1", "-W", "1", &to]).is_ok_and(|output| output.status.success())
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        remove_directory(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;

    #[test]
    fn devices_reach_each_other_and_the_internet() {
        if !crate::is_root() {
            crate::skipped(
                "topology::devices_reach_each_other_and_the_internet",
                "needs root for namespaces",
            );
            return;
        }
        let _alone = crate::alone().unwrap();
        let topology = Topology::create().unwrap();
        let (camera, hub) = (topology.device("camera").unwrap(), topology.device("hub").unwrap());
        assert!(topology.reaches(&camera.netns, hub.address), "port to port");
        assert!(topology.reaches(&camera.netns, STREAM), "device to internet");
        assert!(topology.reaches(&topology.attacker, camera.address), "attacker to device");
        assert!(topology.reaches(&topology.attacker, camera.address_v6), "attacker to device, IPv6");
        assert!(topology.reaches(&camera.netns, Ipv4Addr::new(203, 0, 113, 7)), "elsewhere answers");
        let (directory, name) = (topology.directory().to_owned(), topology.gateway.name().to_owned());
        drop(topology);
        assert!(!directory.exists());
        assert!(!Path::new("/run/netns").join(name).exists());
    }
}
