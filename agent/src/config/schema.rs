//! Every section and key of the configuration file, with its default and its documentation.
//!
//! Ranges are checked in `validate`; what a key means is said here once and copied into the generated example.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use crate::{
    config::{
        period::Period,
        section::section,
        values::{Defender, Doubtful, Endpoint, GatewayMode, Listen, Sensitivity, SensitivityWord, Unusual},
        zone::Zone,
    },
    datapath::{TcChoice, XdpChoice},
    decide,
    enforce::Target,
    identity::Mac,
    messages::{IdentityFrom, Rule, commands::Rule as CommandRule, telemetry::Anomalous},
};

section! {
    /// Where Tidegate stands and how it is reached.
    Gateway {
        /// Ports on the protected side, where the devices are: not the WAN port (NAT hides the devices there) and not a
        /// bridge (frames between two of its ports never reach it). `-i` on the command line replaces the list.
        interfaces: Vec<String> = Vec::new(),
        /// `auto` only reports what a device does until its baseline is learned, and what hosts outside do until any device has
        /// a baseline; from then on it enforces. Operators' orders are carried out at once. `enforce` acts on rules from the
        /// first packet on. `monitor` never drops a packet and counts what would have been dropped.
        mode: GatewayMode = GatewayMode::Auto,
        /// Name of this gateway in its fleet: policies are for it, reports are from it, and it is its thing name at AWS IoT Core.
        /// Empty for the host name.
        name: String = String::new(),
        /// Directory of the database, the baselines and the event log. Created if absent.
        state_dir: PathBuf = PathBuf::from("/var/lib/tidegate"),
        /// Socket the command line talks to.
        socket: PathBuf = PathBuf::from("/run/tidegate/tidegate.sock"),
        /// Group whose members may use the socket, by name; empty for root alone.
        socket_group: String = String::new(),
        /// Directory on a BPF file system that keeps tables and programs while the agent restarts.
        pin_path: PathBuf = PathBuf::from("/sys/fs/bpf/tidegate"),
        /// `driver` refuses to start where the driver has no XDP, `generic` runs the programs in the network stack, `auto`
        /// tries the driver first. `tidegate status` says which is in use.
        xdp: XdpChoice = XdpChoice::Auto,
        /// How frames that leave are hooked: `auto` uses TCX links where the kernel has them (6.6) and filters on the clsact
        /// qdisc before, `clsact` always uses filters, which other programs on the same port may expect.
        tc: TcChoice = TcChoice::Auto,
    }
    /// Sizes and clocks of the kernel tables. Changing a size needs a restart; the rest is reloaded by SIGHUP.
    Kernel {
        /// Flows measured at the same time, 1,024 to 4,194,304. Each takes about 450 bytes; what finds no room is counted in
        /// its device alone.
        max_flows: u32 = 65_536,
        /// Devices measured at the same time, 16 to 65,536.
        max_devices: u32 = 2_048,
        /// Devices whose flows the kernel itself scores at checkpoints, 1 to 4,096. Each takes 160 kB; the agent alone
        /// judges further ones.
        max_forests: u32 = 32,
        /// Bytes of the ring buffer between the kernel and the agent: a power of two from 65,536 to 268,435,456.
        ring_bytes: u32 = 4_194_304,
        /// How long a busy flow may go unreported, 1s to 1h.
        active_timeout: Period = Period::seconds(30),
        /// How long a silent flow is kept, 5s to 24h.
        idle_timeout: Period = Period::seconds(120),
        /// How long a closed or reset connection is kept, 1s to 10m.
        closed_timeout: Period = Period::seconds(5),
        /// New flows one CPU may insert in a second, 100 to 1,000,000. Beyond, they are counted in their device alone.
        new_flow_limit: u32 = 20_000,
        /// Frames that tell who a device is (ARP, ND, DHCP, mDNS), that one CPU may send in a second; 1 to 10,000.
        sample_limit: u32 = 100,
    }
    /// Names that devices ask for and TLS clients that they run: from DNS over UDP port 53 and from the first messages of TLS
    /// connections. They are kept in memory and in the event log and are never sent anywhere.
    Names {
        /// Whether the kernel hands DNS messages and TLS hellos to the agent at all. Without them nobody notices tunnels through DNS
        /// and generated domains, and no destination has a name.
        enabled: bool = true,
        /// DNS messages that one CPU may hand over in a second, 1 to 10,000.
        dns_limit: u32 = 500,
        /// TLS hellos that one CPU may hand over in a second, 1 to 10,000.
        hello_limit: u32 = 200,
        /// Whether they are written to the event log, as events `dns` and `tls`.
        log: bool = true,
    }
    /// How a device's normal behaviour is learned.
    Learning {
        /// How long a device is watched before its own baseline is trained, 1m to 90d.
        learning_period: Period = Period::hours(1),
        /// Length of a window, the aggregate that is judged; 5s to 10m.
        window: Period = Period::seconds(30),
        /// Windows with traffic that a baseline needs at least, 8 to 100,000. A quiet device learns for longer.
        min_windows: u32 = 10,
        /// Flows that a baseline needs at least, 8 to 1,000,000.
        min_flows: u32 = 64,
        /// Flows and windows kept of each device, 64 to 100,000; older ones are thinned out at random.
        samples: u32 = 512,
        /// Devices that are judged on their own, 1 to 65,536; the longest silent is forgotten for a new one.
        max_devices: u32 = 1_024,
        /// Devices with trained models in memory (about 100 KiB each), 1 to 65,536; the others are judged by the fleet's default.
        max_models: u32 = 1_024,
        /// Seed of everything random: the same traffic and seed give the same baseline.
        seed: u64 = 1,
        /// How readily a flow or window counts as evidence: low, medium or high, which three of a thousand, one of a hundred and
        /// three of a hundred normal ones do, or that share itself, 0.0001 to 0.2. The limit follows each device's traffic.
        sensitivity: Sensitivity = Sensitivity::Named(SensitivityWord::Medium),
        /// Recent flows of a device, and bursts of them, that are looked at together, 2 to 1,000 (n of k-of-n).
        evidence_flows: u32 = 20,
        /// Chance that so many of them are evidence in normal traffic, below which the model reports; 0 to 1 (k of k-of-n).
        /// Together with windows, and counted in bursts, they must be rarer than single evidence may be by `sensitivity`, too.
        report_p: f64 = 1e-4,
    }
    /// Which findings lead to verdicts. The limits of the behaviour rules themselves stand under [detection].
    Response {
        /// Confidence of a rule below which a finding is only reported, 0 to 1.
        min_confidence: f64 = 0.6,
        /// Confidence of a rule from which on a device is cut off fully instead of being left DHCP and DNS, 0 to 1.
        full_confidence: f64 = 0.9,
        /// Chance in normal traffic of a model's collected evidence, below which a device with a baseline is isolated without
        /// any rule; 0 to 1.
        model_p: f64 = 1e-12,
        /// Whether the kernel cuts a device's flow within the very packet that shows it to be far from everything the device was
        /// ever seen to do. Scores are given and reported either way.
        cut_flows: bool = false,
        /// How long such a flow stays cut, 1s to 10m.
        cut_ttl: Period = Period::seconds(30),
        /// Answers to single techniques, by MITRE ATT&CK id: `observe`, `rate-limit`, `block`, `cloud-only`, `dhcp-dns-only`,
        /// `full`. Example: `techniques = { T1046 = "observe", T1498 = "rate-limit" }`
        techniques: BTreeMap<String, decide::Response> = BTreeMap::new(),
    }
    /// How long verdicts last, how they grow, and how many may be set by themselves.
    Enforcement {
        /// How long a first block of an address lasts, 1s to 30d.
        base_ttl: Period = Period::minutes(10),
        /// How long a first isolation of a device lasts, 1s to 30d.
        isolate_ttl: Period = Period::minutes(30),
        /// Longest an automatic verdict may last, base_ttl to 365d.
        max_ttl: Period = Period::hours(24),
        /// How many times longer each repeat lasts: the first number for the first verdict, the second for the second, the last
        /// one for all further.
        escalation: Vec<u32> = vec![1, 2, 4, 8, 16, 32],
        /// How long a target must be left alone before its repeats are forgotten, 1s to 365d.
        forget_after: Period = Period::hours(24),
        /// How long the detector leaves a target alone after an operator released it, 0s to 30d.
        cooldown: Period = Period::hours(1),
        /// How long the detector leaves a target alone after its verdict was rolled back, 0s to 30d.
        rollback_hold: Period = Period::minutes(10),
        /// Devices that the detector may shut within an hour, 1 to 10,000. Beyond, verdicts are held back and reported.
        blast_radius_devices_per_hour: u32 = 5,
        /// Addresses that the detector may shut within an hour, 1 to 1,000,000.
        blast_radius_addresses_per_hour: u32 = 200,
        /// How long a new automatic verdict is on trial: when the gateway's own reachability dies within it, the verdict is rolled
        /// back. 1s to 60s.
        confirm_window: Period = Period::seconds(10),
        /// Packets a second that a rate limit leaves, 1 to 1,000,000.
        rate_limit_pps: u32 = 50,
    }
    /// What no verdict may touch. Operators add entries at run time with `tidegate allow add`.
    NeverBlock {
        /// Protect what the gateway itself needs: its own addresses, its default routes, and the resolvers of /etc/resolv.conf.
        discover: bool = true,
        /// Addresses and prefixes that win over everything, isolation included.
        addresses: Vec<Target> = Vec::new(),
        /// Hardware addresses of devices that no verdict may touch.
        devices: Vec<Mac> = Vec::new(),
        /// DNS resolvers of the devices. Isolation levels `cloud-only` and `dhcp-dns-only` let port 53 to them through.
        dns: Vec<IpAddr> = Vec::new(),
        /// DHCP servers of the devices, if not the gateway.
        dhcp: Vec<IpAddr> = Vec::new(),
        /// NTP servers of the devices. Isolation level `cloud-only` lets port 123 to them through.
        ntp: Vec<IpAddr> = Vec::new(),
        /// Addresses of the cloud endpoints. Isolation level `cloud-only` lets everything to them through.
        cloud: Vec<IpAddr> = Vec::new(),
    }
    /// What the gateway must be able to reach. A block after which it no longer can is rolled back.
    Reachability {
        /// Check at all.
        enabled: bool = true,
        /// Resolvers to ask; empty for those of /etc/resolv.conf.
        dns: Vec<IpAddr> = Vec::new(),
        /// Name to ask them for. Any answer counts, a refusal included.
        dns_name: String = "example.com".to_owned(),
        /// NTP servers to ask for the time.
        ntp: Vec<IpAddr> = Vec::new(),
        /// Cloud endpoints to open a TCP connection to, as `host:port`.
        cloud: Vec<Endpoint> = Vec::new(),
        /// Time between two checks while nothing was blocked, 1s to 1h. Right after a block they come every second.
        interval: Period = Period::seconds(30),
        /// How long an answer may take, 100ms to 5s.
        timeout: Period = Period::seconds(2),
    }
    /// The MQTT guard: devices talk to it instead of the broker, and every packet is judged. It is off until it has an address.
    /// Rules, bindings and the contents of files are taken over while it runs; the other keys need a restart.
    Messages {
        /// Address and port for clients without TLS, such as `192.168.1.1:1883`; `off` for none.
        listen: Listen = Listen::Off,
        /// Address and port for clients with TLS, such as `192.168.1.1:8883`; `off` for none.
        listen_tls: Listen = Listen::Off,
        /// The gateway's certificate with its chain, PEM.
        certificate: String = String::new(),
        /// Its private key, PEM.
        key: String = String::new(),
        /// Certificates of the authorities that devices' certificates come from, PEM; empty to ask devices for none.
        client_ca: String = String::new(),
        /// Revocation lists of these authorities, PEM. Whoever appears on one is cut within seconds. Empty for none.
        revoked: String = String::new(),
        /// Whether a client with TLS must have a certificate; otherwise a password will do.
        require_certificate: bool = true,
        /// What in a certificate is the client's identity: `common-name`, or `dns-name` for the first alternative name.
        identity: IdentityFrom = IdentityFrom::CommonName,
        /// Names and passwords as `mosquitto_passwd` writes them; the name is the identity. Empty for none.
        passwords: String = String::new(),
        /// Whether clients may come without certificate and password. They share the identity `anonymous`.
        anonymous: bool = false,
        /// Who may publish and subscribe to what: `%u` is the client's identity, `%c` its client id, `who` an identity or `*`. What
        /// no rule grants is refused.
        rules: Vec<Rule> = vec![Rule {
            who: "*".to_owned(),
            publish: vec!["devices/%u/#".to_owned()],
            subscribe: vec!["devices/%u/#".to_owned()],
        }],
        /// Hardware address that an identity may come from alone. Example: `bindings = { camera-1 = "02:00:00:00:00:01" }`
        bindings: BTreeMap<String, Mac> = BTreeMap::new(),
        /// The broker behind: `mosquitto` for one that Tidegate starts and watches, the path of a Unix socket, or `host:port`. Nothing
        /// but the guard should reach it.
        broker: String = "mosquitto".to_owned(),
        /// The program that is started then, by path or by name.
        broker_program: PathBuf = PathBuf::from("/usr/sbin/mosquitto"),
    }
    /// What clients of the MQTT guard may take. Changes need a restart.
    MessageLimits {
        /// Connections together, 1 to 100,000.
        connections: u32 = 2_000,
        /// Connections of one address, 1 to 100,000.
        connections_per_source: u32 = 20,
        /// New connections of one address in a second, 1 to 100,000.
        connects_per_second: u32 = 10,
        /// New connections in a second, 1 to 100,000, of all addresses together from which no client has proven who it is since the
        /// start. What a storm of connections from made-up addresses costs is bounded by it, handshakes with TLS above all; clients at
        /// known addresses come through. Anonymous clients prove nothing. Times `connect_timeout` it should be less than `connections`.
        strangers_per_second: u32 = 200,
        /// How long TLS and CONNECT may take together, 100ms to 1m.
        connect_timeout: Period = Period::seconds(5),
        /// Bytes of a packet, 1,024 to 16,777,216.
        packet_bytes: u32 = 262_144,
        /// How long a packet that was begun may take, 1s to 10m.
        packet_timeout: Period = Period::seconds(10),
        /// Messages that a client may publish in a second, 1 to 10,000,000. Beyond, it has to wait.
        messages_per_second: u32 = 500,
        /// Bytes that a client may publish in a second, 1,024 to 1,000,000,000. Beyond, it has to wait.
        bytes_per_second: u32 = 1_048_576,
        /// Messages of quality 1 and 2 that may wait for their acknowledgement, 1 to 65,535, in each direction.
        inflight: u32 = 20,
        /// Subscriptions made in one connection, 1 to 100,000.
        subscriptions: u32 = 100,
        /// Topics under which an identity may have messages kept (retained), 0 to 1,000,000.
        retained: u32 = 100,
        /// Bytes of a topic, 1 to 65,535.
        topic_bytes: u32 = 256,
        /// Levels of a topic, 1 to 1,000.
        topic_levels: u32 = 16,
        /// Bytes of a last will, 0 to 65,535.
        will_bytes: u32 = 4_096,
        /// How long a client may leave what it is sent unread, 1s to 10m. Then it is cut.
        slow_reader: Period = Period::seconds(30),
        /// Longest keep-alive, 1s to 18h; whoever asks for none gets this one.
        keep_alive: Period = Period::hours(1),
        /// How long a session is kept for a client that is away, 1h to 365d.
        session_expiry: Period = Period::hours(7 * 24),
        /// Messages that are kept for such a client, 1 to 1,000,000.
        queued_messages: u32 = 1_000,
        /// Bytes of packets on their way, of all clients together, 1,048,576 to 1,073,741,824.
        buffered_bytes: u32 = 33_554_432,
    }
    /// Commands to devices: messages on these topics are judged by signature, rules, and what each device is normally told. It is off
    /// until topics are named, and needs the MQTT guard. `keys` needs a restart, all else does not.
    Commands {
        /// Topics of commands; the first `+` of each stands for the device, what follows it for the verb of payloads without one.
        /// Example: `topics = ["cmd/+/#"]`
        topics: Vec<String> = Vec::new(),
        /// File with the public keys (Ed25519, PEM) whose signatures on commands count; nobody but its owner may write it. Empty for none.
        keys: String = String::new(),
        /// What becomes of commands that nobody signed: `refuse`, or `judge` by rules and habit alone.
        unsigned: Doubtful = Doubtful::Refuse,
        /// What becomes of unsigned commands that are neither JSON nor CBOR: `refuse`, or `judge` by topic and content.
        unknown_format: Doubtful = Doubtful::Refuse,
        /// What becomes of commands unlike those that a device is normally given: `hold` them for an operator, or `refuse`.
        unusual: Unusual = Unusual::Hold,
        /// Names under which payloads that nobody sealed have their verb, the first found; everything else in them is a parameter.
        verb_keys: Vec<String> = ["verb", "command", "cmd", "method", "action"].map(str::to_owned).to_vec(),
        /// How far a signer's clock may be ahead of the gateway's, 0s to 5m.
        skew: Period = Period::seconds(30),
        /// Longest time from signature to expiry, 1s to 24h. Nonces are remembered for as long.
        max_lifetime: Period = Period::minutes(10),
        /// How long a held command waits for an operator, 10s to 24h.
        hold_for: Period = Period::minutes(15),
        /// Held commands that may wait, 1 to 1,000. Beyond, unusual ones are refused.
        max_held: u32 = 100,
        /// Normal commands after which a device's habit is known, 20 to 256. Before, rules alone judge.
        learn_after: u32 = 100,
        /// Share of normal commands that may be taken for unusual, 0.0001 to 0.2.
        rate: f64 = 0.01,
        /// Devices whose commands are remembered, 1 to 4,096.
        max_devices: u32 = 256,
        /// The time zone that hours in rules are of, those of a policy too: `system`, or a name of the IANA database such as
        /// `Europe/Berlin`. It follows daylight saving.
        time_zone: Zone = Zone::System,
        /// What devices may be told. Without rules everything may; with rules a command must fit one wholly. Hours are of `time_zone`. Example:
        /// `rules = [{ device = "pump-*", verbs = ["set"], params = { level = { min = 0, max = 80 } }, hours = ["06:00-22:00"], per_minute = 10 }]`
        rules: Vec<CommandRule> = Vec::new(),
    }
    /// What devices measure, judged where it passes the MQTT guard: each device's own fields, learned from what it publishes. Off
    /// until topics are named. Changes need a restart.
    Telemetry {
        /// Filters of topics with measurements; the first `+` is the device. Example: `topics = ["devices/+/telemetry/#"]`
        topics: Vec<String> = Vec::new(),
        /// What becomes of a message that does not fit what was learned: `mark` delivers it and marks it for the cloud, `refuse` does
        /// not deliver it. Either way it is an incident.
        anomalous: Anomalous = Anomalous::Mark,
        /// How long a topic is learned before it is judged, 1s to 90d. A day holds a daily cycle.
        learning_period: Period = Period::hours(24),
        /// Messages that it takes besides, 50 to 1,000,000.
        learning_messages: u32 = 200,
        /// How long something may go on not to fit before it is learned as the new normal, 1m to 365d.
        relearn_after: Period = Period::hours(24),
        /// Devices, 1 to 65,536. A new one finds room only where another was silent for a day.
        devices: u32 = 256,
        /// Topics of one device, 1 to 256.
        topics_per_device: u32 = 8,
        /// Topics of all devices together, 1 to 65,536. Each takes up to 90 KB, most take 20.
        models: u32 = 512,
        /// Fields of a message that are looked at, 1 to 64.
        fields: u32 = 32,
        /// Maps and lists within each other that are looked into, 1 to 16.
        depth: u32 = 4,
        /// Longest payload that is read, 64 to 262,144 bytes.
        payload_bytes: u32 = 16_384,
        /// Whether measurements go to the cloud, where there is one.
        forward: bool = true,
        /// How often they do, 1s to 1h.
        forward_every: Period = Period::seconds(60),
        /// Messages of a topic within that time that go there one by one, 0 to 1,000; of further ones only a summary.
        forward_messages: u32 = 60,
    }
    /// Lists of hostile addresses.
    Feeds {
        /// Files with one address or prefix a line; `#` starts a comment. Read at start and on reload, swapped as a whole.
        files: Vec<PathBuf> = Vec::new(),
    }
    /// What other programs on the gateway know.
    Inputs {
        /// Event log of Suricata (EVE JSON), whose alerts are taken as evidence: told, never acted upon by themselves. The agent must
        /// be allowed to read it. Empty for none.
        eve_alerts: String = String::new(),
    }
    /// Event log: JSON Lines that tools for Suricata's EVE format can read.
    Log {
        /// File of the event log; empty for `eve.json` in state_dir, `off` for none.
        eve_path: String = String::new(),
        /// Size at which a new file is begun, 65,536 to 10,737,418,240 bytes.
        rotate_bytes: u64 = 67_108_864,
        /// Files kept beside the current one, 0 to 1,000.
        keep: u32 = 5,
    }
    /// Prometheus metrics.
    Metrics {
        /// Address and port of `/metrics`, on loopback; `off` for none.
        listen: Listen = Listen::At(SocketAddr::from(([127, 0, 0, 1], 9469))),
    }
    /// Signed settings of the fleet that lie over this file: `tidegate policy`.
    Policy {
        /// File with the public keys (Ed25519, PEM) whose signatures count; nobody but its owner may write it. Empty for no policies.
        keys: String = String::new(),
        /// Fleet this gateway belongs to; policies must name the same.
        fleet: String = String::new(),
    }
    /// The link to AWS IoT Core. Detection and enforcement never wait for it.
    Cloud {
        /// Whether incidents, enforcements and the gateway's state are reported at all.
        enabled: bool = false,
        /// Host name of the endpoint, such as `abc123-ats.iot.eu-central-1.amazonaws.com`; empty keeps reports without sending them.
        endpoint: String = String::new(),
        /// Port: 8883, or 443 where nothing else leaves the network; then ALPN `x-amzn-mqtt-ca` names the protocol.
        port: u16 = 8_883,
        /// File with the certificates of the endpoint's authorities (PEM); empty for the system's.
        ca: String = String::new(),
        /// File with the gateway's certificate (PEM).
        certificate: String = "/etc/tidegate/cloud.crt".to_owned(),
        /// File with its private key (PEM), mode 0600.
        key: String = "/etc/tidegate/cloud.key".to_owned(),
        /// Name of the IoT rule that takes reports.
        rule: String = "tidegate_reports".to_owned(),
        /// Where policies named by the shadow may be fetched from: beginnings of addresses, `https://…/` or `file:///…/`, each ending in
        /// a slash. Empty for nowhere.
        policy_origins: Vec<String> = Vec::new(),
        /// File with the certificates of the authorities of those servers (PEM); empty for the system's.
        policy_ca: String = String::new(),
        /// How often the gateway says that it is there, 30s to 24h.
        heartbeat: Period = Period::minutes(5),
        /// Whether the gateway's own ports, connections, traffic and figures go to AWS IoT Device Defender: off, json or cbor.
        defender: Defender = Defender::Off,
        /// How often, 5m to 24h; the service takes no more.
        defender_every: Period = Period::minutes(5),
        /// Reports that may wait for the link, 100 to 10,000,000. Beyond, the oldest measurements go first, then heartbeats,
        /// enforcements, what became of policies, and incidents last; what went is counted.
        outbox_rows: u64 = 100_000,
        /// Bytes that they may take, 65,536 to 10,737,418,240.
        outbox_bytes: u64 = 67_108_864,
    }
    /// The gateway's numbers in CloudWatch. Credentials are those of the role alias, else of the default chain; none stand here.
    Cloudwatch {
        /// Whether numbers are sent.
        enabled: bool = false,
        /// How often, 1s to 1h. Each reading has up to 15 metrics.
        interval: Period = Period::minutes(1),
        /// Whether CloudWatch keeps them by the second instead of by the minute, which costs more.
        high_resolution: bool = false,
        /// Namespace of the metrics.
        namespace: String = "Tidegate".to_owned(),
        /// Region; empty for the one in the name of `cloud.endpoint`, else that of the environment.
        region: String = String::new(),
        /// Role alias that AWS IoT gives the gateway's certificate credentials for; empty for the default chain.
        role_alias: String = String::new(),
        /// Host name of AWS IoT's credential provider, such as `abc123.credentials.iot.eu-central-1.amazonaws.com`.
        credentials_endpoint: String = String::new(),
    }
}
