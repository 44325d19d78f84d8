//! The witness: counts packets that match a filter, independently of Tidegate, with the kernel's time stamps.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};

use crate::netns::Netns;

/// Nanoseconds since 1970, the clock of packets' time stamps.
pub fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_nanos() as u64
}

/// Time stamps of matching packets.
#[derive(Debug)]
pub struct Sniffer {
    child: Child,
    stamps: Arc<Mutex<Vec<u64>>>,
}

impl Sniffer {
    /// Watches `interface` in `netns` for packets that match `filter` (pcap-filter syntax); returns once it watches.
    pub fn start(netns: &Netns, interface: &str, filter: &str) -> Result<Self> {
        let mut child = netns
            .command("tcpdump")
            .args([
                "-i",
                interface,
                "-n",
                "-p",
                "-U",
                "--immediate-mode",
                "-s",
                "64",
                "-B",
                "16384",
                "-Z",
                "root",
            ])
            .args(["--time-stamp-precision=nano", "-w", "-", filter])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start tcpdump")?;
        let mut errors = BufReader::new(child.stderr.take().context("tcpdump has no messages")?);
        let mut said = String::new();
        while !said.contains("listening on") {
            if errors.read_line(&mut said).context("cannot read from tcpdump")? == 0 {
                bail!("tcpdump with `{filter}` on {interface} in {}: {}", netns.name(), said.trim());
            }
        }
        let packets =
            BufReader::with_capacity(1 << 16, child.stdout.take().context("tcpdump has no output")?);
        let stamps = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&stamps);
        // Both threads end with tcpdump.
        thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
        thread::spawn(move || read_stamps(packets, |at_ns| lock(&shared).push(at_ns)));
        Ok(Self { child, stamps })
    }

    /// When the first packet was seen.
    pub fn first(&self) -> Option<u64> {
        lock(&self.stamps).first().copied()
    }

    /// Packets seen.
    pub fn count(&self) -> usize {
        lock(&self.stamps).len()
    }

    /// Packets seen after `at_ns`.
    pub fn after(&self, at_ns: u64) -> usize {
        lock(&self.stamps).iter().filter(|stamp| **stamp > at_ns).count()
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lock(stamps: &Mutex<Vec<u64>>) -> std::sync::MutexGuard<'_, Vec<u64>> {
    stamps.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a capture with nanosecond stamps in this machine's byte order, packet by packet, until it ends.
fn read_stamps(mut capture: impl Read, mut packet: impl FnMut(u64)) {
    let mut header = [0; 24];
    if capture.read_exact(&mut header).is_err() {
        return;
    }
    let mut record = [0; 16];
    let mut body = Vec::new();
    while capture.read_exact(&mut record).is_ok() {
        let word =
            |at: usize| u32::from_ne_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
        packet(u64::from(word(0)) * 1_000_000_000 + u64::from(word(4)));
        body.resize(word(8) as usize, 0);
        if capture.read_exact(&mut body).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_read_and_a_cut_packet_ends_the_reading() {
        let mut capture = vec![0; 24];
        for (seconds, nanoseconds, length) in [(1_u32, 5_u32, 3_u32), (2, 7, 0), (3, 0, 9)] {
            for word in [seconds, nanoseconds, length, length] {
                capture.extend(word.to_ne_bytes());
            }
            capture.extend(vec![0; if seconds == 3 { 4 } else { length as usize }]);
        }
        let mut seen = Vec::new();
        read_stamps(&capture[..], |at_ns| seen.push(at_ns));
        assert_eq!(seen, [1_000_000_005, 2_000_000_007, 3_000_000_000]);
    }
}
