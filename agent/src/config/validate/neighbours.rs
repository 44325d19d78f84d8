//! The keys of neighbours.

use super::Check;
use crate::config::{Config, period::Period};

/// Peers of one gateway at most.
const MOST_PEERS: usize = 32;
/// Ports below need a capability that the agent gives up.
const LOWEST_PORT: u16 = 1_024;

pub(super) fn check(check: &mut Check, config: &Config) {
    let neighbours = &config.neighbours;
    let peers = &neighbours.peers;
    check.absolute("neighbours.key", &neighbours.key);
    if let Some(address) = neighbours.listens_at() {
        check.range("neighbours.listen", address.port(), LOWEST_PORT..=65_535);
        if peers.is_empty() {
            let hint = "name them in neighbours.peers, or write `off`";
            check.refuse("neighbours.listen", address, "there are no peers to hear", hint);
        }
    }
    if peers.len() > MOST_PEERS {
        let hint = format!("at most {MOST_PEERS} can be told");
        check.refuse("neighbours.peers", format!("{} peers", peers.len()), "too many", hint);
    }
    for (index, peer) in peers.iter().enumerate() {
        let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if peer.name.is_empty() || peer.name.len() > 64 || !peer.name.bytes().all(is_sound) {
            let hint = "write 1 to 64 letters, digits, `-`, `_` and `.`";
            check.refuse("neighbours.peers", format!("{:?}", peer.name), "not a name", hint);
        }
        let address = peer.address;
        if address.port() < LOWEST_PORT || address.ip().is_unspecified() || address.ip().is_multicast() {
            let hint = "write the address and port that the peer listens on, port 1,024 or higher";
            check.refuse("neighbours.peers", address, "no gateway listens there", hint);
        }
        let is_same = |other: &crate::fleet::neighbours::Peer| {
            other.name == peer.name || other.address.ip() == address.ip() || other.key == peer.key
        };
        if peers[..index].iter().any(is_same) {
            let hint = "every peer has a name, an address and a key of its own";
            check.refuse("neighbours.peers", &peer.name, "two peers share something", hint);
        }
    }
    check.range("neighbours.max_ttl", neighbours.max_ttl, Period::minutes(1)..=Period::hours(24));
    check.range("neighbours.addresses_per_hour", neighbours.addresses_per_hour, 1..=4_096);
    check.range("neighbours.skew", neighbours.skew, Period::default()..=Period::minutes(5));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "fixed keys are valid")]

    use super::super::problems;
    use crate::{
        config::{Config, values::Listen},
        fleet::neighbours::{Peer, PeerKey},
        policy::SigningKey,
    };

    fn peer(name: &str, address: &str) -> Peer {
        let key = SigningKey::parse(SigningKey::generate().unwrap().as_bytes()).unwrap();
        Peer { name: name.to_owned(), address: address.parse().unwrap(), key: PeerKey::of(&key) }
    }

    fn keys(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        problems(&config).into_iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn peers_are_sound_and_no_two_are_the_same() {
        let east = peer("east", "192.0.2.2:7443");
        let with = |peers: &[Peer]| {
            keys(|c| {
                c.neighbours.listen = Listen::At(([192, 0, 2, 1], 7_443).into());
                c.neighbours.peers = peers.to_vec();
            })
        };
        assert_eq!(with(&[]), ["neighbours.listen"]);
        assert_eq!(with(&[east.clone(), peer("west", "192.0.2.3:7443")]), [""; 0]);
        for other in [
            peer("east", "192.0.2.3:7443"),
            peer("west", "192.0.2.2:7444"),
            Peer { key: east.key.clone(), ..peer("west", "192.0.2.3:7443") },
            peer("west", "192.0.2.3:443"),
            peer("w st", "192.0.2.3:7443"),
        ] {
            assert_eq!(with(&[east.clone(), other.clone()]), ["neighbours.peers"], "{other:?}");
        }
        assert_eq!(
            keys(|c| {
                c.neighbours.listen = Listen::At(([192, 0, 2, 1], 443).into());
                c.neighbours.peers = vec![east];
            }),
            ["neighbours.listen"]
        );
        assert_eq!(keys(|c| c.neighbours.addresses_per_hour = 0), ["neighbours.addresses_per_hour"]);
    }
}
