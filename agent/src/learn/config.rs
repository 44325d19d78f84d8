//! Settings of the detector, as they stand under `[detection]` and `[learning]` in the configuration file.

use crate::config::section::section as settings;

settings! {
    /// Thresholds of the behaviour rules. Counts are per source unless said otherwise.
    RuleConfig {
        /// Different ports of one host tried within `scan_window_s` that make a vertical scan, when most got no connection.
        vertical_ports: u32 = 15,
        /// Different ports of one host tried within `silent_scan_window_s`, of which none answered, that make a vertical scan by a device;
        /// two thirds of them by a host outside.
        silent_vertical_ports: u32 = 12,
        /// Window of the rule for ports that stay silent, in seconds.
        silent_scan_window_s: u32 = 30,
        /// Different ports or hosts tried within 60 s with TCP flags that no connection begins with (none, FIN, FIN-PSH-URG and the
        /// like) that make a stealth scan.
        stealth_probes: u32 = 4,
        /// Different hosts tried on one port within `scan_window_s` without a connection that make a horizontal scan.
        horizontal_hosts: u32 = 20,
        /// The same for ports that worms go for (Telnet, SSH, TR-069, ADB and the like).
        horizontal_hosts_worm: u32 = 10,
        /// The same for services of which one client honestly asks many hosts (DNS, NTP, QUIC, STUN, over UDP).
        horizontal_hosts_chatty: u32 = 120,
        /// Window of the scan rules, in seconds.
        scan_window_s: u32 = 10,
        /// Different ports of one host tried within `slow_scan_window_s` that make a slow vertical scan.
        slow_vertical_ports: u32 = 60,
        /// Window of the slow scan rule, in seconds.
        slow_scan_window_s: u32 = 300,
        /// Weight of hosts tried on one TCP service without an answer that makes a patient scan; each counts 1 when it is new.
        patient_scan_hosts: u32 = 24,
        /// The same for TCP ports of one host.
        patient_scan_ports: u32 = 40,
        /// Time in which the weight of a try halves for the patient scan rules, in seconds.
        patient_scan_half_life_s: u32 = 1_200,
        /// Share of the tried ports or hosts that may have answered before it is no scan, 0–1.
        scan_answered_share: f64 = 0.5,
        /// Different addresses asked for by ARP within one device window that make an address sweep.
        arp_sweep_targets: u32 = 100,
        /// New TCP connections a second from one source to one service that make a SYN flood, when few are completed.
        syn_flood_per_s: u32 = 200,
        /// New flows a second from many sources to one service that make a distributed flood, when few are answered.
        distributed_flood_per_s: u32 = 1_000,
        /// New UDP flows a second from one source to one host that make a UDP flood, when few are answered.
        udp_flood_flows_per_s: u32 = 300,
        /// Small UDP packets a second in one flow, unanswered, that make a UDP flood.
        udp_flood_pps: u32 = 2_000,
        /// UDP packets of any size a second in one flow, unanswered, that make a UDP flood.
        udp_flood_any_size_pps: u32 = 20_000,
        /// ICMP packets a second from one source to one host that make an ICMP flood.
        icmp_flood_pps: u32 = 250,
        /// Packets a second to a broadcast address or to a group of the link itself in one flow that make a broadcast flood.
        broadcast_flood_pps: u32 = 400,
        /// Share of flood packets or connections that may be answered before it is no flood, 0–1 (ICMP: not asked).
        flood_answered_share: f64 = 0.2,
        /// Bytes within 10 s of answers to one source, or of answers never asked for, that make an amplification flood.
        amplified_bytes: u64 = 250_000,
        /// How many times more a device must have answered than it was asked.
        amplification_factor: f64 = 8.0,
        /// Unrelated IPv4 source addresses (different first 16 bits) of one device within 60 s that make forged sources, unless
        /// it answers for several of them as a router does.
        forged_sources: u32 = 16,
        /// Devices new to a device's baseline whose admin services (SSH, Telnet, HTTP, SMB, MQTT, …) answered it within
        /// `lateral_window_s` that make lateral movement; fewer are only reported.
        lateral_peers: u32 = 3,
        /// Window of the lateral movement rule, in seconds.
        lateral_window_s: u32 = 900,
        /// Lines to an FTP, Telnet or mail login within one connection, answered line by line, that are reported.
        login_lines: u32 = 300,
        /// Short connections to one login service (SSH, Telnet, FTP, …) within 2 s that make a brute force.
        login_attempts_fast: u32 = 12,
        /// The same within 20 s.
        login_attempts: u32 = 25,
        /// Short, alike connections to one web or MQTT service within 10 s that make a brute force.
        web_attempts: u32 = 40,
        /// Calls of one service within `failing_calls_window_s`, nearly none of them answered, that are a sign of a program that looks for
        /// who gives it orders; calls are only counted where no baseline knows them.
        failing_calls: u32 = 30,
        /// Window of that sign, in seconds.
        failing_calls_window_s: u32 = 600,
        /// Short calls of one service of like size within `alike_calls_window_s` that are a sign of patient brute force, of a flood of
        /// requests or of command and control, by what is called.
        alike_calls: u32 = 25,
        /// Window of that sign, in seconds.
        alike_calls_window_s: u32 = 60,
        /// Calls of one service held open at the same time with next to nothing said that are a sign of slow denial of service.
        held_calls: u32 = 40,
        /// Packets in both directions up to which a connection is short for the brute-force rule.
        attempt_packets: u64 = 120,
        /// Claims of an address within 60 s, between which its holder used it, that make ARP spoofing.
        arp_claims: u32 = 2,
        /// Times a device may tell the same host within 60 s that it has an address of another device that is still there, before
        /// that is ARP spoofing. Several within a second count as one.
        arp_lessons: u32 = 4,
        /// Different names below one registered domain asked for within 60 s that make a tunnel through DNS, when they are as long as
        /// `dns_tunnel_bytes` and as irregular as `dns_tunnel_entropy` say; half as many when most are for records that hold data
        /// (TXT, NULL, …), four times as many below a domain of the device's baseline.
        dns_tunnel_names: u32 = 20,
        /// The same within 10 min, of names of 8 characters on average.
        dns_tunnel_slow_names: u32 = 60,
        /// Mean characters that such a name has below its registered domain.
        dns_tunnel_bytes: u32 = 30,
        /// Mean entropy of such a name, in bits a character.
        dns_tunnel_entropy: f64 = 3.0,
        /// Different registered domains that do not exist asked for within 5 min that make generated domains; those that look like
        /// words count half.
        generated_domains: u32 = 15,
        /// Different names that do not exist asked for within 10 s that make a flood.
        nxdomain_flood: u32 = 100,
        /// Different names below one registered domain that do not exist, asked for within 60 s, that are reported.
        absent_names: u32 = 20,
        /// Contacts with a host first seen after the baseline from which on their regularity is judged.
        beacon_contacts: u32 = 6,
        /// Relative deviation of the gaps between contacts, their mean being 1, up to which they are a beacon.
        beacon_jitter: f64 = 0.15,
        /// Shortest mean gap of a beacon, in milliseconds.
        beacon_min_gap_ms: u32 = 900,
        /// Longest mean gap of a beacon, in seconds.
        beacon_max_gap_s: u32 = 3_600,
        /// Bytes sent to a host first seen after the baseline, from which on they may be an exfiltration.
        exfil_min_bytes: u64 = 2_000_000,
        /// How many times the largest upload of the baseline that must be, too.
        exfil_baseline_factor: f64 = 8.0,
        /// How many times more than it received the device must have sent.
        exfil_out_ratio: f64 = 4.0,
        /// Strangers from outside within an hour that are blocked for a single try of what a device with a baseline never offered;
        /// the others are only reported.
        probe_blocks_per_hour: u32 = 150,
        /// How long the same finding about the same subject is not repeated, in seconds.
        repeat_after_s: u32 = 60,
    }
}

settings! {
    /// How baselines are learned.
    LearnConfig {
        /// How long a device's traffic is collected before its baseline is made, in seconds.
        period_s: u64 = 3_600,
        /// Flows a baseline needs at least.
        min_flows: u32 = 64,
        /// Windows a baseline needs at least.
        min_windows: u32 = 10,
        /// Flows and windows kept per device, each; older ones are thinned out at random.
        samples: u32 = 512,
        /// Devices with a state of their own; the longest silent is forgotten for a new one.
        max_devices: u32 = 1_024,
        /// Devices with trained models in memory (about 100 KiB each); the others are judged by the fleet's default.
        max_models: u32 = 1_024,
        /// Seed of all training, so that the same traffic gives the same models.
        seed: u64 = 1,
        /// Share of normal flows and windows that may count as evidence.
        evidence_p: f64 = 0.01,
        /// Recent flows of a device, and bursts of them, that are looked at together (n of k-of-n).
        evidence_flows: u32 = 20,
        /// Chance that so many of them are evidence in normal traffic, below which the model reports (k of k-of-n).
        report_p: f64 = 1e-4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_may_be_partial_but_not_misspelt() {
        let config: RuleConfig = toml::from_str("vertical_ports = 30").unwrap();
        assert_eq!(config, RuleConfig { vertical_ports: 30, ..RuleConfig::default() });
        let error = toml::from_str::<RuleConfig>("vertical_port = 30").unwrap_err();
        assert!(error.to_string().contains("vertical_port"), "{error}");
        let config: LearnConfig = toml::from_str("period_s = 60").unwrap();
        assert_eq!(config.period_s, 60);
    }
}
