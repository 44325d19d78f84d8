//! Suite `datapath`: what a packet costs with Tidegate, beside xdp-filter and an XDP program that does nothing.
//!
//! Each stands in driver mode on a virtual link in a network namespace of its own, set up as its users do: Tidegate by
//! `tidegate run` and `tidegate blocks add`, xdp-filter by its command. Costs are the kernel's own timing of the very programs
//! that are attached; rates are frames that arrived, counted by the receiving driver, while one CPU sends and receives.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde_json::Value;
use tidegate_tests::{
    netns::{self, Netns},
    process::Process,
    wait_for,
};

use super::{
    Context, Row, forest,
    kernel::{Link, Program, XDP_DROP, XDP_PASS},
};
use crate::shell;

const XDP_FILTER: &str = "xdp-filter";
const BARE: &str = "bare XDP";

/// Receiving end of each link, where the programs are; sending end.
const PORT: &str = "lan0";
const PEER: &str = "dev0";
const PORT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const DEVICE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const DEVICE: [u8; 4] = [10, 0, 0, 7];
const BLOCKED: [u8; 4] = [10, 9, 9, 9];
/// What the detector may call this traffic.
const FLOOD_TECHNIQUES: [&str; 5] = ["T1046", "T1018", "T1595", "T1498.001", "T1048"];
/// After so many bursts, sixteen frames for each of 65,536 ports, nearly every port has been drawn.
const FLOWS_BEGIN_IN: u32 = 4;
/// No route leads there: a frame that passes ends in the network stack.
const REMOTE: [u8; 4] = [203, 0, 113, 5];

/// Measures all figures of the suite.
pub(crate) fn rows(context: &Context) -> Result<Vec<Row>> {
    if !shell::is_root() {
        shell::skipped("suite datapath", "only root may load and attach programs");
        return Ok(Vec::new());
    }
    netns::sweep();
    let _alone = tidegate_tests::alone()?;
    let bed = Bed::new()?;
    // Sender, receiver and timing loops stay on one CPU; the agent, started before, may use all.
    let _pinned = Pinned::to_first()?;
    let runs = if context.smoke { 10_000 } else { 1_000_000 };
    let span = Duration::from_millis(if context.smoke { 50 } else { 1_000 });
    let mut rows = costs(context, &bed, runs)?;
    let pins = bed.tidegate.pins()?;
    rows.extend(forest::rows(context, &bed.tidegate.site.attached()?, &pins, &frame(DEVICE), runs)?);
    rows.push(block_rate(context, &bed, span)?);
    rows.push(flow_rate(context, &bed, span)?);
    bed.tidegate.check_untouched()?;
    Ok(rows)
}

/// Nanoseconds of the attached programs on one frame, again and again.
fn costs(context: &Context, bed: &Bed, runs: u32) -> Result<Vec<Row>> {
    let (drop, pass) = (frame(BLOCKED), frame(DEVICE));
    let ours = bed.tidegate.site.attached()?;
    let filter = bed.filter.attached()?;
    let time = |program: &Program, frame: &[u8], wanted: u32| {
        let (verdict, ns) = program.time(frame, runs)?;
        if verdict != wanted {
            bail!("a program returned {verdict} where {wanted} was expected");
        }
        Ok(ns)
    };
    let mut ns: [Vec<f64>; 5] = Default::default();
    for _ in 0..context.repeats {
        ns[0].push(time(&ours, &drop, XDP_DROP)?);
        ns[1].push(time(&filter, &drop, XDP_DROP)?);
        ns[2].push(time(&ours, &pass, XDP_PASS)?);
        ns[3].push(time(&filter, &pass, XDP_PASS)?);
        ns[4].push(time(&bed.bare_program, &pass, XDP_PASS)?);
    }
    let [our_drop, filter_drop, our_pass, filter_pass, bare_pass] = &ns;
    Ok(vec![
        Row::of("drop_blocked_ns", "ns", our_drop, XDP_FILTER, filter_drop),
        Row::of("pass_accounted_ns", "ns", our_pass, XDP_FILTER, filter_pass),
        Row::of("pass_accounted_ns", "ns", our_pass, BARE, bare_pass),
    ])
}

/// Packets a second of one blocked source.
fn block_rate(context: &Context, bed: &Bed, span: Duration) -> Result<Row> {
    let ours =
        Stream { site: &bed.tidegate.site, sender: bed.tidegate.site.sender()?, frame: frame(BLOCKED) };
    let theirs = Stream { site: &bed.filter, sender: bed.filter.sender()?, frame: frame(BLOCKED) };
    race("block_pps", context, (&ours, &theirs), XDP_FILTER, span)
}

/// Packets a second of 65,536 flows, all of them in the table before the clock starts.
fn flow_rate(context: &Context, bed: &Bed, span: Duration) -> Result<Row> {
    let ours =
        Stream { site: &bed.tidegate.site, sender: bed.tidegate.site.flow_sender()?, frame: frame(DEVICE) };
    let theirs = Stream { site: &bed.bare, sender: bed.bare.flow_sender()?, frame: frame(DEVICE) };
    // Each flow begins in a burst that is not timed.
    for _ in 0..FLOWS_BEGIN_IN {
        ours.burst()?;
    }
    race("flows_64k_pps", context, (&ours, &theirs), BARE, span)
}

/// Rates of two streams that take turns after each burst, so that what else the machine does, and how fast it runs just then,
/// meets both alike. A repeat's rate is that of its middle burst: one that was interrupted does not count.
fn race(
    name: &str,
    context: &Context,
    (ours, theirs): (&Stream<'_>, &Stream<'_>),
    peer: &str,
    span: Duration,
) -> Result<Row> {
    let (mut our_rates, mut their_rates) = (Vec::new(), Vec::new());
    for _ in 0..context.repeats {
        let before = (ours.arrived()?, theirs.arrived()?);
        let (mut our_bursts, mut their_bursts) = (Vec::new(), Vec::new());
        let started = Instant::now();
        while started.elapsed() < 2 * span {
            our_bursts.push(ours.burst()?);
            their_bursts.push(theirs.burst()?);
            their_bursts.push(theirs.burst()?);
            our_bursts.push(ours.burst()?);
        }
        our_rates.push(ours.rate(before.0, &our_bursts)?);
        their_rates.push(theirs.rate(before.1, &their_bursts)?);
    }
    Ok(Row::of(name, "packets/s", &our_rates, peer, &their_rates))
}

/// Frames sent to a site at full speed.
struct Stream<'a> {
    site: &'a Site,
    sender: Program,
    frame: Vec<u8>,
}

impl Stream<'_> {
    /// Frames in a burst: so many that getting ready for it, tens of milliseconds, does not count.
    const BURST: u32 = 1 << 18;

    /// Sends a burst; how many seconds that took.
    fn burst(&self) -> Result<f64> {
        self.site.netns.enter(|| {
            let started = Instant::now();
            self.sender.send(&self.frame, Self::BURST)?;
            Ok(started.elapsed().as_secs_f64())
        })
    }

    /// Frames that the receiving driver handed to its program so far.
    fn arrived(&self) -> Result<u64> {
        self.site.netns.enter(received)
    }

    /// Frames a second in the middle one of `bursts`, of those that arrived since there were `before`.
    fn rate(&self, before: u64, bursts: &[f64]) -> Result<f64> {
        let arrived = self.arrived()? - before;
        if arrived == 0 {
            bail!("none of the frames sent in {} arrived", self.site.netns.name());
        }
        let a_burst = arrived as f64 / bursts.len() as f64;
        Ok(a_burst / super::median(bursts))
    }
}

/// Everything under test, taken down with it.
struct Bed {
    tidegate: Tidegate,
    filter: Site,
    bare: Site,
    bare_program: Program,
    _bare_link: Link,
}

impl Bed {
    fn new() -> Result<Self> {
        let tidegate = Tidegate::start()?;
        let filter = Site::new("filter")?;
        filter.shell(
            // A BPF file system of its own: xdp-filter keeps its maps under a fixed name.
            "mount -t bpf bpf /sys/fs/bpf && xdp-filter load lan0 && xdp-filter ip -m src 10.9.9.9",
        )?;
        let bare = Site::new("bare")?;
        let bare_program = Program::constant(XDP_PASS)?;
        let link = bare.netns.enter(|| bare_program.attach(ifindex(PORT)?))?;
        Ok(Self { tidegate, filter, bare, bare_program, _bare_link: link })
    }
}

/// A link in a namespace of its own.
struct Site {
    netns: Netns,
}

impl Site {
    fn new(role: &str) -> Result<Self> {
        let netns = Netns::create(&format!("tg-{}", std::process::id()), role)?;
        netns.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        netns.ip(&[
            format!(
                "link add {PORT} address {} type veth peer name {PEER} address {}",
                text(PORT_MAC),
                text(DEVICE_MAC)
            ),
            format!("link set {PEER} up"),
            format!("link set {PORT} up"),
            format!("address add 10.0.0.1/24 dev {PORT}"),
        ])?;
        Ok(Self { netns })
    }

    /// Runs a line of shell inside, with a mount namespace that ends with it.
    fn shell(&self, line: &str) -> Result<()> {
        let output = self.netns.output("unshare", &["--mount", "sh", "-c", line])?;
        if !output.status.success() {
            bail!("`{line}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// The XDP program on the receiving end, which must be in driver mode.
    fn attached(&self) -> Result<Program> {
        let output = self.netns.output("ip", &["-json", "-details", "link", "show", "dev", PORT])?;
        let links: Value = serde_json::from_slice(&output.stdout).context("ip printed no JSON")?;
        let xdp = &links[0]["xdp"];
        const DRIVER: u64 = 1;
        if xdp["mode"].as_u64() != Some(DRIVER) {
            bail!("no XDP program is in driver mode on {PORT} in {}: {xdp}", self.netns.name());
        }
        let id = xdp["prog"]["id"].as_u64().context("ip names no program")?;
        Program::open(id as u32)
    }

    fn sender(&self) -> Result<Program> {
        self.netns.enter(|| Program::sender(ifindex(PEER)?))
    }

    fn flow_sender(&self) -> Result<Program> {
        self.netns.enter(|| Program::flow_sender(ifindex(PEER)?))
    }
}

/// Frames that the receiving driver handed to its program; to be called inside a site.
fn received() -> Result<u64> {
    let printed = shell::output(shell::command("ethtool").args(["-S", PORT]))?;
    let counters = printed.lines().filter_map(|line| line.trim().split_once(": "));
    let packets =
        counters.filter(|(name, _)| name.starts_with("rx_queue_") && name.ends_with("_xdp_packets"));
    packets.map(|(_, count)| count.parse::<u64>().with_context(|| format!("ethtool says {count}"))).sum()
}

fn ifindex(name: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(name).with_context(|| format!("no interface {name}"))
}

/// `tidegate run` on a site, in enforce mode with one blocked address and the usual never-block entries.
struct Tidegate {
    // In this order: the process ends before its files and its namespace go.
    process: Process,
    files: Files,
    site: Site,
    binary: PathBuf,
}

impl Tidegate {
    fn start() -> Result<Self> {
        let site = Site::new("tidegate")?;
        let files = Files::new()?;
        let binary = shell::target_dir().join("release/tidegate");
        let config = files.0.join("tidegate.toml");
        fs::write(&config, configuration(&files.0)).context("cannot write the configuration")?;
        let mut command = site.netns.command(&binary.display().to_string());
        command
            .args(["run", "-i", PORT, "-c"])
            .arg(&config)
            .env_remove("TIDEGATE_SOCKET")
            .env("NO_COLOR", "1");
        let mut process = Process::start(&mut command, &files.0.join("tidegate.log"))?;
        let ready = wait_for(Duration::from_secs(20), || {
            let running = process.is_running();
            (!running || ask(&binary, &files.0, &["status"]).is_ok()).then_some(running)
        });
        if ready != Some(true) {
            bail!("tidegate does not answer; its log:\n{}", process.said());
        }
        ask(&binary, &files.0, &["blocks", "add", "10.9.9.9", "--ttl", "1h"])?;
        Ok(Self { process, files, site, binary })
    }

    /// Where the tables are pinned: the one directory, named after the layout.
    fn pins(&self) -> Result<PathBuf> {
        let root = self.files.0.join("bpf/tidegate");
        let mut layouts = fs::read_dir(&root).with_context(|| format!("cannot read {}", root.display()))?;
        Ok(layouts.next().context("the agent pinned nothing")??.path())
    }

    /// Fails when the detector took the benchmark's own traffic for an attack: then other programs' paths were measured.
    fn check_untouched(&self) -> Result<()> {
        let blocks = ask(&self.binary, &self.files.0, &["blocks", "list"])?;
        let count = blocks["blocks"].as_array().map_or(0, Vec::len);
        if count != 1 {
            bail!(
                "tidegate {} holds {count} blocks instead of the one asked for: {blocks}",
                self.process.pid()
            );
        }
        Ok(())
    }
}

fn configuration(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "[gateway]\nmode = \"enforce\"\nstate_dir = \"{directory}/state\"\nsocket = \"{directory}/tidegate.sock\"\n\
         pin_path = \"{directory}/bpf/tidegate\"\nxdp = \"driver\"\n\n\
         # Room for all flows that are sent, and for all of them at once.\n\
         [kernel]\nmax_flows = 131072\nnew_flow_limit = 1000000\n\n\
         # The benchmark looks like a flood, which it is.\n\
         [response]\nmodel_p = 0.0\ntechniques = {{ {} }}\n\n\
         [never_block]\ndns = [\"10.0.0.1\", \"192.0.2.53\"]\nntp = [\"192.0.2.123\"]\ncloud = [\"192.0.2.44\", \"192.0.2.45\"]\n\n\
         [reachability]\nenabled = false\n\n[metrics]\nlisten = \"off\"\n",
        FLOOD_TECHNIQUES.map(|technique| format!("\"{technique}\" = \"observe\"")).join(", ")
    )
}

/// Runs a command of tidegate's command line; its JSON.
fn ask(binary: &Path, directory: &Path, arguments: &[&str]) -> Result<Value> {
    let mut command = Command::new(binary);
    command.args(arguments).args(["-o", "json"]).env("TIDEGATE_SOCKET", directory.join("tidegate.sock"));
    let output = command.stdin(Stdio::null()).output().context("cannot start tidegate")?;
    // 3 is "degraded", which still answers.
    if !output.status.success() && output.status.code() != Some(3) {
        bail!("tidegate {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("tidegate printed no JSON")
}

/// A directory with a BPF file system in it. The name is one that the lab clears away when its owner was killed.
struct Files(PathBuf);

impl Files {
    fn new() -> Result<Self> {
        let directory = PathBuf::from(format!("/run/tg-{}-bench", std::process::id()));
        let bpf = directory.join("bpf");
        fs::create_dir_all(&bpf).with_context(|| format!("cannot create {}", bpf.display()))?;
        mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), None::<&str>)
            .context("cannot mount a BPF file system")?;
        Ok(Self(directory))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // What is left is cleared away at the next start.
        let _ = umount2(&self.0.join("bpf"), MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Keeps this thread on the first CPU it may use, as long as it lives.
struct Pinned(CpuSet);

impl Pinned {
    fn to_first() -> Result<Self> {
        let allowed = nix::sched::sched_getaffinity(Pid::from_raw(0)).context("cannot read the CPU set")?;
        let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        let mut one = CpuSet::new();
        one.set(first.context("no CPU is allowed")?)?;
        sched_setaffinity(Pid::from_raw(0), &one).context("cannot stay on one CPU")?;
        Ok(Self(allowed))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Only slower, should it fail.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.0);
    }
}

/// A 60-byte UDP frame from a device to the internet.
fn frame(source: [u8; 4]) -> Vec<u8> {
    const LENGTH: usize = 60;
    let mut frame = Vec::with_capacity(LENGTH);
    frame.extend(PORT_MAC);
    frame.extend(DEVICE_MAC);
    frame.extend([8, 0, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(source);
    frame.extend(REMOTE);
    frame.extend([0x9c, 0x40, 0x1f, 0x40, 0, 26, 0, 0]);
    let mut sum: u32 = frame[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    frame.resize(LENGTH, 0x5a);
    frame
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_whole_and_its_header_checksum_right() {
        let frame = frame(DEVICE);
        assert_eq!(frame.len(), 14 + 46);
        let sum: u32 = frame[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
