//! Builds the kernel programs, then the agent that carries them.
//!
//! The object's file is written only when its content changed, so that the agent is not rebuilt for nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    setup::{self, Tier},
    shell,
    toolchain::{TARGET, Toolchain},
};

/// Sets up, builds the kernel programs and, unless `bpf_only`, the agent.
pub(crate) fn run(release: bool, bpf_only: bool) -> Result<()> {
    let toolchain = setup::run(Tier::Build)?;
    bpf(&toolchain)?;
    if !bpf_only {
        let binary = agent(release)?;
        println!("  built {}", binary.display());
    }
    Ok(())
}

/// Builds the kernel programs; the object.
pub(crate) fn bpf(toolchain: &Toolchain) -> Result<PathBuf> {
    shell::step("building the kernel programs");
    let directory = shell::target_dir().join("bpf-build");
    let mut build = toolchain.cargo("build");
    build.arg("--release").arg("--target-dir").arg(&directory);
    shell::run(&mut build).context("the kernel programs do not build")?;
    let built = directory.join(TARGET).join("release/tidegate-ebpf");
    let object = shell::root().join("target/bpf/tidegate-ebpf.o");
    let changed = copy_if_changed(&built, &object)?;
    let state = if changed { "new" } else { "unchanged" };
    println!(
        "  {} ({state}, {} bytes)",
        object.display(),
        fs::metadata(&object).map_or(0, |meta| meta.len())
    );
    Ok(object)
}

/// Builds the agent; its binary.
pub(crate) fn agent(release: bool) -> Result<PathBuf> {
    shell::step(if release { "building the agent, optimised" } else { "building the agent" });
    let mut build = shell::cargo();
    build.args(["build", "--package", "tidegate"]);
    if release {
        build.arg("--release");
    }
    shell::run(&mut build).context("the agent does not build")?;
    Ok(shell::target_dir().join(if release { "release" } else { "debug" }).join("tidegate"))
}

/// Builds the agent and everything that tests it; the agent's binary.
///
/// In one go, because cargo gives crates the features that the chosen packages ask for together: another choice builds half of them again.
pub(crate) fn tested() -> Result<PathBuf> {
    shell::step("building the agent and its tests");
    let mut build = shell::cargo();
    shell::run(build.arg("build").args(TESTED).args(["--lib", "--bins", "--tests"]))
        .context("the agent and its tests do not build")?;
    Ok(shell::target_dir().join("debug/tidegate"))
}

/// What is built and tested on the host.
pub(crate) const TESTED: [&str; 3] = ["--workspace", "--exclude", "tidegate-ebpf"];

fn copy_if_changed(from: &Path, to: &Path) -> Result<bool> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    }
    fs::write(to, new).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at once")]
    use super::*;

    #[test]
    fn an_unchanged_object_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("built"), directory.path().join("deep/object.o"));
        fs::write(&from, b"one").unwrap();
        assert!(copy_if_changed(&from, &to).unwrap());
        let before = fs::metadata(&to).unwrap().modified().unwrap();
        assert!(!copy_if_changed(&from, &to).unwrap());
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), before);
        fs::write(&from, b"two").unwrap();
        assert!(copy_if_changed(&from, &to).unwrap());
        assert_eq!(fs::read(&to).unwrap(), b"two");
    }
}
