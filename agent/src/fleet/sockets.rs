//! What the gateway itself listens on, is connected to, and sent and received, from the kernel's tables.
//!
//! Only what others can see counts: not what is bound to loopback or talks to itself.

use std::net::SocketAddr;

use procfs::{
    ProcError, ProcResult,
    net::{TcpState, UdpState, dev_status, tcp, tcp6, udp, udp6},
};

use super::defender::{Sample, Traffic};

/// Reads the tables.
pub fn sample() -> ProcResult<Sample> {
    let (mut tcp_ports, mut connections) = (Vec::new(), Vec::new());
    for entry in tcp()?.into_iter().chain(or_none(tcp6())?) {
        match entry.state {
            TcpState::Listen if is_seen(entry.local_address) => tcp_ports.push(entry.local_address.port()),
            TcpState::Established if is_seen(entry.remote_address) => {
                connections.push((canonical(entry.remote_address), entry.local_address.port()));
            }
            _ => {}
        }
    }
    let udp_ports = udp()?
        .into_iter()
        .chain(or_none(udp6())?)
        .filter(|entry| entry.state == UdpState::Close && is_seen(entry.local_address))
        .map(|entry| entry.local_address.port())
        .collect();
    let mut traffic = Traffic::default();
    for port in dev_status()?.into_values().filter(|port| port.name != "lo") {
        traffic.bytes_in += port.recv_bytes;
        traffic.bytes_out += port.sent_bytes;
        traffic.packets_in += port.recv_packets;
        traffic.packets_out += port.sent_packets;
    }
    Ok(Sample { tcp_ports: ascending(tcp_ports), udp_ports: ascending(udp_ports), connections, traffic })
}

/// Nothing where IPv6 is switched off.
fn or_none<T>(read: ProcResult<Vec<T>>) -> ProcResult<Vec<T>> {
    match read {
        Err(ProcError::NotFound(_)) => Ok(Vec::new()),
        read => read,
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn is_seen(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

fn ascending(mut ports: Vec<u16>) -> Vec<u16> {
    ports.sort_unstable();
    ports.dedup();
    ports
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]

    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn what_listens_for_others_is_told_and_loopback_is_not() {
        let (open, own) =
            (TcpListener::bind("0.0.0.0:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (datagrams, local) =
            (UdpSocket::bind("0.0.0.0:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let sample = sample().unwrap();
        let tcp = |socket: &TcpListener| sample.tcp_ports.contains(&socket.local_addr().unwrap().port());
        let udp = |socket: &UdpSocket| sample.udp_ports.contains(&socket.local_addr().unwrap().port());
        assert!(tcp(&open) && !tcp(&own), "{sample:?}");
        assert!(udp(&datagrams) && !udp(&local), "{sample:?}");
        assert!(
            sample.tcp_ports.is_sorted() && sample.connections.iter().all(|(remote, _)| is_seen(*remote))
        );
    }
}
