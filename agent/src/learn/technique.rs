//! What the detector can call an attack: techniques of MITRE ATT&CK (Enterprise, version 17), and one name for the unexplained.

use serde::Serialize;

/// A technique by its ATT&CK id and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Technique {
    /// Id, for example `T1046`.
    pub id: &'static str,
    /// Name as ATT&CK has it.
    pub name: &'static str,
}

impl Technique {
    /// Many ports or addresses tried from inside, or on the devices.
    pub const NETWORK_SERVICE_DISCOVERY: Self = Self { id: "T1046", name: "Network Service Discovery" };
    /// Many addresses tried to learn which are alive.
    pub const REMOTE_SYSTEM_DISCOVERY: Self = Self { id: "T1018", name: "Remote System Discovery" };
    /// Many ports or addresses tried from outside.
    pub const ACTIVE_SCANNING: Self = Self { id: "T1595", name: "Active Scanning" };
    /// More packets than the victim or its line can take.
    pub const NETWORK_FLOOD: Self = Self { id: "T1498.001", name: "Direct Network Flood" };
    /// Half-open connections that exhaust the victim's state.
    pub const SYN_FLOOD: Self = Self { id: "T1499.001", name: "OS Exhaustion Flood" };
    /// Services that answer small questions with much, asked in somebody else's name.
    pub const REFLECTION: Self = Self { id: "T1498.002", name: "Reflection Amplification" };
    /// Traffic in the name of addresses that are not the sender's.
    pub const FORGED_SOURCES: Self = Self { id: "T1498", name: "Network Denial of Service" };
    /// From one device to the admin services of others.
    pub const REMOTE_SERVICES: Self = Self { id: "T1021", name: "Remote Services" };
    /// Password after password against one service.
    pub const BRUTE_FORCE: Self = Self { id: "T1110", name: "Brute Force" };
    /// ARP that puts a device between two others.
    pub const ARP_POISONING: Self = Self { id: "T1557.002", name: "ARP Cache Poisoning" };
    /// Leases from a device that puts itself between the others and the gateway.
    pub const DHCP_SPOOFING: Self = Self { id: "T1557.003", name: "DHCP Spoofing" };
    /// IPv6 router announcements from a device that puts itself between the others and the gateway.
    pub const ROUTER_SPOOFING: Self = Self { id: "T1557", name: "Adversary-in-the-Middle" };
    /// Regular contact with a host that gives orders.
    pub const COMMAND_AND_CONTROL: Self = Self { id: "T1071", name: "Application Layer Protocol" };
    /// Something else than names carried through DNS.
    pub const DNS_TUNNEL: Self = Self { id: "T1071.004", name: "Application Layer Protocol: DNS" };
    /// Domains made up one after the other to find the one that gives orders.
    pub const GENERATED_DOMAINS: Self = Self { id: "T1568.002", name: "Domain Generation Algorithms" };
    /// Names tried one after the other below a domain, which may be those of a generator or a fault.
    pub const DYNAMIC_RESOLUTION: Self = Self { id: "T1568", name: "Dynamic Resolution" };
    /// More questions than a service can answer.
    pub const SERVICE_FLOOD: Self = Self { id: "T1499.002", name: "Service Exhaustion Flood" };
    /// Packets that are meant to break the program that reads them.
    pub const MESSAGE_EXPLOIT: Self = Self { id: "T1499.004", name: "Application or System Exploitation" };
    /// A device's credentials used from another device.
    pub const BORROWED_ACCOUNT: Self = Self { id: "T1078", name: "Valid Accounts" };
    /// Messages to topics that are another's to publish (ATT&CK for ICS).
    pub const FOREIGN_COMMAND: Self = Self { id: "T0855", name: "Unauthorized Command Message" };
    /// Commands with values that a device is not to be given (ATT&CK for ICS).
    pub const MODIFIED_PARAMETER: Self = Self { id: "T0836", name: "Modify Parameter" };
    /// Measurements that somebody made up or changed on their way (ATT&CK for ICS).
    pub const FORGED_REPORT: Self = Self { id: "T0856", name: "Spoof Reporting Message" };
    /// Measurements that keep somebody from seeing what goes on (ATT&CK for ICS).
    pub const MANIPULATED_VIEW: Self = Self { id: "T0832", name: "Manipulation of View" };
    /// Subscriptions to what is another's to read.
    pub const EAVESDROPPING: Self = Self { id: "T1040", name: "Network Sniffing" };
    /// Data carried off to a host that never got any.
    pub const EXFILTRATION: Self = Self { id: "T1048", name: "Exfiltration Over Alternative Protocol" };
    /// The model found traffic unlike the device's own and no rule says what it is.
    pub const UNUSUAL: Self = Self { id: "anomaly", name: "Unlike the device's normal traffic" };
    /// Something new that fits what the device's maker does: an update, another address of a service it knows.
    pub const CHANGE: Self = Self { id: "change", name: "Change without known harm" };
    /// A flow that the kernel cut by the device's own model.
    pub const CUT: Self = Self { id: "cut", name: "Flow cut in the kernel" };
    /// Another detector reported something that is evidence and no more.
    pub const REPORTED: Self = Self { id: "reported", name: "Reported by another detector" };

    /// The device's normal traffic has slowly become another than the one learned.
    pub const DRIFTED: Self = Self { id: "drift", name: "Drifted from the device's normal traffic" };

    /// Something that devices of the kind do not do.
    pub const UNLIKE_KIND: Self = Self { id: "kind", name: "Unlike devices of its kind" };

    /// Every technique, in the order of the reference page.
    pub const ALL: &'static [Self] = &[
        Self::NETWORK_SERVICE_DISCOVERY,
        Self::REMOTE_SYSTEM_DISCOVERY,
        Self::ACTIVE_SCANNING,
        Self::NETWORK_FLOOD,
        Self::SYN_FLOOD,
        Self::REFLECTION,
        Self::FORGED_SOURCES,
        Self::REMOTE_SERVICES,
        Self::BRUTE_FORCE,
        Self::ARP_POISONING,
        Self::DHCP_SPOOFING,
        Self::ROUTER_SPOOFING,
        Self::COMMAND_AND_CONTROL,
        Self::DNS_TUNNEL,
        Self::GENERATED_DOMAINS,
        Self::DYNAMIC_RESOLUTION,
        Self::SERVICE_FLOOD,
        Self::MESSAGE_EXPLOIT,
        Self::BORROWED_ACCOUNT,
        Self::FOREIGN_COMMAND,
        Self::MODIFIED_PARAMETER,
        Self::FORGED_REPORT,
        Self::MANIPULATED_VIEW,
        Self::EAVESDROPPING,
        Self::EXFILTRATION,
        Self::UNUSUAL,
        Self::CUT,
        Self::CHANGE,
        Self::REPORTED,
        Self::DRIFTED,
        Self::UNLIKE_KIND,
    ];

    /// The technique with this id.
    pub fn by_id(id: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|technique| technique.id == id)
    }
}
