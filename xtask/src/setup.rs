//! Prepares a machine: idempotent, says what is missing and why before it installs, well under a second when nothing is.
//!
//! Installs through apt-get on Debian and Ubuntu when it may; elsewhere it prints what to install and fails. It never
//! changes the default Rust tool chain.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::{
    shell,
    toolchain::{self, Toolchain},
};

/// How much is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// To build.
    Build,
    /// To attack, serve and measure as well.
    Lab,
}

/// A program the lab runs, the Debian package that has it, and what for.
struct Tool {
    binary: &'static str,
    package: &'static str,
    purpose: &'static str,
}

const fn tool(binary: &'static str, package: &'static str, purpose: &'static str) -> Tool {
    Tool { binary, package, purpose }
}

const LAB_TOOLS: &[Tool] = &[
    tool("ip", "iproute2", "namespaces, links, routes"),
    tool("bridge", "iproute2", "the gateway's LAN ports"),
    tool("sysctl", "procps", "forwarding in the gateway's namespace"),
    tool("tcpdump", "tcpdump", "counts attack packets on both sides"),
    tool("ethtool", "ethtool", "offloads of virtual links"),
    tool("ping", "iputils-ping", "reachability"),
    tool("dnsmasq", "dnsmasq-base", "DHCP and DNS of the LAN"),
    tool("mosquitto", "mosquitto", "MQTT broker of the sensors, and behind the guard"),
    tool("mosquitto_pub", "mosquitto-clients", "MQTT clients with and without TLS"),
    tool("openssl", "openssl", "certificates of the cloud test"),
    tool("nmap", "nmap", "scans"),
    tool("hping3", "hping3", "floods and telnet scanning"),
    tool("hydra", "hydra", "password guessing"),
    tool("arpspoof", "dsniff", "ARP spoofing"),
    tool("dns2tcpc", "dns2tcp", "a tunnel through DNS"),
    tool("nc", "netcat-openbsd", "beacons, small requests and uploads"),
    tool("tcpreplay", "tcpreplay", "packet rates"),
    tool("xdp-filter", "xdp-tools", "the benchmark's peer"),
    tool("bpftool", "bpftool", "a second opinion on maps and programs"),
    tool("python3", "python3-venv", "scikit-learn, isotree and nfstream as benchmark peers"),
];

/// The emulator of AWS and what it needs for mutual TLS and for the protocol of CloudWatch.
const EMULATOR: [&str; 4] =
    ["ministack==1.5.33", "cryptography==50.0.2", "defusedxml==0.7.1", "cbor2==6.3.0"];

/// LLVM major version of Debian's web compiler.
const LLVM: &str = "22";
const BPF_LINKER_VERSION: &str = "0.13.0";

/// Makes sure everything of `tier` is there; the tool chain found.
pub(crate) fn run(tier: Tier) -> Result<Toolchain> {
    let started = Instant::now();
    if tier == Tier::Lab {
        install_lab_tools()?;
    }
    let toolchain = match Toolchain::find() {
        Some(toolchain) => toolchain,
        None => install_toolchain()?,
    };
    println!(
        "  set-up complete ({:.1} s): {}{}",
        started.elapsed().as_secs_f64(),
        toolchain.describe(),
        if tier == Tier::Lab { ", lab tools" } else { "" }
    );
    Ok(toolchain)
}

/// The emulator of AWS, installed into `target/venv-cloud` if it is not there.
pub(crate) fn emulator() -> Result<PathBuf> {
    let directory = shell::target_dir().join("venv-cloud");
    let program = directory.join("bin/ministack");
    // Written last: an installation that was cut off is done again.
    let (done, wanted) = (directory.join("installed"), EMULATOR.join(" "));
    if program.is_file() && fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(program);
    }
    shell::step(&format!("installing the emulator of AWS into {}", directory.display()));
    println!("  {wanted}");
    if forbidden() {
        bail!("TIDEGATE_NO_INSTALL is set; install it with: pip install {wanted}");
    }
    if shell::which("python3").is_none() {
        apt_install(&["python3-venv"])?;
    }
    shell::run(shell::command("python3").args(["-m", "venv"]).arg(&directory))?;
    let mut pip = shell::command(directory.join("bin/python"));
    shell::run(pip.args(["-m", "pip", "install", "--quiet"]).args(EMULATOR))?;
    fs::write(&done, wanted).with_context(|| format!("cannot write {}", done.display()))?;
    Ok(program)
}

/// A compiler of C++, which libFuzzer is written in.
pub(crate) fn cxx() -> Result<()> {
    if shell::which("c++").is_some() {
        return Ok(());
    }
    shell::step("the fuzz targets need a compiler of C++, and there is none");
    apt_install(&["g++"])
}

fn install_lab_tools() -> Result<()> {
    let missing: Vec<&Tool> = LAB_TOOLS.iter().filter(|tool| shell::which(tool.binary).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    shell::step("the lab needs programs that are not here");
    for tool in &missing {
        println!("  {:<12} from package {:<14} {}", tool.binary, tool.package, tool.purpose);
    }
    let mut packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    packages.dedup();
    apt_install(&packages)?;
    let still: Vec<&str> =
        missing.iter().filter(|tool| shell::which(tool.binary).is_none()).map(|tool| tool.binary).collect();
    if !still.is_empty() {
        bail!("installed, but not found afterwards: {}", still.join(", "));
    }
    Ok(())
}

fn install_toolchain() -> Result<Toolchain> {
    if toolchain::find_compiler().is_none() {
        shell::step("the kernel programs need a Rust compiler for BPF, and there is none");
        println!(
            "  rustc-web, cargo-web, libstd-rust-web-dev-bpf: Debian's Rust with `core` for {}\n  \
             (the default Rust tool chain stays as it is)",
            toolchain::TARGET
        );
        apt_install(&["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"]).with_context(by_hand)?;
    }
    if toolchain::find_linker().is_none() {
        install_linker()?;
    }
    link_rustup();
    Toolchain::find().with_context(by_hand)
}

fn install_linker() -> Result<()> {
    shell::step("the kernel programs need bpf-linker, which turns LLVM bitcode into a BPF object");
    let mut install = shell::cargo();
    install.args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked"]);
    install.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO_ENCODED_RUSTFLAGS");
    if matches!(toolchain::find_compiler(), Some(toolchain::Compiler::Prebuilt { .. })) {
        println!(
            "  llvm-{LLVM}-dev, libpolly-{LLVM}-dev, libzstd-dev, zlib1g-dev: it links to the compiler's own LLVM"
        );
        let (llvm, polly) = (format!("llvm-{LLVM}-dev"), format!("libpolly-{LLVM}-dev"));
        let prefix = format!("/usr/lib/llvm-{LLVM}");
        if !Path::new(&prefix).join("include/llvm-c/Core.h").is_file() {
            apt_install(&[&llvm, &polly, "libzstd-dev", "zlib1g-dev", "build-essential"])
                .with_context(by_hand)?;
        }
        // Its build script reads one of these and the llvm-sys crate the other.
        install.env("LLVM_PREFIX", &prefix).env("LLVM_SYS_221_PREFIX", &prefix);
        install.args(["--no-default-features", "--features", &format!("llvm-{LLVM}")]);
    }
    if forbidden() {
        bail!("bpf-linker is missing and TIDEGATE_NO_INSTALL is set\n{}", by_hand());
    }
    println!("  compiling it takes about three minutes on two cores");
    shell::run(&mut install).with_context(by_hand)
}

/// Makes Debian's compiler selectable as `cargo +tidegate-bpf`; a convenience that no task relies on.
fn link_rustup() {
    let is_prebuilt = matches!(toolchain::find_compiler(), Some(toolchain::Compiler::Prebuilt { .. }));
    if is_prebuilt && shell::which("rustup").is_some() {
        let linked =
            shell::output(shell::command("rustup").args(["toolchain", "link", "tidegate-bpf", "/usr"]));
        if let Err(error) = linked {
            println!("  `cargo +tidegate-bpf` will not work: {error:#}");
        }
    }
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let wanted = packages.join(" ");
    let by_hand = format!("install it with: sudo apt-get update && sudo apt-get install {wanted}");
    if shell::which("apt-get").is_none() {
        bail!(
            "this is not Debian or Ubuntu, so nothing is installed by itself; needed are the programs of: {wanted}"
        );
    }
    if forbidden() {
        bail!("TIDEGATE_NO_INSTALL is set; {by_hand}");
    }
    if !shell::is_root() {
        bail!("only root may install packages; {by_hand}");
    }
    if !apt(packages)? {
        println!("  the package lists are missing or old: apt-get update");
        shell::run(
            shell::command("apt-get").args(["update", "-q"]).env("DEBIAN_FRONTEND", "noninteractive"),
        )?;
        if !apt(packages)? {
            bail!("apt-get could not install {wanted}; its messages are above");
        }
    }
    Ok(())
}

fn apt(packages: &[&str]) -> Result<bool> {
    let mut install = shell::command("apt-get");
    install.args(["install", "-y", "-q", "--no-install-recommends"]).args(packages);
    println!("  apt-get install {}", packages.join(" "));
    let status = install.env("DEBIAN_FRONTEND", "noninteractive").status().context("cannot start apt-get")?;
    Ok(status.success())
}

fn forbidden() -> bool {
    std::env::var_os("TIDEGATE_NO_INSTALL").is_some_and(|value| !value.is_empty() && value != "0")
}

fn by_hand() -> String {
    format!(
        "to prepare the tool chain for the kernel programs by hand, do one of\n  \
         A. rustup toolchain install nightly --component rust-src && cargo install bpf-linker\n  \
         B. on Debian: apt-get install rustc-web cargo-web libstd-rust-web-dev-bpf llvm-{LLVM}-dev libpolly-{LLVM}-dev \
         libzstd-dev zlib1g-dev, then\n     \
         LLVM_PREFIX=/usr/lib/llvm-{LLVM} LLVM_SYS_221_PREFIX=/usr/lib/llvm-{LLVM} cargo install bpf-linker \
         --version {BPF_LINKER_VERSION} --no-default-features --features llvm-{LLVM}"
    )
}
