//! Network namespaces that go away with their owner.
//!
//! The names carry the creator's pid, so that the next start can tell what a killed process left behind.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MntFlags, umount2},
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const NAMESPACES: &str = "/run/netns";

/// One network namespace.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Creates `tg-<prefix>-<role>`, loopback up.
    pub fn create(prefix: &str, role: &str) -> Result<Self> {
        let name = format!("{prefix}-{role}");
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let netns = Self { name };
        netns.ip(&["link set lo up"])?;
        Ok(netns)
    }

    /// Its name, as in `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that keeps it.
    pub fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.name)
    }

    /// Runs lines of `ip -batch` inside.
    pub fn ip<S: AsRef<str>>(&self, lines: &[S]) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start ip; the package is iproute2")?;
        let mut stdin = child.stdin.take().context("ip takes no input")?;
        for line in lines {
            writeln!(stdin, "{}", line.as_ref()).context("cannot write to ip")?;
        }
        drop(stdin);
        let output = child.wait_with_output().context("ip vanished")?;
        if !output.status.success() {
            bail!("ip in {}: {}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// A command of `program` that runs inside. The mount namespace stays, and with it the BPF file system that
    /// `ip netns exec` would hide.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    /// Runs a command inside and waits; its output, whatever its exit code.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<std::process::Output> {
        self.command(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {program} in {}", self.name))
    }

    /// Runs `work` in a thread of its own inside, and waits for it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = self.open()?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
                work()
            });
            inside.join().map_err(|_| anyhow::anyhow!("work in {} panicked", self.name))?
        })
    }

    /// Starts a thread inside.
    pub fn spawn(&self, work: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>> {
        let file = self.open()?;
        let name = self.name.clone();
        thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || match setns(file, CloneFlags::CLONE_NEWNET) {
                Ok(()) => work(),
                // Work outside its namespace would reach the machine's own network.
                Err(error) => eprintln!("cannot enter {name}: {error}"),
            })
            .context("cannot start a thread")
    }

    /// Sets a value below `/proc/sys/net`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        self.enter(|| fs::write(&path, value).with_context(|| format!("cannot set {}", path.display())))
    }

    fn open(&self) -> Result<File> {
        File::open(self.path()).with_context(|| format!("namespace {} is gone", self.name))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes what killed processes left: namespaces, their programs, and directories with their mounts.
pub fn sweep() {
    let left = |entry: &fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let pid = name.strip_prefix("tg-")?.split('-').next()?.parse::<u32>().ok()?;
        (!Path::new("/proc").join(pid.to_string()).exists()).then_some(name)
    };
    for name in fs::read_dir(NAMESPACES).into_iter().flatten().flatten().filter_map(|entry| left(&entry)) {
        remove(&name);
    }
    for entry in fs::read_dir("/run").into_iter().flatten().flatten() {
        if left(&entry).is_some() {
            remove_directory(&entry.path());
        }
    }
}

/// Unmounts the BPF file system in a lab's directory and removes the directory.
pub(crate) fn remove_directory(directory: &Path) {
    // Not mounted is as good as unmounted.
    let _ = umount2(&directory.join("bpf"), MntFlags::MNT_DETACH);
    let _ = fs::remove_dir_all(directory);
}

fn remove(name: &str) {
    let pids = Command::new("ip").args(["netns", "pids", name]).output();
    for pid in
        pids.iter().flat_map(|output| std::str::from_utf8(&output.stdout)).flat_map(str::split_whitespace)
    {
        // Threads of this very process are inside as well; they end by themselves.
        if let Some(pid) = pid.parse().ok().filter(|pid| *pid != std::process::id() as i32) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
