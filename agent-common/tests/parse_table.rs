//! The parser, packet by packet: what it is, the bytes, and what is read from them.

mod frames;

use frames::{DST_MAC, MACS, SRC_MAC, hex};
use tidegate_common::{
    parse::{Fragment, Network, Packet, Unparsed, parse, proto},
    pod::Addr,
};

const V4_PORTS: &str = "c0 00 02 01  c6 33 64 07";
const V6_ADDRS: &str =
    "20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01  20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 02";
const TCP_SYN: &str = "9c 40 00 17  00 00 00 01  00 00 00 00  50 02 fa f0 00 00 00 00";
const UDP_DNS: &str = "9c 40 00 35  00 0c 00 00";

fn v4_src() -> Addr {
    Addr::v4([192, 0, 2, 1])
}

fn v4_dst() -> Addr {
    Addr::v4([198, 51, 100, 7])
}

fn v6(last: u8) -> Addr {
    Addr::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
}

/// What every frame with [`MACS`] has.
fn ethernet() -> Packet {
    Packet { src_mac: SRC_MAC, dst_mac: DST_MAC, segments: 1, ..Packet::default() }
}

fn ipv4() -> Packet {
    Packet { src: v4_src(), dst: v4_dst(), ttl: 64, network: Network::V4, ..ethernet() }
}

fn ipv6() -> Packet {
    Packet { src: v6(1), dst: v6(2), ttl: 64, network: Network::V6, ..ethernet() }
}

fn syn(packet: Packet) -> Packet {
    Packet { proto: proto::TCP, src_port: 40_000, dst_port: 23, tcp_flags: 2, window: 64_240, ..packet }
}

fn dns(packet: Packet) -> Packet {
    Packet { proto: proto::UDP, src_port: 40_000, dst_port: 53, ..packet }
}

fn unparsed(reason: Unparsed, packet: Packet) -> Packet {
    Packet { unparsed: Some(reason), ..packet }
}

#[track_caller]
fn check(table: &[(&str, String, Packet)]) {
    for (description, bytes, expected) in table {
        // Where the payload begins has a table of its own.
        let parsed = Packet { payload_at: 0, ..parse(hex(bytes).as_slice(), 0) };
        assert_eq!(parsed, *expected, "{description}");
    }
}

#[test]
fn the_payload_begins_behind_the_transport_header() {
    let v4 = format!("45 00 00 30 00 00 00 00 40 06 00 00 {V4_PORTS}");
    let udp = format!("45 00 00 30 00 00 00 00 40 11 00 00 {V4_PORTS} {UDP_DNS}");
    let options = format!("46 00 00 34 00 00 00 00 40 11 00 00 {V4_PORTS} 01 01 01 01 {UDP_DNS}");
    let long = TCP_SYN.replace("50 02", "80 02");
    let v6 = format!("60 00 00 00 00 10 3c 40 {V6_ADDRS} 11 00 00 00 00 00 00 00 {UDP_DNS}");
    for (description, bytes, expected) in [
        ("TCP", format!("{MACS} 0800 {v4} {TCP_SYN}"), 54),
        ("TCP with options", format!("{MACS} 0800 {v4} {long}"), 66),
        ("UDP", format!("{MACS} 0800 {udp}"), 42),
        ("UDP behind two tags", format!("{MACS} 88a8 0001 8100 0002 0800 {udp}"), 50),
        ("UDP behind IPv4 options", format!("{MACS} 0800 {options}"), 46),
        ("UDP behind an extension header", format!("{MACS} 86dd {v6}"), 70),
        ("nothing above Ethernet", format!("{MACS} 88cc"), 0),
    ] {
        assert_eq!(parse(hex(&bytes).as_slice(), 0).payload_at, expected, "{description}");
    }
}

#[test]
fn ethernet_frames() {
    check(&[
        (
            "no bytes",
            String::new(),
            Packet { segments: 1, ..unparsed(Unparsed::FrameTooShort, Packet::default()) },
        ),
        (
            "thirteen bytes",
            format!("{MACS} 08"),
            Packet { segments: 1, ..unparsed(Unparsed::FrameTooShort, Packet::default()) },
        ),
        ("802.3 length", format!("{MACS} 05 ff 42 42 03"), unparsed(Unparsed::Llc, ethernet())),
        ("unknown EtherType", format!("{MACS} 88 cc 02 07"), unparsed(Unparsed::Ethertype, ethernet())),
        ("lowest EtherType", format!("{MACS} 06 00"), unparsed(Unparsed::Ethertype, ethernet())),
        ("IPv4 type and no more", format!("{MACS} 08 00"), unparsed(Unparsed::TruncatedIp, ethernet())),
    ]);
}

#[test]
fn vlan_tags() {
    let inside = format!("08 00  45 00 00 20 0000 0000 40 11 0000 {V4_PORTS} {UDP_DNS} 01 02 03 04");
    let parsed = Packet { ip_len: 32, payload_len: 4, ..dns(ipv4()) };
    check(&[
        ("one tag", format!("{MACS} 8100 6014 {inside}"), Packet { vlan: 20, ..parsed }),
        ("priority tag", format!("{MACS} 8100 e000 {inside}"), parsed),
        (
            "two tags",
            format!("{MACS} 88a8 0064 8100 0014 {inside}"),
            Packet { vlan: 100, inner_vlan: 20, ..parsed },
        ),
        (
            "old stacking",
            format!("{MACS} 9100 0064 9100 0014 {inside}"),
            Packet { vlan: 100, inner_vlan: 20, ..parsed },
        ),
        (
            "three tags",
            format!("{MACS} 8100 0001 8100 0002 8100 0003 {inside}"),
            unparsed(Unparsed::VlanDepth, Packet { vlan: 1, inner_vlan: 2, ..ethernet() }),
        ),
        (
            "cut off in the tag",
            format!("{MACS} 8100 00 14 08"),
            unparsed(Unparsed::TruncatedVlan, ethernet()),
        ),
        (
            "cut off in the second tag",
            format!("{MACS} 8100 0014 8100"),
            unparsed(Unparsed::TruncatedVlan, Packet { vlan: 20, ..ethernet() }),
        ),
    ]);
}

#[test]
fn a_stripped_tag_is_the_outer_one() {
    let frame = hex(&format!(
        "{MACS} 8100 0014 0800 45 00 00 1c 0000 0000 40 01 0000 {V4_PORTS} 08 00 0000 00000000"
    ));
    let packet = parse(frame.as_slice(), 100);
    assert_eq!((packet.vlan, packet.inner_vlan), (100, 20));
}

#[test]
fn arp_is_read_and_in_no_flow() {
    let arp = Packet { src: v4_src(), dst: v4_dst(), network: Network::Arp, ..ethernet() };
    let request = "0001 0800 06 04 0001 020000000002 c0000201 000000000000 c6336407";
    check(&[
        ("request", format!("{MACS} 0806 {request}"), unparsed(Unparsed::Arp, Packet { arp_op: 1, ..arp })),
        (
            "reply behind a tag, padded",
            format!("{MACS} 8100 0014 0806 {} 000000", request.replacen("0001 0200", "0002 0200", 1)),
            unparsed(Unparsed::Arp, Packet { arp_op: 2, vlan: 20, ..arp }),
        ),
        ("cut off", format!("{MACS} 0806 {}", &request[..60]), unparsed(Unparsed::MalformedArp, ethernet())),
        (
            "not over Ethernet",
            format!("{MACS} 0806 {}", request.replacen("0001", "0006", 1)),
            unparsed(Unparsed::MalformedArp, ethernet()),
        ),
        (
            "for another protocol",
            format!("{MACS} 0806 {}", request.replacen("0800", "86dd", 1)),
            unparsed(Unparsed::MalformedArp, ethernet()),
        ),
    ]);
}

#[test]
fn ipv4_packets() {
    let udp = Packet { ip_len: 32, payload_len: 4, ..dns(ipv4()) };
    let body = format!("{V4_PORTS} {UDP_DNS} 01 02 03 04");
    check(&[
        ("UDP", format!("{MACS} 0800 45 00 0020 0000 0000 40 11 0000 {body}"), udp),
        ("padded", format!("{MACS} 0800 45 00 0020 0000 0000 40 11 0000 {body} 0000 0000 0000"), udp),
        (
            "snapped payload counts as sent",
            format!("{MACS} 0800 45 00 05dc 0000 0000 40 11 0000 {body}"),
            Packet { ip_len: 1_500, payload_len: 1_472, ..udp },
        ),
        (
            "options",
            format!(
                "{MACS} 0800 46 00 0024 0000 0000 40 11 0000 {V4_PORTS} 94 04 00 00 {UDP_DNS} 01 02 03 04"
            ),
            Packet { ip_len: 36, ..udp },
        ),
        (
            "longest options",
            format!(
                "{MACS} 0800 4f 00 0048 0000 0000 40 11 0000 {V4_PORTS} {} {UDP_DNS} 01020304",
                "01".repeat(40)
            ),
            Packet { ip_len: 72, ..udp },
        ),
        (
            "length 0 of offloaded segmentation",
            format!("{MACS} 0800 45 00 0000 0000 0000 40 11 0000 {body}"),
            udp,
        ),
        (
            "IGMP has no ports",
            format!("{MACS} 0800 45 00 001c 0000 0000 01 02 0000 {V4_PORTS} 16 00 0000 e00000fb"),
            Packet { proto: 2, ttl: 1, ip_len: 28, payload_len: 8, ..ipv4() },
        ),
        (
            "cut off in the header",
            format!("{MACS} 0800 45 00 0020 0000 0000 40 11 0000 c0 00 02"),
            unparsed(Unparsed::TruncatedIp, ethernet()),
        ),
        (
            "version 6",
            format!("{MACS} 0800 65 00 0020 0000 0000 40 11 0000 {body}"),
            unparsed(Unparsed::MalformedIp, ethernet()),
        ),
        (
            "header length 16",
            format!("{MACS} 0800 44 00 0020 0000 0000 40 11 0000 {body}"),
            unparsed(Unparsed::MalformedIp, ethernet()),
        ),
        (
            "total length below the header's",
            format!("{MACS} 0800 45 00 0013 0000 0000 40 11 0000 {body}"),
            unparsed(Unparsed::MalformedIp, Packet { proto: proto::UDP, ip_len: 19, ..ipv4() }),
        ),
    ]);
}

#[test]
fn ipv4_fragments() {
    let fragment =
        |flags: &str| format!("{MACS} 0800 45 00 0024 0007 {flags} 40 11 0000 {V4_PORTS} {UDP_DNS} 01020304");
    let udp = Packet { ip_len: 36, payload_len: 8, ..dns(ipv4()) };
    let later =
        Packet { proto: proto::UDP, ip_len: 36, payload_len: 16, fragment: Fragment::Later, ..ipv4() };
    check(&[
        ("may not be fragmented", fragment("4000"), udp),
        ("first", fragment("2000"), Packet { fragment: Fragment::First, ..udp }),
        ("middle", fragment("2001"), later),
        ("last", fragment("0001"), later),
        (
            "later, shorter than a transport header",
            format!("{MACS} 0800 45 00 0015 0007 0001 40 06 0000 {V4_PORTS} 00"),
            Packet { proto: proto::TCP, ip_len: 21, payload_len: 1, fragment: Fragment::Later, ..ipv4() },
        ),
        (
            "first, ends inside the TCP header",
            format!("{MACS} 0800 45 00 001c 0007 2000 40 06 0000 {V4_PORTS} 9c40 0017 00000001"),
            unparsed(
                Unparsed::TruncatedTransport,
                Packet { proto: proto::TCP, ip_len: 28, payload_len: 8, fragment: Fragment::First, ..ipv4() },
            ),
        ),
    ]);
}

#[test]
fn ipv6_packets() {
    let header = |length: &str, next: &str| format!("{MACS} 86dd 60 00 00 00 {length} {next} 40 {V6_ADDRS}");
    let icmp = Packet { proto: proto::ICMPV6, icmp_type: 135, ..ipv6() };
    let options = |next: u8| format!("{next:02x} 00 01 04 00 00 00 00");
    check(&[
        (
            "UDP",
            format!("{} {UDP_DNS} 01020304", header("000c", "11")),
            Packet { ip_len: 52, payload_len: 4, ..dns(ipv6()) },
        ),
        (
            "neighbour solicitation",
            format!("{} 87 00 0000 00000000 {}", header("0018", "3a"), "00".repeat(16)),
            Packet { ip_len: 64, payload_len: 16, ..icmp },
        ),
        ("no next header", header("0000", "3b"), Packet { proto: 59, ip_len: 40, ..ipv6() }),
        (
            "hop-by-hop, routing, destination options, then TCP",
            format!("{} {} {} {} {TCP_SYN}", header("002c", "00"), options(43), options(60), options(6)),
            Packet { ip_len: 84, ..syn(ipv6()) },
        ),
        (
            "options of 16 bytes",
            format!("{} 11 01 {} {UDP_DNS} 01020304", header("001c", "3c"), "00".repeat(14)),
            Packet { ip_len: 68, payload_len: 4, ..dns(ipv6()) },
        ),
        (
            "authentication header",
            format!("{} 3a 04 {} 87 00 0000 00000000", header("0020", "33"), "00".repeat(22)),
            Packet { ip_len: 72, ..icmp },
        ),
        (
            "first fragment",
            format!("{} 11 00 0001 00000007 {UDP_DNS} 01020304", header("0014", "2c")),
            Packet { ip_len: 60, payload_len: 4, fragment: Fragment::First, ..dns(ipv6()) },
        ),
        (
            "atomic fragment",
            format!("{} 11 00 0000 00000007 {UDP_DNS} 01020304", header("0014", "2c")),
            Packet { ip_len: 60, payload_len: 4, ..dns(ipv6()) },
        ),
        (
            "later fragment, whatever its next header says",
            format!("{} 00 00 0008 00000007 ff", header("0009", "2c")),
            Packet { ip_len: 49, payload_len: 1, fragment: Fragment::Later, ..ipv6() },
        ),
        (
            "six extension headers",
            format!("{} {} {} {UDP_DNS}", header("0038", "00"), options(60).repeat(5), options(17)),
            Packet { ip_len: 96, ..dns(ipv6()) },
        ),
        (
            "seven extension headers",
            format!("{} {} {} {UDP_DNS}", header("0040", "00"), options(60).repeat(6), options(17)),
            unparsed(Unparsed::ExtensionDepth, Packet { ip_len: 104, payload_len: 16, ..ipv6() }),
        ),
        (
            "cut off in an extension header",
            format!("{} 11 00 00", header("0010", "00")),
            unparsed(Unparsed::TruncatedExtension, Packet { ip_len: 56, payload_len: 16, ..ipv6() }),
        ),
        (
            "extension header longer than the frame",
            format!("{} 11 ff 00000000 0000", header("0010", "00")),
            unparsed(Unparsed::TruncatedTransport, Packet { proto: proto::UDP, ip_len: 56, ..ipv6() }),
        ),
        (
            "cut off in the header",
            format!("{MACS} 86dd 60 00 00 00"),
            unparsed(Unparsed::TruncatedIp, ethernet()),
        ),
        (
            "version 4",
            header("0000", "3b").replacen("86dd 60", "86dd 40", 1),
            unparsed(Unparsed::MalformedIp, ethernet()),
        ),
    ]);
}

#[test]
fn transport_headers() {
    let header =
        |length: &str, next: &str| format!("{MACS} 0800 45 00 {length} 0000 0000 40 {next} 0000 {V4_PORTS}");
    check(&[
        ("SYN", format!("{} {TCP_SYN}", header("0028", "06")), Packet { ip_len: 40, ..syn(ipv4()) }),
        (
            "TCP options and payload",
            format!("{} {} 020405b4 0102", header("0032", "06"), TCP_SYN.replacen("50 02", "60 18", 1)),
            Packet { ip_len: 50, payload_len: 6, tcp_flags: 0x18, ..syn(ipv4()) },
        ),
        (
            "every flag",
            format!("{} {}", header("0028", "06"), TCP_SYN.replacen("50 02", "5f ff", 1)),
            Packet { ip_len: 40, tcp_flags: 0xff, ..syn(ipv4()) },
        ),
        (
            "TCP header length 16",
            format!("{} {}", header("0028", "06"), TCP_SYN.replacen("50 02", "40 02", 1)),
            unparsed(Unparsed::MalformedTransport, Packet { ip_len: 40, payload_len: 20, ..syn(ipv4()) }),
        ),
        (
            "TCP header longer than the packet",
            format!("{} {}", header("0028", "06"), TCP_SYN.replacen("50 02", "f0 02", 1)),
            Packet { ip_len: 40, ..syn(ipv4()) },
        ),
        (
            "TCP cut off",
            format!("{} 9c40 0017 00000001 00000000", header("0028", "06")),
            unparsed(
                Unparsed::TruncatedTransport,
                Packet { proto: proto::TCP, ip_len: 40, payload_len: 20, ..ipv4() },
            ),
        ),
        (
            "UDP cut off",
            format!("{} 9c40 0035 00", header("001c", "11")),
            unparsed(
                Unparsed::TruncatedTransport,
                Packet { proto: proto::UDP, ip_len: 28, payload_len: 8, ..ipv4() },
            ),
        ),
        (
            "echo request",
            format!("{} 08 00 0000 0001 0001 0102", header("001e", "01")),
            Packet { proto: proto::ICMP, icmp_type: 8, ip_len: 30, payload_len: 2, ..ipv4() },
        ),
        (
            "port unreachable",
            format!("{} 03 03 0000 00000000", header("001c", "01")),
            Packet { proto: proto::ICMP, icmp_type: 3, icmp_code: 3, ip_len: 28, ..ipv4() },
        ),
        (
            "GRE is not looked into",
            format!("{} 0000 0800 4500", header("001a", "2f")),
            Packet { proto: 47, ip_len: 26, payload_len: 6, ..ipv4() },
        ),
    ]);
}
