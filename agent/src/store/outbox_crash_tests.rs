//! Nothing is lost, changed or put out of order when whoever writes and delivers is killed again and again.
//!
//! The test runs its own binary again as a child that writes messages of several devices, each in one transaction with a count
//! of that device's, and at the same time delivers what waits: a delivery is a line on its standard output, which the kernel
//! keeps whatever becomes of the child, and only then the message is acknowledged. Every child is killed with SIGKILL after a
//! different time. `cargo xtask fault-test outbox --cycles N` runs it with more cycles, given in `TIDEGATE_FAULT_CYCLES`.

#![allow(clippy::unwrap_used, reason = "a failed step is the test's failure")]

use std::{collections::HashMap, env, fmt::Write as _, io::Write, path::Path, time::Duration};

use jiff::Timestamp;

use super::{
    Durability, MessageKind, NewMessage, Store,
    outbox_tests::{AMPLE, report},
    testing::{database_of_child, run_and_kill},
};

const CYCLES: &str = "TIDEGATE_FAULT_CYCLES";
const FEW_CYCLES: u64 = 40;
const DEVICES: u64 = 3;
const NAME: &str = "store::outbox_crash_tests::nothing_is_lost_or_reordered_by_kill_9";

#[test]
fn nothing_is_lost_or_reordered_by_kill_9() {
    if let Some(path) = database_of_child() {
        work_until_killed(&path);
    }
    let cycles = env::var(CYCLES).map_or(FEW_CYCLES, |cycles| cycles.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let mut cloud = Cloud::default();
    for cycle in 0..cycles {
        run_and_kill(NAME, &path, Duration::from_micros(cycle * 7_919 % 23_000), |line| {
            let delivery = line.strip_suffix('.').filter(|line| line.starts_with("delivered "));
            delivery.inspect(|line| cloud.take(line)).is_some() || line == "began"
        });
        // Whatever it was doing, the file is sound; the next child opens it again.
        if cycle.is_multiple_of(10) {
            let store = Store::open(&path).unwrap();
            assert_eq!(store.moved_aside(), None, "cycle {cycle}");
            store.check().unwrap();
        }
    }
    let store = Store::open(&path).unwrap();
    for message in store.outbox_after(0, u32::MAX).unwrap() {
        cloud.take(&line_of(&message));
        assert_eq!(store.acknowledge(&[message.sequence]).unwrap(), 1);
    }
    let mut written = 0;
    for device in 0..DEVICES {
        let count = count_of(&store, device);
        assert_eq!(cloud.numbers.get(&device).copied().unwrap_or(0), count, "device {device}");
        written += count;
    }
    let tallies = store.outbox_tallies().unwrap();
    let acknowledged: u64 = tallies.iter().map(|(_, tally)| tally.acknowledged).sum();
    assert_eq!(acknowledged, written);
    assert!(tallies.iter().all(|(_, tally)| tally.dropped == 0 && tally.waiting == 0 && tally.bytes == 0));
    assert!(written > cycles, "the children were given time to write");
    eprintln!(
        "FAULT outbox: {cycles} cycles, {written} messages, {} delivered again, 0 lost, 0 out of order",
        cloud.repeats
    );
}

/// Who takes the messages.
#[derive(Default)]
struct Cloud {
    /// The last number of every device.
    numbers: HashMap<u64, u64>,
    /// What every message said.
    known: HashMap<String, String>,
    repeats: u64,
}

impl Cloud {
    /// A line `delivered SEQUENCE ID DEVICE NUMBER`.
    fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, _, id, device, number] = words[..] else { panic!("not a delivery: {line}") };
        if let Some(before) = self.known.get(id) {
            assert_eq!(before, line, "the same id is the same message");
            self.repeats += 1;
            return;
        }
        self.known.insert(id.to_owned(), line.to_owned());
        let last = self.numbers.entry(device.parse().unwrap()).or_default();
        let number = number.parse().unwrap();
        assert_eq!(*last + 1, number, "nothing of device {device} is lost or out of order");
        *last = number;
    }
}

fn count_of(store: &Store, device: u64) -> u64 {
    store.meta(&format!("device {device}")).unwrap().map_or(0, |count| count.parse().unwrap())
}

fn line_of(message: &super::Queued) -> String {
    let said: serde_json::Value = serde_json::from_str(&message.body).unwrap();
    let text = ["topic", "version", "target", "detail", "explanation"]
        .iter()
        .find_map(|field| said[*field].as_str());
    let number = text.unwrap().trim_end_matches('x');
    format!("delivered {} {} {} {number}", message.sequence, message.id, message.device)
}

fn work_until_killed(path: &Path) -> ! {
    let store = Store::open(path).unwrap();
    let mut out = std::io::stdout();
    // The test runner's own line has no end yet.
    writeln!(out, "\nbegan").unwrap();
    out.flush().unwrap();
    let mut turn: u64 = (0..DEVICES).map(|device| count_of(&store, device)).sum();
    loop {
        for _ in 0..=turn % 5 {
            turn += 1;
            write_one(&store, turn);
        }
        let waiting = store.outbox_after(0, (turn % 7) as u32).unwrap();
        let mut delivered = String::new();
        for message in &waiting {
            // The full stop tells a whole line from one cut short.
            writeln!(delivered, "{}.", line_of(message)).unwrap();
        }
        out.write_all(delivered.as_bytes()).unwrap();
        out.flush().unwrap();
        let sequences: Vec<u64> = waiting.iter().map(|message| message.sequence).collect();
        store.batch(Durability::Process, |store| store.acknowledge(&sequences)).unwrap();
    }
}

fn write_one(store: &Store, turn: u64) {
    let device = turn * 31 % DEVICES;
    let number = count_of(store, device) + 1;
    let kind = MessageKind::ALL[(turn % 4) as usize];
    let said = report(kind, format!("{number}{}", "x".repeat((turn * 37 % 3_000) as usize)));
    let (id, name) = (format!("{device}-{number}"), device.to_string());
    let message = NewMessage { id: &id, device: &name, at: Timestamp::UNIX_EPOCH, report: &said };
    let durability = if turn.is_multiple_of(9) { Durability::Disk } else { Durability::Process };
    store
        .batch(durability, |store| {
            store.set_meta(&format!("device {device}"), &number.to_string())?;
            store.enqueue(&message, AMPLE)
        })
        .unwrap();
}
