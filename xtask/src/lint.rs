//! Everything that can be said about the code without running it. Counts and names what it could not check.

use anyhow::{Result, bail};

use crate::{
    licences, shell,
    toolchain::{Compiler, Toolchain},
};

/// All checks; each runs even when one before it failed.
pub(crate) fn run() -> Result<()> {
    let mut failed = Vec::new();
    let mut skipped = 0;
    let mut check = |name: &'static str, done: Result<Checked>| match done {
        Ok(Checked::Clean) => {}
        Ok(Checked::Skipped(reason)) => {
            shell::skipped(name, &reason);
            skipped += 1;
        }
        Err(error) => {
            println!("  {name}: {error:#}");
            failed.push(name);
        }
    };
    shell::step("format");
    check("format", clean(shell::cargo().args(["fmt", "--all", "--check"])));
    shell::step("clippy, host crates");
    check(
        "clippy",
        clean(shell::cargo().args([
            "clippy",
            "--workspace",
            "--exclude",
            "tidegate-ebpf",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ])),
    );
    shell::step("clippy, kernel programs");
    check("clippy-kernel", kernel_clippy());
    shell::step("licences");
    check("licences", licences::run().map(|()| Checked::Clean));
    shell::step("advisories and sources");
    check("cargo-deny", tool("cargo-deny", &["deny", "check", "advisories", "bans", "sources"]));
    shell::step("spelling");
    check("typos", typos());
    println!("lint: {} failed, {skipped} skipped", failed.len());
    if !failed.is_empty() {
        bail!("lint found something in: {}", failed.join(", "));
    }
    Ok(())
}

enum Checked {
    Clean,
    Skipped(String),
}

fn clean(command: &mut std::process::Command) -> Result<Checked> {
    shell::run(command).map(|()| Checked::Clean)
}

fn kernel_clippy() -> Result<Checked> {
    let Some(toolchain) = Toolchain::find() else {
        return Ok(Checked::Skipped(
            "no tool chain for BPF; `cargo xtask setup` finds or installs one".into(),
        ));
    };
    if matches!(toolchain.compiler, Compiler::Prebuilt { .. }) {
        let reason = "Debian's compiler comes without clippy; rustup's nightly with rust-src has it";
        return Ok(Checked::Skipped(reason.into()));
    }
    let directory = shell::target_dir().join("bpf-build");
    let mut clippy = toolchain.cargo("clippy");
    clean(clippy.arg("--target-dir").arg(directory).args(["--", "-D", "warnings"]))
}

/// Through cargo, when the subcommand is installed. Compiling it takes longer than all other checks together.
fn tool(binary: &str, arguments: &[&str]) -> Result<Checked> {
    if shell::which(binary).is_none() {
        return Ok(Checked::Skipped(format!(
            "{binary} is not installed; `cargo install --locked {binary}` adds it"
        )));
    }
    clean(shell::cargo().args(arguments))
}

fn typos() -> Result<Checked> {
    if shell::which("typos").is_none() {
        return Ok(Checked::Skipped(
            "typos is not installed; `cargo install --locked typos-cli` adds it".into(),
        ));
    }
    clean(&mut shell::command("typos"))
}
