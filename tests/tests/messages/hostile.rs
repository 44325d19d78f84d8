//! Clients that mean harm, while a good one goes on.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tidegate::messages::{Reason, read};
use tidegate_tests::{
    mqtt::{self, Hello},
    storm::{Greeting, Honest, Storm, percentile},
    wait_for, web,
};

use super::setup::{PATIENCE, Setup, hello, resident};

/// Short times, so that the tests are.
const QUICK: &str = "message_limits.connect_timeout = \"1s\"
message_limits.packet_timeout = \"1s\"
message_limits.slow_reader = \"2s\"
message_limits.messages_per_second = 1000000
message_limits.bytes_per_second = 1000000000
message_limits.connections_per_source = 200
";

/// A good client that publishes to itself all the time.
struct Good {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: thread::JoinHandle<Duration>,
}

impl Good {
    fn start(setup: &Setup) -> Self {
        let mut client = setup.client("good");
        client.subscribe("d/good/#").unwrap();
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&count));
        let thread = thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                client.publish("d/good/x", b"beat").unwrap();
                assert_eq!(client.receive().unwrap().1, b"beat");
                longest = longest.max(began.elapsed());
                counted.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
            longest
        });
        Self { stop, count, thread }
    }

    /// Ends it; it must have gone on all the time and still go on.
    fn end(self) {
        let before = self.count.load(Ordering::Relaxed);
        let goes_on = || (self.count.load(Ordering::Relaxed) > before + 5).then_some(());
        assert!(wait_for(PATIENCE, goes_on).is_some());
        self.stop.store(true, Ordering::Relaxed);
        let longest = self.thread.join().unwrap();
        assert!(longest < Duration::from_secs(3), "{longest:?}");
    }
}

fn raw(setup: &Setup) -> TcpStream {
    let stream = TcpStream::connect(setup.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Whether the guard closes the connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn junk_and_packets_out_of_order_end_the_connection_that_sent_them() {
    let Some(setup) = Setup::start("junk", QUICK) else { return };
    let good = Good::start(&setup);
    let connect = hello("bad").packet();
    let giant = [0x30, 0xff, 0xff, 0xff, 0x7f];
    let after = |bytes: &[u8]| [&connect[..], bytes].concat();
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n".to_vec(),
        vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc],
        mqtt::message("d/bad/x", b"before CONNECT", None, false),
        giant.to_vec(),
        after(&connect),
        after(&giant),
        after(&[0x20, 2, 0, 0]),
        after(&[0x82, 2, 0, 1]),
        after(&mqtt::message("d/bad/#", b"wildcard", None, false)),
        after(&[0x36, 3, 0, 1, b'a']),
        after(&[0x40, 2, 0, 0]),
    ] {
        let mut stream = raw(&setup);
        stream.write_all(&bytes).unwrap();
        assert!(is_closed(&mut stream), "{bytes:x?}");
    }
    assert_eq!(setup.counters.refused(Reason::Malformed) + setup.counters.refused(Reason::PacketSize), 11);
    let mut old = connect.clone();
    old[8] = 3;
    let mut stream = raw(&setup);
    stream.write_all(&old).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0x20, 2, 0, 1], "version 3.1");
    good.end();
}

#[test]
fn whoever_takes_too_long_is_cut() {
    let Some(setup) = Setup::start("slowloris", QUICK) else { return };
    let good = Good::start(&setup);
    let silent: Vec<TcpStream> = (0..50).map(|_| raw(&setup)).collect();
    let mut dripping = raw(&setup);
    let connect = hello("slow").packet();
    let mut dripped = 0;
    while dripped < connect.len() && dripping.write_all(&connect[dripped..=dripped]).is_ok() {
        dripped += 1;
        thread::sleep(Duration::from_millis(100));
    }
    assert!(is_closed(&mut dripping));
    for mut stream in silent {
        assert!(is_closed(&mut stream));
    }
    assert_eq!(setup.counters.refused(Reason::ConnectTimeout), 51);
    let mut begun = setup.client("begun");
    begun.send(&[0x30, 100, 0, 1, b'x']).unwrap();
    assert!(begun.is_closed());
    assert_eq!(setup.counters.refused(Reason::PacketTimeout), 1);
    good.end();
}

#[test]
fn a_storm_of_connections_stays_within_its_sources_limits() {
    let keys = format!("{QUICK}message_limits.connects_per_second = 100\n");
    let Some(mut setup) = Setup::start("storm", &keys) else { return };
    let good = Good::start(&setup);
    let began = Instant::now();
    let mut open = Vec::new();
    while setup.counters.refused(Reason::ConnectRate) < 1_000 && began.elapsed() < PATIENCE {
        if let Ok(stream) = TcpStream::connect_timeout(&setup.address(), PATIENCE) {
            open.push(stream);
            open.truncate(500);
        }
    }
    let (taken, seconds) = (read(&setup.counters.accepted), began.elapsed().as_secs());
    assert!(setup.counters.refused(Reason::ConnectRate) >= 1_000, "{taken} taken in {seconds} s");
    assert!(taken <= 100 * (seconds + 2), "{taken} connections were taken in {seconds} s");
    assert!(matches!(setup.report(), Some(tidegate::messages::Report::Abuse(_))));
    good.end();
}

/// Bounds of what honest clients may notice; generous, for machines that do much else.
const LATE_US: f64 = 2e6;

#[test]
#[allow(clippy::print_stdout, reason = "the figures are for whoever reads the test's output")]
fn storms_from_many_addresses_leave_those_alone_who_are_known() {
    let directory = tempfile::tempdir().unwrap();
    web::authority(directory.path(), "web", "127.0.0.1").unwrap();
    let path = directory.path().display().to_string();
    web::run(directory.path(), "mosquitto_passwd", &["-c", "-b", "passwords", "honest", "secret"]).unwrap();
    let keys = format!(
        "messages.listen = \"127.0.0.2:0\"\nmessages.require_certificate = false\nmessages.passwords = \"{path}/passwords\"\nmessages.certificate = \"{path}/web.crt\"\n\
         messages.key = \"{path}/web.key\"\nmessage_limits.connects_per_second = 10\nmessage_limits.strangers_per_second = 50\n"
    );
    let Some(setup) = Setup::start_with_tls("storms", directory, &keys) else { return };
    for (greeting, target, sources) in [
        (Greeting::Silence, setup.address(), 1),
        (Greeting::Silence, setup.address(), 1_000),
        (Greeting::Tls, setup.tls.unwrap(), 1),
        (Greeting::Tls, setup.tls.unwrap(), 1_000),
    ] {
        let SocketAddr::V4(target) = target else { panic!("{target} is not of version 4") };
        let honest =
            Honest::start(setup.address(), ("honest", "secret"), "news/honest", Duration::from_secs(10))
                .unwrap();
        let (before, memory) = (read(&setup.counters.accepted), resident("/proc/self/status"));
        let storm = Storm { target, greeting, sources, per_second: 10_000 };
        let stormed = storm.run(Duration::from_secs(3)).unwrap();
        let taken = read(&setup.counters.accepted) - before;
        let grown = resident("/proc/self/status").saturating_sub(memory) >> 20;
        let noticed = honest.end().unwrap();
        let [p99, longest] = [99, 100].map(|percent| percentile(&noticed.delays_us, percent).unwrap());
        let slowest = percentile(&noticed.joins_us, 100);
        eprintln!(
            "{greeting:?} from {sources}: {stormed:?}, {taken} taken, {grown} MiB more, {} messages p99 {p99:.0} us longest {longest:.0}, \
             {} newcomers longest {slowest:?}, {} turned away",
            noticed.delays_us.len(),
            noticed.joins_us.len(),
            noticed.turned_away
        );
        assert!(stormed.offered > 1_000.0, "no storm: {stormed:?}");
        // Three seconds, one of allowance and one of whatever comes late; beside it newcomers.
        assert!(taken <= 5 * 50 + 30, "{taken} connections were taken");
        assert!(longest < LATE_US && slowest.is_some_and(|slowest| slowest < LATE_US));
        assert_eq!(noticed.turned_away, 0);
        assert!(grown < 64, "{grown} MiB");
    }
    assert!(setup.counters.refused(Reason::ConnectRate) > 1_000);
    assert!(setup.counters.refused(Reason::StrangerRate) > 1_000);
}

#[test]
fn retained_and_will_bombs_are_bounded() {
    let keys = format!("{QUICK}message_limits.retained = 10\nmessage_limits.will_bytes = 100\n");
    let Some(setup) = Setup::start("bombs", &keys) else { return };
    let good = Good::start(&setup);
    let mut bomber = setup.client("bomber");
    for number in 0..200 {
        bomber.retain(&format!("d/bomber/{number}"), &[0; 1_000]).unwrap();
    }
    assert_eq!(setup.counters.refused(Reason::Retained), 190);
    let mut reader = setup.client("bomber");
    reader.subscribe("d/bomber/#").unwrap();
    let kept = (0..10).map(|_| reader.receive().unwrap().0).collect::<std::collections::HashSet<_>>();
    assert_eq!(kept.len(), 10);
    let large = Hello { will: Some(("d/x/w", &[0; 101])), ..hello("x") };
    assert!(setup.open(&large).is_err());
    let small = Hello { will: Some(("d/x/w", b"bye")), ..hello("x") };
    for _ in 0..100 {
        drop(setup.open(&small).unwrap());
    }
    good.end();
}

#[test]
fn a_subscriber_that_does_not_read_is_cut_and_takes_little_memory() {
    let Some(setup) = Setup::start("non-reader", QUICK) else { return };
    let good = Good::start(&setup);
    let mut deaf = setup.client("deaf");
    deaf.subscribe("news/#").unwrap();
    let deaf = deaf.into_stream();
    let before = resident("/proc/self/status");
    let mut flooder = setup.client("flooder").into_stream();
    let payload = vec![0x5a; 10_000];
    let flood = mqtt::message("news/flood", &payload, None, false).repeat(20);
    let until = Instant::now() + Duration::from_secs(5);
    let mut sent = 0_u64;
    while Instant::now() < until && sent < 400 << 20 {
        flooder.write_all(&flood).unwrap();
        sent += flood.len() as u64;
    }
    assert!(sent > 20 << 20, "{sent} bytes were sent");
    let guard = resident("/proc/self/status").saturating_sub(before);
    let broker = setup.broker_memory();
    assert!(guard + broker < 100 << 20, "guard +{guard}, broker {broker} bytes");
    let cut = || (setup.counters.refused(Reason::SlowReader) == 1).then_some(());
    assert!(wait_for(PATIENCE, cut).is_some(), "the deaf one is cut");
    drop(deaf);
    good.end();
}

#[test]
fn whoever_publishes_too_fast_has_to_wait_and_loses_nothing() {
    let keys = "message_limits.messages_per_second = 200\n";
    let Some(setup) = Setup::start("throttle", keys) else { return };
    let mut reader = setup.client("reader");
    reader.subscribe("news/#").unwrap();
    let mut fast = setup.client("fast");
    let began = Instant::now();
    for number in 0..600_u32 {
        fast.send(&mqtt::message("news/n", &number.to_be_bytes(), None, false)).unwrap();
    }
    for number in 0..600_u32 {
        assert_eq!(reader.receive().unwrap().1, number.to_be_bytes());
    }
    assert!(began.elapsed() > Duration::from_millis(1_500), "{:?}", began.elapsed());
    assert!(read(&setup.counters.throttled) > 0);
}

#[test]
fn unfinished_packets_of_all_clients_together_are_bounded() {
    let keys =
        format!("{QUICK}message_limits.buffered_bytes = 1048576\nmessage_limits.packet_timeout = \"1m\"\n")
            .replacen("message_limits.packet_timeout = \"1s\"\n", "", 1);
    let Some(setup) = Setup::start("memory", &keys) else { return };
    let good = Good::start(&setup);
    // 200,000 of 250,000 bytes each.
    let mut begun = vec![0x30, 0x90, 0xa1, 0x0f, 0, 1, b'x'];
    begun.resize(200_000, 0);
    let hogs: Vec<_> = (0..20)
        .map(|number| {
            let mut hog = setup.client(&format!("hog{number}"));
            // It may be cut while it sends.
            let _ = hog.send(&begun);
            hog
        })
        .collect();
    let cut = || (setup.counters.refused(Reason::Memory) >= 10).then_some(());
    assert!(wait_for(PATIENCE, cut).is_some(), "{}", setup.counters.refused(Reason::Memory));
    drop(hogs);
    good.end();
}
