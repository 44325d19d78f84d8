//! Finds a compiler and linker for the kernel programs.
//!
//! Two kinds work: Debian's compiler for the web packages, which ships `core` for `bpfel-unknown-none`, or rustup's
//! nightly with rust-src, which builds `core` itself. Both link with bpf-linker, whose LLVM must not be older than
//! the compiler's. Installs nothing.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::shell;

/// The target of the kernel programs.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// By default the linker copies and clears little in place and calls a loop of single bytes for the rest, which costs more
/// than the rest of a packet's way. Repeated from `.cargo/config.toml`, because flags of the environment replace those.
const COPY_IN_PLACE: &str = "-Clink-arg=--disable-expand-memcpy-in-order";

/// The instruction set with 32-bit arithmetic and jumps, which the kernel knows since 5.1: without it every narrow number is
/// widened by two shifts.
const INSTRUCTIONS: &str = "-Ctarget-cpu=v3";

/// Crates of the kernel programs that use unstable language features.
const UNSTABLE_CRATES: &str = "aya_ebpf,tidegate_ebpf,tidegate_common";

/// A compiler that can build for [`TARGET`].
#[derive(Debug)]
pub(crate) enum Compiler {
    /// It has `core` for the target.
    Prebuilt {
        /// Its cargo.
        cargo: PathBuf,
        /// Its rustc.
        rustc: PathBuf,
    },
    /// rustup's nightly with the source of `core`.
    Nightly,
}

/// Compiler and linker.
#[derive(Debug)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

impl Toolchain {
    /// The tool chain of this machine, if it is complete.
    pub(crate) fn find() -> Option<Self> {
        Some(Self { compiler: find_compiler()?, linker: find_linker()? })
    }

    /// What it is, for people.
    pub(crate) fn describe(&self) -> String {
        let compiler = match &self.compiler {
            Compiler::Prebuilt { rustc, .. } => format!("{} with core for {TARGET}", rustc.display()),
            Compiler::Nightly => "rustup's nightly with rust-src".to_owned(),
        };
        format!("{compiler}, {}", self.linker.display())
    }

    /// A cargo command of this tool chain; `verb` is `build` or `clippy`.
    pub(crate) fn cargo(&self, verb: &str) -> Command {
        let mut command = match &self.compiler {
            Compiler::Prebuilt { cargo, rustc } => {
                let mut command = shell::command(cargo);
                command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", UNSTABLE_CRATES).arg(verb);
                command
            }
            Compiler::Nightly => {
                let mut command = shell::command("rustup");
                command.args(["run", "nightly", "cargo", verb, "-Z", "build-std=core"]).env_remove("RUSTC");
                command
            }
        };
        // The task itself runs under a cargo of another version, which leaves its traces in the environment.
        for name in
            ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTFLAGS", "RUSTDOC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"]
        {
            command.env_remove(name);
        }
        let linker = format!("-Clinker={}", self.linker.display());
        let arch = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
        command.env(
            "CARGO_ENCODED_RUSTFLAGS",
            [&arch, "-Cdebuginfo=2", "-Clink-arg=--btf", INSTRUCTIONS, COPY_IN_PLACE, &linker].join("\x1f"),
        );
        command.args(["--package", "tidegate-ebpf", "--target", TARGET]);
        command
    }
}

/// The compiler for the kernel programs.
pub(crate) fn find_compiler() -> Option<Compiler> {
    let (cargo, rustc) = (PathBuf::from("/usr/bin/cargo"), PathBuf::from("/usr/bin/rustc"));
    if cargo.is_file() && sysroot(&mut Command::new(&rustc)).is_some_and(|root| has_prebuilt_core(&root)) {
        return Some(Compiler::Prebuilt { cargo, rustc });
    }
    shell::which("rustup")?;
    let mut nightly = Command::new("rustup");
    nightly.args(["run", "nightly", "rustc"]);
    let source = sysroot(&mut nightly)?.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    source.is_file().then_some(Compiler::Nightly)
}

/// The linker for the kernel programs, tried out.
pub(crate) fn find_linker() -> Option<PathBuf> {
    let linker = shell::which("bpf-linker")?;
    shell::output(Command::new(&linker).arg("--version")).ok().map(|_| linker)
}

fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    let root = shell::output(rustc.args(["--print", "sysroot"]).env_remove("RUSTUP_TOOLCHAIN")).ok()?;
    Some(PathBuf::from(root.trim()))
}

fn has_prebuilt_core(sysroot: &Path) -> bool {
    let Ok(files) = sysroot.join("lib/rustlib").join(TARGET).join("lib").read_dir() else { return false };
    files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
}
