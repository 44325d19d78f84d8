//! Resolves the names in descriptions, again and again as their time to live runs out (RFC 1035).
//!
//! Asks the resolvers of the configuration, or the system's, directly: the system's library tells no time to live. Truncated answers
//! count as far as they go.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use simple_dns::{CLASS, Name, Packet, QCLASS, QTYPE, Question, TYPE, rdata::RData};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

const DNS_PORT: u16 = 53;
/// Longest answer over UDP without extensions is 512 bytes; some servers send more.
const ANSWER_BYTES: usize = 1_232;
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// No name is asked for more often, or less.
const SOONEST: Duration = Duration::from_secs(30);
const LATEST: Duration = Duration::from_hours(1);
/// Addresses taken from one answer at most.
const ADDRESSES: usize = 32;

/// What a name is resolved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) name: String,
    pub(super) addresses: BTreeSet<IpAddr>,
}

/// Keeps telling the addresses of the wanted names, each again before its time to live is over, until nobody listens.
pub(super) async fn resolve_for_ever(
    servers: Vec<IpAddr>,
    mut wanted: watch::Receiver<BTreeSet<String>>,
    answers: mpsc::Sender<Resolved>,
) {
    let mut due: HashMap<String, Instant> = HashMap::new();
    loop {
        let names = wanted.borrow_and_update().clone();
        due.retain(|name, _| names.contains(name));
        for name in names {
            let now = Instant::now();
            if due.get(&name).is_some_and(|due| *due > now) {
                continue;
            }
            let (addresses, ttl) = resolve(&servers, &name).await;
            due.insert(name.clone(), Instant::now() + ttl.clamp(SOONEST, LATEST));
            if !addresses.is_empty() && answers.send(Resolved { name, addresses }).await.is_err() {
                return;
            }
        }
        let next = due.values().min().copied().unwrap_or_else(|| Instant::now() + LATEST);
        tokio::select! {
            () = sleep_until(next) => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

/// All addresses of a name, and how long the first of them stays true.
async fn resolve(servers: &[IpAddr], name: &str) -> (BTreeSet<IpAddr>, Duration) {
    let mut addresses = BTreeSet::new();
    let mut shortest = LATEST;
    for kind in [TYPE::A, TYPE::AAAA] {
        for server in servers {
            let asked = timeout(ANSWER_WITHIN, ask(SocketAddr::new(*server, DNS_PORT), name, kind)).await;
            let Ok(Ok(found)) = asked else { continue };
            for (address, ttl_s) in found {
                addresses.insert(address);
                shortest = shortest.min(Duration::from_secs(ttl_s.into()));
            }
            break;
        }
    }
    (addresses, shortest)
}

async fn ask(server: SocketAddr, name: &str, kind: TYPE) -> io::Result<Vec<(IpAddr, u32)>> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let id = socket.local_addr()?.port().rotate_left(5) ^ std::process::id() as u16;
    let question = query(id, name, kind).ok_or_else(|| io::Error::other("no name of a host"))?;
    socket.send(&question).await?;
    let mut bytes = [0; ANSWER_BYTES];
    loop {
        let length = socket.recv(&mut bytes).await?;
        if let Some(found) = addresses(&bytes[..length], id) {
            return Ok(found);
        }
    }
}

fn query(id: u16, name: &str, kind: TYPE) -> Option<Vec<u8>> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(simple_dns::PacketFlag::RECURSION_DESIRED);
    let question = Question::new(Name::new(name).ok()?, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false);
    packet.questions.push(question);
    packet.build_bytes_vec().ok()
}

/// Addresses in the answer to question number `id`; `None` for anything else.
fn addresses(bytes: &[u8], id: u16) -> Option<Vec<(IpAddr, u32)>> {
    let packet = Packet::parse(bytes).ok()?;
    if packet.id() != id || !packet.has_flags(simple_dns::PacketFlag::RESPONSE) {
        return None;
    }
    let address = |record: &simple_dns::ResourceRecord<'_>| match &record.rdata {
        RData::A(a) => Some((IpAddr::from(Ipv4Addr::from(a.address)), record.ttl)),
        RData::AAAA(aaaa) => Some((IpAddr::from(Ipv6Addr::from(aaaa.address)), record.ttl)),
        _ => None,
    };
    Some(packet.answers.iter().filter_map(address).take(ADDRESSES).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed socket is the test's failure")]

    use proptest::prelude::*;
    use simple_dns::{ResourceRecord, rdata::A};

    use super::*;

    fn answer(question: &[u8], ttl: u32) -> Vec<u8> {
        let asked = Packet::parse(question).unwrap();
        let mut reply = Packet::new_reply(asked.id());
        let name = asked.questions[0].qname.clone();
        let record = ResourceRecord::new(name, CLASS::IN, ttl, RData::A(A { address: 0xc000_0207 }));
        reply.answers.push(record);
        reply.build_bytes_vec().unwrap()
    }

    #[test]
    fn an_answer_counts_only_for_its_question() {
        let question = query(7, "cloud.example", TYPE::A).unwrap();
        let bytes = answer(&question, 300);
        assert_eq!(addresses(&bytes, 7), Some(vec![([192, 0, 2, 7].into(), 300)]));
        assert_eq!(addresses(&bytes, 8), None);
        assert_eq!(addresses(&question, 7), None, "an echoed question");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), id: u16) {
            let _ = addresses(&bytes, id);
        }
    }
}
