//! Suite `replay`: packets a second from a capture to flow records, beside nfstream.
//!
//! Two captures: a synthetic one made from a seed, and one of real devices' traffic, when those files are there, repeated
//! until it is long enough to time. Ours is the whole program from start to exit, held to one core and printing every
//! flow; nfstream's start-up is not timed and it may use every core.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{Context, Row};
use crate::shell;

const NFSTREAM: &str = "6.6.0";
const SEED: u64 = 0x71de_9a7e;
const PACKETS: u32 = 2_000_000;
const SMOKE_PACKETS: u32 = 50_000;

/// What nfstream reports.
#[derive(Deserialize)]
struct Metered {
    packets: u64,
    seconds: f64,
}

/// What replay's last line reports.
#[derive(Deserialize)]
struct Last {
    summary: Summary,
}

#[derive(Deserialize)]
struct Summary {
    packets: u64,
    in_flows: u64,
}

/// Measures both captures.
pub(crate) fn rows(context: &Context) -> Result<Vec<Row>> {
    let directory = shell::target_dir().join("bench");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let packets = if context.smoke { SMOKE_PACKETS } else { PACKETS };
    let python = nfstream(&shell::target_dir().join("venv"))?;
    let tidegate = shell::target_dir().join("release/tidegate");

    let synthetic = directory.join(format!("synthetic-{packets}.pcap"));
    write_file(&synthetic, |output| synthesise(SEED, packets, output))?;
    let mut rows = vec![compare(context, &tidegate, &python, &synthetic, "synthetic")?];

    let real = shell::root().join("../shared/data/captures/iot-benign");
    if real.is_dir() {
        let repeated = directory.join(format!("devices-{packets}.pcap"));
        write_file(&repeated, |output| repeat(&real, packets / 4, output))?;
        rows.push(compare(context, &tidegate, &python, &repeated, "device captures")?);
    } else {
        shell::skipped("replay of device captures", &format!("{} is absent", real.display()));
    }
    Ok(rows)
}

fn compare(context: &Context, tidegate: &Path, python: &Path, capture: &Path, what: &str) -> Result<Row> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..context.repeats {
        ours.push(replay(tidegate, capture)?);
        theirs.push(meter(python, capture)?);
    }
    Ok(Row::of("replay_pps", "packets/s", &ours, &format!("nfstream {NFSTREAM}, {what}"), &theirs))
}

/// Packets a second of the whole program on one core.
fn replay(tidegate: &Path, capture: &Path) -> Result<f64> {
    let mut command = shell::command("taskset");
    command.args(["-c", "0"]).arg(tidegate).arg("replay").arg(capture).arg("--flows");
    let started = Instant::now();
    let printed = shell::output(&mut command)?;
    let seconds = started.elapsed().as_secs_f64();
    let last = printed.lines().last().context("replay printed nothing")?;
    let Summary { packets, in_flows } = serde_json::from_str::<Last>(last)?.summary;
    if in_flows == 0 {
        bail!("replay put none of {packets} packets in a flow");
    }
    Ok(packets as f64 / seconds)
}

/// Packets a second of nfstream's metering.
fn meter(python: &Path, capture: &Path) -> Result<f64> {
    let script = shell::root().join("xtask/src/bench/replay.py");
    let printed = shell::output(shell::command(python).arg(script).arg(capture))?;
    let metered: Metered = serde_json::from_str(printed.trim()).context("nfstream's report")?;
    if metered.packets == 0 {
        bail!("nfstream counted no packet of {}", capture.display());
    }
    Ok(metered.packets as f64 / metered.seconds)
}

/// The Python of a virtual environment in `directory` that has nfstream.
fn nfstream(directory: &Path) -> Result<PathBuf> {
    let python = directory.join("bin/python");
    let has = |python: &Path| {
        let check = format!("import nfstream; assert nfstream.__version__ == '{NFSTREAM}'");
        let mut command = Command::new(python);
        command.args(["-c", &check]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !has(&python) {
        shell::step(&format!("installing nfstream {NFSTREAM} into {}, to compare with", directory.display()));
        if !python.is_file() {
            shell::run(shell::command("python3").args(["-m", "venv"]).arg(directory))?;
        }
        let package = format!("nfstream=={NFSTREAM}");
        shell::run(shell::command(&python).args(["-m", "pip", "install", "--quiet", &package]))?;
    }
    Ok(python)
}

/// Writes `path` unless it is there; a file that was not finished is never taken for one that was.
fn write_file(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    if path.is_file() {
        return Ok(());
    }
    shell::step(&format!("writing {}", path.display()));
    let unfinished = path.with_extension("unfinished");
    let file =
        File::create(&unfinished).with_context(|| format!("cannot create {}", unfinished.display()))?;
    let mut output = BufWriter::new(file);
    write(&mut output)?;
    output.flush()?;
    fs::rename(&unfinished, path)?;
    Ok(())
}

const FILE_HEADER: [u8; 24] =
    [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
const RECORD_HEADER: usize = 16;

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers from a seed on every machine.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Traffic of a gateway: 200 devices, 60,000 conversations of which few are long, seven in ten packets TCP, the rest UDP,
/// one in five tagged with a VLAN, small and full-size frames in both directions, in bursts.
fn synthesise(seed: u64, packets: u32, output: &mut impl Write) -> Result<()> {
    const CONVERSATIONS: u64 = 60_000;
    let mut numbers = Numbers(seed);
    output.write_all(&FILE_HEADER)?;
    let (mut seconds, mut micros) = (1_760_000_000_u32, 0_u32);
    let (mut conversation, mut burst) = (0, 0);
    for _ in 0..packets {
        if burst == 0 {
            // The square makes low numbers frequent: a few conversations carry most packets.
            let (a, b) = (numbers.below(CONVERSATIONS), numbers.below(CONVERSATIONS));
            conversation = a * b / CONVERSATIONS;
            burst = 1 + numbers.below(8);
        }
        burst -= 1;
        micros += numbers.below(400) as u32;
        if micros >= 1_000_000 {
            micros -= 1_000_000;
            seconds += 1;
        }
        let frame = frame(conversation, numbers.next());
        output.write_all(&seconds.to_le_bytes())?;
        output.write_all(&micros.to_le_bytes())?;
        output.write_all(&(frame.len() as u32).to_le_bytes())?;
        output.write_all(&(frame.len() as u32).to_le_bytes())?;
        output.write_all(&frame)?;
    }
    Ok(())
}

/// One frame of `conversation`; `chance` decides direction, size and flags.
fn frame(conversation: u64, chance: u64) -> Vec<u8> {
    let identity = Numbers(conversation).next();
    let device = (conversation % 200) as u8;
    let inside = [192, 168, 1, device + 10];
    let outside = [198, 18, (identity >> 8) as u8, identity as u8];
    let (inside_port, outside_port) =
        ((32_768 + (identity >> 16) % 28_000) as u16, 443 + (identity >> 32) as u16 % 4);
    let outward = chance & 1 == 0;
    let tcp = identity % 10 < 7;
    let payload = if (chance >> 1).is_multiple_of(4) { 1_380 } else { (chance >> 3) % 120 } as usize;

    let mut frame = Vec::with_capacity(1_500);
    let (to, from) = if outward { (0xfe, device) } else { (device, 0xfe) };
    frame.extend([2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from]);
    if identity.is_multiple_of(5) {
        frame.extend([0x81, 0, 0, 20]);
    }
    let transport = if tcp { 20 } else { 8 };
    let length = (20 + transport + payload) as u16;
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, if tcp { 6 } else { 17 }, 0, 0]);
    let (source, target) = if outward { (inside, outside) } else { (outside, inside) };
    frame.extend(source);
    frame.extend(target);
    let ports = if outward { [inside_port, outside_port] } else { [outside_port, inside_port] };
    frame.extend(ports.map(u16::to_be_bytes).concat());
    if tcp {
        let flags = if payload > 0 { 0x18 } else { 0x10 };
        frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
    } else {
        frame.extend((8 + payload as u16).to_be_bytes());
        frame.extend([0, 0]);
    }
    frame.resize(frame.len() + payload, 0x5a);
    frame
}

/// The records of every plain capture in `directory`, again and again with later times, until there are `packets`.
fn repeat(directory: &Path, packets: u32, output: &mut impl Write) -> Result<()> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    names.sort();
    let mut captures = Vec::new();
    for name in names {
        let bytes = fs::read(&name).with_context(|| format!("cannot read {}", name.display()))?;
        // Little-endian, microseconds, Ethernet: records of such files may simply follow one another.
        if bytes.len() > FILE_HEADER.len()
            && bytes[..4] == FILE_HEADER[..4]
            && bytes[20..24] == FILE_HEADER[20..]
        {
            captures.push(bytes);
        }
    }
    if captures.is_empty() {
        bail!("no little-endian Ethernet captures in {}", directory.display());
    }
    output.write_all(&FILE_HEADER)?;
    let mut written = 0;
    let mut start = 1_760_000_000_u32;
    while written < packets {
        for capture in &captures {
            let mut rest = &capture[FILE_HEADER.len()..];
            let mut first = None;
            let mut last = 0;
            while let Some((record, later)) = split_record(rest) {
                let seconds = u32::from_le_bytes([record[0], record[1], record[2], record[3]]);
                last = seconds.saturating_sub(*first.get_or_insert(seconds));
                output.write_all(&(start + last).to_le_bytes())?;
                output.write_all(&record[4..])?;
                written += 1;
                rest = later;
            }
            start += last + 1;
        }
    }
    Ok(())
}

/// The first record with its header, and what follows it.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = bytes.get(8..12)?.try_into().ok().map(u32::from_le_bytes)? as usize;
    bytes.split_at_checked(RECORD_HEADER + length)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_capture_of_whole_records() {
        let (mut one, mut two) = (Vec::new(), Vec::new());
        synthesise(7, 500, &mut one).unwrap();
        synthesise(7, 500, &mut two).unwrap();
        assert_eq!(one, two);
        let mut rest = &one[FILE_HEADER.len()..];
        let mut records = 0;
        while let Some((_, later)) = split_record(rest) {
            rest = later;
            records += 1;
        }
        assert_eq!((records, rest.len()), (500, 0));
    }
}
