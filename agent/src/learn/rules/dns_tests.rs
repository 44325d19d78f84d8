//! DNS as tunnels, generators and honest devices use it.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand_pcg::Pcg64Mcg;

use super::*;
use crate::identity::DnsAnswer;

const S: u64 = SECOND_NS;
const TXT: u16 = 16;
const A: u16 = 1;

fn device(last: u8) -> DeviceKey {
    DeviceKey::new([2, 0, 0, 0, 0, last], 3)
}

fn message(last: u8, name: &str, qtype: u16, rcode: Option<u16>) -> DnsMessage {
    DnsMessage {
        device: device(last),
        client: Ipv4Addr::new(10, 0, 0, last).into(),
        client_port: 40_000,
        resolver: Ipv4Addr::new(10, 0, 0, 1).into(),
        id: 1,
        name: name.to_owned(),
        name_len: name.len() as u16 + 2,
        qtype,
        length: 60,
        answer: rcode.map(|rcode| DnsAnswer { rcode, addresses: Vec::new() }),
    }
}

/// `length` characters of 32 kinds that nobody can foretell.
fn noise(seed: u64, length: usize) -> String {
    const KINDS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    (0..length).map(|_| char::from(KINDS[(random.next_u64() % 32) as usize])).collect()
}

/// Plays `count` messages, one every `gap_ns`; the first finding and the number of its message.
fn play(
    count: u64,
    gap_ns: u64,
    context: DnsContext,
    make: impl Fn(u64) -> DnsMessage,
) -> Option<(u64, Finding)> {
    let (mut dns, config) = (Dns::new(), RuleConfig::default());
    (0..count).find_map(|number| {
        let found = dns.message(&config, &make(number), context, S + number * gap_ns)?;
        Some((number, found))
    })
}

fn tunnel(number: u64) -> DnsMessage {
    let (one, two) = (noise(number, 50), noise(number + 1_000_000, 40));
    message(7, &format!("{one}.{two}.t.tunnel.test"), A, None)
}

#[test]
fn a_tunnel_is_found_and_its_device_blamed() {
    let (number, found) = play(100, S / 2, DnsContext::default(), tunnel).unwrap();
    assert_eq!((found.rule, found.technique), (Some("dns_tunnel"), Technique::DNS_TUNNEL));
    assert_eq!(found.subject, Subject::Device(device(7)));
    assert!(number < 20 && found.detail.contains("below tunnel.test"), "{number}: {}", found.detail);
}

#[test]
fn records_that_hold_data_need_half_as_many_names() {
    let text = |number| DnsMessage { qtype: TXT, ..tunnel(number) };
    let (number, _) = play(100, S / 2, DnsContext::default(), text).unwrap();
    assert!(number < 10, "{number}");
}

#[test]
fn a_slow_tunnel_and_one_of_short_names_are_found_too() {
    let slow = |number| message(7, &format!("{}.tunnel.test", noise(number, 18)), TXT, None);
    let (_, found) = play(100, 9 * S, DnsContext::default(), slow).unwrap();
    assert!(found.score > 0.9, "{}", found.detail);
}

#[test]
fn short_names_asked_for_addresses_are_told_and_no_more() {
    let listed = |number: u64| {
        let [.., a, b, c, d] = (number * 2_654_435_761).to_be_bytes();
        message(7, &format!("{a}.{b}.{c}.{d}.zen.blocklist.test"), A, None)
    };
    let (_, found) = play(200, 4 * S, DnsContext::default(), listed).unwrap();
    assert_eq!(found.nature(), crate::learn::finding::Nature::Anomaly, "{}", found.detail);
}

#[test]
fn words_that_a_resolver_refuses_are_told_and_no_more() {
    const WORDS: [&str; 4] = ["tracker", "banner", "metric", "pixel"];
    let refused = |number: u64| {
        let (one, two) = (WORDS[number as usize % 4], WORDS[(number / 4) as usize % 4]);
        message(
            7,
            &format!("a.{one}{two}{}.com", ["s", "ing", "er", "ed"][(number / 16) as usize % 4]),
            A,
            Some(3),
        )
    };
    let (_, found) = play(60, S, DnsContext::default(), refused).unwrap();
    assert_eq!(found.rule, Some("generated_domains"));
    assert_eq!(found.nature(), crate::learn::finding::Nature::Anomaly, "{}", found.detail);
}

#[test]
fn a_tunnel_through_many_domains_is_found() {
    let spread = |number: u64| message(7, &format!("{}.d{}.test", noise(number, 50), number % 40), A, None);
    let (_, found) = play(200, S / 2, DnsContext::default(), spread).unwrap();
    assert!(found.detail.contains("many domains"), "{}", found.detail);
}

#[test]
fn honest_names_are_left_alone() {
    type Make = fn(u64) -> String;
    let honest: [(&str, Make); 5] = [
        ("one cloud", |_| "a1b2c3d4e5f6g7-ats.iot.eu-west-1.amazonaws.com".to_owned()),
        ("shards of a video service", |number| {
            format!("rr{}---sn-4g5e6nez{}.googlevideo.com", number % 8, number % 5)
        }),
        ("reverse names", |number| format!("{}.2.0.192.in-addr.arpa", number % 250)),
        ("one long name", |_| format!("{}.vendor.example", noise(1, 50))),
        ("words", |number| format!("host{number}.office.example")),
    ];
    for (what, name) in honest {
        let found = play(400, S / 4, DnsContext::default(), |number| message(7, &name(number), A, None));
        assert!(found.is_none(), "{what}: {found:?}");
    }
}

#[test]
fn a_domain_of_the_baseline_may_do_more() {
    let usual = DnsContext { is_usual: true, resolver: None };
    let (number, _) = play(200, S / 4, usual, tunnel).unwrap();
    assert!((70..90).contains(&number), "{number}");
}

#[test]
fn a_resolver_among_the_devices_is_reported_and_no_more() {
    let (mut dns, config) = (Dns::new(), RuleConfig::default());
    let resolver = DnsContext { is_usual: false, resolver: Some(device(7)) };
    dns.message(&config, &message(9, "vendor.example", A, Some(0)), resolver, S);
    let found = (0..100).find_map(|number| {
        dns.message(&config, &tunnel(number), DnsContext::default(), 2 * S + number * S / 2)
    });
    let found = found.unwrap();
    assert_eq!(found.nature(), crate::learn::finding::Nature::Anomaly, "{}", found.detail);
}

#[test]
fn generated_domains_are_found_and_a_few_typing_errors_are_not() {
    let generated = |number: u64| message(7, &format!("{}.com", noise(number, 14)), A, Some(3));
    let (number, found) = play(100, 2 * S, DnsContext::default(), generated).unwrap();
    assert_eq!((found.technique, found.rule), (Technique::GENERATED_DOMAINS, Some("generated_domains")));
    assert!((12..30).contains(&number) && found.score >= 0.9, "{number}: {}", found.detail);

    let typed = |number: u64| {
        let names = [
            "exampel.com",
            "vendro.net",
            "printer.corp",
            "wpad.office",
            "time.vendor.com",
            "upate.vendor.com",
        ];
        message(7, names[number as usize % names.len()], A, Some(3))
    };
    assert!(play(500, S, DnsContext::default(), typed).is_none());
}

#[test]
fn name_after_name_that_is_missing_below_one_domain_is_reported() {
    let below = |number: u64| message(7, &format!("nx{number}.vendor.com"), A, Some(3));
    let (number, found) = play(60, S, DnsContext::default(), below).unwrap();
    assert_eq!((found.rule, number), (Some("absent_names"), 19), "below one domain they are no domains");
    assert_eq!(found.nature(), crate::learn::finding::Nature::Anomaly, "{}", found.detail);

    assert!(play(60, 4 * S, DnsContext::default(), below).is_none(), "now and then is a fault");
    let usual = DnsContext { is_usual: true, ..DnsContext::default() };
    assert!(play(60, S, usual, below).is_none(), "the device's own cloud may be out of order");
    let (number, _) = play(200, S / 2, usual, below).unwrap();
    assert_eq!(number, 79, "but not for four times as many names");
    let reverse = |number: u64| message(7, &format!("{number}.0.168.192.in-addr.arpa"), A, Some(3));
    assert!(play(60, S, DnsContext::default(), reverse).is_none());
}

#[test]
fn a_limit_of_missing_names_too_large_to_multiply_is_never_reached() {
    let (mut dns, config) = (Dns::new(), RuleConfig { absent_names: u32::MAX / 2, ..RuleConfig::default() });
    let usual = DnsContext { is_usual: true, ..DnsContext::default() };
    let missing = message(7, "nx.vendor.com", A, Some(3));
    assert!(dns.message(&config, &missing, usual, S).is_none());
}

#[test]
fn a_flood_of_missing_names_is_found_and_one_name_asked_for_ever_is_a_fault() {
    let flood = |number: u64| message(7, &format!("w{number}.victim.example"), A, Some(3));
    let (number, found) = play(500, S / 50, DnsContext::default(), flood).unwrap();
    assert_eq!((found.technique, number), (Technique::SERVICE_FLOOD, 99), "{}", found.detail);
    let fault = |_| message(7, "gone.vendor.example", A, Some(3));
    assert!(play(2_000, S / 50, DnsContext::default(), fault).is_none());
}

#[test]
fn made_up_labels_look_like_no_word() {
    for word in ["google", "tidegate", "facebook", "openstreetmap", "raspberrypi", "wikipedia", "speedtest24"]
    {
        assert!(!is_generated(word), "{word}");
    }
    for made_up in ["xjwqkrtzpl", "a1b2c3d4e5", "kq3v9x7wz2", "pbtbmcnvxqgsr"] {
        assert!(is_generated(made_up), "{made_up}");
    }
}

proptest! {
    #[test]
    fn any_messages_leave_the_trackers_bounded(
        messages in prop::collection::vec(("[a-z0-9.\\\\]{0,60}", any::<u16>(), prop::option::of(0_u16..6), any::<u8>()), 1..200),
    ) {
        let (mut dns, config) = (Dns::new(), RuleConfig::default());
        for (number, (name, qtype, rcode, last)) in messages.iter().enumerate() {
            let context = DnsContext { is_usual: qtype % 2 == 0, resolver: Some(device(*last)) };
            dns.message(&config, &message(last % 4, name, *qtype, *rcode), context, number as u64 * S / 4);
        }
        for (_, client) in &dns.clients {
            prop_assert!(client.failures.len() <= MAX_FAILURES && client.domains.len() <= MAX_DOMAINS.get());
            prop_assert!(client.domains.iter().all(|(_, names)| names.len() <= MAX_NAMES));
        }
    }

    #[test]
    fn entropy_is_within_its_bounds(text in ".{0,100}") {
        prop_assert!((0.0..=8.001).contains(&entropy(&text)));
    }
}

#[test]
fn the_resolver_is_the_victim() {
    let (_, found) = play(100, S / 2, DnsContext::default(), tunnel).unwrap();
    assert_eq!(found.victim, Some(IpAddr::from([10, 0, 0, 1])));
}
