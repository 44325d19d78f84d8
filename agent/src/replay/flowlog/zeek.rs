//! The meaning of conn.log's columns, however they are written. Source: Zeek's manual, "conn.log" and its scripts'
//! reference of `Conn::Info`.

use std::borrow::Cow;

use tidegate_common::{
    flow::progress,
    parse::{proto, tcp_flag},
};

use super::{
    BadLine,
    flow::{Label, LoggedFlow, LoggedSide},
    value,
};

macro_rules! columns {
    ($($variant:ident = $name:literal $(| $alias:literal)*),* $(,)?) => {
        /// A column that is read.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Column {
            $($variant),*
        }

        impl Column {
            /// The column with this name.
            pub(super) fn named(name: &str) -> Option<Self> {
                Some(match name {
                    $($name $(| $alias)* => Self::$variant,)*
                    _ => return None,
                })
            }

            /// Its name in conn.log.
            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// How many there are.
            pub(super) const COUNT: usize = [$($name),*].len();
        }
    };
}

columns! {
    Ts = "ts" | "timestamp",
    OrigH = "id.orig_h" | "id_orig_h" | "origin_address" | "src_ip" | "Src_IP",
    OrigP = "id.orig_p" | "id_orig_p" | "origin_port" | "src_port" | "Src_Port",
    RespH = "id.resp_h" | "id_resp_h" | "response_address" | "dst_ip" | "dest_ip" | "Dst_IP",
    RespP = "id.resp_p" | "id_resp_p" | "response_port" | "dst_port" | "dest_port" | "Dst_Port",
    Proto = "proto" | "protocol" | "Protocol",
    Duration = "duration",
    OrigBytes = "orig_bytes",
    RespBytes = "resp_bytes",
    ConnState = "conn_state",
    LocalOrig = "local_orig",
    LocalResp = "local_resp",
    History = "history",
    OrigPkts = "orig_pkts" | "packets_out",
    OrigIpBytes = "orig_ip_bytes" | "bytes_out",
    RespPkts = "resp_pkts" | "packets_in",
    RespIpBytes = "resp_ip_bytes" | "bytes_in",
    Vlan = "vlan",
    InnerVlan = "inner_vlan",
    OrigMac = "orig_l2_addr",
    RespMac = "resp_l2_addr",
    Label = "label" | "Label",
    Detail = "detailed-label" | "detailedlabel" | "detailed_label",
}

/// Columns without which there is no flow.
pub(super) const NEEDED: [Column; 8] = [
    Column::Ts,
    Column::OrigH,
    Column::OrigP,
    Column::RespH,
    Column::RespP,
    Column::Proto,
    Column::OrigPkts,
    Column::RespPkts,
];

/// The flow whose columns `get` gives; unset ones are `None`.
pub(super) fn flow<'a>(get: impl Fn(Column) -> Option<Cow<'a, str>>) -> Result<LoggedFlow, BadLine> {
    let text = |column, missing| get(column).ok_or(missing);
    let src = value::address(&text(Column::OrigH, BadLine::LineAddress)?)?;
    let dst = value::address(&text(Column::RespH, BadLine::LineAddress)?)?;
    let ports = [Column::OrigP, Column::RespP];
    let [src_port, dst_port] = ports.map(|column| get(column).map_or(Ok(0), |text| value::port(&text)));
    let (src_port, dst_port) = (src_port?, dst_port?);
    let named = text(Column::Proto, BadLine::LineProtocol)?;
    let mut protocol = value::protocol(&named)?;
    if protocol == proto::ICMP && src.is_ipv6() {
        protocol = proto::ICMPV6;
    }
    let first_ns = value::moment(&text(Column::Ts, BadLine::LineTime)?)?;
    let duration_ns = get(Column::Duration).map_or(Ok(0), |text| value::seconds(&text))?;
    let count = |column| get(column).map_or(Ok(None), |text| value::count(&text).map(Some));
    let side = |packets, ip_bytes, payload, mac, local| {
        let payload = count(payload)?;
        Ok::<_, BadLine>(LoggedSide {
            packets: count(packets)?.unwrap_or(0).min(1 << 40),
            // Logs without the sizes of packets still have those of the payload.
            bytes: count(ip_bytes)?.or(payload).unwrap_or(0).min(1 << 48),
            payload,
            tcp_flags: 0,
            mac: get(mac).and_then(|text| value::mac(&text)),
            local: get(local).and_then(|text| flag(&text)),
        })
    };
    let out =
        side(Column::OrigPkts, Column::OrigIpBytes, Column::OrigBytes, Column::OrigMac, Column::LocalOrig)?;
    let inward =
        side(Column::RespPkts, Column::RespIpBytes, Column::RespBytes, Column::RespMac, Column::LocalResp)?;
    let label = get(Column::Label).map(|label| {
        let detail = get(Column::Detail).unwrap_or_default();
        Label::of(&label, &detail)
    });
    let mut flow = LoggedFlow {
        src,
        dst,
        src_port,
        dst_port,
        proto: protocol,
        vlans: [Column::Vlan, Column::InnerVlan]
            .map(|column| get(column).map_or(0, |text| value::vlan(&text))),
        first_ns,
        last_ns: first_ns.saturating_add(duration_ns),
        icmp: (0, 0),
        out,
        inward,
        progress: 0,
        label,
    };
    match protocol {
        // Zeek writes type and code where the ports stand.
        proto::ICMP | proto::ICMPV6 => {
            flow.icmp = (src_port as u8, dst_port as u8);
            (flow.src_port, flow.dst_port) = (0, 0);
        }
        proto::TCP => connection(
            &mut flow,
            &get(Column::History).unwrap_or_default(),
            &get(Column::ConnState).unwrap_or_default(),
        ),
        _ => {}
    }
    Ok(flow)
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "T" | "true" => Some(true),
        "F" | "false" => Some(false),
        _ => None,
    }
}

/// TCP flags and state from `history` and `conn_state`, as far as they tell.
fn connection(flow: &mut LoggedFlow, history: &str, state: &str) {
    for letter in history.chars() {
        let flags = match letter.to_ascii_lowercase() {
            's' => tcp_flag::SYN,
            'h' => tcp_flag::SYN | tcp_flag::ACK,
            'a' | 'd' => tcp_flag::ACK,
            'f' => tcp_flag::FIN,
            'r' => tcp_flag::RST,
            _ => continue,
        };
        // Capital letters are the originator's.
        let side = if letter.is_ascii_uppercase() { &mut flow.out } else { &mut flow.inward };
        side.tcp_flags |= flags;
    }
    if history.is_empty() {
        let (out, inward) = match state {
            "S0" => (tcp_flag::SYN, 0),
            "REJ" => (tcp_flag::SYN, tcp_flag::RST | tcp_flag::ACK),
            "SF" => {
                let all = tcp_flag::SYN | tcp_flag::ACK | tcp_flag::FIN;
                (all, all)
            }
            "S1" | "S2" | "S3" => (tcp_flag::SYN | tcp_flag::ACK, tcp_flag::SYN | tcp_flag::ACK),
            "RSTO" => (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST, tcp_flag::SYN | tcp_flag::ACK),
            "RSTR" => (tcp_flag::SYN | tcp_flag::ACK, tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST),
            _ => (0, 0),
        };
        flow.out.tcp_flags = out;
        flow.inward.tcp_flags = inward;
    }
    flow.progress = reached(flow.out.tcp_flags, flow.inward.tcp_flags);
}

/// What a connection with these flags reached.
pub(super) const fn reached(out: u8, inward: u8) -> u8 {
    const SYN_ACK: u8 = tcp_flag::SYN | tcp_flag::ACK;
    let mut reached = 0;
    if out & tcp_flag::SYN != 0 {
        reached |= progress::SYN;
    }
    if inward & SYN_ACK == SYN_ACK {
        reached |= progress::SYN_ACK;
        if out & tcp_flag::ACK != 0 {
            reached |= progress::ESTABLISHED;
        }
    }
    if out & tcp_flag::FIN != 0 {
        reached |= progress::FIN_OUT;
    }
    if inward & tcp_flag::FIN != 0 {
        reached |= progress::FIN_IN;
    }
    if (out | inward) & tcp_flag::RST != 0 {
        reached |= progress::RESET;
    }
    reached
}
