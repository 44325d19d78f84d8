//! Whether a notice that its issuer signed may be judged: for now, new, about one host outside, and not one too many. Pure.
//!
//! Whoever is known here is bounded: a peer's notices are remembered until they expire, which is also when the clock refuses them,
//! and a peer that fills its memory is refused. What follows from a notice is the loop's to decide.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use ipnet::Ipv4Net;
use jiff::{SignedDuration, Timestamp};

use super::{
    notice::{Block, Notice, Say},
    refused::Refused,
};
use crate::{
    enforce::{Now, Target},
    policy::KeyId,
};

/// Notices of one peer that are remembered at most.
const MOST_KNOWN: usize = 4_096;
const HOUR_NS: u64 = 3_600_000_000_000;
/// Addresses behind carriers' translators (RFC 6598), which are nobody's outside.
const SHARED: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(100, 64, 0, 0), 10);

/// What the operator wants of neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Longest that a neighbour's block lasts here.
    pub max_ttl: Duration,
    /// How far a neighbour's clock may be ahead.
    pub skew: SignedDuration,
    /// Addresses that one neighbour may tell within an hour.
    pub per_hour: usize,
    /// Whether private addresses may be outside.
    pub private: bool,
}

/// What the gateway knows about an address.
pub struct Surroundings<'a> {
    /// Whether it belongs to the protected side.
    pub protected: &'a dyn Fn(IpAddr) -> bool,
    /// Whether it is a never-block entry.
    pub never_block: &'a dyn Fn(IpAddr) -> bool,
    /// Whether a verdict is in force on it that is not the issuer's.
    pub in_force: &'a dyn Fn(IpAddr) -> bool,
}

/// A block notice that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Who signed it.
    pub key: KeyId,
    /// Its id.
    pub id: String,
    /// When it expires.
    pub until: Timestamp,
    /// The address.
    pub target: Target,
    /// The enforcement that came of it; none when it was only observed, or was withdrawn.
    pub enforcement: Option<String>,
}

/// What may be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// A block of this address, for so long.
    Block(IpAddr, Duration, Block),
    /// The undoing of this.
    Withdraw(Known),
}

/// What is remembered of neighbours.
#[derive(Debug, Default)]
pub struct Gatekeeper {
    known: HashMap<KeyId, HashMap<String, Known>>,
    /// When each told a block, kernel clock.
    told: HashMap<KeyId, VecDeque<u64>>,
}

impl Gatekeeper {
    /// What an earlier run remembered.
    pub fn restore(known: impl IntoIterator<Item = Known>) -> Self {
        let mut gatekeeper = Self::default();
        known.into_iter().for_each(|known| gatekeeper.remember(known));
        gatekeeper
    }

    /// Judges whether `notice`, signed by `from`, may be judged. A block that may counts for its issuer's hour.
    pub fn admit(
        &mut self,
        from: KeyId,
        notice: &Notice,
        now: Now,
        terms: &Terms,
        around: &Surroundings<'_>,
    ) -> Result<Admitted, Refused> {
        if notice.expires <= now.wall {
            return Err(Refused::Expired);
        }
        if notice.issued.duration_since(now.wall) > terms.skew {
            return Err(Refused::Future);
        }
        self.forget(now.wall);
        let known = self.known.entry(from).or_default();
        let block = match &notice.say {
            Say::Withdraw(id) => {
                let known = known.get(id).ok_or(Refused::Unknown)?;
                if known.enforcement.is_none() {
                    return Err(Refused::Repeated);
                }
                return Ok(Admitted::Withdraw(known.clone()));
            }
            Say::Block(block) => block,
        };
        if known.contains_key(&notice.id) {
            return Err(Refused::Repeated);
        }
        let Target::Address(address) = block.target.canonical() else { return Err(Refused::NotOneAddress) };
        if !is_outside(address, terms.private) {
            return Err(Refused::NotOutside);
        }
        if (around.protected)(address) {
            return Err(Refused::Protected);
        }
        if (around.never_block)(address) {
            return Err(Refused::NeverBlock);
        }
        if (around.in_force)(address) {
            return Err(Refused::InForce);
        }
        let told = self.told.entry(from).or_default();
        while told.front().is_some_and(|then| now.kernel_ns.saturating_sub(*then) >= HOUR_NS) {
            told.pop_front();
        }
        if told.len() >= terms.per_hour || known.len() >= MOST_KNOWN {
            return Err(Refused::OverCap);
        }
        told.push_back(now.kernel_ns);
        let left = now.until(notice.expires).min(terms.max_ttl);
        Ok(Admitted::Block(address, left, block.clone()))
    }

    /// Remembers a notice that was taken or observed, or what became of one since.
    pub fn remember(&mut self, known: Known) {
        self.known.entry(known.key).or_default().insert(known.id.clone(), known);
    }

    /// Forgets what has expired: the clock refuses it now.
    fn forget(&mut self, now: Timestamp) {
        for known in self.known.values_mut() {
            known.retain(|_, known| known.until > now);
        }
    }
}

/// Whether a host outside can have `address`; `private` ones count where gateways stand within a larger network.
pub fn is_outside(address: IpAddr, private: bool) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let is_host =
                !(v4.is_unspecified() || v4.is_loopback() || v4.is_multicast() || v4.is_broadcast());
            is_host && !v4.is_link_local() && (private || !(v4.is_private() || SHARED.contains(&v4)))
        }
        IpAddr::V6(v6) => {
            let is_host = !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast());
            is_host && !v6.is_unicast_link_local() && (private || !v6.is_unique_local())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::notice::tests::{at, block, withdraw},
        *,
    };

    const KEY: KeyId = KeyId([1; 8]);
    const TERMS: Terms = Terms {
        max_ttl: Duration::from_mins(5),
        skew: SignedDuration::from_secs(30),
        per_hour: 3,
        private: false,
    };

    fn now(second: i64) -> Now {
        Now { kernel_ns: (1_000_000 + second) as u64 * 1_000_000_000, wall: at(second) }
    }

    fn admit(gate: &mut Gatekeeper, notice: &Notice, second: i64) -> Result<Admitted, Refused> {
        let around = Surroundings {
            protected: &|address| address == IpAddr::from([192, 0, 2, 5]),
            never_block: &|address| address == IpAddr::from([192, 0, 2, 53]),
            in_force: &|address| address == IpAddr::from([192, 0, 2, 7]),
        };
        gate.admit(KEY, notice, now(second), &TERMS, &around)
    }

    fn known(notice: &Notice, enforcement: Option<&str>) -> Known {
        Known {
            key: KEY,
            id: notice.id.clone(),
            until: notice.expires,
            target: Target::from(IpAddr::from([203, 0, 113, 9])),
            enforcement: enforcement.map(str::to_owned),
        }
    }

    #[test]
    fn a_notice_is_for_now_and_lasts_no_longer_than_it_may() {
        let mut gate = Gatekeeper::default();
        let notice = block("n-1", "203.0.113.9");
        assert_eq!(admit(&mut gate, &notice, 600), Err(Refused::Expired));
        assert_eq!(admit(&mut gate, &notice, -31), Err(Refused::Future));
        let left = |admitted| match admitted {
            Ok(Admitted::Block(address, left, _)) => (address.to_string(), left.as_secs()),
            other => (format!("{other:?}"), 0),
        };
        assert_eq!(left(admit(&mut gate, &notice, -30)), ("203.0.113.9".to_owned(), 300));
        assert_eq!(left(admit(&mut gate, &notice, 500)), ("203.0.113.9".to_owned(), 100));
    }

    #[test]
    fn only_one_host_outside_is_taken() {
        let mut gate = Gatekeeper::default();
        for (target, reason) in [
            ("203.0.113.0/24", Refused::NotOneAddress),
            ("02:00:5e:10:00:01", Refused::NotOneAddress),
            ("10.1.2.3", Refused::NotOutside),
            ("100.64.0.9", Refused::NotOutside),
            ("192.168.77.1", Refused::NotOutside),
            ("::ffff:192.168.77.1", Refused::NotOutside),
            ("169.254.1.1", Refused::NotOutside),
            ("224.0.0.251", Refused::NotOutside),
            ("255.255.255.255", Refused::NotOutside),
            ("fd77::1", Refused::NotOutside),
            ("fe80::1", Refused::NotOutside),
            ("192.0.2.5", Refused::Protected),
            ("192.0.2.53", Refused::NeverBlock),
            ("192.0.2.7", Refused::InForce),
        ] {
            assert_eq!(admit(&mut gate, &block("n-1", target), 0), Err(reason), "{target}");
        }
        assert!(gate.known.values().all(HashMap::is_empty) && gate.told.is_empty(), "nothing changed");
        let around = Surroundings { protected: &|_| false, never_block: &|_| false, in_force: &|_| false };
        let private = Terms { private: true, ..TERMS };
        assert!(gate.admit(KEY, &block("n-1", "10.1.2.3"), now(0), &private, &around).is_ok());
    }

    #[test]
    fn a_notice_is_taken_once_and_withdrawn_once_also_after_a_restart() {
        let mut gate = Gatekeeper::default();
        let notice = block("n-1", "203.0.113.9");
        assert_eq!(admit(&mut gate, &withdraw("n-1"), 0), Err(Refused::Unknown));
        assert!(admit(&mut gate, &notice, 0).is_ok());
        let mut gate = Gatekeeper::restore([known(&notice, Some("e-1"))]);
        assert_eq!(admit(&mut gate, &notice, 1), Err(Refused::Repeated));
        let other = KeyId([2; 8]);
        let around = Surroundings { protected: &|_| false, never_block: &|_| false, in_force: &|_| false };
        let by_other = gate.admit(other, &withdraw("n-1"), now(1), &TERMS, &around);
        assert_eq!(by_other, Err(Refused::Unknown), "nobody withdraws what another said");
        let withdrawn = admit(&mut gate, &withdraw("n-1"), 2);
        assert_eq!(withdrawn, Ok(Admitted::Withdraw(known(&notice, Some("e-1")))));
        gate.remember(known(&notice, None));
        assert_eq!(admit(&mut gate, &withdraw("n-1"), 3), Err(Refused::Repeated));
        assert_eq!(admit(&mut gate, &notice, 4), Err(Refused::Repeated));
        assert_eq!(admit(&mut gate, &notice, 601), Err(Refused::Expired), "and is forgotten no sooner");
    }

    #[test]
    fn a_neighbour_has_an_hourly_cap() {
        let mut gate = Gatekeeper::default();
        for number in 0..5_u8 {
            let answer = admit(&mut gate, &block(&format!("n-{number}"), &format!("203.0.113.{number}")), 0);
            assert_eq!(answer.is_ok(), number < 3, "{number}: {answer:?}");
        }
        let later = Notice { issued: at(3_500), expires: at(4_000), ..block("n-9", "203.0.113.9") };
        assert_eq!(admit(&mut gate, &later, 3_599), Err(Refused::OverCap));
        assert!(admit(&mut gate, &later, 3_600).is_ok());
    }
}
